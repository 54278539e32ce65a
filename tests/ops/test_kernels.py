"""The stand-in's kernels against plain loops, closed forms and torchvision; mmcv compiles some for CUDA only."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision

from vlm_dense.ops import is_stand_in  # before mmcv.ops

# isort: split
from mmcv import ops

pytestmark = pytest.mark.skipif(not is_stand_in(), reason='mmcv has its compiled kernels')

ROIS = [
    [0, 1.2, 0.7, 6.3, 5.1],
    [1, 0, 0, 9, 7],
    [0, 2.5, 3.5, 2.5, 3.5],  # one point
    [1, 4, 4, 3, 2],  # inside out, by more than the one cell that roi_pool adds
    [0, -4, -5, 3, 2.2],  # partly outside
    [1, 30, 30, 40, 40],  # outside
    [0, 5, 2, 5.4, 6],
]


def features(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def grad_of(output, *inputs):
    return torch.autograd.grad(output, inputs, features(*output.shape, seed=9).to(output.dtype))


def same(ours, reference, **tolerances):
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b, **tolerances)


def plain_roi_pool(x, rois, size, scale):
    """Largest value of every bin; a box ends one unit after its second corner and is not rounded."""
    rows = []
    for image, x1, y1, x2, y2 in rois.tolist():
        (x1, y1), (x2, y2) = (x1 * scale, y1 * scale), ((x2 + 1) * scale, (y2 + 1) * scale)
        cells = x.new_zeros(x.shape[1], *size)
        for i, j in itertools.product(range(size[0]), range(size[1])):
            h, w = (y2 - y1) / size[0], (x2 - x1) / size[1]
            top, bottom = (min(max(v, 0), x.shape[2]) for v in (math.floor(y1 + i * h), math.ceil(y1 + (i + 1) * h)))
            left, right = (min(max(v, 0), x.shape[3]) for v in (math.floor(x1 + j * w), math.ceil(x1 + (j + 1) * w)))
            if h > 0 and w > 0 and bottom > top and right > left:
                cells[:, i, j] = x[int(image), :, top:bottom, left:right].amax((1, 2))
        rows.append(cells)
    return torch.stack(rows)


@pytest.mark.parametrize('scale', [1.0, 0.5])
def test_roi_pool_is_the_largest_of_each_bin(scale):
    x, rois = features(2, 3, 8, 10).requires_grad_(), torch.tensor(ROIS)
    ours, reference = ops.roi_pool(x, rois, (3, 2), scale), plain_roi_pool(x, rois, (3, 2), scale)
    same([ours, *grad_of(ours, x)], [reference, *grad_of(reference, x)], rtol=0, atol=1e-6)
    assert not ours[5].any() and (scale == 0.5 or not ours[3].any())
    rounded = torchvision.ops.roi_pool(x, rois[:1], (3, 2), scale)
    assert not torch.equal(rounded, ours[:1])  # why torchvision's own does not do


def test_roi_pool_takes_the_first_of_equal_values_and_no_regions():
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    x.data[0, 0, 1, 3] = x.data[0, 0, 2, 0] = 1
    pooled = ops.roi_pool(x, torch.tensor([[0, 0, 0, 3, 3.0]]), 1, 1.0)
    assert torch.autograd.grad(pooled.sum(), x)[0].nonzero().tolist() == [[0, 0, 1, 3]]
    none = ops.roi_pool(x, torch.zeros(0, 5), 2, 1.0)
    assert none.shape == (0, 1, 2, 2) and not torch.autograd.grad(none.sum(), x)[0].any()


def plain_sample(plane, y, x):
    """Bilinear, with the border cells continued by one cell and zero beyond, as roi_align reads."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return plane.new_zeros(())
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    fy, fx = y - top, x - left
    upper = plane[top, left] * (1 - fx) + plane[top, right] * fx
    return upper * (1 - fy) + (plane[bottom, left] * (1 - fx) + plane[bottom, right] * fx) * fy


