"""What the cases of learned prompts have in common: model, parameters, three steps."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from official import TINY, Case, array, inputs, integers, tiny_clip

from vlm_dense.contract.release import release_weights
from vlm_dense.registry import MODELS

IMAGE_TOWERS = dict(
    vit=dict(type='vlm_dense.CLIPViT', head=True), resnet=dict(type='vlm_dense.CLIPResNet', attnpool=True)
)


def classifier(config: dict, folder, text_prompt: dict, weights: dict | None = None, **parts) -> torch.nn.Module:
    """A classifier around the case's tiny CLIP, or another's weights, in eval mode; ``parts`` are more arguments."""
    torch.save(tiny_clip(config['clip']) if weights is None else weights, folder / 'clip.pt')
    clip = dict(arch=TINY[config['clip']], pretrained=str(folder / 'clip.pt'))
    return MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            backbone=dict(IMAGE_TOWERS[config['clip']], **clip),
            text_encoder=dict(type='vlm_dense.TextTower', **clip),
            text_prompt=text_prompt,
            class_names=config['classnames'],
            **parts,
        )
    ).eval()


def words_of(entry) -> str | None:
    """The words in 'token embeddings of the words "..."'; None for numbers."""
    return re.search(r'"(.*)"', entry)[1] if isinstance(entry, str) else None


def value_of(entry) -> torch.Tensor | None:
    """Official numbers of a config entry; ``None`` for words."""
    if isinstance(entry, dict) and 'array' in entry:
        return array(*entry['array']) if isinstance(entry['array'], list) else array(*entry.values())
    return array(*entry) if isinstance(entry, list) else None


def set_parameters(prompt: torch.nn.Module, entries: dict) -> None:
    """Give the prompt its official numbers, by the way of its checkpoints; words are checked to be there already."""
    values = {name: value_of(entry) for name, entry in entries.items()}
    weights = release_weights(prompt, {name: value for name, value in values.items() if value is not None})
    for name, value in weights.items():
        parameter = prompt.get_parameter(name)
        assert parameter.shape == value.shape, (name, parameter.shape, value.shape)
        parameter.data.copy_(value)


def by_own_name(prompt: torch.nn.Module, name: str, read) -> torch.Tensor:
    """What ``read`` gives of the parameter that the release calls ``name``."""
    return read(prompt.get_parameter(next(iter(release_weights(prompt, {name: torch.zeros(())})))))


@torch.no_grad()
def check_forward(case: Case, model: torch.nn.Module) -> None:
    """Initial context, unit features of both towers, and logits."""
    images = inputs(case.config['images'])
    case.check('mid/ctx_init', model.text_prompt.ctx)
    features, text = model.text_side.encode(model.backbone, images, ('global',))
    case.check('mid/text_features', F.normalize(text, dim=-1))
    case.check('mid/image_features', F.normalize(features.global_, dim=-1))
    case.check('logits', model(images))


def check_training(
    case: Case,
    model: torch.nn.Module,
    own_losses: dict[str, float],
    prompt: torch.nn.Module | None = None,
    prefix: str = '',
    official=by_own_name,
    batch: tuple[torch.Tensor, list[int]] | None = None,
    test_images: torch.Tensor | None = None,
) -> None:
    """Losses, gradients, and the state after three steps.

    Args:
        own_losses: Our name of each loss and by what its official value was multiplied.
        prompt: What is trained; default the text prompt.
        prefix: Of the keys.
        official: Like :func:`by_own_name`, for other layouts of parameters.
        batch: Images and labels to train with; default those of the case.
        test_images: Those of the logits after training; default those of the batch.
    """
    prompt = prompt or model.text_prompt
    images, labels = batch or (inputs(case.config['images']), case_labels(case))
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in prompt.parameters()}
    optimizer = torch.optim.SGD(trained, lr=case.config['sgd']['lr'])
    model.train()
    for step in range(case.config['sgd']['steps']):
        total, values = model.parse_losses(model(images, labelled(labels), mode='loss'))
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            case.check(f'{prefix}loss', total)
            for name, weight in own_losses.items():
                if f'{prefix}loss/{name.rpartition("loss_")[2]}' in case:
                    case.check(f'{prefix}loss/{name.rpartition("loss_")[2]}', values[name] / weight)
            for name in case.keys(f'{prefix}grad/'):
                case.check_grad(f'{prefix}grad/{name}', official(prompt, name, lambda p: p.grad))
            for name in case.keys(f'{prefix}gradnorm/'):
                norm = official(prompt, name, lambda p: p.grad).norm()
                case.check(f'{prefix}gradnorm/{name}', norm, rtol=1e-3)
        optimizer.step()
    with torch.no_grad():
        if f'{prefix}after3/loss' in case:
            after = model.parse_losses(model(images, labelled(labels), mode='loss'))[0]
            case.check(f'{prefix}after3/loss', after, rtol=1e-3)
        model.eval()
        case.check(f'{prefix}after3/logits', model(images if test_images is None else test_images), rtol=1e-3)
        for name in case.keys(f'{prefix}after3/'):
            if name not in ('loss', 'logits'):
                case.check(f'{prefix}after3/{name}', official(prompt, name, lambda p: p), rtol=1e-3)
        for name in case.keys(f'{prefix}after3norm/'):
            norm = official(prompt, name, lambda p: p).norm()
            case.check(f'{prefix}after3norm/{name}', norm, rtol=1e-3)
    case.unread.discard('mid/logits_fp16_rounded_weights')  # what half-precision weights would give; information only


def case_labels(case: Case) -> list[int]:
    """Labels of the case, listed or drawn."""
    config = case.config
    if 'labels' in config:
        return config['labels']
    return integers(config['labels_name'], config['batch'], len(config['classnames'])).tolist()


def labelled(labels: list[int]) -> list:
    """Data samples with these labels."""
    from vlm_dense.classification import ClsDataSample

    return [ClsDataSample().set_label(label) for label in labels]
