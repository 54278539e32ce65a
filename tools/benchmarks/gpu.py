"""What training and inference take on a GPU against the official formulations: one table, under the card's name.

    python tools/benchmarks/gpu.py                                   # everything
    python tools/benchmarks/gpu.py training slide --modes fp32 bf16
    python tools/benchmarks/gpu.py --device cpu ...                  # tries the program where there is no GPU

Parts: training (DenseCLIP: forward and backward of --batch crops), largest (the largest batch that fits, with mmseg's
losses and with losses by strips), slide (DenseCLIP's slide test of one image), maskclip (one image of 512 px),
successors (an image in windows), cat-seg (its head on all classes at once, and 64 at a time), coop, cocoop and tpt (a
step of 100 classes), label (64 images: the model on decoded tensors, and from files to files). All run on random
weights, CAT-Seg on the bundled tower; formulations and models are those of denseclip_inference.py, dense_inference.py,
dense_methods.py, open_vocabulary.py, classification_step.py and label.py, most of which also compare the results. What
has not begun after --minutes is left out, and said.

Modes: fp32, fp16 and bf16 (autocast), compiled (bf16, ``compile=True``) and channels-last (bf16). The official
formulation is never compiled, and has the same precision. Times are medians in milliseconds; memory is the most that
was allocated, weights included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import vlm_dense

vlm_dense.setup()  # before others import mmseg
import classification_step
import dense_inference
import dense_methods
import denseclip_inference
import label
import open_vocabulary
import torch
from mmseg.structures import SegDataSample
from torch import nn

from vlm_dense.cli.arguments import positive
from vlm_dense.engine.runner.compilation import compile_parts

Job = Callable[[], object]


@dataclass
class Mode:
    """How a model runs."""

    dtype: torch.dtype | None = None
    compiled: bool = False
    channels_last: bool = False

    def prepare(self, model: nn.Module, ours: bool) -> nn.Module:
        """The model, changed in place."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.compiled and ours:
            compile_parts(model)
        return model


MODES = {
    'fp32': Mode(),
    'fp16': Mode(torch.float16),
    'bf16': Mode(torch.bfloat16),
    'compiled': Mode(torch.bfloat16, compiled=True),
    'channels-last': Mode(torch.bfloat16, channels_last=True),
}


@dataclass
class Comparison:
    """A row of the table: the same work in two ways, each made when it is measured."""

    what: str
    official: Callable[[Mode], Job]
    ours: Callable[[Mode], Job]


def timed(job: Job, device: torch.device, dtype: torch.dtype | None, repeats: int) -> tuple[float, float]:
    """Median milliseconds, and MB at the peak (not a number on a CPU)."""
    cuda = device.type == 'cuda'
    wait = torch.cuda.synchronize if cuda else lambda: None
    autocast = nullcontext() if dtype is None else torch.autocast(device.type, dtype)
    seconds = []
    for i in range(repeats + 2):
        if cuda and i == 2:
            torch.cuda.reset_peak_memory_stats()
        wait()
        start = time.perf_counter()
        with autocast:
            job()
        wait()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else float('nan')
    return 1e3 * statistics.median(seconds[2:]), peak


def measure(make: Callable[[Mode], Job], mode: Mode, args: Namespace) -> tuple[float, float] | None:
    """As :func:`timed`, of a job that is made first; None where the memory does not suffice."""
    try:
        return timed(make(mode), args.device, mode.dtype, args.repeats)
    except torch.cuda.OutOfMemoryError:
        return None
    finally:
        torch.compiler.reset()
        if args.device.type == 'cuda':
            torch.cuda.empty_cache()


# --- the work -------------------------------------------------------------------------------------------------------


def denseclip(arch: str, args: Namespace, job: Callable, kind: str, batch: int) -> Callable[[Mode], Job]:
    """DenseCLIP: ``kind`` is official, ours, or whole (ours with mmseg's losses)."""
    options = Namespace(arch=[arch], classes=args.classes, crop=args.crop, batch=batch)

    def make(mode: Mode) -> Job:
        model = denseclip_inference.build(options, kind == 'official')
        if kind == 'whole':
            denseclip_inference.whole_losses(model)
        return job(mode.prepare(model, kind != 'official'), options, args.device)

    return make


