"""CLIP's own classification of boxes, as F-VLM and F-ViT ask for it at test time, in several orders of work.

Towers of the papers' sizes with random weights, one image, random boxes; the same embeddings both ways, in one run. CPU
seconds; the ratio is the median over --repeats turns, in which both take turns.

    OMP_NUM_THREADS=1 python tools/benchmarks/region_scores.py

- pool: crops of a ResNet's map through the attention pool one box at a time, and in batches (F-VLM)
- query: the attention pool with an output for every position of a crop, and for the mean token alone, which is read
- map: the maps for the pyramid and the dense map from two passes of a ViT, and from one (F-ViT)
- crops: every box cut out of the image and sent through the ViT (as R-CNN), and RoIAlign on one dense map. These are
  two definitions of the embedding, so that it is not compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.cli.arguments import positive
from vlm_dense.clip.architectures import model_config
from vlm_dense.clip.image_tower import ImageTower
from vlm_dense.detection.regions import AttentionPoolScorer, DenseMapScorer
from vlm_dense.registry import MODELS


def tower(kind: str, arch: str, **options) -> ImageTower:
    """A tower with random weights, in eval mode."""
    torch.manual_seed(0)
    return MODELS.build(dict(type=f'vlm_dense.{kind}', arch=arch, **options)).eval()


def image(size: int) -> Tensor:
    """A random image (1, 3, size, size)."""
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))


def boxes(number: int, size: int) -> Tensor:
    """Random boxes (n, 5) of image 0, with sides of a tenth to a half of the image."""
    rng = torch.Generator().manual_seed(2)
    sides = size * (0.1 + 0.4 * torch.rand(number, 2, generator=rng))
    corners = (size - sides) * torch.rand(number, 2, generator=rng)
    return torch.cat([torch.zeros(number, 1), corners, corners + sides], dim=1)


def compared(what: str, slow: Callable[[], Tensor], fast: Callable[[], Tensor], repeats: int, same: bool = True):
    """Print a line: seconds of both, how many times as fast, and the largest difference of their embeddings."""
    seconds, ratios = ([], []), []
    for _ in range(repeats):
        for work, own in zip((slow, fast), seconds, strict=True):
            start = time.process_time()
            found = work()
            own.append(time.process_time() - start)
            if work is slow:
                expected = found
        ratios.append(seconds[0][-1] / max(seconds[1][-1], 1e-9))
    error = (F.normalize(found, dim=-1) - F.normalize(expected, dim=-1)).abs().max()
    first, second = map(statistics.median, seconds)
    note = f'{error:.0e}' if same else '-'
    print(f'| {what} | {first:.2f} | {second:.2f} | {statistics.median(ratios):.1f} | {note} |', flush=True)


@torch.no_grad()
def pool(args: argparse.Namespace) -> None:
    """One box at a time, and in batches."""
    resnet = tower('CLIPResNet', args.resnet, attnpool=True)
    features, rois = resnet.encode(image(args.size), ('patch',)), boxes(args.boxes, args.size)
    single, batched = AttentionPoolScorer(chunk=1), AttentionPoolScorer()
    compared(
        f'pool: {args.resnet}, {args.boxes} boxes, one by one / in batches',
        lambda: single(resnet, features, rois),
        lambda: batched(resnet, features, rois),
        args.repeats,
    )


@torch.no_grad()
def query(args: argparse.Namespace) -> None:
    """All positions of a crop, and the mean token."""
    resnet, scorer = tower('CLIPResNet', args.resnet, attnpool=True), AttentionPoolScorer()
    features, rois = resnet.encode(image(args.size), ('patch',)), boxes(args.boxes, args.size)
    crops = scorer.crops(resnet, features, rois)
    compared(
        f'query: {args.resnet}, {args.boxes} boxes, all positions / the mean token',
        lambda: resnet.attention_pool(crops, all_tokens=True)[:, 0],
        lambda: resnet.attention_pool(crops, all_tokens=False)[:, 0],
        args.repeats,
    )


def vit(args: argparse.Namespace) -> ImageTower:
    """The ViT, with four maps for a pyramid."""
    layers = model_config(args.vit)['vision_cfg']['layers']
    stages = [round(layers * part) - 1 for part in (1 / 3, 1 / 2, 2 / 3, 1)]
    return tower('CLIPViT', args.vit, head=True, out_indices=stages)


@torch.no_grad()
def dense_map(args: argparse.Namespace) -> None:
    """Two passes of the tower, and one."""
    model, scorer = vit(args), DenseMapScorer()
    x, rois = image(args.size), boxes(args.boxes, args.size)

    def twice() -> Tensor:
        model.encode(x, ('stages', 'value'), value_stage=True)
        return scorer(model, model.encode(x, ('value',)), rois)

    def once() -> Tensor:
        features = model.encode(x, ('stages', 'value'), value_stage=True)
        return scorer(model, features, rois)

    compared(f'map: {args.vit}, {args.size} px, two passes / one', twice, once, args.repeats)


@torch.no_grad()
def crops(args: argparse.Namespace) -> None:
    """Crops of the image, and regions of the dense map."""
    from mmcv.ops import roi_align  # behind vlm_dense, which brings the kernels

    model, scorer, x = vit(args), DenseMapScorer(), image(args.size)
    rois, side = boxes(args.boxes, args.size), model_config(args.vit)['vision_cfg']['image_size']

    def cut() -> Tensor:
        found = [
            model.encode(roi_align(x, some, side, 1.0, 0, 'avg', True), ('global',)).global_
            for some in rois.split(args.batch)
        ]
        return torch.cat(found)

    def mapped() -> Tensor:
        return scorer(model, model.encode(x, ('value',)), rois)

    what = f'crops: {args.vit}, {args.boxes} boxes, {side} px each / one map of {args.size} px'
    compared(what, cut, mapped, args.repeats, same=False)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = dict(pool=pool, query=query, map=dense_map, crops=crops)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS))
    parser.add_argument('--resnet', default='RN50', help='of F-VLM (%(default)s)')
    parser.add_argument('--vit', default='ViT-B-16', help='of F-ViT (%(default)s)')
    parser.add_argument('--size', type=positive, default=640, help='side of the image (%(default)s)')
    parser.add_argument('--boxes', type=positive, default=100, help='number (%(default)s)')
    parser.add_argument('--batch', type=positive, default=20, help='crops of the image at a time (%(default)s)')
    parser.add_argument('--repeats', type=positive, default=3, help='turns (%(default)s)')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    args = parse_args(argv)
    print('| what | s | s here | times as fast | embeddings differ by |\n|---|---|---|---|---|', flush=True)
    for part in args.parts:
        PARTS[part](args)


if __name__ == '__main__':
    main()
