"""What the cases of adapters and caches have in common: images, three steps."""

from __future__ import annotations

import torch
from mmengine.dataset import pseudo_collate
from official import Case, inputs
from text_prompt_case import classifier, labelled
from torch.utils.data import DataLoader


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


class Passes(list):
    """A data set of images that changes from pass to pass.

    Args:
        passes: Images (N, 3, H, W) of each pass.
        labels: Of the N.
    """

    def __init__(self, passes: list[torch.Tensor], labels: list[int]):
        super().__init__(labels)
        self.passes, self.labels, self.epoch = passes, labels, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=self.passes[self.epoch][index], data_samples=labelled([self.labels[index]])[0])


def loader(images: torch.Tensor | list[torch.Tensor], labels: list[int], batch_size: int) -> DataLoader:
    """Loader of labelled images, in order."""
    passes = images if isinstance(images, list) else [images]
    return DataLoader(Passes(passes, labels), batch_size, collate_fn=pseudo_collate)


def accuracy(logits: torch.Tensor, labels: list[int]) -> torch.Tensor:
    """Percent of images with the label's logit the greatest, the first of equals."""
    return 100 * (logits.argmax(1) == torch.tensor(labels)).float().mean()


def tip_adapter(config: dict, folder, kind: str) -> tuple[torch.nn.Module, dict[str, DataLoader]]:
    """A classifier with the case's cache, not yet filled, and the loaders of support and search."""
    model = classifier(
        config,
        folder,
        dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates'], separators='_'),
        data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor'),
        head=dict(
            type=kind,
            shots=config['shots'],
            passes=config['augment_epoch'],
            alpha=config['init_alpha'],
            beta=config['init_beta'],
            search_scale=config['search_scale'],
            search_step=config['search_step'],
        ),
    )
    images = {name: inputs(entry) for name, entry in config['images'].items()}
    support = [images[f'train/aug{number}'] for number in range(config['augment_epoch'])]
    return model, dict(
        support=loader(support, config['train_labels'], config['feature_batch']),
        search=loader(images['val'], config['val_labels'], config['feature_batch']),
    )
