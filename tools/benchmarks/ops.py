"""Time of every stand-in kernel over that of mmcv's compiled one, on the CPU.

Both run in one process, in turn, on the same inputs, in one thread; the compiled kernels are ``mmcv._ext`` and the
stand-in's are called from ``vlm_dense.ops``. The time is that of the processor, so other programs hardly count. Sizes
are those of a detector at 800 x 1,333 pixels. With an mmcv that has no compiled kernels there are only ours.

    python tools/benchmarks/ops.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings

import torch

from vlm_dense.cli.arguments import positive
from vlm_dense.ops import extension, is_stand_in  # before mmcv.ops

# isort: split
from mmcv import _ext as compiled
from mmcv import ops


class Kernels:
    """What the modules of ``mmcv.ops`` call, from the compiled module or from the stand-in."""

    modules = (
        'bbox',
        'bezier_align',
        'box_iou_rotated',
        'deform_conv',
        'modulated_deform_conv',
        'nms',
        'roi_align',
        'roi_align_rotated',
    )

    def use(self, stand_in: bool) -> None:
        for name in self.modules:
            sys.modules[f'mmcv.ops.{name}'].ext_module = self if stand_in else compiled

    def __getattr__(self, name):
        return extension.KERNELS[name]


def boxes_in(count: int, width: int = 1333, height: int = 800) -> torch.Tensor:
    """Corners (count, 4) of boxes in an image."""
    centre = torch.rand(count, 2) * torch.tensor([width, height])
    half = torch.rand(count, 2) * 80 + 8
    return torch.cat((centre - half, centre + half), 1)


def cases() -> dict:
    """Name to a function without arguments."""
    torch.manual_seed(0)
    boxes, scores, labels = boxes_in(2000), torch.rand(2000), torch.randint(80, (2000,))
    dets = torch.cat((boxes, scores[:, None]), 1)
    rois = torch.cat((torch.randint(2, (512, 1)), boxes[:512]), 1)
    rotated = torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2], torch.randn(2000, 1)), 1)
    turned = torch.cat((rois[:, :1], rotated[:512]), 1)
    maps = torch.rand(2, 64, 100, 168, requires_grad=True)
    small = torch.rand(2, 64, 50, 84, requires_grad=True)
    weight = torch.rand(64, 64, 3, 3, requires_grad=True)
    offset = torch.randn(2, 18, 50, 84, requires_grad=True)
    mask = torch.rand(2, 9, 50, 84, requires_grad=True)

    def with_backward(function, *inputs):
        output = function()
        torch.autograd.grad(output, inputs, torch.ones_like(output))

    def roi_align(mode):
        return ops.roi_align(maps, rois, (7, 7), 0.125, 2, mode, True)

    def rotate():
        return ops.roi_align_rotated(maps, turned, (7, 7), 0.125, 2, True, False)

    def deform():
        return ops.deform_conv2d(small, offset, weight, 1, 1)

    def modulated():
        return ops.modulated_deform_conv2d(small, offset, mask, weight, None, 1, 1)

    return {
        'nms, 2,000 boxes': lambda: ops.nms(boxes, scores, 0.5),
        'batched_nms, 2,000 boxes of 80 classes': lambda: ops.batched_nms(
            boxes, scores, labels, dict(iou_threshold=0.5)
        ),
        'soft_nms (linear), 2,000 boxes': lambda: ops.soft_nms(boxes, scores, 0.3),
        'soft_nms (gaussian), 2,000 boxes': lambda: ops.soft_nms(boxes, scores, 0.3, method='gaussian'),
        'soft_nms (naive), 2,000 boxes': lambda: ops.soft_nms(boxes, scores, 0.3, method='naive'),
        'nms_match, 2,000 boxes': lambda: ops.nms_match(dets, 0.5),
        'bbox_overlaps, 2,000 x 100': lambda: ops.bbox_overlaps(boxes, boxes[:100]),
        'roi_align (avg), 512 regions': lambda: roi_align('avg'),
        'roi_align (avg), forward and backward': lambda: with_backward(lambda: roi_align('avg'), maps),
        'roi_align (max), 512 regions': lambda: roi_align('max'),
        'roi_align (max), forward and backward': lambda: with_backward(lambda: roi_align('max'), maps),
        'box_iou_rotated, 200 x 200': lambda: ops.box_iou_rotated(rotated[:200], rotated[:200]),
        'nms_rotated, 2,000 boxes': lambda: ops.nms_rotated(rotated, scores, 0.5),
        'roi_align_rotated, 512 regions': rotate,
        'roi_align_rotated, forward and backward': lambda: with_backward(rotate, maps),
        'deform_conv2d, 64 channels': deform,
        'deform_conv2d, forward and backward': lambda: with_backward(deform, small, offset, weight),
        'modulated_deform_conv2d, 64 channels': modulated,
        'modulated_deform_conv2d, forward and backward': lambda: with_backward(modulated, small, offset, mask, weight),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=positive, default=7, help='times are medians over this many')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    kernels = Kernels()
    print('| Kernel | Compiled, ms | Stand-in, ms | Ratio |\n|---|---|---|---|')
    for name, function in cases().items():
        times = {True: []} if is_stand_in() else {False: [], True: []}
        for i in range(args.rounds + 1):
            for stand_in in times:
                kernels.use(stand_in)
                start = time.process_time()
                function()
                if i:  # the first is a warm-up
                    times[stand_in].append(time.process_time() - start)
        kernels.use(False)
        *theirs, ours = (statistics.median(t) * 1000 for t in times.values())
        compared = f'{theirs[0]:.1f} | {ours:.1f} | {ours / theirs[0]:.2f}' if theirs else f'- | {ours:.1f} | -'
        print(f'| {name} | {compared} |', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
