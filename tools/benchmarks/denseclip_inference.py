"""DenseCLIP's slide test and training step against the official formulation, in one run.

    OMP_NUM_THREADS=1 python tools/benchmarks/denseclip_inference.py [--arch RN50 ViT-B-16] [--classes 150]
    OMP_NUM_THREADS=1 python tools/benchmarks/denseclip_inference.py --train
    OMP_NUM_THREADS=1 python tools/benchmarks/denseclip_inference.py --train --without-text --arch RN50

Official formulation: the class prompts are plain sequences of 13 tokens, which go through the text transformer in every
forward pass. In training mmseg enlarges the logits of each head before the loss, and all activations are kept. At test
time windows go one by one, each is padded to the whole canvas before it is added (mmseg's ``slide_inference``), and all
maps are brought to the original size before the argmax. Both run on the same random weights, alternately, in processes
of their own so that the peak memory is each one's own. CPU seconds tell more than seconds where other programs run.
With ``--without-text`` DenseCLIP is compared with the same image tower, neck and decode head without text, clip_fpn,
instead: what text costs.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time

import vlm_dense

vlm_dense.setup()  # before others import mmseg
import torch
from dense_inference import answer
from mmengine import ConfigDict
from mmengine.structures import PixelData
from mmseg.datasets import ADE20KDataset
from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.structures import SegDataSample

from vlm_dense.cli.arguments import positive
from vlm_dense.clip.resnet import CLIPResNet
from vlm_dense.contract.text_side import TextSide
from vlm_dense.engine.runner.memory import PeakMemory
from vlm_dense.methods.denseclip import DenseCLIP
from vlm_dense.registry import MODELS

CROPS = {
    'RN50': (512, 341),
    'RN101': (512, 341),
    'ViT-B-16': (640, 426),
    'tiny-rn': (128, 85),
    'tiny-vit': (128, 85),
}
"""Side of a window and stride of the slide test."""
VIT = dict(type='vlm_dense.CLIPViT', head=True, pyramid=True, double_class_embedding=True, with_cp='light')


class OfficialText(TextSide):
    """Text for every forward, all 13 tokens of all classes."""

    def class_embeddings(self, image_features=None, classes=None):
        """As the official code: build K whole prompts and encode them."""
        prompt, tower = self.text_prompt, self.text_encoder
        tokens = tower.embed(prompt.token_ids)
        contexts = prompt.contexts.expand(len(tokens), -1, -1)
        x = torch.cat([tokens[:, :1], contexts, tokens[:, 1:]], dim=1)
        x = x + tower.positional_embedding[: x.shape[1]]
        mask = x.new_full((x.shape[1], x.shape[1]), float('-inf')).triu_(1)
        for block in tower.transformer.resblocks:
            x = block(x, attn_mask=mask)
        end = tower.find_eot(prompt.token_ids) + contexts.shape[1]
        return tower.ln_final(x)[torch.arange(len(x)), end] @ tower.text_projection


class OfficialFormulation(DenseCLIP):
    """Text for every forward; windows one by one."""

    @property
    def text_side(self):
        """The official formulation's."""
        return OfficialText(self.text_encoder, self.text_prompt, self.image_prompt)

    def predict(self, inputs, data_samples=None):
        """mmseg's slide inference and its argmax of whole maps."""
        return EncoderDecoder.predict(self, inputs, data_samples)

    def inference(self, inputs, batch_img_metas):
        """As :class:`EncoderDecoder`, which writes to the metainfo."""
        return EncoderDecoder.slide_inference(self, inputs, [dict(meta) for meta in batch_img_metas])


