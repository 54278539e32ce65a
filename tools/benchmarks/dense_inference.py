"""MaskCLIP's inference against the plain formulation, in one run.

    python tools/benchmarks/dense_inference.py [--classes 20 171] [--size 512] [--arch ViT-B-16] [--repeats 3]
    python tools/benchmarks/dense_inference.py --methods [naclip lposs ...] --classes 21 171 --size 512 1024

plain: the class names go through the text tower for every image, 77 tokens each; all K logits are brought to the size
of the image, as mmseg does it, and then comes the argmax. full-logits: the same with the text encoded once. ours: text
encoded once, a running argmax over a few classes at a time (``test_cfg.keep_logits=False``). All run on the same
random weights, alternately, in processes of their own so that the peak memory is each one's own. One sentence a class,
not the 85 of the published models, which would only be in our favour.

With --methods, MaskCLIP's successors with their published settings against the order of computation of their released
code: text for each image, windows one by one, each padded to the canvas, all maps at full size (dense_methods.py).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

import vlm_dense

vlm_dense.setup()  # before others import mmseg
import dense_methods
import torch
from mmengine import ConfigDict
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample

from vlm_dense.cli.arguments import positive
from vlm_dense.engine.runner.memory import PeakMemory
from vlm_dense.methods.maskclip import MaskCLIP
from vlm_dense.registry import MODELS
from vlm_dense.vocabulary.class_names import read_class_names

KINDS = ('plain', 'full-logits', 'ours')


class FullLogits(MaskCLIP):
    """All logits at full size, as in mmseg."""

    def predict(self, inputs, data_samples=None):
        """mmseg's prediction."""
        return EncoderDecoder.predict(self, inputs, data_samples)


class Plain(FullLogits):
    """Text for every image as well, through CLIP's plain text tower."""

    def encode_decode(self, inputs, batch_img_metas):
        """Encode text and images, then as mmseg."""
        head, tower = self.decode_head, self.decode_head.text_encoder
        ids = head.text_prompt.token_ids
        x = tower.embed(ids) + tower.positional_embedding[: ids.shape[1]]
        mask = x.new_full((ids.shape[1],) * 2, float('-inf')).triu_(1)
        for block in tower.transformer.resblocks:
            x = block(x, attn_mask=mask)
        text = tower.ln_final(x)[torch.arange(len(x)), tower.find_eot(ids)] @ tower.text_projection
        logits = head.scores(self.extract_feat(inputs).value, text)
        return head.predict_by_feat(logits, batch_img_metas)


def build(arch: str, classes: int, kind: str) -> MaskCLIP:
    """A published model with random weights."""
    torch.manual_seed(0)
    tower = 'MaskCLIPViT' if 'vit' in arch.lower() else 'MaskCLIPResNet'
    cfg = dict(
        type='vlm_dense.MaskCLIP',
        class_names=[names[0] for names in read_class_names('coco-stuff171')[:classes]],
        backbone=dict(type=f'vlm_dense.{tower}', arch=arch),
        text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
        test_cfg=dict(mode='whole', keep_logits=False),
    )
    model = MODELS.build(ConfigDict(cfg)).eval()
    model.__class__ = {'plain': Plain, 'full-logits': FullLogits, 'ours': MaskCLIP}[kind]
    return model


def worker(args: argparse.Namespace) -> None:
    """Segment the same image once for every line on stdin; answer each with a line of JSON."""
    model = build(args.arch, args.classes[0], args.worker)
    size = tuple(args.size)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    memory = PeakMemory().start()
    print(json.dumps(dict(ready=True)), flush=True)
    for line in sys.stdin:
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        start = time.perf_counter()
        with torch.no_grad():
            labels = model.predict(image, [sample])[0].pred_sem_seg.data
        seconds = time.perf_counter() - start
        if line.strip() == 'save':
            torch.save(labels, args.save)
        del labels, sample
        print(json.dumps(dict(seconds=seconds, before=memory.before, peak=memory.peak)), flush=True)


def answer(process: subprocess.Popen) -> dict:
    """The next line of JSON of a worker; the libraries print other lines."""
    for line in process.stdout:
        if line.startswith('{'):
            return json.loads(line)
    raise SystemExit(f'a worker stopped with code {process.wait()} (-9: killed, as where memory ran out); see above')


def report(classes: int, args: argparse.Namespace, folder: str) -> None:
    """Run all kinds for one number of classes and print the comparison."""
    processes, rows, files = {}, {}, {}
    for kind in KINDS:
        files[kind] = f'{folder}/{kind}-{classes}.pt'
        command = [sys.executable, __file__, '--worker', kind, '--arch', args.arch, '--classes', str(classes)]
        command += ['--size', *map(str, args.size), '--save', files[kind]]
        processes[kind] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        answer(processes[kind])
        rows[kind] = []
    for repeat in range(args.repeats + 1):  # the first is the warm-up, with the text
        for kind, process in processes.items():
            process.stdin.write('save\n' if repeat == 0 else 'run\n')
            process.stdin.flush()
            rows[kind].append(answer(process))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    print(f'\nK={classes:<9d} {"seconds":>9s} {"first":>9s} {"peak MB":>9s} {"of that work":>13s}')
    figures = {}
    for kind in KINDS:
        seconds = statistics.median(r['seconds'] for r in rows[kind][1:])
        last = rows[kind][-1]
        figures[kind] = seconds, last['peak'], last['peak'] - last['before']
        print(f'{kind:11s} {seconds:9.2f} {rows[kind][0]["seconds"]:9.2f} {last["peak"]:9.0f} {figures[kind][2]:13.0f}')
    ours = figures['ours']
    labels = {kind: torch.load(file, weights_only=True) for kind, file in files.items()}
    for kind in KINDS[:2]:
        other = figures[kind]
        same = (labels[kind] == labels['ours']).float().mean().item()
        print(
            f'ours against {kind}: {other[0] / ours[0]:.2f}x as fast, {ours[1] / other[1]:.2f} of the peak memory, '
            f'{ours[2] / other[2]:.2f} of that of the work alone, same class at {same:.4%} of the pixels'
        )


def main() -> None:
    """Alternate the kinds and print medians, ratios and the agreement of the labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', default='ViT-B-16', help='open_clip name')
    parser.add_argument('--classes', type=int, nargs='+', default=[20, 171], choices=range(2, 172), metavar='2..171')
    parser.add_argument('--size', type=positive, nargs='+', default=[512], help='height and width, or one for both, px')
    parser.add_argument(
        '--methods', nargs='*', choices=dense_methods.METHODS, metavar='NAME', help='successors (default: all)'
    )
    parser.add_argument('--repeats', type=positive, default=3)
    parser.add_argument('--worker', choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument('--save', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if len(args.size) > 2:
        parser.error('--size takes height and width')
    args.size = [args.size[0], args.size[-1]]
    if args.methods is not None:
        methods = args.methods or list(dense_methods.METHODS)
        return dense_methods.compare(methods, args.arch, tuple(args.size), args.classes, args.repeats)
    if args.worker:
        return worker(args)
    print(
        f'{args.arch}, one image of {args.size[1]} x {args.size[0]} px, {torch.get_num_threads()} threads, '
        f'medians of {args.repeats}'
    )
    with tempfile.TemporaryDirectory() as folder:
        for classes in args.classes:
            report(classes, args, folder)


if __name__ == '__main__':
    main()
