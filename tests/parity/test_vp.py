"""VP equals the official code."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from official import Case, array, inputs
from text_prompt_case import case_labels, check_training, classifier


def restart(prompt, numbers: list[int]) -> None:
    """The prompt takes these numbers instead of random rows and columns; evaluations always the first two."""
    stream = itertools.cycle(numbers)
    prompt.place = lambda: (next(stream), next(stream)) if prompt.training else numbers[:2]


def test_every_official_number_is_reproduced(vp_case, tmp_path):
    case = Case(vp_case)
    config = case.config
    images, labels = inputs(config['images']), case_labels(case)
    case.check('labels', labels)
    text = dict(type='vlm_dense.ZeroShotPrompt', templates=[config['template']], separators='_-', lowercase=True)
    plain = classifier(config, tmp_path, text)
    with torch.no_grad():
        ids = plain.text_prompt.token_ids
        case.check('mid/tokens', ids[:, : case['mid/tokens'].shape[1]])
        case.check('logits_unprompted', plain(images))
    kinds = sorted({key.split('/')[0] for key in case.keys('') if key.endswith('/mid/prompt_image0')})
    for kind in kinds:
        size = dict(prompt_size=config['prompt_size'], image_size=config['image_size'])
        model = classifier(config, tmp_path, text, image_prompt=dict(type='vlm_dense.VPPrompt', kind=kind, **size))
        prompt = model.image_prompt
        for name, parameter in prompt.named_parameters():
            value = array(f'{config["prefix"]}/{kind}/{name}', parameter.shape, config['init_scale'])
            parameter.data.copy_(value)
        restart(prompt, config['random_positions'])
        with torch.no_grad():
            case.check(f'{kind}/mid/prompt_image0', prompt.pattern()[0])
            case.check(f'{kind}/logits', model(images))
            if kind == config['main']:
                case.check('logits', model(images))
                case.check('loss', F.cross_entropy(model(images), torch.tensor(labels)))
        check_training(case, model, {'loss_ce': 1.0}, prompt, f'{kind}/')
    base, warmup, total = map(int, re.search(r'base (\d+), warmup (\d+), total (\d+)', config['schedule']).groups())
    steps = [int(step) for step in config['schedule'].rpartition('steps ')[2].split(',')]
    rates = rates_of_the_config(base, warmup, total)
    case.check('schedule/lr', torch.tensor([rates[step] for step in steps]), rtol=1e-6)
    case.done()


def rates_of_the_config(base: float, warmup: int, total: int) -> list[float]:
    """Learning rates of the published config with another base, warm-up and length."""
    config = Config.fromfile(Path(__file__).parents[2] / 'configs' / 'vp' / 'vp_imagenet.py')
    wrapper = build_optim_wrapper(torch.nn.Linear(1, 1), config.optim_wrapper)
    for group in wrapper.param_groups:
        assert group['lr'] == 40
        group['lr'] = group['initial_lr'] = base
    old = dict(warmup=config.warmup, total=config.max_iters)
    new = {
        old['warmup']: warmup,
        old['total']: total,
        old['total'] - old['warmup']: total - warmup,
        1 / old['warmup']: 1 / warmup,
        0: 0,
    }
    schedulers = []
    for scheduler in config.param_scheduler:
        numbers = {k: new[v] if not isinstance(v, (str, bool)) else v for k, v in scheduler.items()}
        schedulers.append(PARAM_SCHEDULERS.build(dict(numbers, optimizer=wrapper)))
    rates = []
    for _ in range(total):
        rates.append(wrapper.param_groups[0]['lr'])
        for scheduler in schedulers:
            scheduler.step()
    return rates
