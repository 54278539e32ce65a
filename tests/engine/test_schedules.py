"""Warm-ups as CoOp's and mmcv's code have them, with groups of other rates, beside the formulas; and after a resume."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from vlm_dense.engine.configs.files import load_config
from vlm_dense.engine.configs.names import CONFIGS, find_config
from vlm_dense.errors import ConfigError
from vlm_dense.registry import PARAM_SCHEDULERS


def optimizer(cfg) -> torch.optim.Optimizer:
    """SGD of a model with parameters of the text prompt and of the image tower, as a config groups them."""
    model = torch.nn.ModuleDict(
        dict(
            backbone=torch.nn.ParameterDict(dict(ln_1=torch.nn.Parameter(torch.zeros(2)))),
            text_prompt=torch.nn.ParameterDict(
                dict(ctx=torch.nn.Parameter(torch.zeros(2)), tokens=torch.nn.Parameter(torch.zeros(2)))
            ),
        )
    )
    cfg = dict(cfg, type='OptimWrapper')
    return build_optim_wrapper(model, cfg).optimizer


def rates(made: torch.optim.Optimizer, cfgs: list[dict], steps: int) -> list[list[float]]:
    """The rate of each group in each step."""
    schedulers = [PARAM_SCHEDULERS.build(dict(cfg), default_args=dict(optimizer=made)) for cfg in cfgs]
    found = []
    for _ in range(steps):
        found.append([group['lr'] for group in made.param_groups])
        made.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


def config(name: str):
    cfg = load_config(str(find_config(CONFIGS / f'{name}.py')))
    return cfg.optim_wrapper, [dict(one) for one in cfg.param_scheduler]


def dassl(lr: float, warmup: int, epochs: int) -> list[float]:
    return [1e-5 if e < warmup else lr / 2 * (1 + math.cos(math.pi * (e - warmup) / epochs)) for e in range(epochs)]


def test_lasp_warms_all_its_parameters_up_at_the_same_rate():
    wrapper, schedule = config('lasp_imagenet')
    made = optimizer(wrapper)
    by_group = list(zip(*rates(made, schedule, 25), strict=True))
    expected = dict(backbone=dassl(0.0032, 3, 25), text=dassl(0.032, 3, 25))
    assert all(any(found == pytest.approx(tuple(each)) for each in expected.values()) for found in by_group)
    assert {found[0] for found in by_group} == {1e-5} and {found[3] for found in by_group} == {0.0032, 0.032}


@pytest.mark.parametrize('warmup', [1, 10])
def test_cavpt_warms_tokens_up_longer_than_the_context(warmup):
    wrapper, (schedule,) = config('cavpt_imagenet')
    made = optimizer(wrapper)
    by_group = list(zip(*rates(made, [dict(schedule, warmup=warmup)], 100), strict=True))
    groups = [(group.get('lr_mult', 1.0), found) for group, found in zip(made.param_groups, by_group, strict=True)]
    assert {mult for mult, _ in groups} == {0.2, 1.0}
    for mult, found in groups:
        wanted = dassl(0.002, 1, 100) if mult == 0.2 else dassl(0.01, warmup, 100)
        assert found == pytest.approx(tuple(wanted))


def test_one_group_is_the_schedule_that_coop_chains():
    wrapper, chained = config('coop_imagenet')
    closed = dict(type='vlm_dense.WarmUpCosineLR', T_max=50, by_epoch=True, end=50)
    assert rates(optimizer(wrapper), chained, 50) == [
        [pytest.approx(rate) for rate in each] for each in rates(optimizer(wrapper), [closed], 50)
    ]


def test_denseclip_decays_from_the_first_iteration():
    wrapper, schedule = config('denseclip_rn101_ade20k')
    made = optimizer(wrapper)
    found = rates(made, schedule, 3001)
    for group, base in zip(range(len(made.param_groups)), [g['initial_lr'] for g in made.param_groups], strict=True):
        for i in (0, 1, 700, 1499, 1500, 3000):
            plain = (base - 1e-6) * (1 - i / 80000) ** 0.9 + 1e-6
            warm = 1 - (1 - min(i, 1500) / 1500) * (1 - 1e-6)
            assert found[i][group] == pytest.approx(plain * warm, rel=1e-9)
    assert {round(group['initial_lr'], 9) for group in made.param_groups} == {1e-4, 1e-5}


def test_a_resumed_schedule_goes_on():
    cfg = dict(type='vlm_dense.WarmUpCosineLR', T_max=10, warmup=2, end=10)
    wrapper, _ = config('lasp_imagenet')
    whole = rates(optimizer(wrapper), [cfg], 10)
    first = optimizer(wrapper)
    scheduler = PARAM_SCHEDULERS.build(dict(cfg), default_args=dict(optimizer=first))
    for _ in range(4):
        first.step()
        scheduler.step()
    again = optimizer(wrapper)
    other = PARAM_SCHEDULERS.build(dict(cfg), default_args=dict(optimizer=again))
    again.load_state_dict(first.state_dict())
    other.load_state_dict(scheduler.state_dict())
    again.step()
    other.step()
    assert [group['lr'] for group in again.param_groups] == pytest.approx(whole[5])


def test_a_warm_up_that_is_longer_than_the_training_is_refused():
    wrapper, _ = config('lasp_imagenet')
    cfg = dict(type='vlm_dense.WarmUpCosineLR', T_max=10, warmup=10)
    with pytest.raises(ConfigError, match='warm-up of 10 epochs does not fit into 10'):
        PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=optimizer(wrapper)))
