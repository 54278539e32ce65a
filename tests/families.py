"""Every family of open_clip's image towers, cut to two narrow blocks."""

from __future__ import annotations

from copy import deepcopy

import open_clip
import pytest
from timm.models import _registry

_BLOCKS = dict(depth=2, embed_dim=64, num_heads=2, img_size=64)
_SMALL_VIT = dict(layers=2, width=64, head_width=32, image_size=64, patch_size=16)
_OF_PATCH_14 = {**_BLOCKS, 'img_size': 56}

CUTS = dict(
    vit=('ViT-B-16', _SMALL_VIT),
    resnet=('RN50', dict(layers=[1, 1, 1, 1], width=16, image_size=64)),
    clipa=('ViT-L-14-CLIPA', _SMALL_VIT),
    coca=('coca_ViT-B-32', {**_SMALL_VIT, 'attn_pooler_queries': 4, 'attn_pooler_heads': 2}),
    timm_vit=('MobileCLIP-B', dict(depth=2, img_size=64)),
    timm_vit_norm=('MobileCLIP2-L-14', _OF_PATCH_14),
    eva01=('EVA01-g-14', _OF_PATCH_14),
    eva02=('EVA02-B-16', _BLOCKS),
    eva02_post=('EVA02-E-14', _OF_PATCH_14),
    siglip=('ViT-B-16-SigLIP2', _BLOCKS),
    pe=('PE-Core-B-16', {**_BLOCKS, 'attn_pool_num_heads': 2, 'attn_pool_mlp_ratio': 2.0, 'ref_feat_shape': 4}),
    pe_bare=('PE-Core-bigG-14-448', {**_OF_PATCH_14, 'attn_pool_num_heads': 2, 'ref_feat_shape': 4}),
    vitamin=('ViTamin-S', dict(depth=2, img_size=64)),
    convnext=('convnext_base', dict(depths=(1, 1, 1, 1), dims=(16, 32, 64, 128))),
    convnext_mlp=('convnext_large_d', dict(depths=(1, 1, 1, 1), dims=(16, 32, 64, 128))),
    fastvit=('MobileCLIP-S1', dict(layers=(1,) * 4, embed_dims=(16, 32, 64, 128))),
    fastvit_five=('MobileCLIP2-S3', dict(layers=(1,) * 5, embed_dims=(16, 16, 32, 64, 128))),
    swin=(
        'swin_base_patch4_window7_224',
        dict(depths=(1, 1, 1, 1), embed_dim=16, num_heads=(1, 2, 4, 8), img_size=64, window_size=2),
    ),
    gap=('vit_medium_patch16_gap_256', _BLOCKS),
    relpos=('vit_relpos_medium_patch16_cls_224', _BLOCKS),
)
"""Family -> an architecture of it, and what makes it small: of ``vision_cfg``, or of the timm model."""

OPEN_CLIP_VITS = ('vit', 'clipa', 'coca')
BLOCKS = ('timm_vit', 'timm_vit_norm', 'eva01', 'eva02', 'eva02_post', 'siglip', 'pe', 'pe_bare', 'vitamin')
MAPS = ('convnext', 'convnext_mlp', 'fastvit', 'fastvit_five', 'swin', 'gap', 'relpos')


def small(family: str, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Config of a small tower of a family, in open_clip's format; its text tower is small, too.

    A trunk of timm is cut by wrapping the entry of its name, as long as ``monkeypatch`` lasts.
    """
    name, cut = CUTS[family]
    config = deepcopy(open_clip.get_model_config(name))
    vision, trunk = config['vision_cfg'], config['vision_cfg'].get('timm_model_name')
    if trunk:
        entry = _registry._model_entrypoints[trunk]
        monkeypatch.setitem(_registry._model_entrypoints, trunk, lambda **kwargs: entry(**{**cut, **kwargs}))
        vision['image_size'] = cut.get('img_size', 64)
    else:
        vision.update(cut)
    config['embed_dim'] = 64 if vision.get('timm_proj') == 'none' else 32
    if not config['text_cfg'].get('hf_model_name'):
        config['text_cfg'].update(layers=2, width=32, heads=2, vocab_size=300)
    if 'multimodal_cfg' in config:
        config['multimodal_cfg'].update(layers=1, width=32, heads=2, attn_pooler_heads=2)
    return config
