"""DenseCLIP's slide test and training step against the official formulation, in one run.

    python tools/benchmarks/denseclip_inference.py [--arch RN50 ViT-B-16] [--classes 150] [--repeats 3]
    python tools/benchmarks/denseclip_inference.py --train

Baseline at test time: the class prompts go through the text transformer for every window, windows go one by one, and
each is padded to the whole canvas before it is added (mmseg's ``slide_inference``). In training: the class prompts are
plain sequences of 13 tokens, as in the official code. Both run on the same random weights, alternately, in processes of
their own so that the peak memory is each one's own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import vlm_dense

vlm_dense.setup()  # before others import mmseg
import torch
from mmengine import ConfigDict
from mmengine.structures import PixelData
from mmseg.datasets import ADE20KDataset
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample

from vlm_dense.engine.launch import positive
from vlm_dense.methods.denseclip import DenseCLIP
from vlm_dense.registry import MODELS

CROPS = {'RN50': (512, 341), 'RN101': (512, 341), 'ViT-B-16': (640, 426)}


class OfficialFormulation(DenseCLIP):
    """Text for every forward, all 13 tokens of all classes; windows one by one."""

    def class_embeddings(self, image_features):
        """As the official code: build K whole prompts and encode them."""
        prompt, tower = self.text_prompt, self.text_encoder
        tokens = tower.embed(prompt.token_ids)
        contexts = prompt.contexts.expand(len(tokens), -1, -1)
        x = torch.cat([tokens[:, :1], contexts, tokens[:, 1:]], dim=1)
        x = x + tower.positional_embedding[: x.shape[1]]
        mask = torch.full((x.shape[1], x.shape[1]), float('-inf')).triu_(1)
        for block in tower.transformer.resblocks:
            x = block(x, attn_mask=mask)
        end = tower.find_eot(prompt.token_ids) + contexts.shape[1]
        return tower.ln_final(x)[torch.arange(len(x)), end] @ tower.text_projection

    def inference(self, inputs, batch_img_metas):
        """mmseg's slide inference."""
        return EncoderDecoder.slide_inference(self, inputs, batch_img_metas)


def build(arch: str, classes: int, official: bool) -> DenseCLIP:
    """A published model with random weights."""
    torch.manual_seed(0)
    crop, stride = CROPS[arch]
    vit = arch.startswith('ViT')
    width = [768] * 4 if vit else [256, 512, 1024, 2048]
    index = 2 if vit else 3
    width[index] += classes
    image = (
        dict(type='vlm_dense.CLIPViT', head=True, pyramid=True, out_indices=[3, 5, 7, 11], double_class_embedding=True)
        if vit
        else dict(type='vlm_dense.CLIPResNet', attnpool=True)
    )
    cfg = dict(
        type='vlm_dense.DenseCLIP',
        class_names=ADE20KDataset.METAINFO['classes'][:classes],
        backbone=dict(image, arch=arch, input_resolution=crop),
        text_encoder=dict(type='vlm_dense.TextTower', arch=arch, context_length=13, chunk_size=256),
        text_prompt=dict(type='vlm_dense.DenseCLIPPrompt'),
        context_decoder=dict(type='vlm_dense.ContextDecoder'),
        neck=dict(type='mmseg.FPN', in_channels=width, out_channels=256, num_outs=4),
        decode_head=dict(
            type='mmseg.FPNHead',
            in_channels=[256] * 4,
            in_index=[0, 1, 2, 3],
            feature_strides=[4, 8, 16, 32],
            channels=256,
            num_classes=classes,
            norm_cfg=dict(type='BN'),
            align_corners=False,
            init_cfg=None,
            loss_decode=dict(type='mmseg.CrossEntropyLoss'),
        ),
        identity_head=dict(
            type='vlm_dense.IdentityHead',
            align_corners=False,
            loss_decode=dict(type='mmseg.CrossEntropyLoss', loss_weight=0.4),
        ),
        score_concat_index=index,
        test_cfg=dict(mode='slide', crop_size=(crop, crop), stride=(stride, stride)),
    )
    model = MODELS.build(ConfigDict(cfg))
    if official:
        model.__class__ = OfficialFormulation
    return model


