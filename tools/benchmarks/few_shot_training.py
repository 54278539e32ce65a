"""A few-shot training from image files as a whole command, to compare with the program of the authors.

    OMP_NUM_THREADS=1 python tools/benchmarks/few_shot_training.py coop cocoop maple promptsrc
    python tools/benchmarks/few_shot_training.py --only-write --folder /tmp/drawn

Drawn scenes are written as PNG files in the layout of Caltech101 that CoOp's code reads (``caltech-101/`` below the
folder), and ``tiny-vit.pt`` in that of OpenAI's weights, so that the authors' programs can do the same: 16 images of
each of 8 classes at 64 px with the crops of CoOp's code, the epochs and batches of ``configs/METHOD/METHOD_shapes.py``,
one checkpoint and one test at the end. Told are processor and peak memory of ``tools/train.py`` from start to end, and
its accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import torch

import vlm_dense
from vlm_dense.clip import load_clip
from vlm_dense.datasets import ShapesDataset

ROOT = Path(__file__).parents[2]
METHODS = ('coop', 'cocoop', 'maple', 'promptsrc')
CONFIG = """
_base_ = {base!r}
load = dict(type='vlm_dense.LoadImage')
pack = dict(type='vlm_dense.PackClsInputs')
crop = dict(type='RandomResizedCrop', size=64, scale=(0.08, 1.0), interpolation='bicubic')
centre = [dict(type='Resize', size=64, interpolation='bicubic'), dict(type='CenterCrop', size=64)]
random = [crop, dict(type='RandomHorizontalFlip')]
train_pipeline = [load, dict(type='vlm_dense.TorchvisionTransforms', transforms=random), pack]
test_pipeline = [load, dict(type='vlm_dense.TorchvisionTransforms', transforms=centre), pack]
files = dict(_delete_=True, type='vlm_dense.ImageSetDataset', name='caltech101', data_root={folder!r})
train_dataloader = dict(
    batch_sampler=dict(type='vlm_dense.FullBatchSampler'),
    dataset=dict(split='train', shots={shots}, seed=1, pipeline=train_pipeline, **files),
)
val_dataloader = dict(batch_size=100, dataset=dict(split='test', pipeline=test_pipeline, **files))
max_epochs = {{{{_base_.max_epochs}}}}
train_cfg = dict(val_interval=max_epochs)
default_hooks = dict(checkpoint=dict(interval=max_epochs))
hooks = ('SeedIterationHook', 'AverageLossesHook', 'StopOnInvalidLoss', 'CheckpointFitHook', 'FrozenWeightsHook')
custom_hooks = [dict(type='vlm_dense.' + hook) for hook in hooks]
"""
"""Without the test of hand-written prompts and the validations of the config, which the authors' programs do not do."""


def write(folder: Path, images: int) -> None:
    """Write the images, the list of them, and the weights."""
    lists: dict[str, list] = {}
    for split, count in (('train', images), ('val', max(images // 5, 80)), ('test', images)):
        shapes = ShapesDataset(
            num_scenes=count,
            split=split,
            num_objects=(1, 1),
            domain='night',
            pipeline=[dict(type='vlm_dense.DrawScene')],
        )
        for index, scene in enumerate(shapes):
            label = int(shapes.get_data_info(index)['gt_label'])
            name = shapes.metainfo['classes'][label]
            path = Path(name, f'{split}_{index}.png')
            place = folder / 'caltech-101' / '101_ObjectCategories' / path
            place.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place), scene['img'])
            lists.setdefault(split, []).append([path.as_posix(), label, name])
    (folder / 'caltech-101' / 'split_zhou_Caltech101.json').write_text(json.dumps(lists))
    torch.save(load_clip('tiny-vit', 'bundled').state_dict(), folder / 'tiny-vit.pt')


def train(method: str, folder: Path, shots: int, options: list[str]) -> str:
    """Run the command; a row of the table."""
    base = str(ROOT / 'configs' / method / f'{method}_shapes.py')
    config = folder / f'{method}.py'
    config.write_text(CONFIG.format(base=base, folder=str(folder), shots=shots))
    with tempfile.TemporaryDirectory() as work_dir:
        command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir', work_dir]
        command += ['--cfg-options', 'randomness.seed=1', *options]
        with open(Path(work_dir, 'told'), 'w+') as told:
            process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            told.seek(0)
            text = told.read()
    if status:
        raise SystemExit(text[-3000:])
    accuracy = re.findall(r'top1: ([\d.]+)', text)[-1]
    return f'| {method} | {usage.ru_utime + usage.ru_stime:.1f} | {usage.ru_maxrss / 1024:.0f} | {accuracy} |'


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('methods', nargs='*', default=METHODS, help=f'of {", ".join(METHODS)}')
    parser.add_argument('--folder', type=Path, help='where the files are written, and kept; default: a temporary one')
    parser.add_argument('--only-write', action='store_true', help='train nothing')
    parser.add_argument('--images', type=int, default=1000, help='for training to choose from, and for the test')
    parser.add_argument('--shots', type=int, default=16)
    parser.add_argument('--cfg-options', nargs='*', default=[], help='changes of the config')
    args = parser.parse_args()
    if args.only_write and args.folder is None:
        parser.error('--only-write keeps the files in --folder. Give one.')
    vlm_dense.setup()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        write(folder, args.images)
        if args.only_write:
            return
        print('| method | processor, s | peak memory, MB | accuracy, % |\n|---|---|---|---|')
        for method in args.methods:
            print(train(method, folder, args.shots, args.cfg_options), flush=True)


if __name__ == '__main__':
    main()
