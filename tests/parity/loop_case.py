"""The official loop of the CoOp family: batches in order, the rate set once an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from official import Case, inputs
from text_prompt_case import labelled

from vlm_dense.registry import MODELS


def rate(optim: dict, epoch: int) -> float:
    """Learning rate of an epoch, from 0."""
    if epoch < optim['warmup_epochs']:
        return optim['warmup_lr']
    return 0.5 * optim['lr'] * (1 + math.cos(math.pi * (epoch - optim['warmup_epochs']) / optim['epochs']))


def optimizer_of(optim: dict, parameters) -> torch.optim.Optimizer:
    """The case's optimiser; its rate is set by :func:`official_loop`."""
    options = dict(lr=optim['lr'], weight_decay=optim['weight_decay'])
    if optim['name'] == 'sgd':
        return torch.optim.SGD(parameters, momentum=optim['momentum'], **options)
    kind = dict(adam=torch.optim.Adam, adamw=torch.optim.AdamW)[optim['name']]
    return kind(parameters, betas=optim['betas'], eps=optim['eps'], **options)


def batches_of(config: dict) -> list[tuple[torch.Tensor, list[int]]]:
    """Images and labels of each batch."""
    return [(inputs(images), labels) for images, labels in config['train_batches']]


def official_loop(case: Case, model, trained, step: Callable | None = None) -> Iterator[int]:
    """Train as the case says, and compare rate and loss of each step; yields the number of epochs that are done.

    Args:
        trained: Parameters.
        step: ``step(images, labels, prefix)`` is called instead of the backward pass and returns the loss.
    """
    optim = case.config['optim']
    optimizer, number = optimizer_of(optim, trained), 0
    for epoch in range(optim['epochs']):
        model.train()
        for images, labels in batches_of(case.config):
            optimizer.param_groups[0]['lr'] = rate(optim, epoch)
            optimizer.zero_grad()
            if step is None:
                loss, _ = model.parse_losses(model(images, labelled(labels), mode='loss'))
                loss.backward()
            else:
                loss = step(images, labels, f'step/{number}/')
            case.check(f'step/{number}/lr', rate(optim, epoch), rtol=1e-6)
            case.check(f'step/{number}/loss', loss, rtol=1e-3)
            optimizer.step()
            number += 1
        model.eval()
        yield epoch + 1


def check_ids(case: Case, prompt) -> None:
    """Token ids of the prompts."""
    case.check('mid/tokenized_prompts', F.pad(prompt.token_ids, (0, 77 - prompt.token_ids.shape[1])))


@torch.no_grad()
def check_new_names(case: Case, model, prompt: dict, key: str = 'new/logits') -> None:
    """What was learned, with other class names."""
    if key not in case:
        return
    given = dict(class_names=case.config['new_classnames'], text_tower=model.text_encoder)
    if prompt['type'].endswith(('SRCPrompt', 'LoRAPrompt')):
        given.update(image_tower=model.backbone)
    other = MODELS.build(prompt, default_args=given).eval()
    other.load_state_dict(model.text_prompt.state_dict())
    features = model.image_features(inputs(case.config['test_images']))
    case.check(key, model.logits(features, other(model.text_encoder)), rtol=1e-3)
