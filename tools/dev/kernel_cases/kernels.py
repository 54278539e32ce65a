"""Kernels on random and on degenerate inputs: of each case outputs and gradients."""

from __future__ import annotations

import numpy as np
import torch

from kernel_cases.drawing import draw, draw_boxes


def of_boxes() -> dict:
    """Non-maximum suppression and overlaps."""
    from mmcv import ops

    boxes, scores = draw_boxes('boxes', 120), draw('scores', 120).sigmoid()
    ties = (scores * 8).round() / 8
    labels = torch.arange(120) % 5
    flat = boxes.clone()
    flat[::3, 2] = flat[::3, 0]
    flat[::6, 3] = flat[::6, 1]
    at_threshold = torch.tensor([[0, 0, 10, 10], [0, 0, 6, 10], [0, 0, 10, 7], [20, 0, 30, 10.0], [20, 0, 30, 10]])
    few = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.6])
    none = torch.zeros(0, 4), torch.zeros(0)
    found = {
        'nms': ops.nms(boxes, scores, 0.4),
        'nms/offset 1': ops.nms(boxes, scores, 0.4, offset=1),
        'nms/equal scores': ops.nms(boxes, ties, 0.4),
        'nms/no area': ops.nms(flat, scores, 0.4),
        'nms/score above and first 10': ops.nms(boxes, scores, 0.4, score_threshold=0.4, max_num=10),
        'nms/none': ops.nms(*none, 0.5),
        'batched_nms': ops.batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.4)),
        'batched_nms/split': ops.batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.4, split_thr=9)),
        'batched_nms/none': ops.batched_nms(*none, labels[:0], dict(type='nms', iou_threshold=0.4), True),
        'batched_nms/soft': ops.batched_nms(boxes, scores, labels, dict(type='soft_nms', iou_threshold=0.4)),
        'nms_match': ops.nms_match(torch.cat((boxes, scores[:, None]), 1), 0.4),
        'nms_match/equal scores': ops.nms_match(torch.cat((boxes, ties[:, None]), 1), 0.4),
        'nms_match/no area': ops.nms_match(torch.cat((flat, scores[:, None]), 1), 0.4),
    }
    for threshold in (0.5, 0.6, 0.7):
        found[f'nms/overlap at {threshold}'] = ops.nms(at_threshold, few, threshold)
    for method in ('naive', 'linear', 'gaussian'):
        found |= {
            f'soft_nms/{method}': ops.soft_nms(boxes, scores, 0.3, method=method),
            f'soft_nms/{method}, offset 1': ops.soft_nms(boxes, scores, 0.3, method=method, offset=1),
            f'soft_nms/{method}, equal scores': ops.soft_nms(boxes, ties, 0.3, method=method),
            f'soft_nms/{method}, no area': ops.soft_nms(flat, scores, 0.3, method=method),
            f'soft_nms/{method}, many drop out': ops.soft_nms(boxes, ties, 0.3, method=method, min_score=0.3),
            f'soft_nms/{method}, none drop out': ops.soft_nms(boxes, scores, 0.3, method=method, min_score=0),
            f'soft_nms/{method}, none': ops.soft_nms(*none, 0.3, method=method),
        }
    for mode in ('iou', 'iof'):
        for offset in (0, 1):
            found[f'bbox_overlaps/{mode}, offset {offset}'] = ops.bbox_overlaps(
                flat[:20], boxes[:30], mode, False, offset
            )
            found[f'bbox_overlaps/{mode}, pairs, offset {offset}'] = ops.bbox_overlaps(flat, boxes, mode, True, offset)
    found['bbox_overlaps/none'] = ops.bbox_overlaps(none[0], boxes)
    return found


def _with_gradients(function, *tensors) -> list:
    """The output and the gradients of its product with fixed numbers."""
    inputs = [t.clone().requires_grad_() if t is not None and t.is_floating_point() else t for t in tensors]
    output = function(*inputs)
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    return [output, *torch.autograd.grad(output, wanted, draw('grad', *output.shape).to(output.dtype))]


