"""MaskCLIP equals the official code: text, keys, features, logits, ablations and both refinements."""

from __future__ import annotations

import copy

import torch
from official import TINY, Case, array, fill

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.registry import MODELS

ACTIVATIONS = dict(GELU='gelu', QuickGELU='quick_gelu')


def _vit(config: dict) -> dict:
    """Our config of the official ViT backbone."""
    official = config['vit_backbone']
    arch = copy.deepcopy(TINY['vit'])
    arch['vision_cfg'].update(
        image_size=official['img_size'][0],
        patch_size=official['patch_size'],
        width=official['embed_dims'],
        layers=official['num_layers'],
        head_width=official['embed_dims'] // official['num_heads'],
        mlp_ratio=official['mlp_ratio'],
    )
    return dict(
        type='vlm_dense.MaskCLIPViT',
        arch=arch,
        act=ACTIVATIONS[official['act_cfg']['type']],
        ln_eps=official['norm_cfg']['eps'],
        pos_mode=official['interpolate_mode'],
    )


def _resnet(config: dict) -> dict:
    arch = copy.deepcopy(TINY['resnet'])
    arch['vision_cfg'].update(width=config['resnet_backbone']['base_channels'])
    return dict(type='vlm_dense.MaskCLIPResNet', arch=arch)


def _build(tower: str, config: dict, **backbone) -> torch.nn.Module:
    own = dict(vit=_vit, resnet=_resnet)[tower](config) | backbone
    model = MODELS.build(
        dict(
            type='vlm_dense.MaskCLIP',
            class_names=config['classnames'],
            backbone=own,
            text_encoder=dict(type='vlm_dense.TextTower', arch=own['arch']),
            text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates']),
            test_cfg=dict(mode='whole'),
        )
    )
    weights = {}
    for key, value in model.state_dict().items():
        source = key.replace('backbone.', 'visual.').removeprefix('decode_head.text_encoder.')
        weights[key] = fill(source, tuple(value.shape))
    model.load_state_dict(weights)
    if hasattr(model.backbone, 'attnpool'):
        model.backbone.attnpool.num_heads = config['attn_pooling_heads']
    return model.eval()


def _refined(
    model, features: ImageFeatures, pd: float = 0.0, ks: float = 0.0, ks_norm: str = 'position'
) -> torch.Tensor:
    parts = [dict(type='vlm_dense.PromptDenoising', thresh=pd)] if pd else []
    parts += [dict(type='vlm_dense.KeySmoothing', thresh=ks, norm=ks_norm)] if ks else []
    return model.decode_head.variant(refinements=parts)(features)


def _check_tower(case: Case, tower: str) -> torch.Tensor:
    config = case.config
    model = _build(tower, config)
    images = array(*config['images'][tower])
    features = model.extract_feat(images)
    case.check(f'{tower}/text_embeddings', model.decode_head.embed_classes())
    case.check(f'{tower}/mid/dense_feat', features.value)
    logits = model._forward(images)
    case.check(f'{tower}/logits', logits)
    full = model.encode_decode(images, [dict(img_shape=images.shape[2:])] * len(images))
    case.check(f'{tower}/logits_full_sub', full[:, :, ::8, ::8])
    ks, pd = config['thresh'][tower]['ks'], config['thresh'][tower]['pd']
    denoised = _refined(model, features, pd=pd)
    case.check(f'{tower}/suppressed', (denoised == -100).all(dim=(2, 3)))
    case.check(f'{tower}/logits_pd', denoised)
    case.check(f'{tower}/logits_ks', _refined(model, features, ks=ks))
    case.check(f'{tower}/logits_kspd', _refined(model, features, pd=pd, ks=ks))
    case.check(f'{tower}/alt/logits_ks_channelnorm', _refined(model, features, ks=ks, ks_norm='channel'))
    dict(vit=_check_vit, resnet=_check_resnet)[tower](case, model, images, features)
    return logits


def _check_vit(case: Case, model, images: torch.Tensor, features: ImageFeatures) -> None:
    case.check('vit/mid/k', features.key[..., ::4])
    tower = model.backbone
    # the fixture shows both branches before the projection
    tower.proj.data, projection = torch.eye(tower.width), tower.proj.data
    branches = tower.encode(images, ('value', 'dense'))
    tower.proj.data = projection
    case.check('vit/mid/v', branches.value[:, ::4])
    case.check('vit/mid/feat_x', branches.dense[:, ::4])
    dense = ImageFeatures(value=tower.encode(images, ('dense',)).dense)
    case.check('vit/logits_no_reparam', model.decode_head(dense))
    own = _build('vit', case.config, act='quick_gelu', ln_eps=1e-5)
    case.check('vit/alt/logits_quickgelu_eps1e-5', own._forward(images))


def _check_resnet(case: Case, model, images: torch.Tensor, features: ImageFeatures) -> None:
    stage = model.backbone.encode(images, ('patch',)).patch
    case.check('resnet/mid/stage3', stage[:, ::16])
    case.check('resnet/mid/k', features.key.mT.unflatten(2, stage.shape[2:])[:, ::16])
    pooling = _build('resnet', case.config, attn_pooling=True)
    case.check('resnet/logits_attn_pooling', pooling._forward(images))


@torch.no_grad()
def test_every_official_number_is_reproduced(maskclip_case):
    case = Case(maskclip_case)
    logits = {tower: _check_tower(case, tower) for tower in case.config['images']}
    case.check('logits', logits[case.config['clip']])
    case.done()