def training(args: Namespace) -> Iterator[Comparison]:
    """DenseCLIP's forward and backward pass."""
    for arch in args.arch:
        ways = (denseclip(arch, args, denseclip_inference.train_job, k, args.batch) for k in ('official', 'ours'))
        yield Comparison(f'DenseCLIP {arch}, training, {args.batch} crops', *ways)


def slide(args: Namespace) -> Iterator[Comparison]:
    """DenseCLIP's slide test."""
    for arch in args.arch:
        ways = (denseclip(arch, args, denseclip_inference.test_job, k, 1) for k in ('official', 'ours'))
        yield Comparison(f'DenseCLIP {arch}, slide test', *ways)


def maskclip(args: Namespace) -> Iterator[Comparison]:
    """MaskCLIP on one image."""
    size = (args.crop or 512,) * 2

    def way(arch: str, kind: str) -> Callable[[Mode], Job]:
        def make(mode: Mode) -> Job:
            model = dense_inference.build(arch, args.classes, kind).to(args.device)
            image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)).to(args.device)
            mode.prepare(model, kind == 'ours')

            @torch.no_grad()
            def job():
                return model.predict(image, [SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))])

            return job

        return make

    for arch in args.arch:
        yield Comparison(f'MaskCLIP {arch}, {size[0]} px', way(arch, 'plain'), way(arch, 'ours'))


def successors(args: Namespace) -> Iterator[Comparison]:
    """MaskCLIP's successors on one image, in the windows of their configs."""
    side = args.crop or 512

    def way(method: str, arch: str, kind: str) -> Callable[[Mode], Job]:
        def make(mode: Mode) -> Job:
            model = dense_methods.build(method, arch, open_vocabulary.names(args.classes)).to(args.device)
            image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1)).to(args.device)
            mode.prepare(model, kind == 'ours')
            return torch.no_grad()(lambda: getattr(dense_methods, kind)(model, image))

        return make

    for method in args.methods:
        arch = next((arch for arch in args.arch if 'rn' not in arch.lower()), None)
        if arch is not None:
            yield Comparison(f'{method} {arch}, {side} px', *(way(method, arch, kind) for kind in dense_methods.KINDS))


def cat_seg(args: Namespace) -> Iterator[Comparison]:
    """CAT-Seg's head on the bundled tower."""
    grid = (args.crop or 192) // 8

    def way(chunk: int) -> Callable[[Mode], Job]:
        def make(mode: Mode) -> Job:
            model = open_vocabulary.cat_seg(args.classes, grid, chunk).to(args.device)
            image = open_vocabulary.image(8 * grid).to(args.device)
            mode.prepare(model, chunk != open_vocabulary.ALL)
            return torch.no_grad()(lambda: model._forward(image))

        return make

    yield Comparison(f'CAT-Seg, tiny-vit, grid {grid}, {args.classes} classes', way(open_vocabulary.ALL), way(64))


def labels(args: Namespace) -> Iterator[Comparison]:
    """``label``: the bare model, and all from files to files."""
    arch = next((arch for arch in args.arch if 'rn' not in arch.lower()), args.arch[0])

    def way(whole: bool) -> Callable[[Mode], Job]:
        return lambda mode: label.job(label.worker(arch, args.device), args.images, whole)

    yield Comparison(f'label {arch}, {args.images} images: the bare model / from files to files', way(False), way(True))


def classification(prompt: dict, step: Callable, size: int, **parts) -> Callable[[Namespace], Iterator[Comparison]]:
    """A step of a method of classification."""

    def comparisons(args: Namespace) -> Iterator[Comparison]:
        def way(plain: bool) -> Callable[[Mode], Job]:
            def make(mode: Mode) -> Job:
                model = classification_step.build(prompt, args.names, plain, args.text_arch, **parts).to(args.device)
                mode.prepare(model, not plain)
                return lambda: step(model, size)

            return make

        name = prompt['type'].removeprefix('vlm_dense.').removesuffix('Prompt')
        name = 'TPT' if parts else name
        yield Comparison(f'{name}, {args.names} classes, {size} images', way(True), way(False))

    return comparisons


PARTS = dict(
    training=training,
    slide=slide,
    maskclip=maskclip,
    successors=successors,
    **{'cat-seg': cat_seg},
    label=labels,
    coop=classification(classification_step.COOP, classification_step.train_step, 32),
    cocoop=classification(classification_step.COCOOP, classification_step.train_step, 2),
    tpt=classification(classification_step.TPT, classification_step.adapt, 64, test_time=dict(type='vlm_dense.TPT')),
)


