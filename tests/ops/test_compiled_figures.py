"""The stand-in gives what mmcv's compiled kernels gave: their figures are kept in ``tests/data/ops/compiled.npz``."""

from __future__ import annotations

import functools
from pathlib import Path

import compare_ops as tool
import numpy as np
import pytest
import torch
from kernel_cases.detectors import DETECTORS, build, of_detectors
from kernel_cases.drawing import draw

from vlm_dense.ops import is_stand_in

TOOLS = Path(__file__).parents[2] / 'tools' / 'dev'


@pytest.fixture(scope='module')
def compiled():
    return tool.read(tool.FIGURES)


@pytest.fixture(autouse=True)
def _leave_no_trace():
    """The detectors set mmdet's default scope and a quiet logger; other tests keep theirs."""
    from mmengine.logging import MMLogger
    from mmengine.registry import DefaultScope

    before = [(kind._instance_dict, kind._instance_dict.copy()) for kind in (DefaultScope, MMLogger)]
    yield
    for instances, kept in before:
        instances.clear()
        instances.update(kept)


figures = functools.cache(tool.figures)


@pytest.mark.parametrize('part', tool.PARTS)
def test_every_case_agrees_with_the_compiled_kernels(part, compiled):
    ours = {case: arrays for case, arrays in figures(part).items() if case not in tool.OF_THIS_PROCESSOR}
    assert len(ours) >= 10
    differences = tool.compare(ours, {case: compiled[case] for case in ours})
    assert {case: d for case, d in differences.items() if d > tool.tolerance(case)} == {}


def test_rounding_decides_nothing_in_the_detectors():
    """Parameters that move by ten million times their rounding change the figures by no more than that."""
    moved = tool.as_arrays(of_detectors(moved=1e-8))
    differences = tool.compare(moved, figures('detectors'))
    assert max(differences.values()) < tool.RELATIVE / 4
    assert differences['ATSS with DyHead/gradients'] > 0


def test_half_precision_is_nearer_to_double_than_compiled(compiled):
    from mmcv import ops

    tensors = draw('x', 2, 4, 5, 6), draw('offset', 2, 18, 5, 6), draw('mask', 2, 9, 5, 6).sigmoid()
    x, offset, mask = (tensor.half() for tensor in tensors)
    weight, bias = (draw('weight', 6, 4, 3, 3) / 6).half(), draw('bias', 6).half()
    for name, function, inputs in (
        ('modulated_deform_conv2d', ops.modulated_deform_conv2d, (x, offset, mask, weight, bias)),
        ('deform_conv2d', ops.deform_conv2d, (x, offset, weight)),
    ):
        exact = function(*(tensor.double() for tensor in inputs), 1, 1)
        ours = (function(*inputs, 1, 1).double() - exact).abs().max()
        theirs = (torch.from_numpy(compiled[f'{name}/half'][0]).double() - exact).abs().max()
        assert ours <= theirs or not is_stand_in()


def test_every_kept_case_is_compared(compiled):
    """Nothing was left out when the figures were written, and the comparison tells when something differs."""
    kernels = {case.split('/')[0] for case in compiled}
    assert kernels >= {'nms', 'batched_nms', 'soft_nms', 'nms_match', 'bbox_overlaps', 'roi_align', *DETECTORS}
    assert kernels >= {'deform_conv2d', 'modulated_deform_conv2d'}
    case = 'soft_nms/linear'
    dets, kept = compiled[case]
    assert tool.difference([dets * 1.001, kept], compiled[case]) == pytest.approx(1e-3, rel=0.01)
    assert tool.difference([dets, kept[::-1]], compiled[case]) > 0.1
    assert tool.difference([dets[:-1], kept[:-1]], compiled[case]) == np.inf
    assert tool.compare({case: compiled[case]}, compiled)['nms'] == np.inf


@pytest.mark.skipif(not is_stand_in(), reason='the compiled kernels take no bfloat16 on the CPU')
@pytest.mark.parametrize('name', DETECTORS)
def test_detectors_train_in_mixed_precision(name, compiled):
    model, data = build(name)
    with torch.autocast('cpu', torch.bfloat16):
        loss, parts = model.parse_losses(model.train()(**model.data_preprocessor(data, True), mode='loss'))
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    kept = dict(zip(sorted(parts), compiled[f'{name}/losses'], strict=True))
    assert loss.item() == pytest.approx(kept['loss'].item(), rel=0.1)


@pytest.mark.parametrize('name', DETECTORS)
def test_detectors_train_and_test_without_any_box(name):
    """Empty images give finite losses, and a threshold above every score gives empty predictions."""
    model, data = build(name)
    for sample in data['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    loss, _ = model.parse_losses(model.train()(**model.data_preprocessor(data, True), mode='loss'))
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    for part in model.modules():
        if (settings := getattr(part, 'test_cfg', None)) and 'score_thr' in settings:
            settings.score_thr = 1.1
    model.eval()
    found = [sample.pred_instances for sample in model.test_step(build(name)[1])]
    assert all(len(p) == 0 for p in found) or name == 'Deformable DETR'  # which always keeps its best queries