def peak() -> float:
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_job(arch: str, classes: int, official: bool, windows: int | None = None):
    """A function that runs the slide test of one image and returns the label map."""
    model = build(arch, classes, official).eval()
    if windows:
        model.test_cfg['window_batch_size'] = windows
    crop, _ = CROPS[arch]
    # a 4:3 photograph, its short side resized to the crop as in the recipe
    image = torch.randn(1, 3, crop, crop * 4 // 3, generator=torch.Generator().manual_seed(1))

    def job():
        with torch.no_grad():
            return model.inference(image, [dict(img_shape=image.shape[2:])]).argmax(1)

    return job


def train_job(arch: str, classes: int, official: bool):
    """A function that runs a training step on four crops and returns the loss."""
    model = build(arch, classes, official)
    model.context_decoder.eval()  # no dropout, so that the two losses can be compared
    crop = 512
    g = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, crop, crop, generator=g)
    labels = torch.randint(0, classes, (4, 1, crop, crop), generator=g)
    meta = dict(img_shape=(crop, crop), ori_shape=(crop, crop))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=x), metainfo=meta) for x in labels]
    model.train()
    for m in model.modules():
        if isinstance(m, torch.nn.modules.dropout._DropoutNd):
            m.eval()

    def job():
        model.zero_grad(set_to_none=True)
        total, _ = model.parse_losses(model.loss(images, samples))
        total.backward()
        return total.detach()

    return job


def worker(args: argparse.Namespace) -> None:
    """Run one of the two in this process; one line of JSON a repeat, driven by lines on stdin."""
    make = train_job if args.train else test_job
    job = make(args.arch[0], args.classes, args.worker == 'official')
    before = peak()
    print(json.dumps(dict(ready=True)), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        result = job()
        seconds = time.perf_counter() - start
        if line.strip() == 'save':
            torch.save(result, args.save)
        print(json.dumps(dict(seconds=seconds, before=before, peak=peak())), flush=True)


def main() -> None:
    """Alternate the two and print medians, ratios and the agreement of the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', nargs='+', default=['RN50', 'ViT-B-16'], choices=list(CROPS))
    parser.add_argument('--classes', type=int, default=150, choices=range(2, 151), metavar='2..150')
    parser.add_argument('--repeats', type=positive, default=3)
    parser.add_argument('--train', action='store_true', help='a training step (batch 4, 512 px) instead of the test')
    parser.add_argument('--worker', choices=['ours', 'official'], help=argparse.SUPPRESS)
    parser.add_argument('--save', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args)
    what = 'training step, 4 x 512 px' if args.train else 'slide test of one 4:3 image'
    print(f'{what}, K={args.classes}, {torch.get_num_threads()} threads, medians of {args.repeats}')
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for arch in args.arch:
            report(arch, args, folder)


def answer(process: subprocess.Popen) -> dict:
    """The next line of JSON of a worker; the libraries print other lines."""
    for line in process.stdout:
        if line.startswith('{'):
            return json.loads(line)
    raise SystemExit('a worker failed; its error is above')


def report(arch: str, args: argparse.Namespace, folder: str) -> None:
    """Run both on one architecture and print the comparison."""
    processes, rows, files = {}, {}, {}
    for name in ('official', 'ours'):
        files[name] = f'{folder}/{arch}-{name}.pt'
        command = [sys.executable, __file__, '--worker', name, '--arch', arch, '--classes', str(args.classes)]
        command += ['--save', files[name], *(['--train'] if args.train else [])]
        processes[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        answer(processes[name])
        rows[name] = []
    for repeat in range(args.repeats + 1):  # the first is the warm-up
        for name, process in processes.items():
            process.stdin.write('save\n' if repeat == 0 else 'run\n')
            process.stdin.flush()
            rows[name].append(answer(process))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    print(f'\n{arch:10s} {"seconds":>9s} {"peak MB":>9s} {"of that work":>13s}')
    for name in ('official', 'ours'):
        seconds = statistics.median(r['seconds'] for r in rows[name][1:])
        last = rows[name][-1]
        rows[name] = seconds, last['peak'], last['peak'] - last['before']
        print(f'{name:10s} {seconds:9.2f} {last["peak"]:9.0f} {rows[name][2]:13.0f}')
    a, b = rows['official'], rows['ours']
    print(f'ratio      {a[0] / b[0]:8.2f}x {b[1] / a[1]:9.2f} {b[2] / a[2]:13.2f}')
    print('(time: official / ours; memory: ours / official)')
    x, y = torch.load(files['official'], weights_only=True), torch.load(files['ours'], weights_only=True)
    if args.train:
        print(f'losses {x.item():.6f} and {y.item():.6f}')
    else:
        print(f'same class at {(x == y).float().mean().item():.4%} of the pixels')


if __name__ == '__main__':
    main()
