"""SC-CLIP equals the official code: anomalies, similarity, both passes, windows, decision."""

from __future__ import annotations

import torch
from dense_case import build, decide, image_of, last_blocks, name_maps, steps_of, variant, windows
from official import Case

from vlm_dense.clip.image_tower import resize_positions
from vlm_dense.methods.dense.affinity import cosines
from vlm_dense.methods.dense.sc_clip import average, replace_outliers


def _attention(options: dict) -> dict:
    return dict(
        type='vlm_dense.SCCLIPAttention',
        pre=options['pre_adjust_idx'],
        post=options['post_adjust_idx'],
        multi=(options['multi_start_idx'], options['multi_end_idx']),
        class_weight=options['res_cls'],
        beta=options['beta'],
    )


def _first_window(options: dict, image):
    crop = options.get('slide_crop', 0)
    return image[:, :, :crop, :crop] if crop else image


def _check_window(case: Case, model, window) -> None:
    """mid/: the steps of one window."""
    last, part = last_blocks(model, window), model.backbone.dense_attention
    case.check('mid/pos', resize_positions(model.backbone.positional_embedding, last.grid, 'bicubic_scaled')[:, ::8])
    case.check('mid/penultimate', last.tokens[0, :, ::4])
    tokens = last.tokens[:, last.patches]
    factor = part.outlier_factor(tokens)
    case.check('mid/lof', factor[0])
    anomalies = part.anomalies(factor)
    case.check('mid/outliers', anomalies[0].nonzero().flatten())
    replaced = replace_outliers(tokens, anomalies, last.grid)
    case.check('mid/mended', replaced[0, :, ::4])  # codespell:ignore mend,mended
    before = replace_outliers(last.hidden_states[part.pre][:, last.patches], anomalies, last.grid)
    case.check('mid/mended_pre', before[0, :, ::4])  # codespell:ignore mend,mended
    similarity, after = cosines(before), part.cut(cosines(last.hidden_states[part.post][:, last.patches]))
    case.check('mid/simi_pre', similarity[0, ::3])
    case.check('mid/simi_post', after[0, ::3])
    deep = average(part.cut(similarity), replaced)
    case.check('mid/agg_pre', deep[0, :, ::4])
    middle = sum(last.hidden_states[i] for i in range(*part.multi))
    for name, x, cls in (('last', deep, last.tokens), ('multi', middle[:, last.patches], middle)):
        out = part.attend(last, x, similarity)
        case.check(f'mid/attn_{name}', out[0, :, ::4])
        out = average(after, out + part.class_weight * cls[:, :1])
        case.check(f'mid/agg_{dict(last="post", multi="multi")[name]}', out[0, :, ::4])
    case.check('mid/dense_feat', last.project(part(last).tokens)[0, :, ::2])
    case.check('mid/cosine', model.window_map(window)[0].flatten(1).T)


@torch.no_grad()
def test_every_official_number_is_reproduced(sc_clip_case):
    case = Case(sc_clip_case)
    config, options, sub = case.config, case.config['options'], case.config['sub']
    base, attention, ori = build(config), _attention(options), config['ori_shape']
    case.check('text_embeddings', torch.nn.functional.normalize(base.decode_head.embed_classes(), dim=-1))

    def model(test_cfg, pamr=None, **more):
        return variant(base, attention, test_cfg, steps_of(options | more, pamr=pamr))

    image, test_cfg = image_of(config['image']), windows(options)
    _check_window(case, model(test_cfg), _first_window(options, image))
    case.check('logits', name_maps(model(test_cfg), image, ori)[0, :, ::sub, ::sub])
    case.check('probs', decide(model(test_cfg), image, ori)[0][0, :, ::sub, ::sub])
    area = model(test_cfg, area_thd=config['area_thd'])
    case.check('alt/probs_area', decide(area, image, ori)[0][0, :, ::sub, ::sub])
    pamr = model(test_cfg, pamr=config['pamr'])
    case.check('alt/logits_pamr', name_maps(pamr, image, ori)[0, :, ::sub, ::sub])
    whole, nonsquare = model(dict(mode='whole')), image_of(config['nonsquare'])
    case.check('alt/cosine_nonsquare', whole.window_map(nonsquare)[0].flatten(1).T)
    case.check('alt/logits_whole_nonsquare', name_maps(whole, nonsquare, ori)[0, :, ::sub, ::sub])
    maps = image_of(config['mend']['map'])  # codespell:ignore mend,mended
    anomalies = torch.zeros(maps.shape[2:], dtype=torch.bool)
    anomalies[tuple(zip(*config['mend']['indices'], strict=True))] = True  # codespell:ignore mend,mended
    replaced = replace_outliers(maps.flatten(2).mT, anomalies.flatten()[None], tuple(maps.shape[2:]))
    case.check('alt/mend', replaced.mT.unflatten(2, maps.shape[2:]))  # codespell:ignore mend,mended
    case.done()
