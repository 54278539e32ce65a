"""Merging of the low-rank updates of a trained model into the weights of its towers."""

from __future__ import annotations

from torch import nn

from vlm_dense.clip.loading import check_fit, load_clip
from vlm_dense.errors import ConfigError
from vlm_dense.methods.fine_tuning.clip_lora import CLIPLoRAPrompt, LoRA, merge


def with_updates(model: nn.Module, weights: dict, path: str) -> list[nn.Module]:
    """The parts of a model that have updates, with the weights of a checkpoint.

    Raises:
        ConfigError: there are none.
        CheckpointError: a checkpoint of others.
    """
    parts = {name: part for name, part in model.named_modules() if isinstance(part, (LoRA, CLIPLoRAPrompt))}
    if not parts:
        raise ConfigError(
            'The model of this config has no low-rank updates: neither vlm_dense.CLIPLoRAPrompt nor vlm_dense.LoRA.'
        )
    for name, part in parts.items():
        own = {k.removeprefix(f'{name}.'): value for k, value in weights.items() if k.startswith(f'{name}.')}
        check_fit(own, {key: value.shape for key, value in part.state_dict().items()}, path)
        part.load_state_dict(own)
    return list(parts.values())


def whole(model: nn.Module, parts: list[nn.Module], weights: dict, meta: dict) -> dict:
    """A checkpoint of a model with the updates in the weights of its towers."""
    model.load_state_dict(weights, strict=False)  # what is frozen is not in it
    for part in parts:
        merge(model.backbone, part.image)
        merge(model.text_encoder, getattr(part, 'text', {}))
    own = {id(tensor) for part in parts for tensor in part.state_dict(keep_vars=True).values()}
    kept = {k: v.detach() for k, v in model.state_dict(keep_vars=True).items() if id(v) not in own}
    return dict(state_dict=kept, meta={key: value for key, value in meta.items() if key != 'frozen_weights'})


def clip_of(model: dict) -> nn.Module:
    """The CLIP that both towers of a model are of.

    Raises:
        ConfigError: they are of two.
    """
    image, text = model['backbone'], model['text_encoder']
    of = [(part['arch'], part.get('pretrained')) for part in (image, text)]
    if of[0] != of[1]:
        raise ConfigError(f'The towers are of two models, {of[0]} and {of[1]}; one file cannot hold both.')
    return load_clip(*of[0])
