"""ProxyCLIP equals the official code: both backbones, proxy attention, padded windows, decision."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from dense_case import build, decide, image_of, last_blocks, name_maps, steps_of, variant, windows
from official import Case, fill

from vlm_dense.clip.image_tower import resize_positions
from vlm_dense.methods.dense.affinity import attention, cosines

MULTIPLE = 56
"""Of which the official code makes the sides of a window."""


def proxy_of(vfm: dict) -> dict:
    """Our config of the official second backbone, without its weights."""
    keys = 'img_size', 'patch_size', 'embed_dim', 'depth', 'num_heads', 'mlp_ratio', 'qkv_bias'
    return dict(
        type='vlm_dense.ProxyViT',
        model='vit_base_patch8_224',
        pretrained=False,
        norm_layer=partial(torch.nn.LayerNorm, eps=vfm['norm_eps']),
        **{key: vfm[key] for key in keys},
    )


def load_proxy(vit: torch.nn.Module, vfm: dict) -> None:
    """Give the second backbone the weights of the official run."""
    weights = {key: fill(vfm['prefix'] + key, tuple(value.shape)) for key, value in vit.state_dict().items()}
    weights.update({key: image_of(entry) for key, entry in vfm['arrays'].items()})
    vit.load_state_dict(weights)


def _model(base, config: dict, test_cfg: dict):
    options = config['options']
    part = dict(
        type='vlm_dense.ProxyCLIPAttention',
        proxy=proxy_of(config['vfm']),
        beta=options['beta'],
        gamma=options['gamma'],
    )
    model = variant(base, part, test_cfg, steps_of(options))
    load_proxy(model.backbone.dense_attention.proxy.model, config['vfm'])
    return model.eval()


def padded(window: torch.Tensor) -> torch.Tensor:
    """A window with sides that are multiples, as the official code pads it."""
    rest_y, rest_x = (-side % MULTIPLE for side in window.shape[2:])
    return F.pad(window, (rest_x // 2, rest_x - rest_x // 2, rest_y // 2, rest_y - rest_y // 2))


def _check_window(case: Case, model, window) -> None:
    """mid/: the steps of one window."""
    last, part = last_blocks(model, window), model.backbone.dense_attention
    case.check('mid/vfm_input', part.proxy_input(window)[0, :, ::5, ::5])
    features = part.features(window)
    grid, vit = tuple(features.shape[2:]), part.proxy.model
    case.check('mid/vfm_pos', resize_positions(vit.pos_embed[0], grid, 'dino')[::3, ::4])
    case.check('mid/vfm_feat', features[0, ::4])
    alike = cosines(features.flatten(2).mT)
    case.check('mid/simi', alike[0, ::9])
    case.check('mid/attn', attention(alike, part.beta, part.gamma)[0, ::9])
    positions = resize_positions(model.backbone.positional_embedding, last.grid, model.backbone.pos_mode)
    case.check('mid/clip_pos', positions[:, ::8])
    case.check('mid/last_in', last.blocks[-1].ln_1(last.tokens)[0, :, ::4])
    tokens = part(last).tokens
    case.check('mid/attn_out', tokens[0, :, ::4])
    case.check('mid/dense_feat', last.project(tokens)[0, :, ::4])
    case.check('mid/cosine', model.window_map(window)[0].flatten(1).T)


@torch.no_grad()
def test_every_official_number_is_reproduced(proxyclip_case):
    case = Case(proxyclip_case)
    config, options, sub, ori = case.config, case.config['options'], case.config['sub'], case.config['ori_shape']
    base = build(config, dict(pos_mode='dino'))
    case.check('text_embeddings', torch.nn.functional.normalize(base.decode_head.embed_classes(), dim=-1))
    model = _model(base, config, windows(options, window_multiple=MULTIPLE))
    image, crop = image_of(config['image']), options['slide_crop']
    _check_window(case, model, padded(image[:, :, :crop, :crop]))
    case.check('logits', name_maps(model, image, ori)[0, :, ::sub, ::sub])
    case.check('probs', decide(model, image, ori)[0][0, :, ::sub, ::sub])
    case.check('alt/logits_padded', name_maps(model, image_of(config['padded']), ori)[0, :, ::sub, ::sub])
    whole, image = _model(base, config, dict(mode='whole')), image_of(config['nonsquare'])
    case.check('alt/cosine_nonsquare', whole.window_map(image)[0].flatten(1).T)
    case.check('alt/logits_whole_nonsquare', name_maps(whole, image, ori)[0, :, ::sub, ::sub])
    case.done()
