"""Cost of each component of docs/components.md in a stock config: parameters trained, time of a step and memory.

    OMP_NUM_THREADS=1 python tools/benchmarks/component_costs.py                  # ViT-B/16 and R50, 224 px
    OMP_NUM_THREADS=1 python tools/benchmarks/component_costs.py --arch tiny-vit --size 96

The configs are mmseg's Semantic FPN and mmdet's RetinaNet with 150 and 80 class names and random weights; a batch has
two images. Every model has a process of its own; they take turns step by step, so that other programs on the same cores
disturb all alike. Told are the median seconds of the processor for a training step, which updates the weights, the
greatest memory of the process, and the ratios to the same config without the component.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from vlm_dense.cli.arguments import positive

FPN = 'mmseg/.mim/configs/sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'
RETINANET = 'mmdet/.mim/configs/retinanet/retinanet_r50_fpn_1x_coco.py'
KINDS = {
    'Semantic FPN, tower frozen': None,
    'VPT-deep, 8 tokens': 'Semantic FPN, tower frozen',
    'LoRA, rank 4': 'Semantic FPN, tower frozen',
    'tower trained': 'Semantic FPN, tower frozen',
    'Semantic FPN, R50': None,
    'PixelTextHead, auxiliary': 'Semantic FPN, R50',
    'PseudoLabelHook': 'Semantic FPN, R50',
    'RetinaNet, R50': None,
    'TextGuidedNeck': 'RetinaNet, R50',
}
"""Name -> what it is compared with; ``None``: a config without a component."""


def model_config(kind: str, arch: str, size: int):
    """The model of a stock config, with the component."""
    import mmengine
    from mmengine.config import Config

    detection = kind in ('RetinaNet, R50', 'TextGuidedNeck')
    packages = Path(mmengine.__file__).parents[1]
    model = Config.fromfile(packages / (RETINANET if detection else FPN)).model
    model.pop('pretrained', None)
    model.backbone.init_cfg = None
    clip = dict(arch=arch, pretrained=None)
    text = dict(text_encoder=dict(type='vlm_dense.TextTower', **clip))
    if not detection:
        model.data_preprocessor.size = (size, size)
        model.decode_head.norm_cfg = dict(type='BN')
    if kind in ('VPT-deep, 8 tokens', 'LoRA, rank 4', 'tower trained', 'Semantic FPN, tower frozen'):
        from vlm_dense.clip.vit import CLIPViT

        options = {
            'VPT-deep, 8 tokens': dict(image_prompt=dict(type='vlm_dense.VPTPrompt', num_tokens=8)),
            'LoRA, rank 4': dict(image_prompt=dict(type='vlm_dense.LoRA', rank=4)),
        }.get(kind, {})
        tower = dict(type='vlm_dense.CLIPViT', pyramid=True, frozen=kind != 'tower trained', **clip)
        if 'num_tokens' in str(options):
            options['image_prompt']['depth'] = len(CLIPViT(**clip).transformer.resblocks)
        model.backbone = dict(tower, **options)
        model.neck.in_channels = CLIPViT.stage_channels(model.backbone)
    elif kind == 'PixelTextHead, auxiliary':
        head = dict(type='vlm_dense.PixelTextHead', in_channels=256, in_index=3, class_names='ADE20KDataset', **text)
        model.auxiliary_head = head
    elif kind == 'TextGuidedNeck':
        neck = dict(type='vlm_dense.TextGuidedNeck', in_channels=model.neck.in_channels, neck=model.neck, **text)
        model.neck = dict(neck, class_names='mmdet.CocoDataset')
    return model


def samples(detection: bool, size: int) -> list:
    """Two samples with labels."""
    import torch
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData, PixelData
    from mmseg.structures import SegDataSample

    if detection:
        meta = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (size, size))
        boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.3, 0.4, 0.9, 0.8]]) * size
        known = InstanceData(bboxes=boxes, labels=torch.tensor([1, 2]))
        found = [DetDataSample(gt_instances=copy.deepcopy(known), metainfo=meta) for _ in range(2)]
        for sample in found:
            sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
        return found
    labels = torch.randint(150, (2, 1, size // 8, size // 8)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in labels]


def worker(kind: str, arch: str, size: int) -> None:
    """For each line on stdin a training step; prints what it took."""
    import vlm_dense

    vlm_dense.setup()
    import torch
    from mmengine.model import revert_sync_batchnorm
    from mmengine.optim import OptimWrapper
    from mmengine.registry import init_default_scope

    from vlm_dense.registry import HOOKS, MODELS

    torch.set_num_threads(1)
    torch.manual_seed(0)
    detection = kind in ('RetinaNet, R50', 'TextGuidedNeck')
    init_default_scope('mmdet' if detection else 'mmseg')
    model = revert_sync_batchnorm(MODELS.build(model_config(kind, arch, size))).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    wrapper = OptimWrapper(torch.optim.AdamW(trained, lr=1e-5))
    labelled, hook = samples(detection, size), None
    if kind == 'PseudoLabelHook':
        tower = dict(arch=arch, pretrained=None)
        teacher = dict(type='vlm_dense.MaskCLIP', backbone=dict(type='vlm_dense.MaskCLIPViT', **tower))
        teacher['text_encoder'] = dict(type='vlm_dense.TextTower', **tower)
        hook = HOOKS.build(dict(type='vlm_dense.PseudoLabelHook', teacher=teacher, class_names='ADE20KDataset'))
        runner = SimpleNamespace(model=model, iter=0, train_dataloader=None)
        hook.before_train(runner)
        labelled = [type(sample)() for sample in labelled]
    images = [torch.randint(256, (3, size, size), dtype=torch.uint8) for _ in range(2)]
    print(json.dumps(dict(trained=sum(p.numel() for p in trained))), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        batch = dict(inputs=list(images), data_samples=copy.deepcopy(labelled))
        if hook is not None:
            hook.before_train_iter(runner, 0, batch)
        model.train_step(batch, wrapper)
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(dict(seconds=seconds, peak=peak)), flush=True)


def answer(process: subprocess.Popen) -> dict:
    """The next line of JSON of a worker."""
    for line in process.stdout:
        if line.startswith('{'):
            return json.loads(line)
    raise SystemExit(f'a worker stopped with code {process.wait()}; see above')


def compare(kinds: list[str], args: argparse.Namespace) -> None:
    """Let the models of some kinds take turns, and print their lines."""
    processes, first = {}, {}
    for kind in kinds:
        command = [sys.executable, __file__, '--worker', kind, '--arch', args.arch, '--size', str(args.size)]
        processes[kind] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        first[kind] = answer(processes[kind])
    steps = {kind: [] for kind in kinds}
    for _ in range(args.steps + 1):
        for kind, process in processes.items():
            process.stdin.write('\n')
            process.stdin.flush()
            steps[kind].append(answer(process))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    rows = {}
    for kind, taken in steps.items():
        seconds = statistics.median(one['seconds'] for one in taken[1:])  # the first encodes the names
        rows[kind] = first[kind]['trained'], seconds, taken[-1]['peak']
        trained, seconds, peak = rows[kind]
        told = f'{kind:28}{trained:12d} {seconds:8.2f} s {peak:7.0f} MB'
        if KINDS[kind] is not None:
            before = rows[KINDS[kind]]
            told += f'   x {trained / before[0]:.3f}, x {seconds / before[1]:.2f}, x {peak / before[2]:.2f}'
        print(told, flush=True)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', default='ViT-B-16')
    parser.add_argument('--size', type=positive, default=224)
    parser.add_argument('--steps', type=positive, default=5)
    parser.add_argument('--worker', choices=list(KINDS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, args.arch, args.size)
    print(f'{"":28}{"trained":>12} {"a step":>10} {"memory":>10}   ratios: trained, time, memory')
    for without in (kind for kind, base in KINDS.items() if base is None):
        compare([without, *(kind for kind, base in KINDS.items() if base == without)], args)


if __name__ == '__main__':
    main()
