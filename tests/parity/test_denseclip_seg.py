"""DenseCLIP equals the official code: features, text, score map, logits, losses, gradients, three steps."""

from __future__ import annotations

import copy

import torch
from denseclip_case import check_weights, clip_resnet, every, load_official, seg_samples, segmentor, tiny, train
from mmengine.model.utils import revert_sync_batchnorm
from official import TINY, Case, array, fill, inputs, integers, tiny_clip

from vlm_dense.registry import MODELS


def _backbone(cfg: dict) -> dict:
    """Our config of an official backbone config."""
    if cfg['type'] == 'CLIPResNetWithAttention':
        return clip_resnet(cfg)
    assert cfg['type'] == 'CLIPVisionTransformer', cfg['type']
    arch = copy.deepcopy(TINY['vit'])
    arch['vision_cfg'].update(
        image_size=cfg['input_resolution'],
        patch_size=cfg['patch_size'],
        width=cfg['width'],
        layers=cfg['layers'],
        head_width=cfg['width'] // cfg['heads'],
    )
    arch['embed_dim'] = cfg['output_dim']
    return dict(
        type='vlm_dense.CLIPViT',
        arch=arch,
        head=True,
        pyramid=True,
        double_class_embedding=True,
        out_indices=cfg['out_indices'],
    )


def _build(config: dict) -> torch.nn.Module:
    model = revert_sync_batchnorm(MODELS.build(segmentor(config, _backbone(config['model']['backbone']))))
    load_official(model, config, tiny(config))
    return model.eval()


def _check_forward(case: Case, model: torch.nn.Module, images: torch.Tensor) -> None:
    features = model.backbone.encode(images, ('stages', 'global', 'dense'))
    for i, stage in enumerate(features.stages):
        case.check(f'mid/stage{i}_slice', every(stage, 4))
        case.check(f'mid/stage{i}_l2', stage.norm())
    g, z = features.global_, features.dense
    case.check('mid/global_feat', g)
    case.check('mid/visual_embeddings', z)
    case.check('mid/texts', model.text_prompt.token_ids)
    text = model.text_side.class_embeddings(g)
    case.check('mid/text_embeddings', text[None])
    batch = text.expand(len(g), -1, -1)
    delta = model.context_decoder(batch, torch.cat([g[:, None], z.flatten(2).transpose(1, 2)], dim=1))
    case.check('mid/text_diff', delta, rtol=1e-5)
    case.check('mid/text_embeddings_after', batch + model.gamma * delta)
    stages, score, _ = model.guide(images)
    case.check('mid/score_map', score)
    case.check('mid/concat_channels', [s.shape[1] for s in stages])
    for i, x in enumerate(model.extract_feat(images)):
        case.check(f'mid/neck{i}_slice', x[:, :2])
    case.check('logits', model._forward(images))
    full = model.encode_decode(images, [dict(img_shape=images.shape[2:])] * len(images))
    case.check('logits_full_sub', full[:, :, ::8, ::8])


def _check_slide(case: Case, model: torch.nn.Module) -> None:
    image = array(*case.config['slide_image'])
    for windows in (1, 8):
        model.test_cfg['window_batch_size'] = windows
        logits = model.inference(image, [{}])
        case.check('slide/logits_sub', logits[:, :, ::8, ::8])
        case.check('slide/pred_sub', logits.argmax(1)[:, ::4, ::4])


def _check_training(case: Case, model: torch.nn.Module, images: torch.Tensor) -> None:
    config = case.config
    labels = integers(*config['gt'][1:]).reshape(len(images), 1, *images.shape[2:])
    labels[labels == len(config['classnames'])] = 255
    counted = (labels != 255).float().mean()

    def losses() -> dict:
        found = model.loss(images, seg_samples(labels))
        # the official accuracy counts ignored pixels as wrong
        return {k: v * counted if k.endswith('acc_seg') else v for k, v in found.items()}

    train(case, model, losses)
    with torch.no_grad():
        case.check('after3/logits', model._forward(images), rtol=1e-3)
    check_weights(case, model, ('logits',))


def _check_vit16(case: Case) -> None:
    config = case.config['vit16']
    clip = tiny_clip('vit')
    for double, prefix in ((True, 'vit16/'), (False, 'vit16/alt_single_class_embedding/')):
        backbone = MODELS.build(dict(_backbone(config['backbone']), double_class_embedding=double)).eval()
        weights = {}
        for key, value in backbone.state_dict().items():
            filled = f'vit16.{key}' in config['filled']
            weights[key] = fill(f'vit16.{key}', tuple(value.shape)) if filled else clip[f'visual.{key}']
        backbone.load_state_dict(weights)
        with torch.no_grad():
            features = backbone.encode(inputs(config['image']), ('stages', 'global', 'dense'))
        case.check(f'{prefix}global_feat', features.global_)
        case.check(f'{prefix}visual_embeddings', features.dense)
        if double:
            for i, stage in enumerate(features.stages):
                case.check(f'vit16/stage{i}_slice', stage[:, ::32])


def test_every_official_number_is_reproduced(denseclip_seg_case):
    case = Case(denseclip_seg_case)
    model = _build(case.config)
    images = inputs(case.config['images'])
    with torch.no_grad():
        _check_forward(case, model, images)
        _check_slide(case, model)
        if 'vit16' in case.config:
            _check_vit16(case)
    _check_training(case, model, images)
    case.done()
