"""Train, export or evaluate a bundled tiny CLIP.

cd projects/tiny_clip
python pretrain_clip.py configs/pretrain_tiny-rn.py                # train; writes WORK_DIR/tiny-rn.safetensors
python pretrain_clip.py configs/pretrain_tiny-rn.py --export CKPT  # write it from a checkpoint instead
python pretrain_clip.py configs/pretrain_tiny-rn.py --eval         # zero-shot accuracy of the bundled file
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import vlm_dense

vlm_dense.setup()  # before others import mmseg
from tiny_clip.pretraining import export

from vlm_dense.clip.loading import load_clip
from vlm_dense.engine.files import last_checkpoint, locked_work_dir
from vlm_dense.engine.runner.launch import build_runner, load_config, user_errors
from vlm_dense.errors import ConfigError
from vlm_dense.inference.trained import load_weights


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--work-dir', help='default: work_dirs/CONFIG')
    parser.add_argument('--resume', action='store_true', help='resume from the last checkpoint of the work dir')
    parser.add_argument('--export', metavar='CHECKPOINT', help='only write this checkpoint in the bundled format')
    parser.add_argument('--eval', action='store_true', help='only evaluate the bundled file on the test split')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads (default 1; other numbers round otherwise)')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parse_args(argv)
    with user_errors(interrupted='Saved checkpoints are kept: continue with the same command and --resume.'):
        if args.threads < 1:
            raise ConfigError(f'--threads must be at least 1, found {args.threads}.')
        torch.set_num_threads(args.threads)
        cfg = load_config(args.config)
        if cfg.get('bundled') is None:
            raise ConfigError(f'{args.config} names no bundled model: give a config of projects/tiny_clip/configs.')
        cfg.work_dir = args.work_dir or f'work_dirs/{Path(args.config).stem}'
        cfg.load_from = last_checkpoint(cfg.work_dir) if args.resume else None
        cfg.resume = cfg.load_from is not None
        runner = build_runner(cfg)
        target = Path(cfg.work_dir) / f'{cfg.bundled}.safetensors'
        if args.eval:
            runner.model.take_weights(load_clip(cfg.bundled, 'bundled'))
            runner.test()
            return
        if args.export:
            load_weights(runner.model, args.export)  # refuses a checkpoint that does not fit
        else:
            with locked_work_dir(cfg.work_dir):
                runner.train()
        export(runner.model, target)
    print(f'{target}: {target.stat().st_size / 1e6:.2f} MB, {len(runner.model.token_ids)} trained tokens')


if __name__ == '__main__':
    main()
