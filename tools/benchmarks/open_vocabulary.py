"""Trained open-vocabulary segmentation here and in the authors' order of work, on the same weights, in one run.

    OMP_NUM_THREADS=1 python tools/benchmarks/open_vocabulary.py                  # K = 150 and 847, heads of the papers
    OMP_NUM_THREADS=1 python tools/benchmarks/open_vocabulary.py --parts names --classes 10000

The heads have the papers' sizes (CAT-Seg: 128 channels, 2 layers, a grid of --grid x --grid; SED: 128 channels), the
towers are the bundled ones, so that the head is what is timed. Seconds are CPU seconds, MB the peak beyond the model.

- text: class names encoded for each image, and once
- windows: four windows of CAT-Seg and the overview one after the other, and in one batch
- chunks: CAT-Seg with all classes at once, and some at a time
- rejection: SED with all classes, and with those among the best k somewhere
- losses: CAT-Seg's loss on maps and labels at full size, and by strips
- names: CAT-Seg as it is for --classes names: seconds to encode them, seconds and MB of an image of --size px
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from vlm_dense.cli.arguments import positive
from vlm_dense.engine.runner.memory import PeakMemory
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.strips import strip_binary_cross_entropy

ALL = 10**9
"""More classes than there are: none are split."""

Measured = tuple[float, float, Tensor]
"""CPU seconds, MB at the peak beyond those before, and the result."""


def names(classes: int) -> list[str]:
    """So many names."""
    return [f'thing {i}' for i in range(classes)]


def cat_seg(classes: int, grid: int, chunk: int, pad_len: int = 0, **options) -> nn.Module:
    """CAT-Seg with the paper's head on the bundled tiny-vit, by random weights of the head, in eval mode."""
    torch.manual_seed(0)
    clip = dict(arch='tiny-vit', pretrained='bundled')
    tower = dict(head=True, out_indices=[0, 1], dense_attention=dict(type='vlm_dense.CATSegAttention'))
    own = dict(
        type='vlm_dense.CATSeg',
        backbone=dict(type='vlm_dense.CLIPViT', **tower, **clip),
        text_encoder=dict(type='vlm_dense.TextTower', **clip),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['A photo of a {} in the scene']),
        decode_head=dict(pad_len=pad_len, chunk_size=chunk, window_size=min(12, grid)),
        class_names=names(classes),
        clip_resolution=8 * grid,
        test_cfg=dict(mode='whole', keep_logits=False),
    )
    return MODELS.build(ConfigDict(dict(own, **options))).eval()


def sed(classes: int, size: int) -> nn.Module:
    """SED with the paper's head on the bundled tiny-rn, by random weights of the head, in eval mode."""
    torch.manual_seed(0)
    clip = dict(arch='tiny-rn', pretrained='bundled')
    own = dict(
        type='vlm_dense.SED',
        backbone=dict(type='vlm_dense.CLIPTower', **clip),
        text_encoder=dict(type='vlm_dense.TextTower', **clip),
        text_prompt=dict(type='vlm_dense.TemplateVariantsPrompt', templates=['a photo of a {}.', 'a {}.']),
        class_names=names(classes),
        clip_resolution=size,
        test_cfg=dict(mode='whole', keep_logits=False),
    )
    return MODELS.build(ConfigDict(own)).eval()


def image(size: int, number: int = 1) -> Tensor:
    """Random images (n, 3, size, size)."""
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(1))


def measured(work: Callable[[], Tensor]) -> Measured:
    """CPU seconds, MB at the peak beyond those before, and what ``work`` gives."""
    memory, start = PeakMemory().start(), time.process_time()
    found = work()
    seconds, peak = time.process_time() - start, memory.peak
    return seconds, float('nan') if peak is None else peak - memory.before, found


def told(what: str, theirs: Measured, ours: Measured, note: str = '') -> None:
    """Print a line of the table."""
    (slow, large, _), (fast, small, _) = theirs, ours
    print(
        f'| {what} | {slow:.2f} | {fast:.2f} | {slow / max(fast, 1e-9):.1f} | {large:,.0f} | {small:,.0f} | '
        f'{small / max(large, 1e-9):.2f} | {note} |',
        flush=True,
    )


# --- the parts --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def text(classes: int, args: argparse.Namespace) -> None:
    """An image for which the names are encoded, and the next one."""
    model, x = cat_seg(classes, args.small_grid, 64, pad_len=256), image(8 * args.small_grid)
    first, following = (measured(lambda: model._forward(x)) for _ in range(2))
    told(f'text encoded for each image / once, K = {classes}', first, following)