def plain_roi_align(x, rois, size, scale, ratio, mode, aligned):
    rows = []
    for image, *corners in rois.tolist():
        x1, y1, x2, y2 = (c * scale - 0.5 * aligned for c in corners)
        sides = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
        steps = [side / count for side, count in zip(sides, size, strict=True)]
        grid = [ratio or math.ceil(step) for step in steps]
        for plane, i, j in itertools.product(x[int(image)], range(size[0]), range(size[1])):
            places = itertools.product(*(range(max(n, 0)) for n in grid))
            read = [
                plain_sample(
                    plane,
                    y1 + (i + (a + 0.5) / grid[0]) * steps[0],
                    x1 + (j + (b + 0.5) / grid[1]) * steps[1],
                )
                for a, b in places
            ]
            nothing = x.new_tensor(0.0 if mode == 'avg' else -10000.0)
            rows.append((sum(read) / len(read) if mode == 'avg' else torch.stack(read).amax()) if read else nothing)
    return torch.stack(rows).view(len(rois), x.shape[1], *size)


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize(
    ('aligned', 'ratio', 'scale'), [(True, 0, 1.0), (False, 0, 1.0), (True, 2, 0.5), (False, 3, 0.5)]
)
def test_roi_align_reads_bilinear_samples(mode, aligned, ratio, scale):
    x = features(2, 2, 8, 10).requires_grad_()
    rois = torch.tensor([r for r in ROIS if r[3] >= r[1]])
    how = (3, 2), scale, ratio, mode, aligned
    ours, reference = ops.roi_align(x, rois, *how), plain_roi_align(x, rois, *how)
    same([ours, *grad_of(ours, x)], [reference, *grad_of(reference, x)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_regions_in_half_precision(dtype, mode):
    """Computed in float32 from the rounded inputs, and given back in the type of the features."""
    x, rois = features(2, 3, 8, 10).to(dtype).requires_grad_(), torch.tensor(ROIS[:3]).to(dtype)
    wide = x.detach().float().requires_grad_()
    for op, how in ((ops.roi_align, ((3, 2), 1.0, 2, mode, True)), (ops.roi_pool, ((3, 2), 1.0))):
        ours, reference = op(x, rois, *how), op(wide, rois.float(), *how)
        assert ours.dtype == dtype and grad_of(ours, x)[0].dtype == dtype
        same([ours.float()], [reference], rtol=1e-2, atol=1e-2)


def test_autocast_gives_the_types_that_it_asks_for():
    x, rois = features(2, 3, 8, 10), torch.tensor(ROIS[:3])
    conv = ops.ModulatedDeformConv2dPack(3, 4, 3, padding=1)
    pool = ops.RoIAlign(2)
    with torch.autocast('cpu', torch.bfloat16):
        maps = conv(x)
        pooled = pool(maps, rois.type_as(maps))
    assert maps.dtype == pooled.dtype == torch.bfloat16
    pooled.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in conv.parameters())
    same([maps.float()], [conv(x)], rtol=0.05, atol=0.05)


def test_convolution_without_offsets_is_the_ordinary_one():
    x, weight, bias = features(2, 4, 6, 7).requires_grad_(), features(6, 2, 3, 3, seed=1).requires_grad_(), features(6)
    offset, mask = torch.zeros(2, 36, 3, 7), torch.ones(2, 18, 3, 7)
    reference = F.conv2d(x, weight, None, (2, 1), (1, 2), (1, 2), 2)
    ours = ops.deform_conv2d(x, offset, weight, (2, 1), (1, 2), (1, 2), 2, 2)
    same([ours, *grad_of(ours, x, weight)], [reference, *grad_of(reference, x, weight)], rtol=1e-4, atol=1e-4)
    ours = ops.modulated_deform_conv2d(x, offset, mask / 2, weight, bias, (2, 1), (1, 2), (1, 2), 2, 2)
    same([ours], [reference / 2 + bias.view(-1, 1, 1)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('modulated', [False, True])
def test_gradients_of_deformable_convolution_are_slopes(modulated):
    x, weight = features(1, 2, 4, 4).double(), features(2, 1, 2, 2, seed=1).double()
    offset, mask = features(1, 16, 3, 3, seed=2).double(), features(1, 8, 3, 3, seed=3).double()
    inputs = [x, offset, mask, weight] if modulated else [x, offset, weight]
    how = (1, 0, 1, 2, 2)
    if modulated:
        function = lambda x, o, m, w: ops.modulated_deform_conv2d(x, o, m, w, None, *how)  # noqa: E731
    else:
        function = lambda x, o, w: ops.deform_conv2d(x, o, w, *how)  # noqa: E731
    assert torch.autograd.gradcheck(function, [i.requires_grad_() for i in inputs], eps=1e-5)


def plain_attention(value, shapes, locations, weights):
    """Every query sums its points, bilinear and zero outside."""
    n, queries, heads, levels, points, _ = locations.shape
    out = []
    starts = np.cumsum([0, *(h * w for h, w in shapes)])
    for b, q, m in itertools.product(range(n), range(queries), range(heads)):
        total = 0
        for level, p in itertools.product(range(levels), range(points)):
            h, w = shapes[level]
            plane = F.pad(value[b, starts[level] : starts[level + 1], m].view(h, w, -1), (0, 0, 1, 1, 1, 1))
            x, y = locations[b, q, m, level, p] * torch.tensor([w, h]) - 0.5
            if -1 < x < w and -1 < y < h:
                left, top = x.floor(), y.floor()
                i, j = int(top) + 1, int(left) + 1
                fx, fy = x - left, y - top
                read = (plane[i, j] * (1 - fx) + plane[i, j + 1] * fx) * (1 - fy)
                read = read + (plane[i + 1, j] * (1 - fx) + plane[i + 1, j + 1] * fx) * fy
                total = total + read * weights[b, q, m, level, p]
        out.append(total)
    return torch.stack(out).view(n, queries, -1)


def test_multi_scale_deformable_attention():
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    shapes, heads, channels = [(4, 5), (2, 3)], 2, 3
    value = features(2, 26, heads, channels).requires_grad_()
    locations = (features(2, 3, heads, 2, 2, 2, seed=1) / 3 + 0.5).requires_grad_()
    weights = features(2, 3, heads, 2, 2, seed=2).softmax(-1).requires_grad_()
    inputs = value, locations, weights
    sizes, starts = torch.tensor(shapes), torch.tensor([0, 20])
    ours = MultiScaleDeformableAttnFunction.apply(value, sizes, starts, locations, weights, 64)
    reference = plain_attention(value, shapes, locations, weights)
    same([ours, *grad_of(ours, *inputs)], [reference, *grad_of(reference, *inputs)], rtol=1e-4, atol=1e-4)
    half = MultiScaleDeformableAttnFunction.apply(value.bfloat16(), sizes, starts, locations, weights, 64)
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
@pytest.mark.parametrize(('gamma', 'alpha'), [(2.0, 0.25), (1.5, 0.6)])
def test_sigmoid_focal_loss(gamma, alpha, reduction):
    logits, target = (features(6, 4) * 3).requires_grad_(), torch.tensor([0, 3, 4, 1, 4, 2])  # 4: background
    hot = F.one_hot(target, 5)[:, :4].float()
    reference = torchvision.ops.sigmoid_focal_loss(logits, hot, alpha, gamma, reduction)
    if reduction == 'mean':  # mmcv's is over the rows
        reference = reference * 4
    ours = ops.sigmoid_focal_loss(logits, target, gamma, alpha, None, reduction)
    same([ours, *grad_of(ours, logits)], [reference, *grad_of(reference, logits)], rtol=1e-4, atol=1e-5)
    some = target < 4
    weight = torch.tensor([1, 2, 3, 4.0])
    weighted = ops.sigmoid_focal_loss(logits[some], target[some], gamma, alpha, weight, 'none')
    plain = ops.sigmoid_focal_loss(logits[some], target[some], gamma, alpha, None, 'none')
    same([weighted], [plain * weight[target[some], None]])


def test_focal_losses_far_out_are_finite():
    logits = torch.tensor([[200.0, -200], [-200, 200]], requires_grad=True)
    for loss in (ops.sigmoid_focal_loss, ops.softmax_focal_loss):
        value = loss(logits, torch.tensor([0, 0]), 2.0, 0.25, None, 'mean')
        assert value.isfinite() and torch.autograd.grad(value, logits)[0].isfinite().all()


def test_softmax_focal_loss():
    logits, target, weight = features(5, 3).requires_grad_(), torch.tensor([0, 2, 1, 2, 0]), torch.tensor([1, 2, 0.5])
    p = logits.softmax(1).gather(1, target[:, None])[:, 0]
    reference = -0.25 * (1 - p) ** 2 * p.log() * weight[target]
    ours = ops.softmax_focal_loss(logits, target, 2.0, 0.25, weight, 'none')
    torch.testing.assert_close(ours, reference)
    ours, reference = ops.softmax_focal_loss(logits, target, 2.0, 0.25, weight, 'mean'), reference.mean()
    same(torch.autograd.grad(ours, logits), torch.autograd.grad(reference, logits), rtol=1e-4, atol=1e-6)
    ignored = ops.softmax_focal_loss(logits, torch.tensor([-1, 2, 1, 2, 0]), 2.0, 0.25, None, 'none')
    assert ignored[0] == 0 and (ignored[1:] > 0).all()
    ignored = ops.softmax_focal_loss(logits, torch.tensor([-1, 2, 1, 2, 0]), 2.0, 0.25, None, 'sum')
    assert torch.autograd.grad(ignored, logits)[0].any(1).tolist() == [False] + [True] * 4


def test_masked_convolution_is_the_ordinary_one_where_the_mask_is():
    x, conv = features(1, 3, 6, 7), ops.MaskedConv2d(3, 4, 3, padding=1)
    mask = features(1, 6, 7, seed=1) > 0
    dense = F.conv2d(x, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(x, mask), dense * mask, rtol=1e-4, atol=1e-5)
    assert not conv(x, torch.zeros_like(mask)).any()


def plain_carafe(x, masks, k, groups, scale):
    n, c, h, w = x.shape
    near = F.pad(x, [k // 2] * 4)
    out = x.new_zeros(n, c, h * scale, w * scale)
    for b, ch, i, j in itertools.product(*map(range, out.shape)):
        window = near[b, ch, i // scale : i // scale + k, j // scale : j // scale + k]
        kernel = masks[b, :, i, j].view(groups, k, k)[ch // (c // groups)]
        out[b, ch, i, j] = (window * kernel).sum()
    return out


def test_carafe():
    x, masks = features(2, 4, 3, 4).requires_grad_(), features(2, 18, 6, 8, seed=1).requires_grad_()
    reference = plain_carafe(x, masks, 3, 2, 2)
    ours = ops.carafe(x, masks, 3, 2, 2)
    same([ours, *grad_of(ours, x, masks)], [reference, *grad_of(reference, x, masks)], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ops.carafe_naive(x, masks, 3, 2, 2), reference)


def plain_soft_nms(boxes, scores, threshold, sigma, least, method):
    """One box after the other, as in the paper."""
    left = dict(enumerate(scores.tolist()))
    kept = []
    while left:
        best = max(left, key=left.get)
        kept.append((best, left.pop(best)))
        for i in list(left):
            iou = torchvision.ops.box_iou(boxes[best][None], boxes[i][None]).item()
            if method == 'gaussian':
                left[i] *= math.exp(-(iou**2) / sigma)
            elif iou >= threshold:
                left[i] *= 1 - iou if method == 'linear' else 0
            if left[i] < least:
                del left[i]
    return kept


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16])
def test_soft_nms(method, dtype):
    corners = features(40, 4).abs() * 20
    corners[:, 2:] += corners[:, :2]
    boxes, scores = corners.to(dtype), features(40, seed=1).sigmoid().to(dtype)
    dets, kept = ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method)
    reference = plain_soft_nms(boxes.float(), scores.float(), 0.3, 0.5, 0.05, method)
    assert kept.tolist() == [i for i, _ in reference] and len(kept) < 40 and dets.dtype == dtype
    assert torch.equal(dets[:, :4], boxes[kept])
    torch.testing.assert_close(dets[:, 4].float(), torch.tensor([s for _, s in reference]), rtol=2e-3, atol=1e-4)


@pytest.mark.skipif(not is_stand_in(), reason='compares two ways of the stand-in')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_naive_soft_nms_is_that_of_the_general_way_where_it_is_short(monkeypatch, dtype):
    from vlm_dense.ops import suppression

    def kept(boxes, scores, threshold, least):
        dets = torch.zeros(len(boxes), 5, dtype=dtype)
        return suppression.softnms(boxes, scores, dets, threshold, 0.5, least, 0, 0), dets

    cases, short = [], suppression._plain
    for seed, threshold, least in itertools.product(range(6), (0.25, 0.5, 1), (1e-3, 0.3, 2)):
        corners = (features(40, 4, seed=seed).abs() * 6).round()  # overlaps that are the threshold itself
        boxes = torch.cat((corners[:, :2], corners[:, :2] + corners[:, 2:]), 1).to(dtype)
        scores = torch.linspace(0.01, 1, 40, dtype=dtype)[features(40, seed=seed).argsort()]
        assert short(scores, threshold, least)
        cases.append(((boxes, scores, threshold, least), kept(boxes, scores, threshold, least)))
    monkeypatch.setattr(suppression, '_plain', lambda *args: False)
    for arguments, (chosen, dets) in cases:
        general, rows = kept(*arguments)
        assert torch.equal(chosen, general) and torch.equal(dets, rows)


def test_boxes_and_scores_that_carry_gradients():
    boxes, scores = torch.tensor([[0, 0, 9, 9], [0, 0, 9, 8.0]]).requires_grad_(), torch.tensor([0.5, 0.9])
    for function in (ops.nms, ops.soft_nms):
        assert function(boxes, scores.requires_grad_(), 0.5)[1].tolist()[0] == 1


def test_soft_nms_of_equal_boxes_and_scores_ends():
    boxes, scores = torch.tensor([[0, 0, 0, 0.0]] * 3 + [[0, 0, 5, 5]] * 3), torch.full((6,), 0.5)
    for method in ('naive', 'linear', 'gaussian'):
        dets, kept = ops.soft_nms(boxes, scores, 0.3, method=method)
        assert len(set(kept.tolist())) == len(kept) == len(dets) and 3 in kept


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_nms_in_other_precision(dtype):
    boxes, scores = torch.tensor([[0, 0, 10, 10], [0, 0, 9, 10], [20, 0, 30, 10]]).to(dtype), torch.tensor([1, 2, 0.5])
    dets, kept = ops.nms(boxes, scores.to(dtype), 0.5)
    assert kept.tolist() == [1, 2] and dets.dtype == dtype
    assert ops.nms(boxes, scores, 0.5)[1].tolist() == [1, 2]  # boxes of one type, scores of another


def test_nms_keeps_a_box_with_the_threshold_as_overlap():
    """mmcv compares in float32, where 0.6 is above the 0.6 of float64."""
    boxes = torch.tensor([[0, 0, 10, 10.0], [0, 0, 6, 10]])
    assert ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1].tolist() == [0, 1]
    assert torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.6).tolist() == [0]


def test_equal_scores_come_in_the_order_of_torchs_sort():
    boxes = features(60, 4).abs() * 20
    boxes[:, 2:] += boxes[:, :2]
    scores = (features(60, seed=1).sigmoid() * 4).round() / 4
    left, kept, groups = scores.argsort(descending=True).tolist(), [], []
    iou = torchvision.ops.box_iou(boxes, boxes)
    while left:
        kept.append(left[0])
        groups.append([i for i in left if i == left[0] or iou[left[0], i] >= 0.3])
        left = [i for i in left if i not in groups[-1]]
    assert ops.nms(boxes, scores, 0.3)[1].tolist() == kept and len(kept) < 60
    matched = ops.nms_match(torch.cat((boxes, scores[:, None]), 1), 0.3)
    assert [m.tolist() for m in matched] == groups


def test_numpy_arrays_are_served():
    boxes, scores = np.array([[0, 0, 9, 9], [0, 0, 9, 8]], np.float32), np.array([0.5, 0.9], np.float32)
    dets, kept = ops.nms(boxes, scores, 0.5)
    assert isinstance(dets, np.ndarray) and kept.tolist() == [1]
    assert ops.soft_nms(boxes, scores, 0.5, method='naive')[1].tolist() == [1]
    assert [m.tolist() for m in ops.nms_match(np.c_[boxes, scores], 0.5)] == [[1, 0]]
