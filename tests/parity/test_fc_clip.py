"""FC-CLIP equals the official code: maps, every prediction, both classifiers, three outputs, losses, gradients."""

from __future__ import annotations

import copy

import numpy as np
import torch
from official import Case
from open_case import load_release
from proposals_case import (
    build,
    check_gradients,
    check_instances,
    check_losses,
    check_panoptic,
    check_semantic,
    classes_of,
    clip_arch,
    official_points,
    official_weights,
    padded_images,
    targets_of,
)

from vlm_dense.methods.open_vocabulary.proposals import mask_pool, region_embeddings


def watch(model) -> dict[str, list]:
    """What passes the parts of the head, in order."""
    head, seen = model.decode_head, dict(query=[], decoder=[], barred=[])
    head.transformer_decoder.post_norm.register_forward_pre_hook(lambda _, args: seen['query'].append(args[0]))
    head.pixel_decoder.register_forward_hook(lambda _, args, out: seen['decoder'].append(out))
    own = head._forward_head

    def forward_head(*args):
        found = own(*args)
        seen['barred'].append(found[2])
        return found

    head._forward_head = forward_head
    return seen


def check_maps(case: Case, features, seen: dict) -> None:
    for i, stage in enumerate(features.stages, start=2):
        step, sub = case.config['channels'][i - 2] // 8, 1 if i > 3 else 2
        case.check(f'mid/res{i}', stage[0, ::step, ::sub, ::sub])
    case.check('mid/clip_vis_dense', features.patch[0, :: features.patch.shape[1] // 16])
    [(mask_features, scales)] = seen['decoder']
    case.check('mid/mask_features', mask_features[0, ::8, ::2, ::2])
    for i, one in enumerate(scales):
        sub = 2 if i == 2 else 1
        case.check(f'mid/multi_scale{i}', one[0, ::8, ::sub, ::sub])


def check_predictions(case: Case, logits: list, masks: list, seen: dict) -> None:
    msub = case.config['options']['msub']
    for i, (one, mask) in enumerate(zip(logits, masks, strict=True)):
        last = i == len(logits) - 1
        case.check(f'mid/class_logits{i}', one)
        step = msub if last else 2 * msub
        case.check(f'mid/mask_logits{i}', mask[:, :, ::step, ::step])
        case.check(f'mid/query{i}', seen['query'][i][..., ::8])
        if f'mid/attn_mask{i}' in case:
            heads = case.config['options']['nheads']
            barred = seen['barred'][i].unflatten(0, (-1, heads))[:, 0]
            case.check(f'mid/attn_mask{i}', torch.from_numpy(np.packbits(barred.numpy(), axis=-1)))


def test_every_official_number_is_reproduced(fc_clip_case, monkeypatch, tmp_path):
    case = Case(fc_clip_case)
    config = case.config
    own = config['options']
    model = build(
        config,
        clip_arch(config, monkeypatch),
        type='vlm_dense.FCCLIP',
        alpha=own['alpha'],
        beta=own['beta'],
        ensemble_on_valid_mask=own['ensemble_on_valid_mask'],
        masks_first=own['postprocess_before'],
    ).eval()
    load_release(model, official_weights(model, config), tmp_path)
    batch, sizes = padded_images(config)
    side = model.text_side
    case.check('text_embeddings', side.classifier_weights())
    case.check('category_overlapping', torch.tensor(model.overlaps))
    seen = watch(model)
    with torch.no_grad():
        features, text = model.extract_feat(batch)
        logits, masks = model.propose(features, text)
        scores = model.scores(features, text, logits[-1], masks[-1])
        small = torch.nn.functional.interpolate(masks[-1], features.patch.shape[2:], mode='bilinear')
        case.check('mid/valid', (small > 0).flatten(2).any(2))
        if 'mid/pooled' in case:
            case.check('mid/pooled', mask_pool(features.patch, small)[..., ::4])
        case.check('mid/clip_embedding', region_embeddings(model.backbone, features.patch, small))
        case.check('mid/class_scores', scores)
        check_maps(case, features, seen)
        check_predictions(case, logits, masks, seen)
        own_masks = check_semantic(case, model, scores, masks[-1], sizes, batch)
        for i, one in enumerate(own_masks):
            if f'panoptic{i}' in case:
                check_panoptic(case, model, i, scores[i], one)
                check_instances(case, model, i, scores[i], one)
    _check_training(case, model, batch, targets_of(config, sizes, batch))
    case.done()


def _check_training(case: Case, model, batch, samples) -> None:
    config = case.config
    model.set_class_names(classes_of(config['train_classes']))
    case.check('train_text_embeddings', model.text_side.classifier_weights())
    model.train()
    predictions, matched, assign = config['options']['decoder_layers'] + 1, [], model.decode_head.assigner.assign

    def watched(*args, **kwargs):
        found = assign(*args, **kwargs)
        matched.append(found.gt_inds)
        return found

    model.decode_head.assigner.assign = watched
    with official_points(config, predictions, len(batch)):
        losses = model.loss(batch, copy.copy(samples))
    found = iter(matched)
    for layer in range(predictions):
        for i in range(len(batch)):
            gt = next(found)
            rows = gt.nonzero()[:, 0]
            case.check(f'match/{layer}/{i}', torch.stack([rows, gt[rows] - 1]))
    check_losses(case, losses, predictions).backward()
    check_gradients(case, model)
