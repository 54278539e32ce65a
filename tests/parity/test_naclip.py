"""NACLIP equals the official code: bias, attention, features, windows, refinement, decision, and each ablation."""

from __future__ import annotations

import torch
from dense_case import (
    build,
    check_decision,
    check_pamr,
    check_tower,
    decide,
    image_of,
    last_blocks,
    name_maps,
    steps_of,
    variant,
    windows,
)
from official import Case

SIMILARITY = dict(naclip=('kk',), nonly=(), kk=('kk',), csa=('qq', 'kk'), vanilla=('qk',))


def _attention(arch: str, strategy: str, std: float) -> dict:
    """Our config of official options."""
    full = dict(reduced=False, vanilla=True)[arch]
    return dict(
        type='vlm_dense.NACLIPAttention',
        std=std if strategy in ('naclip', 'nonly') else None,
        similarity=SIMILARITY[strategy],
        residual=full,
        feed_forward=full,
    )


def _variant(base, config: dict, entry: dict, pamr: dict | None = None):
    options = config['options']
    std = entry.get('gaussian_std', options['gaussian_std'])
    return variant(
        base,
        _attention(options['arch'], options['attn_strategy'], std),
        windows(entry),
        steps_of(options, at_once=False, sum_to_one=True, pamr=pamr),
    )


def _check_case(case: Case, base, name: str, entry: dict) -> None:
    step, images = case.config['pixel_step'], image_of(entry['image'])
    model, size, ori = _variant(base, case.config, entry), tuple(images.shape[2:]), entry.get('ori_shape')
    at_image = name_maps(model, images, size)[..., ::step, ::step]
    if entry.get('mid'):
        case.check(f'{name}/mid/bias', model.backbone.dense_attention.bias(last_blocks(model, images)))
        check_tower(case, name, model, images)
    if entry['mode'] == 'whole':
        case.check(f'{name}/patch_logits', model.window_map(images))
        case.check(f'{name}/logits', at_image)
    else:
        case.check(f'{name}/logits_image', at_image)
    if not entry.get('predict'):
        return
    every = entry['pred_step']
    for suffix, own in (('', model), ('_pamr', _variant(base, case.config, entry, entry['pamr']))):
        case.check(f'{name}/logits{suffix}_ori', name_maps(own, images, ori)[..., ::step, ::step])
        scores, labels = decide(own, images, ori)
        case.check(f'{name}/probs{suffix}', scores[..., ::every, ::every])
        case.check(f'{name}/pred{suffix}', labels[..., ::every, ::every])


def _check_alternatives(case: Case, base) -> None:
    images = image_of(case.config['cases'][case.config['alt']['case']]['image'])[:1]
    for arch, strategy, std in case.config['alt']['options']:
        names = f'alt/{arch}_{strategy}', f'alt/{arch}_{strategy}_std{std:g}'
        name = next(n for n in names if f'{n}/patch_logits' in case)
        model = variant(base, _attention(arch, strategy, std))
        case.check(f'{name}/patch_logits', model.window_map(images))
        if f'{name}/attn' in case:
            last = last_blocks(model, images)
            block = last.blocks[-1]
            q, k, v = block.attn.qkv(block.ln_1(last.tokens))
            case.check(f'{name}/attn', model.backbone.dense_attention.weights(block.attn, q, k, v, last).flatten(0, 1))


@torch.no_grad()
def test_every_official_number_is_reproduced(naclip_case):
    case = Case(naclip_case)
    base = build(case.config)
    case.check('text/query_features', torch.nn.functional.normalize(base.decode_head.embed_classes(), dim=-1))
    for name, entry in case.config['cases'].items():
        _check_case(case, base, name, entry)
    _check_alternatives(case, base)
    check_decision(case, batch=True, sum_to_one=True)
    check_pamr(case)
    case.done()