@torch.no_grad()
def windows(classes: int, args: argparse.Namespace) -> None:
    """Four windows of an image and the whole of it, one after the other and in one batch."""
    size = 8 * args.small_grid
    cfg = dict(mode='slide', crop_size=(size, size), stride=(size, size), overview=True, keep_logits=False)
    model = cat_seg(classes, args.small_grid, 64, pad_len=256, test_cfg=dict(cfg, resize=(2 * size, 2 * size)))
    sample = SegDataSample(metainfo=dict(img_shape=(2 * size, 2 * size), ori_shape=(2 * size, 2 * size)))
    model._forward(image(size))  # the text
    found = []
    for number in (1, 5):
        model.test_cfg['window_batch_size'] = number
        found.append(measured(lambda: model.predict(image(2 * size), [copy.deepcopy(sample)])[0].pred_sem_seg.data))
    same = (found[0][2] == found[1][2]).float().mean()
    told(f'5 windows one by one / in a batch, K = {classes}', *found, f'same label at {same:.4%} of the pixels')


@torch.no_grad()
def chunks(classes: int, args: argparse.Namespace) -> None:
    """CAT-Seg on all classes at once and 64 at a time."""
    model, x = cat_seg(classes, args.grid, ALL), image(8 * args.grid)
    model.text_side.class_embeddings()
    whole = measured(lambda: model._forward(x))
    model.decode_head.chunk_size = 64
    parts = measured(lambda: model._forward(x))
    error = (whole[2] - parts[2]).abs().max() / whole[2].abs().max()
    told(f'CAT-Seg, all classes at once / 64 at a time, K = {classes}', whole, parts, f'logits differ by {error:.0e}')


@torch.no_grad()
def rejection(classes: int, args: argparse.Namespace) -> None:
    """SED on all classes, and on those that are among the best k somewhere."""
    model, x = sed(classes, args.sed_size), image(args.sed_size)
    model.text_side.class_embeddings()
    every = measured(lambda: model._forward(x))
    for k in args.top_k:
        model.decode_head.top_k = k
        some = measured(lambda: model._forward(x))
        left = (some[2] > model.decode_head.dropped_logit).flatten(2).any(dim=2).sum()
        told(f'SED, all classes / k = {k}, K = {classes}', every, some, f'{left} classes are left')


def losses(classes: int, args: argparse.Namespace) -> None:
    """The loss of CAT-Seg and its gradient, on maps of a quarter of the labels' size."""
    side = 4 * args.grid
    maps = torch.randn(2, classes, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.randint(classes, (2, 4 * side, 4 * side), generator=torch.Generator().manual_seed(1))
    labels[labels == 255] = 0  # which the loss would ignore

    def full() -> Tensor:
        enlarged = F.interpolate(maps, labels.shape[1:], mode='bilinear', align_corners=False)
        target = F.one_hot(labels, classes).permute(0, 3, 1, 2).float()
        return torch.autograd.grad(F.binary_cross_entropy_with_logits(enlarged, target, reduction='sum'), maps)[0]

    whole = measured(full)
    strips = measured(lambda: torch.autograd.grad(strip_binary_cross_entropy(maps, labels)[0], maps)[0])
    error = (whole[2] - strips[2]).abs().max() / whole[2].abs().max()
    told(f'loss at full size / by strips, K = {classes}', whole, strips, f'gradients differ by {error:.0e}')


@torch.no_grad()
def names_of_a_user(classes: int, args: argparse.Namespace) -> None:
    """What an image of --size px costs with any number of names, the head as in the paper: at most 256 go on."""
    model = cat_seg(classes, args.grid, 64, pad_len=256)
    sample = SegDataSample(metainfo=dict(img_shape=(args.size,) * 2, ori_shape=(args.size,) * 2))
    encoded = measured(lambda: model.text_side.class_embeddings())
    found = measured(lambda: model.predict(image(args.size), [sample])[0].pred_sem_seg.data)
    print(
        f'{classes:,} names: {encoded[0]:.1f} s and {encoded[1]:,.0f} MB to encode them once; {found[0]:.1f} s and '
        f'{found[1]:,.0f} MB for an image of {args.size} px',
        flush=True,
    )


PARTS: dict[str, Callable[[int, argparse.Namespace], None]] = dict(
    text=text, windows=windows, chunks=chunks, rejection=rejection, losses=losses, names=names_of_a_user
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=[part for part in PARTS if part != 'names'])
    parser.add_argument('--classes', nargs='+', type=positive, default=[150, 847], metavar='K')
    parser.add_argument('--grid', type=positive, default=24, help='side of the grid of the head (%(default)s)')
    parser.add_argument('--small-grid', type=positive, default=12, help='the same of text and windows (%(default)s)')
    parser.add_argument('--sed-size', type=positive, default=256, help='side of the images of SED (%(default)s)')
    parser.add_argument('--top-k', nargs='+', type=positive, default=[1, 8, 32], metavar='k', help='of SED')
    parser.add_argument('--size', type=positive, default=512, help='side of the image of names (%(default)s)')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run each part in a process of its own, so that memory of one does not count for another."""
    args = parse_args(argv)
    print(
        '| what | s | s here | times as fast | MB | MB here | share | |\n|---|---|---|---|---|---|---|---|', flush=True
    )
    context = multiprocessing.get_context('fork')
    for part in args.parts:
        for classes in args.classes:
            process = context.Process(target=PARTS[part], args=(classes, args))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f'{part} with K = {classes} left with status {process.exitcode}.')


if __name__ == '__main__':
    main()
