"""Mask-Adapter: which masks its two stages take, what they train, stages in one run, the base model's weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from mmengine import Config
from mmengine.registry import PARAM_SCHEDULERS
from segmentation.open_models import fc_clip, images, maft_plus, mask_adapter, mask_adapter_maft_plus, samples

from vlm_dense.errors import ConfigError
from vlm_dense.methods.open_vocabulary import mask_adapter as module
from vlm_dense.methods.open_vocabulary.mask_adapter import SemanticActivationMaps, StagesHook, named_loss

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.fixture(scope='module')
def model():
    return mask_adapter(num_gt_masks=3, num_pred_masks=2)


def squares(number: int, size: int = 16) -> torch.Tensor:
    """Masks (n, size, size), each of one column."""
    return torch.eye(size)[:number, None].expand(-1, size, -1).contiguous()


def test_of_more_masks_than_places_a_permutation_decides_and_of_fewer_the_rest_is_empty(model):
    targets = [(squares(5), torch.arange(5)), (squares(2), torch.tensor([7, 8])), (squares(0), torch.arange(0))]
    with mock.patch('torch.randperm', return_value=torch.tensor([4, 0, 2, 1, 3])) as drawn:
        masks, labels = model.slots(targets, 3, (16, 16))
    drawn.assert_called_once_with(5)
    assert labels.tolist() == [[4, 0, 2], [7, 8, -1], [-1, -1, -1]]
    assert torch.equal(masks[0], squares(5)[[4, 0, 2]]) and torch.equal(masks[1, :2], squares(2))
    assert not masks[1, 2].any() and not masks[2].any()


def test_each_mask_of_the_data_draws_one_of_its_matches_and_a_permutation_chooses_among_the_pairs(model):
    masks = squares(4)
    predicted = 20 * (2 * masks[[0, 1, 1, 2, 3]] - 1)[None]
    targets = [(masks, torch.tensor([5, 6, 7, 8]))]
    draws = iter([0.9, 0.6, 0.1, 0.0])
    with (
        mock.patch('torch.rand', lambda n: torch.tensor([next(draws)])),
        mock.patch('torch.randperm', return_value=torch.tensor([1, 3, 0, 2])) as drawn,
    ):
        pairs, labels = model.matched(predicted, targets, (16, 16))
    drawn.assert_called_once_with(4)
    assert next(draws, None) is None
    assert labels.tolist() == [[6, 8]]
    assert torch.equal(pairs[0], masks[[1, 3, 1, 3]])
    for i, k in ((2, 1), (0, 0)):
        assert model.ious(predicted[0], masks)[i, k] > 0.99


def test_a_place_without_a_pair_is_empty_or_full_by_the_threshold_and_has_no_label():
    for threshold, value in ((0.5, 0), (0.4, 1)):
        model = mask_adapter(num_pred_masks=2, mask_threshold=threshold)
        pairs, labels = model.matched(torch.full((1, 4, 8, 8), -9.0), [(squares(2), torch.arange(2))], (16, 16))
        assert (labels == -1).all() and (pairs[0, :2] == value).all() and not pairs[0, 2:].any()


def test_maps_are_a_weighted_mean_of_the_features_of_their_own_mask_alone():
    model = mask_adapter().eval()
    dense, masks = torch.randn(2, 256, 3, 4), torch.rand(2, 5, 12, 16) > 0.5
    with torch.no_grad():
        found = model.embed_masks(dense, masks)
        alone = model.embed_masks(dense[1:], masks[1:, 3:4])
        maps = model.mask_adapter(model.places(dense), masks)
        weights = maps.sigmoid() / maps.sigmoid().sum((2, 3), keepdim=True)
        pooled = torch.einsum('bmhw,bchw->bmc', weights, dense)
        wanted = torch.stack([model.backbone.embed_map(x[..., None, None])[..., 0, 0] for x in pooled])
    assert maps.shape == (2, 10, 3, 4)
    torch.testing.assert_close(found[1:, 3:4], alone)
    torch.testing.assert_close(found, wanted.unflatten(1, (5, 2)).mean(2))


def test_the_loss_of_no_label_is_zero_and_nothing_is_a_class_that_is_never_right():
    logits = torch.randn(1, 3, 4, requires_grad=True)
    assert named_loss(logits, torch.full((1, 3), -1)) == 0
    found = named_loss(logits, torch.tensor([[2, -1, 0]]))
    torch.testing.assert_close(found, F.cross_entropy(logits[0, [0, 2]], torch.tensor([2, 0])))


@pytest.mark.parametrize(
    ('build', 'stage', 'trained'),
    [
        (mask_adapter, 'warmup', {'mask_adapter', 'void_embedding'}),
        (mask_adapter, 'mixed', {'mask_adapter', 'void_embedding'}),
        (mask_adapter, 'proposals', {'decode_head', 'void_embedding'}),
        (mask_adapter_maft_plus, 'warmup', {'mask_adapter', 'void_embedding'}),
        (mask_adapter_maft_plus, 'mixed', {'mask_adapter'}),
    ],
)
def test_what_each_stage_trains(build, stage, trained):
    model = build(stage=stage).train()
    with mock.patch.object(model, 'propose', side_effect=model.propose) as proposed:
        losses = model.loss(images(2, (64, 64)), samples(2, (64, 64)))
    assert proposed.called == (stage != 'warmup')
    sum(v.sum() for k, v in losses.items() if 'loss' in k).backward()
    moved = {name.split('.')[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    waiting = {'mask_adapter'} if stage == 'proposals' else set()  # for the next stage of the same run
    assert moved == trained
    assert moved | waiting == {name.split('.')[0] for name, p in model.named_parameters() if p.requires_grad}


def test_a_batch_without_a_mask_trains():
    model, nothing = mask_adapter().train(), samples()
    for sample in nothing:
        sample.gt_sem_seg.data[:] = 255
    losses = model.loss(images(), nothing)
    assert losses['loss_ce'] == 0 and torch.isfinite(losses['loss_cosine'])


@pytest.mark.parametrize(
    ('base', 'build', 'lost'), [(fc_clip, mask_adapter, ()), (maft_plus, mask_adapter_maft_plus, ('teacher.',))]
)
def test_the_weights_of_a_trained_base_model_fit(base, build, lost):
    state = base().state_dict()
    found = build().load_state_dict(state, strict=False)
    assert {key.split('.')[0] for key in found.missing_keys} == {'mask_adapter'}
    assert all(key.startswith(lost) for key in found.unexpected_keys) if lost else not found.unexpected_keys


def test_a_hook_sets_the_stage_of_each_iteration_also_of_a_resumed_run():
    model, hook = mask_adapter(stage='proposals'), StagesHook(dict(proposals=0, warmup=2, mixed=3))
    hub = SimpleNamespace(log_scalars={'train/lr': 1})
    runner = SimpleNamespace(model=model, logger=SimpleNamespace(info=lambda text: None), message_hub=hub)
    stages, shown = [], []
    hook.before_train(runner)
    for runner.iter in (0, 1, 2, 3, 9, 2):
        hook.before_train_iter(runner, runner.iter)
        stages.append(model.stage)
        hub.log_scalars[f'train/loss_{model.stage}'] = 1
        shown.append(len(hub.log_scalars) - 1)
    assert shown == [1, 1, 1, 1, 1, 1]  # a loss of another stage is no longer in the log
    assert stages == ['proposals', 'proposals', 'warmup', 'mixed', 'mixed', 'warmup']
    with pytest.raises(ConfigError, match="Write model=dict\\(stage='proposals'\\)"):
        hook.before_train(runner)
    with (
        mock.patch.object(module, 'is_distributed', return_value=True),
        pytest.raises(ConfigError, match='each stage in a run of its own'),
    ):
        hook.before_train(runner)


def test_what_cannot_work_is_refused_with_what_to_do():
    for wrong, message in (
        (dict(stage='warmap'), 'warmup'),
        (dict(ensemble_on_valid_mask=True), 'Leave ensemble_on_valid_mask out'),
        (dict(mask_threshold=1.0), 'mask_threshold must be from 0 to below 1, found 1.0'),
    ):
        with pytest.raises(ConfigError, match=message):
            mask_adapter(**wrong)
    with pytest.raises(ConfigError, match="by type='vlm_dense.MAFTPlus'"):
        mask_adapter_maft_plus(stage='proposals')
    with pytest.raises(ConfigError, match='at least 4'):
        SemanticActivationMaps(16, mask_channels=3)
    for stages in ({}, dict(warmup=1), dict(warmup=0, mixed=0)):
        with pytest.raises(ConfigError, match='must begin at 0'):
            StagesHook(stages)


def test_each_stage_of_the_drawn_run_begins_with_the_whole_learning_rate():
    cfg = Config.fromfile(CONFIGS / 'mask_adapter/mask_adapter_shapes.py')
    weights = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weights], lr=1e-3)
    schedulers = [PARAM_SCHEDULERS.build(dict(optimizer=optimizer, **s)) for s in cfg.param_scheduler]
    rates = []
    for _ in range(cfg.max_iters):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == rates[600] == 1e-3 and max(rates[599], rates[-1]) < 1e-6
