"""ClearCLIP equals the official code: attention, features, padded windows, decision, and each ablation."""

from __future__ import annotations

import torch
from dense_case import (
    build,
    check_decision,
    check_tower,
    decide,
    image_of,
    name_maps,
    steps_of,
    variant,
    windows,
)
from official import Case

SIMILARITY = dict(vanilla=('qk',), MaskCLIP=(), SCLIP=('qq', 'kk'), ClearCLIP=('qq',), kk=('kk',), vv=('vv',))
PARTS = dict(reduced=(False, False), residual_ffn=(True, True), residual_only=(True, False), ffn_only=(False, True))


def _attention(name: str, parts: str, num_blocks: int = 1) -> dict:
    """Our config of an official one."""
    residual, feed_forward = PARTS[parts]
    return dict(
        type='vlm_dense.ClearCLIPAttention',
        similarity=SIMILARITY[name],
        residual=residual,
        feed_forward=feed_forward,
        num_blocks=num_blocks,
    )


def _check_case(case: Case, base, name: str, entry: dict) -> None:
    step, images = case.config['pixel_step'], image_of(entry['image'])
    patch, size = base.backbone.patch_size, tuple(images.shape[2:])
    test_cfg = windows(entry, window_multiple=patch)
    model = variant(base, _attention('ClearCLIP', 'reduced'), test_cfg, steps_of(case.config['options']))
    if entry.get('mid'):
        check_tower(case, name, model, images, class_token=False)
    if entry['mode'] == 'whole':
        case.check(f'{name}/patch_logits', model.window_map(images))
    else:
        case.check(f'{name}/logits_image', name_maps(model, images, size)[..., ::step, ::step])
    case.check(f'{name}/logits', name_maps(model, images, entry.get('ori_shape', size))[..., ::step, ::step])
    if entry.get('predict'):
        every, (scores, labels) = entry['pred_step'], decide(model, images, entry.get('ori_shape'))
        case.check(f'{name}/probs', scores[0, :, ::every, ::every])
        case.check(f'{name}/pred', labels[0, ::every, ::every])


def _check_alternatives(case: Case, base) -> None:
    images = image_of(case.config['cases'][case.config['alt_case']]['image'])[:1]
    for key in case.keys('alt/'):
        kind, parts = key.removesuffix('/patch_logits').split('_', 1)
        name, blocks = ('ClearCLIP', int(kind[4:])) if kind.startswith('last') else (kind, 1)
        name = 'ClearCLIP' if kind == 'composed' else name
        model = variant(base, _attention(name, parts, blocks))
        case.check(f'alt/{key}', model.window_map(images))


@torch.no_grad()
def test_every_official_number_is_reproduced(clearclip_case):
    case = Case(clearclip_case)
    base = build(case.config)
    case.check('text/query_features', torch.nn.functional.normalize(base.decode_head.embed_classes(), dim=-1))
    for name, entry in case.config['cases'].items():
        _check_case(case, base, name, entry)
    _check_alternatives(case, base)
    check_decision(case)
    case.done()
