"""Images a second of the training pipelines with 1 and 2 workers, against what a model consumes.

    python tools/benchmarks/pipelines.py [ade20k camvid coco imagenet] [--tflops 40]

The pipelines are those of the configs, run on JPEG files of the data sets' usual sizes that are made up here: smooth
colours with detail, about as many bytes as photographs have. A model's operations are those that tools/model_info.py
counts, three times for a training step (forward, and twice as much backward), once where the towers are frozen. What
--tflops stands for is the speed that the device reaches, not the one on its box. Where a model would consume more than
the workers of a machine give, images are the bottleneck. Below each set: what the steps of the pipeline take.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import vlm_dense

vlm_dense.setup()  # before others import mmseg
import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from vlm_dense.cli.arguments import positive
from vlm_dense.clip.resnet import CLIPResNet

ROOT = Path(__file__).parents[2]


@dataclass
class Set:
    """A data set's training.

    Attributes:
        config: Config of the pipeline and model.
        size: Width and height of its images.
        input: Height and width that the model sees.
        frozen: CLIP's ResNet that is all an image passes, forward only; None: all of the model is trained.
    """

    config: str
    size: tuple[int, int]
    input: tuple[int, int]
    frozen: str | None = None


SETS = dict(
    ade20k=Set('configs/denseclip/denseclip_ade20k.py', (683, 512), (512, 512)),
    camvid=Set('configs/denseclip/denseclip_camvid.py', (480, 360), (256, 256)),
    coco=Set('configs/denseclip/denseclip_mask-rcnn_r50_coco.py', (640, 480), (800, 1067)),
    imagenet=Set('configs/coop/coop_imagenet.py', (500, 375), (224, 224), 'RN50'),
)


def image(size: tuple[int, int], seed: int) -> np.ndarray:
    """Colours with detail that falls with frequency, as in photographs: (H, W, 3) uint8."""
    generator, (width, height) = np.random.default_rng(seed), size
    total = np.zeros((height, width, 3), np.float32)
    for power in range(1, 9):
        shape = max(height * 2**power // 256, 2), max(width * 2**power // 256, 2), 3
        layer = generator.standard_normal(shape).astype(np.float32)
        total += cv2.resize(layer, size, interpolation=cv2.INTER_CUBIC) * 40 / power
    return np.clip(total + 120, 0, 255).astype(np.uint8)


class Images(Dataset):
    """Made-up files and their annotations, through a pipeline."""

    def __init__(self, chosen: Set, cfg: Config, folder: Path, files: int, length: int):
        self.length, self.infos = length, []
        self.pipeline = Compose(cfg.train_pipeline)
        width, height = chosen.size
        for i in range(files):
            path, mask = folder / f'{i}.jpg', folder / f'{i}.png'
            cv2.imwrite(str(path), image(chosen.size, i), [cv2.IMWRITE_JPEG_QUALITY, 90])
            labels = np.random.default_rng(i).integers(0, 11, (6, 8), np.uint8)
            cv2.imwrite(str(mask), cv2.resize(labels, chosen.size, interpolation=cv2.INTER_NEAREST))
            boxes = [[40 * k, 30 * k, 40 * k + 120, 30 * k + 100] for k in range(7)]
            instances = [dict(bbox=b, bbox_label=k, ignore_flag=0, mask=[_circle(b)]) for k, b in enumerate(boxes)]
            self.infos.append(
                dict(
                    img_path=str(path),
                    seg_map_path=str(mask),
                    label_map=None,
                    reduce_zero_label='ade' in cfg.filename,
                    seg_fields=[],
                    img_id=i,
                    height=height,
                    width=width,
                    instances=instances,
                    gt_label=0,
                )
            )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        return self.pipeline(deepcopy(self.infos[index % len(self.infos)]))

    def steps(self) -> dict[str, float]:
        """Milliseconds that each step of the pipeline takes, the mean over the files."""
        times: dict[str, float] = {}
        for info in self.infos:
            results = deepcopy(info)
            for step in self.pipeline.transforms:
                start = time.perf_counter()
                results = step(results)
                name = type(step).__name__
                times[name] = times.get(name, 0) + 1e3 * (time.perf_counter() - start) / len(self.infos)
        return times


def _circle(box: list[int]) -> list[float]:
    """A polygon of 24 corners in a box."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x1, y1, x2, y2 = box
    x, y = (x1 + x2 + (x2 - x1) * np.cos(angle)) / 2, (y1 + y2 + (y2 - y1) * np.sin(angle)) / 2
    return np.stack([x, y], 1).ravel().tolist()


def rate(images: Dataset, workers: int, batch: int) -> float:
    """Images a second after the workers have started."""
    loader = iter(DataLoader(images, batch, num_workers=workers, collate_fn=pseudo_collate))
    next(loader)
    start = time.perf_counter()
    count = sum(len(batch['inputs']) for batch in loader)
    return count / (time.perf_counter() - start)


def gflops(chosen: Set) -> float:
    """10^9 operations that an image costs in a training step."""
    if chosen.frozen:
        tower = CLIPResNet(chosen.frozen, attnpool=True).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            tower.encode(torch.zeros(1, 3, *chosen.input), ('global',))
        return counter.get_total_flops() / 1e9
    command = [sys.executable, str(ROOT / 'tools' / 'model_info.py'), str(ROOT / chosen.config)]
    command += ['--shape', *map(str, chosen.input)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    found = re.findall(r'([\d.,]+) GFLOPs', done.stdout)
    if not found:
        raise SystemExit(f'{" ".join(command)} told no GFLOPs:\n{done.stdout[-500:]}{done.stderr[-500:]}')
    return 3 * float(found[0].replace(',', ''))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sets', nargs='*', help=f'of {", ".join(SETS)}; default: all')
    parser.add_argument('--tflops', type=float, default=40, help='10^12 operations a second that the device reaches')
    parser.add_argument('--files', type=positive, default=16, help='images that are made')
    parser.add_argument('--images', type=positive, default=160, help='images that are read, the files in turn')
    parser.add_argument('--batch', type=positive, default=8)
    args = parser.parse_args()
    if set(args.sets) - set(SETS):
        parser.error(f'unknown sets {sorted(set(args.sets) - set(SETS))}; there are {", ".join(SETS)}')
    for name in args.sets or SETS:
        chosen = SETS[name]
        cfg = Config.fromfile(ROOT / chosen.config)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        with tempfile.TemporaryDirectory() as folder:
            images = Images(chosen, cfg, Path(folder), args.files, args.images)
            kilobytes = np.mean([f.stat().st_size for f in Path(folder).glob('*.jpg')]) / 1024
            one, two = (rate(images, workers, args.batch) for workers in (1, 2))
            times = images.steps()
        operations = gflops(chosen)
        wanted = 1e3 * args.tflops / operations
        print(
            f'{name}: {chosen.size[0]} x {chosen.size[1]} px, {kilobytes:.0f} kB; 1 worker {one:.1f}, 2 workers '
            f'{two:.1f} images/s; a step takes {operations:.1f} GFLOPs an image: {wanted:.1f} images/s at '
            f'{args.tflops:g} TFLOP/s, the work of {wanted / one:.1f} workers'
        )
        print('  ' + ', '.join(f'{step} {ms:.1f}' for step, ms in times.items()) + ' ms', flush=True)


if __name__ == '__main__':
    main()
