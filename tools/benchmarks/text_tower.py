"""Time and memory of the text tower against the plain 77-token pass.

One training step of a unified context (CoOp, 16 vectors) at ViT-B/16's text
size with random weights: class embeddings, cross-entropy of 32 random image
features at scale 100, gradient of the context. Both ways run in turn in one
process. Peak memory is measured in one process for each number of classes: of
the process, and above the loaded model.

    python tools/benchmarks/text_tower.py

Other programs on the same cores slow a step of ours more than the plain pass:
its many short parallel sections wait, spinning, for threads that do not run.
Measure on a quiet machine; else with ``OMP_WAIT_POLICY=passive`` in the
environment, or with ``--threads 1``.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import open_clip
import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional as F

from vlm_dense.cli.arguments import positive
from vlm_dense.clip.text_tower import TextTower

CONTEXT = 16


def build() -> CLIP:
    """CLIP with ViT-B/16's text tower, a toy image tower and random weights."""
    torch.manual_seed(0)
    vision = {'image_size': 32, 'layers': 1, 'width': 64, 'patch_size': 16}
    text = {'context_length': 77, 'vocab_size': 49408, 'width': 512, 'heads': 8, 'layers': 12}
    return CLIP(512, vision, text, quick_gelu=True).eval().requires_grad_(False)


def prompts(count: int) -> Tensor:
    """Token ids ``(count, 77)`` of "X X ... X NAME." for ImageNet's class names."""
    names = open_clip.IMAGENET_CLASSNAMES[:count]
    return open_clip.SimpleTokenizer()([f'{"X " * CONTEXT}{name}.' for name in names])


def plain(clip: CLIP, ids: Tensor, context: Tensor) -> Tensor:
    """The usual way: every class is a sequence of 77 tokens for open_clip's own transformer."""
    embeddings = clip.token_embedding(ids)
    own = context.expand(len(ids), -1, -1)
    x = torch.cat([embeddings[:, :1], own, embeddings[:, 1 + CONTEXT :]], dim=1) + clip.positional_embedding
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))
    return x[torch.arange(len(ids)), ids.argmax(-1)] @ clip.text_projection


def ours(tower: TextTower, ids: Tensor, context: Tensor) -> Tensor:
    """The same through the tower: [SOS] and the context are a prefix, the names are the own tokens."""
    eot = tower.find_eot(ids)
    prefix = torch.cat([tower.embed(ids[:1, :1])[0], context])
    own = tower.embed(ids[:, 1 + CONTEXT : int(eot.max()) + 1])
    return tower.encode(own, eot - 1 - CONTEXT, prefix=prefix)


def step(encode, model, ids: Tensor, context: Tensor, images: Tensor) -> tuple[float, Tensor, Tensor]:
    """Forward and backward: seconds, ``(K, D)`` class embeddings, ``(CONTEXT, width)`` gradient."""
    context = context.clone().requires_grad_()
    start = time.perf_counter()
    out = encode(model, ids, context)
    F.cross_entropy(100 * images @ F.normalize(out, dim=-1).T, torch.arange(len(images)) % len(out)).backward()
    return time.perf_counter() - start, out.detach(), context.grad


def inputs(count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(CONTEXT, 512, generator=generator) * 0.02
    images = F.normalize(torch.randn(32, 512, generator=generator), dim=-1)
    return prompts(count), context, images


def compare(count: int, repeats: int) -> bool:
    """Print time and differences of the two ways; whether they meet the aim."""
    clip = build()
    tower = TextTower.from_clip(clip)
    data = inputs(count)
    step(ours, tower, *data)
    times = {plain: [], ours: []}
    for _ in range(repeats):
        seconds, expected, expected_grad = step(plain, clip, *data)
        times[plain].append(seconds)
        for _ in range(3):  # a step of ours is short; more of them steady the median
            seconds, out, grad = step(ours, tower, *data)
            times[ours].append(seconds)
    differences = {
        'class embeddings': (out - expected).abs().max(),
        'class embeddings, unit length': (F.normalize(out, dim=-1) - F.normalize(expected, dim=-1)).abs().max(),
        'gradient of the context': (grad - expected_grad).abs().max(),
        'the same, relative to its largest entry': (grad - expected_grad).abs().max() / expected_grad.abs().max(),
    }
    print(f'K={count}, {CONTEXT} context tokens, forward + backward, {torch.get_num_threads()} threads')
    median, fastest = ([of(times[way]) for way in (plain, ours)] for of in (statistics.median, min))
    print('                          median     fastest')
    print(f'  plain 77-token pass  {median[0] * 1e3:7.0f} ms  {fastest[0] * 1e3:7.0f} ms')
    print(f'  text tower           {median[1] * 1e3:7.0f} ms  {fastest[1] * 1e3:7.0f} ms')
    ratio = median[0] / median[1]
    print(f'  ratio                {ratio:8.1f} x  {fastest[0] / fastest[1]:8.1f} x   (aim: median at least 8)')
    for name, value in differences.items():
        print(f'  difference {value:.1e}   {name}   (aim: at most 1e-5)')
    return ratio >= 8 and max(differences.values()) <= 1e-5


def measure_memory(count: int) -> None:
    """Print, as JSON, this process's peak MiB before and after three steps with ``count`` classes."""
    tower = TextTower.from_clip(build())
    data = inputs(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for _ in range(3):
        step(ours, tower, *data)
    print(json.dumps([before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def compare_memory(counts: tuple[int, int]) -> bool:
    """Print peak memory for two numbers of classes; whether it meets the aim."""
    peaks = []
    for count in counts:
        command = [sys.executable, __file__, '--memory-of', str(count)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        before, after = json.loads(told.splitlines()[-1])  # below what mmdet says when it is imported
        peaks.append((after, after - before))
    print('peak memory of forward + backward, MiB')
    print('      K   process   above the loaded model')
    for count, (total, net) in zip(counts, peaks, strict=True):
        print(f'  {count:5d}   {total:7.0f}   {net:7.0f}')
    total, net = (b / a for a, b in zip(*peaks, strict=True))
    print(f'  ratio   {total:7.2f}   {net:7.2f}   (aim: at most 1.5, above the loaded model)')
    return net <= 1.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--classes', type=positive, default=100, help='at most 100; memory also at ten times as many')
    parser.add_argument('--repeats', type=positive, default=5, help='steps of the plain pass')
    parser.add_argument('--threads', type=positive, help="torch's threads; default: its own choice")
    parser.add_argument('--memory-of', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        measure_memory(args.memory_of)
        return 0
    if args.threads:
        torch.set_num_threads(args.threads)
    # memory first: a process starts with the peak of the one that started it
    small = compare_memory((args.classes, 10 * args.classes))
    fast = compare(args.classes, args.repeats)
    return 0 if fast and small else 1


if __name__ == '__main__':
    sys.exit(main())
