"""Losses strip by strip against mmseg's own, for every option, head and way of training."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from largest import LargestTensor
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.models import FCNHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.structures import SegDataSample

from vlm_dense.datasets.scenes import SHAPES
from vlm_dense.engine.configs.names import find_config
from vlm_dense.errors import DataError
from vlm_dense.registry import HOOKS, MODELS
from vlm_dense.segmentation import strips
from vlm_dense.segmentation.strips import strip_cross_entropy, use_strips

CONFIGS = Path(__file__).parents[2] / 'configs'
K, SMALL, LARGE = 5, (6, 8), (23, 31)
WEIGHTS = [0.5, 2.0, 1.0, 0.0, 3.0]


class Scaled(FCNHead):
    """A head with a loss that is more than mmseg's, as EncHead's."""

    def loss_by_feat(self, seg_logits, batch_data_samples):
        return super().loss_by_feat(2 * seg_logits, batch_data_samples)


@pytest.fixture(autouse=True)
def small_strips(monkeypatch):
    monkeypatch.setitem(strips._ELEMENTS, 'cpu', LARGE[1] * K * 4)


def build(losses=None, kind=FCNHead, **options):
    default = dict(type='CrossEntropyLoss')
    parts = [dict(default, **x) for x in losses] if isinstance(losses, list) else dict(default, **(losses or {}))
    head = kind(in_channels=K, channels=K, num_classes=K, num_convs=0, concat_input=False, loss_decode=parts, **options)
    use_strips(head)
    return head


def batch(ignored=0.2, size=LARGE, number=3, ignore_index=255, seed=1):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, K, (number, 1, *size), generator=g)
    labels[torch.rand(labels.shape, generator=g) < ignored] = ignore_index
    return [SegDataSample(gt_sem_seg=PixelData(data=x)) for x in labels]


def logits(size=SMALL, number=3, seed=0, dtype=torch.float32):
    return torch.randn(number, K, *size, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def by_strips(head):
    return 'loss_by_feat' in vars(head)


def mmseg_loss(head, x, samples):
    return BaseDecodeHead.loss_by_feat(head, x, samples)


def compare(head, x, samples, acc=True):
    """Losses, accuracy and gradients of both."""
    found, wanted = head.loss_by_feat(x, samples), mmseg_loss(head, x, samples)
    assert list(found) == list(wanted)
    for name in wanted:
        assert found[name].shape == wanted[name].shape and found[name].dtype == wanted[name].dtype
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-6, atol=1e-6)
    grads = [torch.autograd.grad(sum(v.sum() for k, v in y.items() if 'loss' in k), x)[0] for y in (found, wanted)]
    assert (grads[0] - grads[1]).norm() <= 1e-4 * grads[1].norm() and grads[0].stride() is not None
    return found


@pytest.fixture
def no_fallback(monkeypatch):
    monkeypatch.setattr(strips, '_obstacle', lambda *of, found=strips._obstacle: fail_on(found(*of)))


def fail_on(obstacle):
    assert obstacle is None
    return obstacle


# --- options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size', [(6, 8), (23, 31), (1, 1), (24, 32), (40, 50), (12, 3)], ids=str)
def test_any_ratio_of_sizes(size, align_corners, no_fallback):
    compare(build(align_corners=align_corners), logits(size), batch())


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('avg_non_ignore', [False, True])
@pytest.mark.parametrize('class_weight', [None, WEIGHTS], ids=['', 'weights'])
@pytest.mark.parametrize('loss_weight', [1.0, 0.4])
@pytest.mark.parametrize('ignored', [0.0, 0.3, 1.1])
def test_every_option_of_the_loss(reduction, avg_non_ignore, class_weight, loss_weight, ignored, no_fallback):
    options = dict(reduction=reduction, class_weight=class_weight, loss_weight=loss_weight, loss_name='loss_mine')
    head = build(dict(options, avg_non_ignore=avg_non_ignore))
    if class_weight and avg_non_ignore and reduction == 'mean':
        with pytest.raises(IndexError):  # mmseg has no such mean: see the next test
            mmseg_loss(head, logits(), batch(ignored))
        return
    compare(head, logits(), batch(ignored))


def test_class_weights_and_ignored_pixels_as_in_torch():
    x, samples = logits(), batch()
    found = build(dict(class_weight=WEIGHTS, avg_non_ignore=True)).loss_by_feat(x, samples)['loss_ce']
    large = F.interpolate(x, LARGE, mode='bilinear')
    labels = torch.cat([s.gt_sem_seg.data for s in samples])
    wanted = F.cross_entropy(large, labels, weight=torch.tensor(WEIGHTS), ignore_index=255)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('ignore_index', [0, 3, -1, -100])
def test_any_ignore_index(ignore_index, no_fallback):
    compare(build(ignore_index=ignore_index), logits(), batch(ignore_index=ignore_index))


@pytest.mark.parametrize('class_weight', ['weights.npy', 'weights.json'])
def test_class_weights_from_a_file(class_weight, tmp_path, no_fallback):
    import json

    import numpy as np

    path = tmp_path / class_weight
    np.save(path, np.array(WEIGHTS)) if path.suffix == '.npy' else path.write_text(json.dumps(WEIGHTS))
    compare(build(dict(class_weight=str(path))), logits(), batch())


def test_several_losses_by_their_names(no_fallback):
    parts = [dict(loss_weight=0.5), dict(loss_name='loss_w', class_weight=WEIGHTS), dict(avg_non_ignore=True)]
    assert list(compare(build(parts), logits(), batch())) == ['loss_ce', 'loss_w', 'acc_seg']


def test_a_head_with_a_loss_of_its_own_keeps_it():
    head = build(kind=Scaled)
    x, samples = logits(), batch()
    assert not by_strips(head)
    found, wanted = head.loss_by_feat(x, samples), mmseg_loss(head, 2 * x, samples)
    torch.testing.assert_close(found['loss_ce'], wanted['loss_ce'])


def test_of_classes_that_tie_the_first_is_right():
    samples = batch(0.0)
    labels = torch.stack([s.gt_sem_seg.data for s in samples])
    found = build().loss_by_feat(torch.zeros(3, K, *SMALL, requires_grad=True), samples)
    torch.testing.assert_close(found['acc_seg'].item(), 100 * (labels == 0).float().mean().item())
    torch.testing.assert_close(found['loss_ce'].item(), torch.tensor(float(K)).log().item())


def test_logits_far_apart_have_a_finite_loss(no_fallback):
    compare(build(), (logits() * 1e4).detach().requires_grad_(), batch())


def test_a_label_that_is_no_class_is_refused():
    samples = batch()
    samples[1].gt_sem_seg.data[0, 3, 4] = 7
    with pytest.raises(DataError, match=r'the label 7, but the head has the classes 0 to 4, and 255 is ignored'):
        build().loss_by_feat(logits(), samples)


# --- what cannot be done by strips ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('losses', 'options', 'why'),
    [
        ({}, dict(sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=50)), 'OHEMPixelSampler'),
        ([{}, dict(type='DiceLoss', loss_name='loss_dice')], {}, 'DiceLoss'),
        (dict(use_sigmoid=True), {}, 'use_sigmoid'),
        (dict(reduction='none'), {}, 'a value a pixel'),
        (dict(type='TverskyLoss'), {}, 'TverskyLoss'),
    ],
    ids=['sampler', 'dice', 'sigmoid', 'none', 'tversky'],
)
def test_the_rest_is_left_to_mmseg_and_said_once(losses, options, why, monkeypatch):
    said = []
    monkeypatch.setattr(strips, 'print_log', lambda text, *a, **k: said.append(text))
    head, x, samples = build(losses, **options), logits(), batch(0.0)
    for _ in range(2):
        found, wanted = head.loss_by_feat(x, samples), mmseg_loss(head, x, samples)
        assert list(found) == list(wanted) and all(torch.equal(found[k], wanted[k]) for k in found)
    assert len(said) == 1 and why in said[0]


# --- training ---------------------------------------------------------------------------------------------------


def test_a_scaled_loss_in_half_precision_keeps_small_gradients():
    samples = batch()
    half, full = logits(dtype=torch.float16), logits(dtype=torch.float16).float().detach().requires_grad_()
    scale = 2.0**16
    (scale * 1e-7 * build().loss_by_feat(half, samples)['loss_ce']).backward()
    (scale * 1e-7 * build().loss_by_feat(full, samples)['loss_ce']).backward()
    assert half.grad.dtype == torch.float16 and half.grad.abs().max() > 0
    torch.testing.assert_close(half.grad.float(), full.grad, rtol=1e-3, atol=1e-7)


def test_under_autocast_the_loss_is_in_single_precision(no_fallback):
    head = build(dict(class_weight=WEIGHTS))
    features = torch.randn(3, K, *SMALL)
    losses = {}
    for name in ('strips', 'whole'):
        head.zero_grad()
        torch.manual_seed(0)
        with torch.autocast('cpu', torch.bfloat16):
            x = head.cls_seg(features)
            assert x.dtype == torch.bfloat16
            loss = head.loss_by_feat(x, batch()) if name == 'strips' else mmseg_loss(head, x.float(), batch())
        loss['loss_ce'].backward()
        losses[name] = loss['loss_ce'], head.conv_seg.weight.grad.clone()
    assert losses['strips'][0].dtype == torch.float32
    torch.testing.assert_close(losses['strips'][0], losses['whole'][0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses['strips'][1], losses['whole'][1], rtol=1e-2, atol=1e-4)


def test_gradients_accumulate():
    head, x = build(), logits()
    parts = [head.loss_by_feat(x, batch(seed=s))['loss_ce'] for s in (1, 2)]
    (parts[0] / 2).backward(retain_graph=True)
    (parts[1] / 2).backward()
    parts[0].backward()
    wanted = [torch.autograd.grad(mmseg_loss(head, x, batch(seed=s))['loss_ce'], x)[0] for s in (1, 2)]
    torch.testing.assert_close(x.grad, 1.5 * wanted[0] + 0.5 * wanted[1], rtol=1e-4, atol=1e-9)


def test_without_gradient_there_is_the_loss_alone():
    x, samples = logits(), batch()
    with torch.no_grad():
        found = build().loss_by_feat(x, samples)
    assert not found['loss_ce'].requires_grad
    torch.testing.assert_close(found['loss_ce'], mmseg_loss(build(), x, samples)['loss_ce'])
    assert not build().loss_by_feat(x.detach(), samples)['loss_ce'].requires_grad


def test_in_a_distributed_model(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        head = build()
        features = torch.randn(3, K, *SMALL)

        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.head = head

            def forward(self, x, samples):
                return head.loss_by_feat(head.conv_seg(x), samples)

        wrapped = torch.nn.parallel.DistributedDataParallel(Model())
        wrapped(features, batch())['loss_ce'].backward()
        found = head.conv_seg.weight.grad.clone()
        head.zero_grad()
        mmseg_loss(head, head.conv_seg(features), batch())['loss_ce'].backward()
        torch.testing.assert_close(found, head.conv_seg.weight.grad, rtol=1e-4, atol=1e-8)
    finally:
        torch.distributed.destroy_process_group()


def test_in_a_compiled_model():
    head, samples = build(), batch()
    features = torch.randn(3, K, *SMALL)

    def step(x):
        return head.loss_by_feat(head.conv_seg(x), samples)

    results = []
    for function in (step, torch.compile(step, backend='eager')):
        head.zero_grad()
        loss = function(features)['loss_ce']
        loss.backward()
        results.append((loss.detach(), head.conv_seg.weight.grad.clone()))
    torch.testing.assert_close(results[0], results[1])


def test_no_tensor_of_full_size_is_made():
    head, x, samples = build(), logits(), batch()
    full = len(samples) * K * LARGE[0] * LARGE[1]
    for loss, most in ((head.loss_by_feat, full / 4), (lambda *a: mmseg_loss(head, *a), None)):
        with LargestTensor() as largest:
            loss(x, samples)['loss_ce'].backward()
        assert largest.numel < most if most else largest.numel >= full


def test_the_sum_and_the_hits():
    x, labels = logits(), torch.cat([s.gt_sem_seg.data for s in batch()])
    total, hits = strip_cross_entropy(x, labels)
    large = F.interpolate(x, LARGE, mode='bilinear')
    torch.testing.assert_close(total, F.cross_entropy(large, labels, ignore_index=255, reduction='sum'))
    assert hits == (large.argmax(dim=1) == labels).sum()


# --- heads of models ----------------------------------------------------------------------------------------------


def test_a_head_stays_what_it_was():
    head = FCNHead(in_channels=K, channels=K, num_classes=K, num_convs=0, concat_input=False)
    names = list(head.state_dict())
    use_strips(head)
    use_strips(head)
    assert type(head) is FCNHead and by_strips(head) and list(head.state_dict()) == names
    for other in (copy.deepcopy(head), copy.copy(head), pickle.loads(pickle.dumps(head))):
        assert type(other) is FCNHead and by_strips(other)
        torch.testing.assert_close(other.state_dict(), head.state_dict())
        compare(other, logits(), batch())


def test_the_hook_serves_models_of_mmseg():
    head = dict(type='mmseg.FCNHead', in_channels=8, in_index=0, channels=8, num_classes=K, num_convs=1)
    model = MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            backbone=dict(type='mmseg.ResNet', depth=18, base_channels=8, stem_channels=8, norm_cfg=dict(type='BN')),
            decode_head=head,
            auxiliary_head=[head, head],
            test_cfg=dict(mode='whole'),
        )
    )
    HOOKS.build(dict(type='vlm_dense.StripLossHook')).before_train(SimpleNamespace(model=model))
    assert all(map(by_strips, (model.decode_head, *model.auxiliary_head)))


@pytest.mark.parametrize(
    ('name', 'heads'),
    [
        ('denseclip_shapes', ['decode_head', 'identity_head']),
        ('clip_fpn_shapes', ['decode_head']),
        ('maskclip_kgcoop_shapes', ['decode_head']),
        ('maskclip_plus_shapes', ['decode_head']),
    ],
)
def test_every_segmentor_trains_by_strips(name, heads, no_fallback):
    init_default_scope('mmseg')
    cfg = Config.fromfile(find_config(CONFIGS / f'{name}.py'))
    if name != 'clip_fpn_shapes':
        cfg.model.class_names = ['background', *SHAPES]
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.eval()
    g = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 96, 96, generator=g)
    masks = torch.full((2, 1, 96, 96), -1)  # for MaskCLIP+, which finds its own
    if name != 'maskclip_plus_shapes':
        masks = torch.randint(0, 9, masks.shape, generator=g)
    meta = dict(img_shape=(96, 96), ori_shape=(96, 96))

    def step(model):
        samples = [SegDataSample(gt_sem_seg=PixelData(data=x.clone()), metainfo=meta) for x in masks]
        total, logs = model.parse_losses(model.loss(images, samples))
        total.backward()
        return logs, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    whole = copy.deepcopy(model)
    assert all(by_strips(getattr(model, h)) for h in heads)
    found, grads = step(model)
    for module in whole.modules():
        if by_strips(module):
            del module.loss_by_feat
    wanted, wanted_grads = step(whole)
    torch.testing.assert_close(dict(found), dict(wanted), rtol=1e-6, atol=1e-6)
    top = max(g.norm() for g in wanted_grads)
    assert len(grads) == len(wanted_grads) > 0
    assert all((a - b).norm() <= 1e-4 * max(b.norm(), 1e-3 * top) for a, b in zip(grads, wanted_grads, strict=True))
