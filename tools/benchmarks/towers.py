"""Cost of an image tower alone, against open_clip's and timm's own forward of the same weights in the same run.

One architecture a family, with random weights, at its own image size; stacks of blocks are cut to the first few. Two
workloads: the image feature without gradient, and forward and backward of all weights. Both sides take turns; the
ratio is the median over the turns. Image features are compared as well.

    OMP_NUM_THREADS=1 python tools/benchmarks/towers.py --archs ViT-B-16 convnext_base
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from open_clip.model import _build_vision_tower
from torch import Tensor, nn

from vlm_dense.cli.arguments import positive
from vlm_dense.clip.architectures import model_config
from vlm_dense.clip.image_tower import ImageTower
from vlm_dense.clip.tower import CLIPTower

ARCHS = (
    'ViT-B-16',
    'RN50',
    'ViT-L-14-CLIPA',
    'coca_ViT-B-32',
    'ViT-B-16-SigLIP2',
    'PE-Core-B-16',
    'EVA02-B-16',
    'MobileCLIP-B',
    'ViTamin-S',
    'convnext_base',
    'MobileCLIP-S1',
)


def build(arch: str, blocks: int) -> tuple[nn.Module, ImageTower]:
    """open_clip's image tower and ours, of the same weights."""
    config = model_config(arch)
    vision = config['vision_cfg']
    if isinstance(vision.get('layers'), int):
        vision['layers'] = min(vision['layers'], blocks)
    torch.manual_seed(0)
    theirs = _build_vision_tower(config['embed_dim'], dict(vision), config.get('quick_gelu', False))
    ours = CLIPTower(config)
    ours.load_state_dict(theirs.state_dict())
    if ours.takes_tokens and hasattr(theirs, 'trunk'):
        theirs.trunk.blocks, ours.trunk.blocks = theirs.trunk.blocks[:blocks], ours.trunk.blocks[:blocks]
    return theirs.eval(), ours.eval()


def feature(found: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The image feature; CoCa's towers give tokens beside it."""
    return found if isinstance(found, Tensor) else found[0]


def seconds(run: Callable[[], Tensor], backward: bool) -> tuple[float, Tensor]:
    """CPU time of a run, and its result."""
    start = time.process_time()
    with torch.set_grad_enabled(backward):
        found = run()
        if backward:
            found.square().sum().backward()
    return time.process_time() - start, found.detach()


def compare(runs: tuple[Callable, Callable], backward: bool, repeats: int) -> tuple[float, float, float]:
    """Median seconds of ours, median ratio of theirs to ours, and the largest difference over the largest entry."""
    for run in runs:
        seconds(run, backward)
    turns = [(seconds(runs[0], backward), seconds(runs[1], backward)) for _ in range(repeats)]
    (_, wanted), (_, found) = turns[-1]
    ratio = statistics.median(theirs[0] / ours[0] for theirs, ours in turns)
    return (
        statistics.median(ours[0] for _, ours in turns),
        ratio,
        float((found - wanted).abs().max() / wanted.abs().max()),
    )


def measure(arch: str, batch: int, blocks: int, repeats: int) -> float:
    """Print a row of the table; the largest difference."""
    theirs, ours = build(arch, blocks)
    side = model_config(arch)['vision_cfg'].get('image_size', 224)
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    runs = (lambda: feature(theirs(images))), (lambda: ours.encode(images, ('global',)).global_)
    forward, ratio, error = compare(runs, False, repeats)
    step, step_ratio, _ = compare(runs, True, repeats)
    print(
        f'| {arch} | {type(ours).__name__} | {forward:.3f} | {ratio:.2f}x | {step:.3f} | {step_ratio:.2f}x | '
        f'{error:.0e} |',
        flush=True,
    )
    return error


def main() -> int:
    """Print the table; 1 if features differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--archs', nargs='+', default=list(ARCHS))
    parser.add_argument('--batch', type=positive, default=2)
    parser.add_argument('--blocks', type=positive, default=4, help='blocks of a stack that are kept (%(default)s)')
    parser.add_argument('--repeats', type=positive, default=5)
    args = parser.parse_args()
    print(f'{args.batch} images, {args.blocks} blocks, seconds of CPU time, {torch.get_num_threads()} threads')
    print('| architecture | here | image feature | against theirs | with backward | against theirs | off |')
    print('|---|---|---|---|---|---|---|')
    worst = max(measure(arch, args.batch, args.blocks, args.repeats) for arch in args.archs)
    return int(not worst < 1e-4)


if __name__ == '__main__':
    sys.exit(main())