def largest(make: Callable[[int], Callable[[Mode], Job]], mode: Mode, args: Namespace) -> int:
    """The largest batch, up to --most-batch, of which a step fits."""

    def fits(batch: int) -> bool:
        return measure(make(batch), mode, Namespace(**{**vars(args), 'repeats': 1})) is not None

    good, bad = 0, 1
    while bad <= args.most_batch and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, args.most_batch + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


# --- the table --------------------------------------------------------------------------------------------------------


def told(name: str, rows: tuple[tuple[float, float] | None, tuple[float, float] | None]) -> str:
    """A line of the table."""
    cells = [name]
    for i, digits in ((0, '.1f'), (1, '.0f')):
        cells += ['out of memory' if row is None else f'{row[i]:{digits}}' for row in rows]
        if None in rows:
            cells.append('-')
        else:
            official, ours = (row[i] for row in rows)
            cells.append(f'{official / ours:.2f}x' if i == 0 else f'{ours / official:.2f}')
    return '| ' + ' | '.join(cells) + ' |'


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = [*PARTS, 'largest']
    parser.add_argument('parts', nargs='*', help=f'of {", ".join(parts)}; default: all')
    parser.add_argument('--modes', nargs='+', choices=list(MODES), default=list(MODES))
    parser.add_argument('--arch', nargs='+', choices=list(denseclip_inference.CROPS), default=['RN50', 'ViT-B-16'])
    parser.add_argument('--text-arch', help='of the classifiers; default: the text tower of ViT-B/16')
    parser.add_argument('--classes', type=int, default=150, choices=range(2, 151), metavar='2..150')
    parser.add_argument('--names', type=positive, default=100, help='classes of the classifiers')
    parser.add_argument('--batch', type=positive, default=4, help='crops of a training step')
    parser.add_argument('--crop', type=positive, help='side of crops and windows (default: the published one)')
    parser.add_argument('--most-batch', type=positive, default=256, help='where the search for the largest ends')
    parser.add_argument('--methods', nargs='+', choices=dense_methods.METHODS, default=['sclip', 'clearclip', 'naclip'])
    parser.add_argument('--images', type=positive, default=64, help='that are labelled')
    parser.add_argument('--minutes', type=float, default=10, help='after which nothing new begins (%(default)s)')
    parser.add_argument('--repeats', type=positive, default=10)
    parser.add_argument('--device', type=torch.device, default=torch.device('cuda'))
    args = parser.parse_args()
    if set(args.parts) - set(parts):
        parser.error(f'unknown parts {sorted(set(args.parts) - set(parts))}; there are {", ".join(parts)}')
    if args.device.type == 'cuda' and not torch.cuda.is_available():
        parser.error('torch finds no GPU. --device cpu tries the program, with figures that say nothing of a GPU.')
    card = torch.cuda.get_device_name(args.device) if args.device.type == 'cuda' else 'no GPU, only tried'
    print(f'{card}; torch {torch.__version__}, medians of {args.repeats}\n')
    print('| | official, ms | ours, ms | ratio | official, MB | ours, MB | ratio |\n|---|---|---|---|---|---|---|')
    end = time.monotonic() + 60 * args.minutes
    for part in (p for p in args.parts or PARTS if p in PARTS):
        for comparison in PARTS[part](args):
            for name in args.modes[:1] if part == 'label' else args.modes:
                if time.monotonic() > end:
                    print(f'| {comparison.what}, {name} | left out: {args.minutes:g} minutes are over | | | | | |')
                    continue
                rows = tuple(measure(make, MODES[name], args) for make in (comparison.official, comparison.ours))
                print(told(f'{comparison.what}, {name}', rows), flush=True)
    if not args.parts or 'largest' in args.parts:
        print('\n| largest batch | with losses of mmseg | by strips |\n|---|---|---|')
        for arch in args.arch:
            for name in args.modes:
                if time.monotonic() > end:
                    print(f'| DenseCLIP {arch}, {name} | left out: {args.minutes:g} minutes are over | |')
                    continue
                found = [
                    largest(
                        lambda n, kind=kind, arch=arch: denseclip(arch, args, denseclip_inference.train_job, kind, n),
                        MODES[name],
                        args,
                    )
                    for kind in ('whole', 'ours')
                ]
                print(f'| DenseCLIP {arch}, {name} | {found[0]} | {found[1]} |', flush=True)


if __name__ == '__main__':
    sys.exit(main())
