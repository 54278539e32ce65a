"""What the cases of F-VLM and F-ViT have in common: images, detections, losses and gradients."""

from __future__ import annotations

import torch
from mmengine.structures import InstanceData
from official import Case, array
from torch import Tensor, nn


def image_of(config: dict) -> Tensor:
    """Images of coarse blocks with noise."""
    entry = config['image']
    base, block = array(*entry['base']), entry['block']
    return base.repeat_interleave(block, 2).repeat_interleave(block, 3) + array(*entry['noise'])


def check_detections(
    case: Case, model: nn.Module, maps, boxes: Tensor, size, scale_factor: tuple[float, float]
) -> list[int]:
    """det/*: boxes, scores and labels of each image; gives their numbers."""
    head, numbers = model.roi_head, []
    metas = [dict(img_shape=tuple(size), scale_factor=scale_factor)] * len(boxes)
    proposals = [InstanceData(bboxes=own) for own in boxes]
    results = head.predict_bbox(maps, metas, proposals, head.test_cfg, rescale=True)
    for i, found in enumerate(results):
        case.check(f'det/{i}/boxes', found.bboxes)
        case.check(f'det/{i}/scores', found.scores)
        case.check(f'det/{i}/labels', found.labels)
        numbers.append(len(found))
    return numbers


def samples_of(case: Case, head: nn.Module, found: dict, rois: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The head's losses for given targets; checks train/box_targets, which are 0 for the background."""
    matched = torch.from_numpy(case['train/matched_boxes']).reshape(-1, 4)
    positive = labels < head.num_classes
    targets = torch.zeros_like(matched)
    targets[positive] = head.bbox_coder.encode(rois[positive, 1:], matched[positive])
    case.check('train/box_targets', targets.reshape(case['train/box_targets'].shape))
    weights = positive[:, None].float().expand(-1, 4)
    return head.loss(found['cls_score'], found['bbox_pred'], rois, labels, torch.ones(len(labels)), targets, weights)


def rows_of(case: Case, model: nn.Module, cut: dict[str, tuple], ours: dict[str, str]) -> None:
    """grad/*: of the sum of the losses.

    Args:
        cut: Part of a name -> the entries that are stored.
        ours: Beginning of an official name -> ours.
    """
    parameters = dict(model.named_parameters())
    for key in case.keys('grad/'):
        own = next((key.replace(a, b, 1) for a, b in ours.items() if key.startswith(a)), key)
        gradient = parameters[own].grad
        for part, entries in cut.items():
            gradient = gradient[entries] if part in key else gradient
        case.check_grad(f'grad/{key}', gradient)
    frozen = {n for n, p in model.named_parameters() if n.startswith(('backbone.', 'text_encoder.'))}
    assert not frozen & {n for n, p in model.named_parameters() if p.requires_grad or p.grad is not None}
