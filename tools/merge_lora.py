"""Put low-rank updates into the weights of a CLIP: python tools/merge_lora.py CONFIG CHECKPOINT OUT

OUT is a CLIP in OpenAI's layout. With pretrained='OUT' of both towers, and without the updates in the config, a model
gives the same as before, at no further cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from open_clip.transformer import QuickGELU
from torch import nn

import vlm_dense

vlm_dense.setup()  # before others import mmseg

from vlm_dense.clip.loading import check_fit, load_clip, read_state_dict
from vlm_dense.engine import launch
from vlm_dense.engine.config_checks import check_values
from vlm_dense.errors import ConfigError
from vlm_dense.methods.fine_tuning import CLIPLoRAPrompt, LoRA
from vlm_dense.methods.fine_tuning.clip_lora import merged


def updates_of(model: nn.Module, path: str) -> dict:
    """The updates of a model, by their names in the release, with the weights of a checkpoint.

    Raises:
        ConfigError: a model without updates.
        CheckpointError: a checkpoint of others.
    """
    weights, found = read_state_dict(path), {}
    for name, module in model.named_modules():
        if isinstance(module, (LoRA, CLIPLoRAPrompt)):
            start = f'{name}.'
            own = {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
            check_fit(own, {key: value.shape for key, value in module.state_dict().items()}, path)
            module.load_state_dict(own)
            found.update(module.official())
    if not found:
        raise ConfigError(
            'The model of this config has no low-rank updates: neither vlm_dense.CLIPLoRAPrompt nor vlm_dense.LoRA.'
        )
    return found


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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description='Put low-rank updates into the weights of a CLIP.')
    parser.add_argument('config', help='config file of the training')
    parser.add_argument('checkpoint', help='what it has saved')
    parser.add_argument('out', help='file to write')
    launch.add_config_arguments(parser)
    args = parser.parse_args(argv)
    with launch.user_errors():
        cfg = launch.load_config(args.config, args.cfg_options)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        check_values(cfg)
        launch.fill_class_names(cfg)
        updates = updates_of(MODELS.build(ConfigDict(cfg.model.to_dict())), args.checkpoint)
        clip = clip_of(cfg.model)
        torch.save(merged(clip.state_dict(), updates), args.out)
    arch = cfg.model.text_encoder.arch
    quick = any(isinstance(module, QuickGELU) for module in clip.modules())
    if isinstance(arch, str) and quick and not arch.startswith('tiny'):
        arch = f'{arch.removesuffix("-quickgelu")}-quickgelu'  # a file does not tell
    print(
        f'{len(updates)} maps updated. Use it as arch={arch!r}, pretrained={args.out!r} of backbone and text_encoder.'
    )


if __name__ == '__main__':
    main()