def of_regions() -> dict:
    """roi_align."""
    from mmcv import ops

    features = draw('features', 2, 3, 8, 10)
    rois = torch.cat((torch.arange(9)[:, None] % 2, draw_boxes('rois', 9, 8)), 1)
    cells = rois[:, 1:]
    cells[5, 2:] = cells[5, :2]  # no area
    cells[6] = torch.tensor([-6, -7, 3, 2])  # partly outside
    cells[7] = torch.tensor([70, 60, 90, 80])  # outside
    cells[8] = torch.tensor([0, 0, 10, 8])
    found = {}
    for mode in ('avg', 'max'):
        for aligned in (True, False):
            for ratio in (0, 2):
                for scale in (1.0, 0.25):

                    def pool(x, rois=rois, how=(scale, ratio, mode, aligned)):
                        return ops.roi_align(x, rois.to(x.dtype), (4, 3), *how)

                    name = f'roi_align/{mode}, {"aligned, " * aligned}sampling {ratio}, scale {scale}'
                    found[name] = _with_gradients(pool, features)
        name = f'roi_align/{mode}, no region'
        found[name] = _with_gradients(lambda x, m=mode: ops.roi_align(x, rois[:0], (4, 3), 1.0, 0, m, True), features)
        name = f'roi_align/{mode}, half'
        inside = rois[:5].half()
        found[name] = _with_gradients(
            lambda x, m=mode, r=inside: ops.roi_align(x, r, (4, 3), 1.0, 2, m, True), features.half()
        )
        name = f'roi_align/{mode}, double'
        found[name] = _with_gradients(
            lambda x, m=mode: ops.roi_align(x, rois.double(), (4, 3), 1.0, 2, m, True), features.double()
        )
    return found


