"""What the cases of learned text prompts have in common: model, parameters, three steps."""

from __future__ import annotations

import re

import torch
from official import TINY, Case, array, inputs, tiny_clip

from vlm_dense.registry import MODELS

IMAGE_TOWERS = dict(
    vit=dict(type='vlm_dense.CLIPViT', head=True), resnet=dict(type='vlm_dense.CLIPResNet', attnpool=True)
)


def classifier(config: dict, folder, text_prompt: dict) -> torch.nn.Module:
    """A classifier around the case's tiny CLIP, in eval mode."""
    weights = folder / 'clip.pt'
    torch.save(tiny_clip(config['clip']), weights)
    clip = dict(arch=TINY[config['clip']], pretrained=str(weights))
    return MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            backbone=dict(IMAGE_TOWERS[config['clip']], **clip),
            text_encoder=dict(type='vlm_dense.TextTower', **clip),
            text_prompt=text_prompt,
            class_names=config['classnames'],
        )
    ).eval()


def words_of(entry) -> str | None:
    """The words in 'token embeddings of the words "..."'; None for numbers."""
    return re.search(r'"(.*)"', entry)[1] if isinstance(entry, str) else None


def set_parameters(prompt: torch.nn.Module, entries: dict) -> None:
    """Give the prompt its official numbers; words are checked to be there already."""
    for name, entry in entries.items():
        if isinstance(entry, dict):
            value = array(entry['array'], entry['shape'], entry['scale'], entry['shift'])
        elif isinstance(entry, list):
            value = array(*entry)
        else:
            continue
        parameter = prompt.get_parameter(name)
        assert parameter.shape == value.shape, (name, parameter.shape, value.shape)
        parameter.data.copy_(value)


def check_training(case: Case, model: torch.nn.Module, own_losses: dict[str, float]) -> None:
    """Losses, gradients, and the state after three steps.

    Args:
        own_losses: Our name of each loss and by what its official value was multiplied.
    """
    images, samples = inputs(case.config['images']), labelled(case.config['labels'])
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(n.startswith('text_prompt.') for n in parameters)
    optimizer = torch.optim.SGD(parameters.values(), lr=case.config['sgd']['lr'])
    model.train()
    for step in range(case.config['sgd']['steps']):
        total, values = model.parse_losses(model(images, samples, mode='loss'))
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            case.check('loss', total)
            for name, weight in own_losses.items():
                case.check(f'loss/{name.rpartition("loss_")[2]}', values[name] / weight)
            for name in case.keys('grad/'):
                case.check_grad(f'grad/{name}', parameters[f'text_prompt.{name}'].grad)
        optimizer.step()
    with torch.no_grad():
        case.check('after3/loss', model.parse_losses(model(images, samples, mode='loss'))[0], rtol=1e-3)
        model.eval()
        case.check('after3/logits', model(images), rtol=1e-3)
    for name in case.keys('after3/'):
        if name not in ('loss', 'logits'):
            case.check(f'after3/{name}', parameters[f'text_prompt.{name}'], rtol=1e-3)
    case.unread.discard('mid/logits_fp16_rounded_weights')  # what half-precision weights would give; information only


def labelled(labels: list[int]) -> list:
    """Data samples with these labels."""
    from vlm_dense.classification import ClsDataSample

    return [ClsDataSample().set_label(label) for label in labels]
