"""Add a trained checkpoint to the package: python tools/dev/bundle.py CONFIG CHECKPOINT

Writes vlm_dense/data/weights/NAME.safetensors.xz of a config of the package that begins with a bundled CLIP; the
format is described in vlm_dense/engine/checkpoints/bundled.py. Prints its size, and the largest rounding error relative
to the largest value of a tensor. All files together stay below 8 MB. tools/dev/pages.py then writes the metafiles.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

import vlm_dense

vlm_dense.setup()  # before others import mmseg
from mmengine.registry import MODELS, init_default_scope

from vlm_dense.engine.checkpoints.bundled import add_differences, pack, read_bundled
from vlm_dense.engine.checkpoints.reading import read_checkpoint
from vlm_dense.engine.configs.names import BUNDLED, bundled_file, existing_config
from vlm_dense.engine.messages import user_errors
from vlm_dense.engine.runner import launch
from vlm_dense.inference.trained import give_names, trained_names

MOST = 8_000_000
"""Bytes of all files together."""


def begun(config: str, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Tensors that the config alone gives, whatever the seed."""
    states = []
    for seed in (0, 1):
        cfg = launch.load_config(config, None)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        give_names(cfg, names)
        torch.manual_seed(seed)
        states.append(MODELS.build(cfg.model).state_dict())
    return {key: value for key, value in states[0].items() if torch.equal(value, states[1][key]) and value.any()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    args = parser.parse_args(argv)
    with user_errors():
        name = existing_config(args.config).stem
        checkpoint = read_checkpoint(args.checkpoint, map_location='cpu')
        given = begun(args.config, trained_names(checkpoint))
        target = bundled_file(name)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(pack(checkpoint, given))
        again = read_bundled(f'{BUNDLED}{name}')
        add_differences(again, lambda: given)
        errors = {
            key: float((again['state_dict'][key] - value).abs().max() / value.abs().max().clamp(min=1e-30))
            for key, value in checkpoint['state_dict'].items()
            if value.is_floating_point()
        }
        worst = max(errors, key=errors.get)
        total = sum(path.stat().st_size for path in target.parent.iterdir())
        print(f'{target}: {target.stat().st_size:,} bytes, all files {total:,}; error {errors[worst]:.1e} in {worst}')
    return int(total > MOST)


if __name__ == '__main__':
    sys.exit(main())
