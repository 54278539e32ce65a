"""ResCLIP equals the official code: middle attention, first segmentation, feedback, windows, every base method."""

from __future__ import annotations

import torch
from dense_case import build, decide, image_of, last_blocks, name_maps, steps_of, variant, windows
from official import Case

from vlm_dense.methods.dense.resclip import clear_path

STRATEGIES = dict(
    resclip=dict(similarity=('kk',), neighbour_bias=True),
    naclip=dict(similarity=('kk',), neighbour_bias=True),
    clearclip=dict(similarity=('qq',), neighbour_bias=False),
    vanilla=dict(similarity=('qk',), neighbour_bias=False),
    sclip=dict(similarity=('qq', 'kk'), neighbour_bias=False),
)


def _attention(options: dict) -> dict:
    full = dict(wo_resi=False, w_resi=True)[options['arch']]
    return dict(
        type='vlm_dense.ResCLIPAttention',
        std=options['gaussian_std'],
        residual=full,
        feed_forward=full,
        cross=options['attn_rcs_weights'] if options.get('use_rcs', True) else None,
        feedback=options['attn_sfr_weights'] if options.get('use_sfr', True) else None,
        thresh=options['temp_thd'],
        connected=options['delete_same_entity'],
        **STRATEGIES[options['attn_strategy']],
    )


def _model(base, options: dict):
    return variant(base, _attention(options), windows(options), steps_of(options, at_once=False, sum_to_one=True))


def _check_window(case: Case, model, window) -> None:
    """mid/: the steps of one window."""
    last, part = last_blocks(model, window), model.backbone.dense_attention
    block = last.blocks[-1]
    q, k, v = block.attn.qkv(block.ln_1(last.tokens))
    case.check('mid/rcs', part.cross_attention(last)[0, :, ::4])
    case.check('mid/omega', part.bias(last)[::6])
    first = block.attn.output(part.weights(block.attn, q, k, v, last) @ v)
    case.check('mid/attn_out_temp', first[0, :, ::4])
    probabilities, sub = part.first_probabilities(last, part.run(block, last.tokens, last)), case.config['sub']
    case.check('mid/temp_probs', probabilities[0][:, ::sub, ::sub])
    labels = part.patch_labels(last, probabilities)
    case.check('mid/patch_labels', labels[0])
    case.check('mid/path_valid', clear_path(labels)[0, ::3])
    same = part.whole_matrix(last, part.same_class(labels))
    case.check('mid/sfr', same[0, ::2])
    weights = part.weights(block.attn, q, k, v, last, same=same)
    case.check('mid/attn', weights[0, :, ::5])
    case.check('mid/attn_out', block.attn.output(weights @ v)[0, :, ::4])
    case.check('mid/dense_feat', last.project(part.all_tokens(last))[0, :, ::2])
    case.check('mid/cosine', model.window_map(window)[0].flatten(1).T)


def _check_variant(case: Case, base, name: str, entry: dict) -> None:
    image, options = image_of(entry['image']), case.config['options'] | entry
    model = _model(base, options | dict(slide_crop=0))
    case.check(f'alt/cosine_{name}', model.window_map(image)[0].flatten(1).T)
    last, part = last_blocks(model, image), model.backbone.dense_attention
    if f'alt/{name}_patch_labels' in case:
        first = part.run(last.blocks[-1], last.tokens, last)
        case.check(f'alt/{name}_patch_labels', part.patch_labels(last, part.first_probabilities(last, first))[0])
    if f'alt/logits_{name}' in case:
        case.check(f'alt/logits_{name}', name_maps(model, image)[0, :, ::3, ::3])


@torch.no_grad()
def test_every_official_number_is_reproduced(resclip_case):
    case = Case(resclip_case)
    config, options, sub = case.config, case.config['options'], case.config['sub']
    base, ori = build(config), config['ori_shape']
    case.check('text_embeddings', torch.nn.functional.normalize(base.decode_head.embed_classes(), dim=-1))
    image, model = image_of(config['image']), _model(base, options)
    crop = options['slide_crop']
    window = image[:, :, :crop, :crop] if crop else image
    _check_window(case, model, window)
    case.check('logits', name_maps(model, image, ori)[0, :, ::sub, ::sub])
    case.check('probs', decide(model, image, ori)[0][0, :, ::sub, ::sub])
    plain = _model(base, options | dict(use_sfr=False))
    case.check('alt/cosine_rcs_only', plain.window_map(window)[0].flatten(1).T)
    for name, entry in config['variants'].items():
        _check_variant(case, base, name, entry)
    case.done()
