"""F-VLM equals the official code: maps, crops, both classifications, boxes, detections, losses and gradients."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox2roi
from mmengine import ConfigDict
from official import TINY, Case, array, fill, tiny_clip
from regions_case import check_detections, image_of, rows_of, samples_of
from torch import Tensor

from vlm_dense.registry import MODELS


def _build(config: dict) -> torch.nn.Module:
    own, arch = config['options'], copy.deepcopy(TINY['resnet'])
    arch['vision_cfg']['image_size'] = config['image_size_pool']
    norm, width = dict(type='BN', eps=1e-4, momentum=0.003), own['num_filters']
    strides = [2**level for level in range(own['min_level'], own['max_level'] + 1)]
    names, base = config['names'], [n for n, is_base in zip(config['names'], config['base'], strict=True) if is_base]
    x, y, w, h = own['bbox_weights']
    model = MODELS.build(
        ConfigDict(
            type='vlm_dense.FVLM',
            class_names=names,
            base_names=base,
            background=config['background'],
            padding=config['padding'],
            backbone=dict(type='vlm_dense.CLIPResNet', arch=arch, attnpool=True),
            text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
            text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates']),
            neck=dict(type='vlm_dense.FVLMNeck', out_channels=width),
            rpn_head=None,
            roi_head=dict(
                type='vlm_dense.TextRoIHead',
                scorer=dict(type='vlm_dense.AttentionPoolScorer', chunk=5),
                alpha=own['base_vlm_weight'],
                beta=own['novel_vlm_weight'],
                renormalise=True,
                clip_scale=1 / own['clip_sim_temp'],
                bbox_roi_extractor=dict(
                    type='vlm_dense.CornerRoIExtractor', output_size=7, out_channels=width, featmap_strides=strides
                ),
                bbox_head=dict(
                    type='vlm_dense.TextBBoxHead',
                    in_channels=width,
                    num_shared_convs=own['num_convs'],
                    num_shared_fcs=own['num_fcs'],
                    conv_out_channels=width,
                    fc_out_channels=own['fc_dims'],
                    norm_cfg=norm,
                    fc_norm_cfg=norm,
                    conv_bias=True,
                    logit_scale=1 / own['temperature_scale'],
                    bbox_coder=dict(type='vlm_dense.InclusiveBoxCoder', target_stds=[1 / x, 1 / y, 1 / w, 1 / h]),
                    loss_cls=dict(
                        type='vlm_dense.RegionCrossEntropy', background_weight=own['frcnn_background_weight']
                    ),
                    loss_bbox=dict(type='vlm_dense.MeanSmoothL1Loss'),
                ),
            ),
            test_cfg=dict(
                rcnn=dict(
                    score_thr=own['score_threshold'],
                    nms=dict(type='nms', iou_threshold=own['nms_threshold']),
                    max_per_img=own['post_nms'],
                )
            ),
        )
    )
    clip, weights = tiny_clip('resnet'), {}
    key = 'attnpool.positional_embedding'
    clip[f'visual.{key}'] = fill(f'visual.{key}', tuple(model.backbone.state_dict()[key].shape))
    for name, value in model.state_dict().items():
        if name.startswith('text_encoder.'):
            weights[name] = clip[name.removeprefix('text_encoder.')]
        elif name.startswith('backbone.'):
            weights[name] = clip[name.replace('backbone.', 'visual.')]
        elif name.endswith('.temperature'):
            weights[name] = array(*config['temperature'])
        else:
            weights[name] = fill(config['prefix'] + name.removeprefix('roi_head.'), tuple(value.shape))
    model.load_state_dict(weights)
    return model.eval()


def _first(x: Tensor, count: int) -> Tensor:
    """The row of the background in front, as the release has it, of each image."""
    return torch.cat([x[:, -1:], x[:, :-1]], dim=1).unflatten(0, (-1, count))


def _check_maps(case: Case, model, images: Tensor) -> tuple[Tensor, ...]:
    features, _ = model.text_side.encode(model.backbone, images, ('stages', 'patch'))
    steps = (8, 4, 2, 1)
    for i, (x, step) in enumerate(zip(features.stages, steps, strict=True), 1):
        case.check(f'mid/stage{i}', x[:, :: max(1, x.shape[1] // 8), ::step, ::step])
    maps = model.extract_feat(images)
    for i, (x, step) in enumerate(zip(maps, (*steps, 1), strict=True), 2):
        case.check(f'mid/p{i}', x[:, ::4, ::step, ::step])
    return maps


def test_every_official_number_is_reproduced(f_vlm_case):
    case = Case(f_vlm_case)
    config, own = case.config, case.config['options']
    model = _build(config)
    head = model.roi_head
    images, boxes = image_of(config), torch.from_numpy(case['rois'])
    rois, count = bbox2roi(list(boxes)), boxes.shape[1]

    def split(x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, count))

    with torch.no_grad():
        means = F.normalize(model.text_prompt.sentences(model.text_encoder), dim=-1).mean(dim=1)
        case.check('text_embeddings', torch.cat([means[-1:], means[:-1]]))
        maps = _check_maps(case, model, images)
        case.check('mid/roi_feat', split(head.bbox_roi_extractor(maps, rois))[:, :, ::4, ::3, ::3])
        found, given = head._bbox_forward(maps, rois), head.regions
        case.check('mid/region_embedding', split(found['embeddings']))
        case.check('mid/box_output', split(found['bbox_pred']))
        case.check('detector_logits', _first(found['cls_score'], count))
        crops = head.scorer.crops(given.tower, given.features, rois)
        assert crops.shape[-1] == own['roi_output_size']
        case.check('mid/vlm_roi', split(crops)[:, :, ::64])
        case.check('mid/vlm_embedding', split(head.scorer(given.tower, given.features, rois)))
        case.check('vlm_logits', _first(head.clip_logits(rois), count))
        case.check('scores', _first(head.scores(found['cls_score'], rois), count))
        novel, given.novel = given.novel, torch.ones_like(given.novel)
        case.check('alt/scores_no_indicator', _first(head.scores(found['cls_score'], rois), count))
        given.novel = novel
        decoded = head.bbox_head.bbox_coder.decode(rois[:, 1:], found['bbox_pred'], max_shape=images.shape[2:])
        case.check('boxes_decoded', split(decoded))
        head.bbox_head.num_classes += config['padding']  # the release keeps what it finds of padding
        detections = check_detections(case, model, maps, boxes, images.shape[2:], (1.0, 1.0))
        head.bbox_head.num_classes -= config['padding']
        case.check('det/num', torch.tensor(detections, dtype=torch.int32))

    model.train()
    base = [i for i, is_base in enumerate(config['base']) if is_base]
    rows = torch.tensor([*base, len(config['names'])])  # 'background' is a row of its own in the targets
    targets = torch.from_numpy(case['train/class_targets']).flatten()
    labels = torch.where(targets == 0, len(config['names']), rows[targets - 1])
    maps = model.extract_feat(images)
    found = head._bbox_forward(maps, rois)
    logits = found['cls_score']
    case.check('train/logits', split(logits[:, [-1, *base]]))
    losses = samples_of(case, head.bbox_head, found, rois, labels)
    for name in ('loss_cls', 'loss_bbox'):
        case.check(f'losses/{name}', losses[name])
    (losses['loss_cls'] + losses['loss_bbox']).backward()
    rows_of(
        case, model, {'lateral_convs.3': (slice(None), slice(None, None, 16))}, {'bbox_head.': 'roi_head.bbox_head.'}
    )
    for key in case.keys('after/'):
        case.check(f'after/{key}', model.state_dict()[f'roi_head.{key}'])
    case.done()
