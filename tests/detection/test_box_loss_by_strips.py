"""The loss of the boxes strip by strip against whole maps."""

from __future__ import annotations

import pytest
import torch
from toy_detector import build, samples

from vlm_dense.methods.denseclip.detector import box_targets
from vlm_dense.segmentation import strips

SIZE = (64, 64)
BOXES = [[[4, 6, 40, 50], [30, 8, 60, 63]], [[10, 12, 52, 44]]]


def test_rows_of_the_targets_are_those_of_the_whole():
    boxes, labels = torch.tensor([[3.0, 9.0, 50.0, 41.0], [0.0, 0.0, 20.0, 70.0]]), torch.tensor([2, 0])
    whole = box_targets(boxes, labels, 4, (16, 24))
    for rows in (slice(0, 3), slice(3, 9), slice(9, 16)):
        found = box_targets(boxes, labels, 4, (16, 24), rows)
        assert all(torch.equal(a, b[:, rows]) for a, b in zip(found, whole, strict=True)) and whole[0].sum() > 0


@pytest.mark.parametrize('elements', [100, 2**19])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_loss_and_gradient_by_strips_are_those_of_whole_maps(elements, dtype, monkeypatch):
    monkeypatch.setitem(strips._ELEMENTS, 'cpu', elements)
    model = build('retinanet').eval()
    score = torch.rand(2, 3, 3, 2, dtype=dtype).mul(2).sub(1).requires_grad_()
    found = model.box_loss(score, samples(BOXES, SIZE), SIZE)
    logits = torch.nn.functional.interpolate((score / model.tau).float(), (16, 16), mode='bilinear')
    pairs = [box_targets(s.gt_instances.bboxes, s.gt_instances.labels, 3, (16, 16)) for s in samples(BOXES, SIZE)]
    target, mask = (torch.stack(x) for x in zip(*pairs, strict=True))
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction='none')
    wanted = (each * mask).sum() / (3 * mask.sum())
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    (a,), (b,) = torch.autograd.grad(found, score), torch.autograd.grad(wanted, score)
    assert a.dtype == dtype and mask.sum() > 0
    torch.testing.assert_close(a, b, rtol=1e-4 if dtype == torch.float32 else 1e-2, atol=1e-6)