def build(args: argparse.Namespace, official: bool, plain: bool = False) -> torch.nn.Module:
    """A published model with random weights; ``plain`` without text."""
    torch.manual_seed(0)
    arch, classes = args.arch[0], args.classes
    crop, stride = sizes(args)
    image, index = dict(type='vlm_dense.CLIPResNet', attnpool=True, with_cp='light'), 3
    if arch == 'ViT-B-16':
        image, index = dict(VIT, out_indices=[3, 5, 7, 11]), 2
    if arch == 'tiny-vit':
        image, index = VIT, 1  # the stage with the stride of its patch, 8
    cfg = dict(
        type='vlm_dense.DenseCLIP',
        class_names=ADE20KDataset.METAINFO['classes'][:classes],
        backbone=dict(image, arch=arch, input_resolution=crop),
        text_encoder=dict(type='vlm_dense.TextTower', arch=arch, context_length=13, chunk_size=64),
        text_prompt=dict(type='vlm_dense.DenseCLIPPrompt'),
        context_decoder=dict(type='vlm_dense.ContextDecoder'),
        neck=dict(type='mmseg.FPN', out_channels=256, num_outs=4),
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
        test_cfg=dict(mode='slide', crop_size=(crop, crop), stride=(stride, stride), keep_logits=False),
    )
    if plain:
        for name in ('class_names', 'text_encoder', 'text_prompt', 'context_decoder', 'identity_head'):
            del cfg[name]
        del cfg['score_concat_index']
        cfg['type'], cfg['backbone']['attnpool'] = 'vlm_dense.CLIPEncoderDecoder', False
        cfg['neck']['in_channels'] = CLIPResNet.stage_channels(cfg['backbone'])
    model = MODELS.build(ConfigDict(cfg))
    if official:
        model.__class__, model.backbone.with_cp = OfficialFormulation, False
        whole_losses(model)
    return model


def whole_losses(model: torch.nn.Module) -> None:
    """Make all heads of a model use mmseg's losses, of logits at full size."""
    for head in model.modules():
        if isinstance(head, BaseDecodeHead):
            head.loss_by_feat = functools.partial(BaseDecodeHead.loss_by_feat, head)


