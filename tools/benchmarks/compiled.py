"""torch.compile and CLIP's towers: graph breaks, graphs for images and names of many sizes, a step against eager mode.

    OMP_NUM_THREADS=1 python tools/benchmarks/compiled.py                     # tiny towers, on a CPU
    python tools/benchmarks/compiled.py --arch RN50 ViT-B-16 --size 224 --device cuda

A tower in training gives the mean of its squared features and their gradients, in eval mode the features. The first
size makes a graph of its own; when another one comes, torch.compile makes one that serves all. Seconds are medians of a
step after that.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from vlm_dense.cli.arguments import positive
from vlm_dense.clip.resnet import CLIPResNet
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.clip.vit import CLIPViT


def towers(arch: str, size: int, device: str) -> Iterator[tuple[str, nn.Module, Callable[..., Tensor], list[tuple]]]:
    """Name, tower, what is compiled, and inputs of four sizes."""
    image = CLIPViT(arch, head=True) if 'vit' in arch.lower() else CLIPResNet(arch, attnpool=True)
    sides = [(size + 32 * rows, size + 32 * columns) for rows, columns in ((0, 0), (1, 2), (2, 0), (0, 1))]
    images = [(torch.randn(2, 3, *s, device=device),) for s in sides]
    yield f'{arch}, images', image.to(device), lambda x: image.encode(x, ('dense',)).dense, images
    text = TextTower(arch, frozen=False).to(device)
    prefix = torch.randn(5, text.width, device=device)
    names = [
        (torch.randn(6, tokens, text.width, device=device), torch.arange(6, device=device) % (tokens - 1) + 1)
        for tokens in (8, 9, 7, 10)
    ]
    yield f'{arch}, texts', text, lambda own, eot: text.encode(own, eot, prefix=prefix), names


def run(function: Callable[..., Tensor], given: tuple, parameters: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Features, and gradients where there are ``parameters``."""
    out = function(*given)
    if not parameters:
        return out, []
    grads = torch.autograd.grad(out.square().mean(), parameters, allow_unused=True)
    return out.detach(), [g for g in grads if g is not None]


def apart(found: list[Tensor], wanted: list[Tensor]) -> float:
    """|difference| / |wanted| of all together."""
    squares = [(a - b).double().square().sum() for a, b in zip(found, wanted, strict=True)]
    return (sum(squares) / sum(b.double().square().sum() for b in wanted)).sqrt().item()


def timed(function: Callable[..., Tensor], given: tuple, parameters: list[Tensor], repeats: int) -> float:
    """Median seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(function, given, parameters)
        if given[0].is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def report(name: str, tower: nn.Module, function: Callable, inputs: list, mode: str, args: argparse.Namespace) -> bool:
    """Print a line of the table; whether there is no break and the results agree."""
    torch.compiler.reset()
    counters.clear()
    tower.train(mode == 'train')
    parameters = [p for p in tower.parameters() if p.requires_grad] if mode == 'train' else []
    compiled = torch.compile(function, backend=args.backend)
    with torch.set_grad_enabled(bool(parameters)):
        differences = []
        for given in inputs:
            (out, grads), (expected, wanted) = (run(f, given, parameters) for f in (compiled, function))
            differences.append((apart([out], [expected]), apart(grads, wanted) if wanted else 0.0))
        breaks, graphs = sum(counters['graph_break'].values()), counters['stats']['unique_graphs']
        eager, quick = (timed(f, inputs[-1], parameters, args.repeats) for f in (function, compiled))
    worst = [max(d) for d in zip(*differences, strict=True)]
    print(
        f'| {name}, {mode} | {breaks} | {graphs} | {worst[0]:.0e} | {worst[1]:.0e} | {eager:.3f} | {quick:.3f} '
        f'| {eager / quick:.2f}x |',
        flush=True,
    )
    return breaks == 0 and graphs <= 2 and max(worst) < 1e-3


def main() -> int:
    """Print the table; 0 where no tower breaks its graph and all results agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', nargs='+', default=['tiny-rn', 'tiny-vit'], help="CLIP's, random weights")
    parser.add_argument('--size', type=positive, default=96, help='of the smallest images, a multiple of 32')
    parser.add_argument('--backend', default='inductor', help='inductor needs a C++ compiler')
    parser.add_argument('--repeats', type=positive, default=5)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f'torch {torch.__version__}, {args.backend}, {args.device}\n')
    print('| tower | graph breaks | graphs for 4 sizes | features differ by | gradients | eager, s | compiled, s | |')
    print('|---|---|---|---|---|---|---|---|')
    good = [
        report(*tower, mode, args)
        for arch in args.arch
        for tower in towers(arch, args.size, args.device)
        for mode in ('train', 'eval')
    ]
    return 0 if all(good) else 1


if __name__ == '__main__':
    sys.exit(main())
