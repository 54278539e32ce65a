"""Put low-rank updates into the weights of a CLIP: python tools/merge_lora.py CONFIG CHECKPOINT OUT

OUT is a CLIP in OpenAI's layout: pretrained='OUT' of both towers. With --whole it is a checkpoint of the whole model,
for one that has more than its towers. Without the updates in the config, a model then gives the same as before, at no
further cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import vlm_dense
from vlm_dense.cli import arguments


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Put low-rank updates into the weights of a CLIP.')
    arguments.add_config(parser, 'config of the training')
    parser.add_argument('checkpoint', help='what it has saved')
    parser.add_argument('out', help='file to write')
    parser.add_argument('--whole', action='store_true', help='write a checkpoint of the whole model')
    arguments.add_config_arguments(parser)
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and what is wrong with the arguments, before torch is imported

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from open_clip.transformer import QuickGELU
from torch import nn

vlm_dense.setup()  # before others import mmseg

from vlm_dense.clip.loading import check_fit, load_clip
from vlm_dense.engine.checkpoints.fit import read_checkpoint
from vlm_dense.engine.configs.checks import check_values
from vlm_dense.engine.files import written_whole
from vlm_dense.engine.runner import launch
from vlm_dense.errors import ConfigError
from vlm_dense.methods.fine_tuning import CLIPLoRAPrompt, LoRA
from vlm_dense.methods.fine_tuning.clip_lora import merge, merged


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
    """A checkpoint of a model whose towers have the updates in their weights."""
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parse_args(argv)
    with launch.user_errors():
        cfg = launch.load_config(args.config, args.cfg_options)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        check_values(cfg)
        launch.fill_class_names(cfg)
        model = MODELS.build(ConfigDict(cfg.model.to_dict()))
        checkpoint = read_checkpoint(args.checkpoint, map_location='cpu')
        weights = checkpoint.get('state_dict', checkpoint)
        parts = with_updates(model, weights, args.checkpoint)
        updates = {name: part for each in parts for name, part in each.official().items()}
        if args.whole:
            content = whole(model, parts, weights, checkpoint.get('meta', {}))
        else:
            clip = clip_of(cfg.model)
            content = merged(clip.state_dict(), updates)
        with written_whole(args.out) as begun:
            torch.save(content, begun)
    use = 'as checkpoint'
    if not args.whole:
        arch = cfg.model.text_encoder.arch
        quick = any(isinstance(module, QuickGELU) for module in clip.modules())
        if isinstance(arch, str) and quick and not arch.startswith('tiny'):
            arch = f'{arch.removesuffix("-quickgelu")}-quickgelu'  # a file does not tell
        use = f'as arch={arch!r}, pretrained={args.out!r} of backbone and text_encoder'
    print(f'{len(updates)} maps updated. Use {args.out} {use}, without the updates in the config.')


if __name__ == '__main__':
    main()