def of_deformable() -> dict:
    """Deformable convolution, plain and modulated."""
    from mmcv import ops

    found = {}
    shapes = {  # stride, padding, dilation, groups, deformable groups, spread of the offsets
        'usual': (1, 1, 1, 1, 1, 1),
        'stride 2': (2, 1, 1, 1, 1, 1),
        'dilation 2, unlike sides': ((1, 2), (2, 1), (2, 1), 1, 1, 1),
        'groups 2': (1, 1, 1, 2, 1, 1),
        'deformable groups 2': (1, 1, 1, 1, 2, 1),
        'both groups 2': (1, 1, 1, 2, 2, 1),
        'far outside': (1, 1, 1, 1, 1, 12),
        'whole offsets': (1, 1, 1, 1, 1, 0),
    }
    x, weight, bias = draw('x', 2, 4, 5, 6), draw('weight', 6, 4, 3, 3) / 6, draw('bias', 6)
    for name, (*geometry, groups, deformable, spread) in shapes.items():
        w = weight[:, : 4 // groups].contiguous()
        size = torch.nn.functional.conv2d(x, w, None, *geometry, groups).shape[2:]
        offset = draw('offset', 2, 18 * deformable, *size) * spread
        mask = draw('mask', 2, 9 * deformable, *size).sigmoid()

        def plain(x, offset, w, how=(*geometry, groups, deformable)):
            return ops.deform_conv2d(x, offset, w, *how)

        def modulated(x, offset, mask, w, bias=None, how=(*geometry, groups, deformable)):
            return ops.modulated_deform_conv2d(x, offset, mask, w, bias, *how)

        found[f'deform_conv2d/{name}'] = _with_gradients(plain, x, offset, w)
        found[f'modulated_deform_conv2d/{name}'] = _with_gradients(modulated, x, offset, mask, w, bias)
        if name == 'usual':
            larger = draw('offset', 2, 18, 8, 9), draw('mask', 2, 9, 8, 9).sigmoid()
            found['modulated_deform_conv2d/offsets larger than the output'] = _with_gradients(
                lambda x, w, larger=larger: ops.modulated_deform_conv2d(x, *larger, w, None, 1, 1), x, w
            )
            found['modulated_deform_conv2d/no bias'] = _with_gradients(modulated, x, offset, mask, w)
            five = x[:1].repeat(5, 1, 1, 1), offset[:1].repeat(5, 1, 1, 1)
            found['deform_conv2d/5 images'] = [plain(*five, w)]
            wide = x.double(), offset.double(), mask.double(), w.double(), bias.double()
            found['modulated_deform_conv2d/double'] = _with_gradients(modulated, *wide)
            found['deform_conv2d/double'] = _with_gradients(plain, wide[0], wide[1], wide[3])
            half = x.half(), offset.half(), mask.half(), w.half(), bias.half()
            found['modulated_deform_conv2d/half'] = [modulated(*half)]
            found['deform_conv2d/half'] = [plain(half[0], half[1], half[3])]
    return found


def of_rotated() -> dict:
    """Rotated boxes, quadrilaterals, their regions, and filters that turn."""
    from mmcv import ops

    def boxes(name, count):
        centres, sides = draw(f'{name} centres', count, 2) * 15, draw(f'{name} sides', count, 2).abs() * 12 + 2
        return torch.cat((centres, sides, draw(f'{name} angles', count, 1) * 2), 1)

    one, other, scores = boxes('one', 30), boxes('other', 40), draw('rotated scores', 40).sigmoid()
    special = torch.tensor([[5, 5, 4, 2, 0.3], [5, 5, 0, 2, 0], [5, 5, 4, 4, 0], [5, 5, 2, 2, 0.0], [70, 5, 4, 2, 0]])
    corners = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    quadrilaterals = {}
    for name, each in (('one', one), ('other', other)):
        turned = (corners * each[:, None, 2:4])[..., None, :] @ torch.stack(
            (
                torch.stack((each[:, 4].cos(), each[:, 4].sin()), 1),
                torch.stack((-each[:, 4].sin(), each[:, 4].cos()), 1),
            ),
            1,
        )[:, None]
        quadrilaterals[name] = (turned[:, :, 0] + each[:, None, :2]).flatten(1)
    uneven = quadrilaterals['other'] + draw('uneven', 40, 8)  # no rectangles, but still convex for the most part
    found = {}
    for mode in ('iou', 'iof'):
        found |= {
            f'box_iou_rotated/{mode}': ops.box_iou_rotated(one, other, mode),
            f'box_iou_rotated/{mode}, pairs, other sense': ops.box_iou_rotated(one, other[:30], mode, True, False),
            f'box_iou_rotated/{mode}, special': ops.box_iou_rotated(
                special[:, None].repeat(1, 2, 1).flatten(0, 1), other, mode
            ),
            f'box_iou_quadri/{mode}': ops.box_iou_quadri(quadrilaterals['one'], quadrilaterals['other'], mode),
            f'box_iou_quadri/{mode}, pairs': ops.box_iou_quadri(quadrilaterals['one'], uneven[:30], mode, True),
            f'box_iou_quadri/{mode}, uneven': ops.box_iou_quadri(quadrilaterals['one'], uneven, mode),
        }
    for threshold in (0.1, 0.5):
        found |= {
            f'nms_rotated/{threshold}': ops.nms_rotated(other, scores, threshold),
            f'nms_rotated/{threshold}, labels': ops.nms_rotated(other, scores, threshold, torch.arange(40) % 3),
            f'nms_rotated/{threshold}, double': ops.nms_rotated(other.double(), scores.double(), threshold),
            f'nms_quadri/{threshold}': ops.nms_quadri(quadrilaterals['other'], scores, threshold),
            f'nms_quadri/{threshold}, uneven': ops.nms_quadri(uneven, scores, threshold),
        }
    labels = torch.arange(40) % 3
    found['nms_rotated/by class'] = ops.batched_nms(other, scores, labels, dict(type='nms_rotated', iou_threshold=0.3))
    features, images = draw('features', 2, 3, 8, 10), (torch.arange(12) % 2)[:, None]
    rois = torch.cat(
        (images, draw('rois', 12, 2) * 3 + 4, draw('roi sides', 12, 2).abs() * 5, draw('roi angles', 12, 1)), 1
    )
    curves = torch.cat((images, draw('curves', 12, 16) * 4 + 4), 1)
    for aligned in (True, False):
        for ratio in (0, 2):
            how = f'{"aligned, " * aligned}sampling {ratio}'
            found |= {
                f'roi_align_rotated/{how}': _with_gradients(
                    lambda x, a=aligned, r=ratio: ops.roi_align_rotated(x, rois, (4, 3), 0.5, r, a, r == 0), features
                ),
                f'bezier_align/{how}': _with_gradients(
                    lambda x, a=aligned, r=ratio: ops.bezier_align(x, curves, (3, 4), 0.5, r, a), features
                ),
            }
    rng = np.random.default_rng(0)
    places = np.stack([rng.permutation(36) + 1 for _ in range(8)], 1).reshape(4, 3, 3, 8)
    found['active_rotated_filter'] = _with_gradients(
        lambda w: ops.active_rotated_filter(w, torch.from_numpy(places).int()), draw('filters', 2, 3, 4, 3, 3)
    )
    return found


def of_text() -> dict:
    """Labels of text that grow, and attention masks."""
    from mmcv import ops

    found = {}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        shape = 16, 20
        labels = np.where(rng.uniform(size=shape) < 0.1, rng.integers(1, 6, shape), 0).astype(np.int32)
        labels.flat[:6] = range(6)
        groups = ops.pixel_group(
            rng.uniform(size=shape).astype(np.float32),
            rng.uniform(size=shape) < 0.8,
            rng.standard_normal((*shape, 4)).astype(np.float32),
            labels,
            (rng.uniform(size=shape) < 0.9).astype(np.uint8),
            6,
            2.0,
        )
        found[f'pixel_group/{seed}'] = groups
        masks = (rng.uniform(size=(seed + 1, *shape)) < 0.7).astype(np.uint8)
        found[f'contour_expand/{seed}'] = [torch.tensor(ops.contour_expand(masks, labels, seed * 2, 6))]
    for kind in (0, 1):
        for mask in ((5, 7), (3, 3)):
            found[f'psa_mask/type {kind}, {mask[0]} x {mask[1]}'] = _with_gradients(
                lambda x, k=kind, m=mask: ops.psa_mask.psa_mask(x, k, m), draw('masks', 2, mask[0] * mask[1], 3, 4)
            )
    return found
