"""F-ViT equals the official code: maps, pyramid, both classifications, boxes, detections, losses and gradients."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox2roi
from mmengine import ConfigDict
from official import TINY, Case, array, fill, tiny_clip
from regions_case import check_detections, image_of, rows_of, samples_of

from vlm_dense.registry import MODELS


def _arch(config: dict) -> dict:
    own, arch = config['vision'], copy.deepcopy(TINY['vit'])
    arch['vision_cfg'].update(
        image_size=own['image_size'],
        patch_size=own['patch_size'],
        width=own['vision_width'],
        layers=own['vision_layers'],
    )
    return dict(arch, embed_dim=own['embed_dim'])


def _build(config: dict) -> torch.nn.Module:
    own, arch, norm = config['options'], _arch(config), dict(type='BN')
    names, base = config['names'], [n for n, is_base in zip(config['names'], config['base'], strict=True) if is_base]
    heads = {k: own[f'num_{k}'] for k in ('shared_convs', 'shared_fcs', 'cls_fcs', 'reg_fcs')}
    model = MODELS.build(
        ConfigDict(
            type='vlm_dense.FViT',
            class_names=names,
            base_names=base,
            background=config['background'],
            backbone=dict(
                type='vlm_dense.CLIPViT', arch=arch, head=True, pos_mode='bicubic', out_indices=config['out_indices']
            ),
            text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
            text_prompt=dict(type='vlm_dense.FViTPrompt', templates=config['templates']),
            neck=dict(type='vlm_dense.FViTNeck', out_channels=own['neck_channels'], num_outs=5, norm_cfg=norm),
            rpn_head=None,
            roi_head=dict(
                type='vlm_dense.TextRoIHead',
                scorer=dict(type='vlm_dense.DenseMapScorer'),
                alpha=own['alpha'],
                beta=own['beta'],
                background='fused',
                clip_scale=own['vlm_temperature'],
                bbox_roi_extractor=dict(
                    type='mmdet.SingleRoIExtractor',
                    roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
                    out_channels=own['neck_channels'],
                    featmap_strides=config['strides'],
                ),
                bbox_head=dict(
                    type='vlm_dense.TextBBoxHead',
                    in_channels=own['neck_channels'],
                    conv_out_channels=own['conv_out_channels'],
                    fc_out_channels=own['fc_out_channels'],
                    norm_cfg=norm,
                    embedding='relu',
                    temperature=own['learned_temperature'],
                    logit_scale=1.0,
                    divide=False,
                    bbox_coder=dict(type='mmdet.DeltaXYWHBBoxCoder', target_stds=own['target_stds']),
                    loss_cls=dict(type='vlm_dense.RegionCrossEntropy', background_weight=own['bg_weight']),
                    loss_bbox=dict(type='mmdet.L1Loss'),
                    **{f'num_{k}': v for k, v in heads.items()},
                ),
            ),
            test_cfg=dict(
                rcnn=dict(
                    score_thr=own['score_thr'],
                    nms=dict(type='nms', iou_threshold=own['nms_iou']),
                    max_per_img=own['max_per_img'],
                )
            ),
        )
    )
    clip, weights, ours = tiny_clip('vit'), {}, model.state_dict()
    released = {
        'neck.interpolate': 'backbone.interpolate',
        'backbone.': 'backbone.visual.',
    }
    filled = set()
    for name, value in ours.items():
        if name.startswith('text_encoder.'):
            key = name.removeprefix('text_encoder.')
            weights[name] = clip[key] if clip[key].shape == value.shape else fill(key, tuple(value.shape))
            continue
        key = next((name.replace(a, b, 1) for a, b in released.items() if name.startswith(a)), name)
        if name.endswith('.temperature'):
            weights['roi_head.bbox_head.detect_temperature'] = torch.tensor(own['learned_temperature'])
        elif name.startswith('backbone.'):
            weights[key] = fill(key.removeprefix('backbone.'), tuple(value.shape))
        else:
            weights[key] = fill(config['prefix'] + key, tuple(value.shape))
            filled.add(key)
    assert filled == {key for key in config['keys'] if '.fc_cls.' not in key}
    weights['roi_head.bbox_head.fc_cls.weight'] = array('unused', (len(names) + 1, own['fc_out_channels']))
    weights['roi_head.bbox_head.all_embeddings'] = array('unused', (own['fc_out_channels'], len(names) + 1))
    missing, unexpected = model.load_state_dict(weights)
    assert not missing and not unexpected
    return model.eval()


def test_every_official_number_is_reproduced(f_vit_case):
    case = Case(f_vit_case)
    config = case.config
    model = _build(config)
    head = model.roi_head
    images, boxes = image_of(config), torch.from_numpy(case['rois'])
    rois = bbox2roi(list(boxes))
    assert model.backbone.stride == config['vlm_stride']
    with torch.no_grad():
        maps = model.extract_feat(images)
        given = head.regions
        case.check('text_embeddings', given.text)
        stages = model.neck.pyramid(given.features.stages)
        for i, (x, step) in enumerate(zip(stages, (8, 4, 2, 1), strict=True), 1):
            case.check(f'mid/stage{i}', x[:, ::32, ::step, ::step])
        case.check('mid/vlm_feat', F.normalize(given.features.value, dim=1)[:, ::4])
        for i, (x, step) in enumerate(zip(maps, (8, 4, 2, 1, 1), strict=True)):
            case.check(f'mid/p{i}', x[:, ::4, ::step, ::step])
        extractor = head.bbox_roi_extractor
        case.check('mid/roi_level', extractor.map_roi_levels(rois, 4))
        case.check('mid/roi_feat', extractor(maps[:4], rois)[:, ::4, ::3, ::3])
        found = head._bbox_forward(maps, rois)
        case.check('detector_logits', found['cls_score'])
        case.check('mid/box_output', found['bbox_pred'])
        case.check('mid/vlm_embedding', head.scorer(given.tower, given.features, rois))
        case.check('vlm_logits', head.clip_logits(rois))
        case.check('scores', head.scores(found['cls_score'], rois))
        size = images.shape[2:]
        case.check('boxes_decoded', head.bbox_head.bbox_coder.decode(rois[:, 1:], found['bbox_pred'], max_shape=size))
        check_detections(case, model, maps, boxes, size, tuple(config['scale_factor']))

    model.train()
    maps = model.extract_feat(images)
    found = head._bbox_forward(maps, rois)
    case.check('train/logits', found['cls_score'])
    losses = samples_of(case, head.bbox_head, found, rois, torch.from_numpy(case['train/labels']))
    for name in ('loss_cls', 'loss_bbox'):
        case.check(f'losses/{name}', losses[name])
    (losses['loss_cls'] + losses['loss_bbox']).backward()
    every16 = slice(None, None, 16)
    rows_of(
        case,
        model,
        {'lateral_convs.3': (slice(None), slice(None, None, 4)), 'interpolate2.0': (every16, every16)},
        {'roi_head.bbox_head.detect_temperature': 'roi_head.bbox_head.temperature', 'backbone.': 'neck.'},
    )
    case.done()
