"""MAFT+ equals the official code: tokens and rows of the attention, logits, scores, both of its losses, gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import Case
from open_case import load_release
from proposals_case import (
    build,
    check_gradients,
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

from vlm_dense.methods.open_vocabulary.maft_plus import representation_loss
from vlm_dense.methods.open_vocabulary.proposals import region_embeddings


def test_every_official_number_is_reproduced(maft_plus_case, monkeypatch, tmp_path):
    case = Case(maft_plus_case)
    config = case.config
    own = config['options']
    model = build(
        config,
        clip_arch(config, monkeypatch),
        type='vlm_dense.MAFTPlus',
        cdt=dict(heads=own['cdt_heads'], panoptic=own['panoptic']),
        rc_weight=own['rc_weight'],
        masks_first=own['panoptic'],
    ).eval()
    load_release(model, official_weights(model, config), tmp_path)
    batch, sizes = padded_images(config)
    case.check('text_embeddings', model.text_side.classifier_weights())
    with torch.no_grad():
        features, text = model.extract_feat(batch)
        logits, masks = model.propose(features, text)
        scores = model.scores(features, text, logits[-1], masks[-1])
        case.check('mid/dense_embedding', model.image_tokens(features.patch)[:, ::2])
        case.check('mid/text', model.rewritten(text, features.patch)[..., ::2])
        small = F.interpolate(masks[-1], features.patch.shape[2:], mode='bilinear', align_corners=False)
        case.check('mid/clip_embedding', region_embeddings(model.backbone, features.patch, small))
        case.check('mid/out_logits', model.out_logits(features.patch, masks[-1], text))
        case.check('mid/mask_logits', masks[-1][:, :, ::2, ::2])
        case.check('mid/class_logits', logits[-1])
        case.check('mid/class_scores', scores)
        for i, one in enumerate(check_semantic(case, model, scores, masks[-1], sizes, batch)):
            if f'panoptic{i}' in case:
                check_panoptic(case, model, i, scores[i], one)
    _check_training(case, model, batch, targets_of(config, sizes, batch))
    case.done()


def _check_training(case: Case, model, batch, samples) -> None:
    model.set_class_names(classes_of(case.config['train_classes']))
    model.train()
    predictions = case.config['options']['decoder_layers'] + 1
    with official_points(case.config, predictions, len(batch)):
        losses = model.loss(batch, samples)
    check_losses(case, losses, predictions).backward()
    check_gradients(case, model)


def test_maps_that_are_higher_than_wide_are_compared_by_the_smaller_side():
    torch.manual_seed(0)
    dense, wanted = torch.randn(2, 2, 3, 6, 4)
    total = []
    for maps in (dense, wanted):
        maps = F.interpolate(maps.relu(), (6, 6), mode='bilinear', align_corners=False)
        parts = []
        for kernel in (4, 2, 1):
            one = F.avg_pool2d(maps, kernel)
            parts += [one.sum(2).flatten(1), one.sum(3).flatten(1)]
        total.append(torch.cat(parts, dim=1))
    torch.testing.assert_close(representation_loss(dense, wanted), F.smooth_l1_loss(*total))
