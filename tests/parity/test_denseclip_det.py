"""DenseCLIP detectors equal the official code: features, score map, neck, targets, logits, losses, gradients, steps."""

from __future__ import annotations

import torch
from denseclip_case import check_weights, clip_resnet, every, load_official, text_branch, tiny, train
from mmdet.structures import DetDataSample
from mmengine import ConfigDict
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.structures import InstanceData
from official import Case, inputs

from vlm_dense.methods.denseclip.detector import STRIDE, box_targets
from vlm_dense.registry import MODELS


def _scoped(cfg):
    """The config with mmdet's scope at every registered name, whatever the default scope is."""
    if isinstance(cfg, dict):
        return {
            k: f'mmdet.{v}' if k == 'type' and v[0].isupper() else _scoped(v)  # 'nms' is no registered name
            for k, v in cfg.items()
        }
    return [_scoped(v) for v in cfg] if isinstance(cfg, list) else cfg


def _build(config: dict) -> torch.nn.Module:
    official = config['model']
    parts = {k: official[k] for k in ('neck', 'bbox_head', 'train_cfg', 'test_cfg') if k in official}
    kind = dict(retinanet='DenseCLIPSingleStage', mask_rcnn='DenseCLIPTwoStage')[config['detector']]
    model = MODELS.build(
        ConfigDict(
            type=f'vlm_dense.{kind}',
            backbone=clip_resnet(official['backbone'], attnpool_positions='crop'),
            seg_loss=official.get('seg_loss', True),
            **text_branch(config),
            **_scoped(parts),
        )
    )
    model = revert_sync_batchnorm(model)
    load_official(model, config, tiny(config))
    return model.eval()


def _samples(config: dict, images: torch.Tensor) -> list[DetDataSample]:
    shape = tuple(images.shape[2:])
    meta = dict(img_shape=shape, pad_shape=shape, ori_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0))
    return [
        DetDataSample(
            metainfo=meta,
            gt_instances=InstanceData(
                bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                labels=torch.tensor(labels, dtype=torch.int64),
            ),
        )
        for boxes, labels in zip(config['gt_bboxes'], config['gt_labels'], strict=True)
    ]


def _flat(maps: list[torch.Tensor], width: int) -> torch.Tensor:
    """(B, A * width, h, w) of each level -> (B, all anchors, width)."""
    return torch.cat([x.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, width)) for x in maps], dim=1)


def _logits(model: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    x = model.extract_feat(images)
    if not model.with_bbox:
        return model.guide(images)[1] / model.tau, None
    scores, boxes = model.bbox_head(x)
    return _flat(scores, model.bbox_head.cls_out_channels), _flat(boxes, 4)


def _check_forward(case: Case, model: torch.nn.Module, images: torch.Tensor, samples: list) -> None:
    features = model.backbone.encode(images, ('stages', 'global', 'dense'))
    for i, stage in enumerate(features.stages):
        case.check(f'mid/stage{i}_slice', every(stage, 4))
    g, z = features.global_, features.dense
    case.check('mid/global_feat', g)
    case.check('mid/visual_embeddings', z)
    case.check('mid/texts', model.text_prompt.token_ids)
    text = model.text_side.class_embeddings(g)
    case.check('mid/text_embeddings', text[None])
    batch = text.expand(len(g), -1, -1)
    delta = model.context_decoder(batch, torch.cat([g[:, None], z.flatten(2).transpose(1, 2)], dim=1))
    case.check('mid/text_embeddings_after', batch + model.gamma * delta)
    stages, score, _ = model.guide(images)
    case.check('mid/score_map3', score / model.tau)
    torch.testing.assert_close(stages[3], torch.cat([features.stages[3], score / model.tau], dim=1))
    finest = torch.nn.functional.interpolate(score / model.tau, features.stages[0].shape[2:], mode='bilinear')
    case.check('mid/score_map0', finest)
    for i, x in enumerate(model.extract_feat(images)):
        stride = images.shape[2] // x.shape[2]
        case.check(f'mid/neck{i}', x[:, ::4] if stride <= 8 else x)
    size = images.shape[2] // STRIDE, images.shape[3] // STRIDE
    pairs = [
        box_targets(s.gt_instances.bboxes, s.gt_instances.labels, len(case.config['classnames']), size) for s in samples
    ]
    for key, maps in zip(('mid/seg_target', 'mid/seg_mask'), zip(*pairs, strict=True), strict=True):
        case.check(key, torch.stack(maps))
    logits, boxes = _logits(model, images)
    case.check('logits', logits)
    if boxes is not None:
        case.check('bbox_pred', boxes)


def test_every_official_number_is_reproduced(denseclip_det_case):
    case = Case(denseclip_det_case)
    model = _build(case.config)
    images = inputs(case.config['images'])
    samples = _samples(case.config, images)
    with torch.no_grad():
        _check_forward(case, model, images, samples)

    def losses() -> dict:
        if model.with_bbox:
            return model.loss(images, samples)
        stages, score, _ = model.guide(images)  # the official case has no heads but this stand-in for them
        return dict(
            loss_aux_seg=model.box_loss(score, samples, images.shape[2:]),
            loss_neck_proxy=sum(x.square().mean() for x in model.neck(stages)),
        )

    train(case, model, losses)
    with torch.no_grad():
        case.check('after3/logits', _logits(model, images)[0], rtol=1e-3)
        case.check('after3/score_map3', model.guide(images)[1] / model.tau, rtol=1e-3)
    check_weights(case, model, ('logits', 'score_map3'))
    case.done()
