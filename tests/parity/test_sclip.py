"""SCLIP equals the official code: attention, features, windows, refinement, decision by thresholds."""

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

CSA = dict(type='vlm_dense.SCLIPAttention')


def _check_case(case: Case, base, name: str, entry: dict) -> None:
    step, images = case.config['pixel_step'], image_of(entry['image'])
    size, steps = tuple(images.shape[2:]), steps_of(case.config['options'])
    ori = tuple(entry.get('ori_shape', size))
    model = variant(base, CSA, windows(entry), steps)
    if entry.get('mid'):
        check_tower(case, name, model, images)
    if entry['mode'] == 'whole':
        case.check(f'{name}/patch_logits', model.window_map(images))
    else:
        case.check(f'{name}/logits_image', name_maps(model, images, size)[..., ::step, ::step])
    case.check(f'{name}/logits', name_maps(model, images, ori)[..., ::step, ::step])
    if entry.get('predict'):
        every, (scores, labels) = entry['pred_step'], decide(model, images, ori)
        case.check(f'{name}/probs', scores[0, :, ::every, ::every])
        case.check(f'{name}/pred', labels[0, ::every, ::every])
    if 'pamr' in entry:
        refined = variant(base, CSA, windows(entry), steps_of(case.config['options'], pamr=entry['pamr']))
        case.check(f'{name}/logits_pamr', name_maps(refined, images, ori)[..., ::step, ::step])


def _check_alternatives(case: Case, base) -> None:
    images = image_of(case.config['cases'][case.config['alt_case']]['image'])
    vanilla = variant(base, dict(CSA, similarity=('qk',)))
    case.check('alt/vanilla/patch_logits', vanilla.window_map(images))
    last = last_blocks(variant(base, CSA), images)
    tokens = variant(base, CSA).backbone.dense_attention.all_tokens(last)
    case.check('alt/global_csa', last.project(tokens[:, 0]))


@torch.no_grad()
def test_every_official_number_is_reproduced(sclip_case):
    case = Case(sclip_case)
    base = build(case.config)
    case.check('text/query_features', torch.nn.functional.normalize(base.decode_head.embed_classes(), dim=-1))
    for name, entry in case.config['cases'].items():
        _check_case(case, base, name, entry)
    _check_alternatives(case, base)
    check_decision(case)
    check_pamr(case)
    case.done()