def sizes(args: argparse.Namespace) -> tuple[int, int]:
    """Side of the windows and their stride."""
    crop, stride = CROPS[args.arch[0]]
    return (args.crop, args.crop * stride // crop) if args.crop else (crop, stride)


def test_job(model: DenseCLIP, args: argparse.Namespace, device: str = 'cpu'):
    """A function that runs the slide test of one image and returns the label map."""
    model.to(device).eval()
    # a 4:3 photograph, its short side resized to the crop as in the recipe
    crop, _ = sizes(args)
    original = args.crop or 512
    image = torch.randn(1, 3, crop, crop * 4 // 3, generator=torch.Generator().manual_seed(1)).to(device)
    meta = dict(img_shape=tuple(image.shape[2:]), ori_shape=(original, original * 4 // 3))

    def job():
        with torch.no_grad():
            sample = model.predict(image, [SegDataSample(metainfo=meta)])[0]
        return dict(labels=sample.pred_sem_seg.data)

    return job


def train_job(model: DenseCLIP, args: argparse.Namespace, device: str = 'cpu'):
    """A function that runs a training step and returns the losses and the gradients."""
    model.to(device).train()
    for m in model.modules():  # no dropout, so that the two can be compared
        if isinstance(m, torch.nn.modules.dropout._DropoutNd | torch.nn.MultiheadAttention):
            m.eval()
    crop = args.crop or 512
    g = torch.Generator().manual_seed(1)
    images = torch.randn(args.batch, 3, crop, crop, generator=g).to(device)
    labels = torch.randint(0, args.classes, (args.batch, 1, crop, crop), generator=g).to(device)
    meta = dict(img_shape=(crop, crop), ori_shape=(crop, crop))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=x), metainfo=meta) for x in labels]

    def job():
        model.zero_grad(set_to_none=True)
        losses = model.loss(images, samples)
        model.parse_losses(losses)[0].backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return {name: loss.detach() for name, loss in losses.items()} | grads

    return job


def profile(job) -> dict[str, float]:
    """Share of the processor's time that each operation takes in a run of ``job``, the largest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        job()
    times = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    total = sum(times.values())
    return {name: t / total for name, t in sorted(times.items(), key=lambda pair: -pair[1])}


def worker(args: argparse.Namespace) -> None:
    """Run one of the two in this process; one line of JSON a repeat, driven by lines on stdin."""
    make = train_job if args.train else test_job
    job = make(build(args, args.worker == 'official', args.worker == 'plain'), args)
    memory = PeakMemory().start()
    print(json.dumps(dict(ready=True)), flush=True)
    for line in sys.stdin:
        if line.strip() == 'profile':
            print(json.dumps(profile(job)), flush=True)
            continue
        start, cpu = time.perf_counter(), time.process_time()
        result = job()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        if line.strip() == 'save':
            torch.save(result, args.save)
        print(json.dumps(dict(seconds=seconds, cpu=cpu, before=memory.before, peak=memory.peak)), flush=True)
        del result  # gradients of this step must not count in the next one, as an optimiser has dropped them by then


def main() -> None:
    """Alternate the two and print medians, ratios and the agreement of the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', nargs='+', default=['RN50', 'ViT-B-16'], choices=list(CROPS))
    parser.add_argument('--classes', type=int, default=150, choices=range(2, 151), metavar='2..150')
    parser.add_argument('--repeats', type=positive, default=3)
    parser.add_argument('--train', action='store_true', help='a training step instead of the test')
    parser.add_argument('--batch', type=positive, default=4, help='crops of a training step (default 4)')
    parser.add_argument('--crop', type=positive, help='side of crops and windows (default: the published one)')
    parser.add_argument('--profile', type=int, default=0, metavar='N', help='also tell the N slowest operations')
    parser.add_argument('--without-text', action='store_true', help='compare ResNets with themselves without text')
    parser.add_argument('--worker', choices=['ours', 'official', 'plain'], help=argparse.SUPPRESS)
    parser.add_argument('--save', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args)
    what = f'training step, {args.batch} x {args.crop or 512} px' if args.train else 'slide test of one 4:3 image'
    print(f'{what}, K={args.classes}, {torch.get_num_threads()} threads, medians of {args.repeats}')
    with tempfile.TemporaryDirectory() as folder:
        for arch in args.arch:
            report(arch, args, folder)


def report(arch: str, args: argparse.Namespace, folder: str) -> None:
    """Run both on one architecture and print the comparison."""
    processes, rows, files, shares = {}, {}, {}, {}
    names = ('ours', 'plain') if args.without_text else ('official', 'ours')
    for name in names:
        files[name] = f'{folder}/{arch}-{name}.pt'
        command = [sys.executable, __file__, '--worker', name, '--arch', arch, '--classes', str(args.classes)]
        command += ['--save', files[name], '--batch', str(args.batch), *(['--train'] if args.train else [])]
        command += ['--crop', str(args.crop)] if args.crop else []
        processes[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        answer(processes[name])
        rows[name] = []
    try:
        for repeat in range(args.repeats + 1):  # the first is the warm-up
            for name, process in processes.items():
                process.stdin.write('save\n' if repeat == 0 else 'run\n')
                process.stdin.flush()
                rows[name].append(answer(process))
        for name, process in processes.items() if args.profile else ():
            process.stdin.write('profile\n')
            process.stdin.flush()
            shares[name] = answer(process)
        for process in processes.values():
            process.stdin.close()
            process.wait()
    finally:
        for process in processes.values():
            process.kill()  # the other one, where one failed
    print(f'\n{arch:10s} {"seconds":>9s} {"CPU s":>9s} {"peak MB":>9s} {"of that work":>13s}')
    for name in names:
        seconds, cpu = (statistics.median(r[key] for r in rows[name][1:]) for key in ('seconds', 'cpu'))
        last = rows[name][-1]
        rows[name] = seconds, cpu, last['peak'], last['peak'] - last['before']
        print('{:10s} {:9.2f} {:9.2f} {:9.0f} {:13.0f}'.format(name, *rows[name]))
    a, b = (rows[name] for name in names)
    print(f'ratio      {a[0] / b[0]:8.2f}x {a[1] / b[1]:8.2f}x {b[2] / a[2]:9.2f} {b[3] / a[3]:13.2f}')
    print('(time: {0} / {1}; memory: {1} / {0})'.format(*names))
    for name, found in shares.items():
        print(f'{name}: ' + ', '.join(f'{op} {share:.1%}' for op, share in list(found.items())[: args.profile]))
    if args.without_text:
        return
    results = [torch.load(files[name], weights_only=True) for name in ('official', 'ours')]
    compare(*results)


def compare(official: dict, ours: dict) -> None:
    """Print how far the results are from each other."""
    if 'labels' in official:
        print(f'same class at {(official["labels"] == ours["labels"]).float().mean().item():.4%} of the pixels')
        return
    grads = [name for name in official if '.loss_' not in name and '.acc_' not in name]
    for name in official.keys() - set(grads):
        print(f'{name:25s} {official[name].item():.7f} and {ours[name].item():.7f}')
    apart = sum((official[n] - ours[n]).double().square().sum() for n in grads).sqrt()
    norm = sum(official[n].double().square().sum() for n in grads).sqrt()
    print(f'gradients of {len(grads)} tensors: |difference| / |gradient| = {apart / norm:.1e}')


if __name__ == '__main__':
    main()
