"""What the cases of adapters and caches have in common: images, three steps."""

from __future__ import annotations

import torch
from official import Case, array, inputs
from text_prompt_case import labelled


def pictures(entry) -> torch.Tensor:
    """Images of a config entry, drawn at random or around one block image a class."""
    if not isinstance(entry, dict):
        return inputs(entry)
    size, block, labels = entry['size'], entry['block'], torch.tensor(entry['labels'])
    base = array(entry['base'], (entry['num_classes'], 3, size // block, size // block))
    base = base.repeat_interleave(block, 2).repeat_interleave(block, 3)
    noise = array(entry['noise'], (len(labels), 3, size, size))
    return base[labels] * entry['base_scale'] + noise * entry['noise_scale']


def check_steps(
    case: Case, model: torch.nn.Module, images: torch.Tensor, labels: list[int], named: dict, prefix: str = ''
) -> None:
    """Loss and gradients of the first step, losses and parameters of three steps of plain SGD; ends in eval mode.

    Args:
        named: Official name -> parameter; everything that is trained.
        prefix: Of the keys.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in named.values()}
    optimizer = torch.optim.SGD(trained, lr=case.config['lr'])
    losses = []
    model.train()
    for step in range(3):
        total, values = model.parse_losses(model(images, labelled(labels), mode='loss'))
        losses.append(total.item())
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            case.check(f'{prefix}loss', total)
            if f'{prefix}loss/ce' in case:
                case.check(f'{prefix}loss/ce', values['loss_ce'])
            for name, parameter in named.items():
                case.check_grad(f'{prefix}grad/{name}', parameter.grad)
        optimizer.step()
    case.check(f'{prefix}after3/losses', losses)
    with torch.no_grad():
        if f'{prefix}after3/loss' in case:
            last = model.parse_losses(model(images, labelled(labels), mode='loss'))[0]
            case.check(f'{prefix}after3/loss', last)
    for name, parameter in named.items():
        case.check(f'{prefix}after3/{name}', parameter)
    case.unread.discard('fp16w/logits')  # what half-precision weights would give; information only
    model.eval()
