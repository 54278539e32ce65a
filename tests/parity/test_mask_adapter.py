"""Mask-Adapter equals the official code on FC-CLIP and on MAFT+: maps, scores, matches, both stages of its training."""

from __future__ import annotations

import itertools
import zlib
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from official import Case
from open_case import load_release
from proposals_case import (
    build,
    check_gradients,
    check_semantic,
    classes_of,
    clip_arch,
    official_weights,
    padded_images,
    targets_of,
)

TYPES = dict(fc_clip='vlm_dense.MaskAdapterFCCLIP', maft_plus='vlm_dense.MaskAdapterMAFTPlus')


def packed(masks: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.packbits(masks.numpy(), axis=-1))


@contextmanager
def official_draws(config: dict):
    """Queries and permutations of the official run, each numbered on its own."""
    picks, permutations = itertools.count(), itertools.count()

    def stream(kind: str, number: int) -> np.random.RandomState:
        return np.random.RandomState(zlib.crc32(f'{config["rand"]}/{kind}/{number}'.encode()))

    def rand(count: int) -> torch.Tensor:
        return torch.from_numpy(stream('pick', next(picks)).random_sample(count).astype(np.float32))

    def randperm(count: int) -> torch.Tensor:
        return torch.from_numpy(stream('perm', next(permutations)).permutation(count))

    with mock.patch('torch.rand', rand), mock.patch('torch.randperm', randperm):
        yield


def test_every_official_number_is_reproduced(mask_adapter_case, monkeypatch, tmp_path):
    case = Case(mask_adapter_case)
    config = case.config
    own = config['options']
    more = dict(cdt=dict(heads=own['cdt_heads'])) if config['variant'] == 'maft_plus' else {}
    model = build(
        config,
        clip_arch(config, monkeypatch),
        type=TYPES[config['variant']],
        alpha=own['alpha'],
        beta=own['beta'],
        mask_threshold=own['mask_threshold'],
        iou_threshold=own['iou_threshold'],
        num_gt_masks=own['num_gt_masks'],
        num_pred_masks=own['num_pred_masks'],
        masks_first=own['postprocess_before'],
        mask_adapter=dict(
            mask_channels=own['mask_in_channels'],
            width=own['num_channels'],
            num_maps=own['num_output_maps'],
            masks_at_once=5,
        ),
        **more,
    ).eval()
    load_release(model, official_weights(model, config), tmp_path)
    batch, sizes = padded_images(config)
    case.check('text_embeddings', model.text_side.classifier_weights())
    case.check('category_overlapping', torch.tensor(model.overlaps))
    with torch.no_grad():
        features, text = model.extract_feat(batch)
        logits, masks = model.propose(features, text)
        scores = model.scores(features, text, logits[-1], masks[-1])
        places, binary = model.places(features.patch), masks[-1].sigmoid() > own['mask_threshold']
        case.check('mid/dense_embedding', places[:, ::2])
        case.check('mid/mask_logits', masks[-1][:, :, ::2, ::2])
        case.check('mid/class_logits', logits[-1])
        case.check('mid/binary_masks', packed(binary))
        case.check('mid/activation_maps', model.mask_adapter(places, binary))
        case.check('mid/clip_embedding', model.embed_regions(features.patch, masks[-1]))
        case.check('mid/out_logits', model.out_logits(features.patch, masks[-1], text))
        case.check('mid/class_scores', scores)
        check_semantic(case, model, scores, masks[-1], sizes, batch)
    _check_training(case, model, batch, targets_of(config, sizes, batch))
    case.done()


def _check_training(case: Case, model, batch, samples) -> None:
    config = case.config
    model.set_class_names(classes_of(config['train_classes']))
    model.train()
    seen, ious, embed = {}, [], model.embed_masks

    def watched(dense, masks):
        seen['masks'], seen['embeddings'] = masks, embed(dense, masks)
        return seen['embeddings']

    own_ious, matched = model.ious, model.matched
    monitored = dict(
        embed_masks=watched,
        ious=lambda *args: ious.append(own_ious(*args)) or ious[-1],
        matched=lambda *args: seen.setdefault('matched', matched(*args)),
    )
    with mock.patch.multiple(model, **monitored), official_draws(config):
        losses = model.loss(batch, samples)
    case.check('mid/train_ious', torch.cat([one.flatten() for one in ious]))
    case.check('mid/train_labels', seen['matched'][1])
    case.check('mid/train_masks', packed(seen['masks'][:, :, ::4, ::4] > 0.5))
    case.check('mid/train_embedding', seen['embeddings'][..., ::2])
    for name, value in losses.items():
        case.check(f'losses/{name}', value)
    total = sum(losses.values())
    case.check('losses/total', total)
    total.backward()
    check_gradients(case, model)
    model.zero_grad()
    model.stage = 'warmup'
    model.void_embedding.requires_grad_(True)
    with official_draws(config):
        losses = model.loss(batch, samples)
    assert list(losses) == ['loss_ce']
    if 'warmup/loss_ce' in case:
        case.check('warmup/loss_ce', losses['loss_ce'])
    losses['loss_ce'].backward()
    check_gradients(case, model, 'warmup/')
    assert model.void_embedding.weight.grad.any()
