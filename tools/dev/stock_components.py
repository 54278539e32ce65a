"""Every component of docs/components.md in configs of mmseg's and mmdet's wheels, run by their own train programs.

    OMP_NUM_THREADS=1 python tools/dev/stock_components.py                        # all, about 15 minutes of one core
    OMP_NUM_THREADS=1 python tools/dev/stock_components.py --only retinanet
    OMP_NUM_THREADS=1 python tools/dev/stock_components.py --write docs/components.md

A cell is a config of the wheel with one component and drawn scenes of 64 px instead of its data: two iterations, a
checkpoint and a validation by `.mim/tools/train.py` of that wheel. The text head, the neck and the prompts stand on the
bundled tiny-vit (YOLOX, which takes three stages: tiny-rn); the hook labels for the config's own backbone, with random
weights. A library's cells are forked from a process that has imported what the program imports, in its order. A cell
works, or the table shows what it says.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

CONFIGS = dict(
    mmseg=[
        'fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py',
        'pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py',
        'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py',
        'danet/danet_r50-d8_4xb4-80k_ade20k-512x512.py',
        'upernet/upernet_r50_4xb4-80k_ade20k-512x512.py',
        'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py',
        'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        'ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py',
        'point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py',
        'segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py',
        'knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py',
        'maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py',
        'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
    ],
    mmdet=[
        'retinanet/retinanet_r50_fpn_1x_coco.py',
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
        'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
        'atss/atss_r50_fpn_1x_coco.py',
        'yolox/yolox_tiny_8xb8-300e_coco.py',
        'detr/detr_r50_8xb2-150e_coco.py',
        'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    ],
)
COLUMNS = ('tower', 'tower and VPT', 'tower and LoRA', 'PixelTextHead', 'PseudoLabelHook', 'TextGuidedNeck')
WORKS = 'works'
LIMIT = 180
"""Seconds of the clock that a cell may take."""
NAMES = ['circle', 'square', 'triangle', 'star', 'cross', 'ring', 'crescent', 'heart']
CLIP = dict(arch='tiny-vit', pretrained='bundled')
TEXT = dict(class_names=NAMES, text_encoder=dict(type='vlm_dense.TextTower', **CLIP))
PROMPTS = {
    'tower and VPT': dict(type='vlm_dense.VPTPrompt', num_tokens=2, depth=4),
    'tower and LoRA': dict(type='vlm_dense.LoRA', rank=2),
}
TEACHER = dict(
    type='vlm_dense.MaskCLIP',
    backbone=dict(type='vlm_dense.MaskCLIPViT', **CLIP),
    text_encoder=dict(type='vlm_dense.TextTower', **CLIP),
)
BEGIN, END = '<!-- tools/dev/stock_components.py -->', '<!-- end -->'


# --- a cell: the config of the wheel and what a user would write ------------------------------------------------------


def on_drawn_scenes(cfg, library: str, labels: bool):
    """Two iterations and a validation on drawn scenes, with as many classes as these have."""
    detection = library == 'mmdet'
    draw = dict(type='vlm_dense.DrawScene', detection=detection)
    train = [draw, dict(type='PackDetInputs' if detection else 'PackSegInputs')]
    test = [draw, dict(type='PackSegInputs')]
    if not labels:
        train.insert(1, dict(type='vlm_dense.SuppressLabels'))
    if detection:
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances')
        pack = dict(type='PackDetInputs', meta_keys=keys)
        test = [draw, dict(type='Resize', scale=(64, 64), keep_ratio=True), pack]
        cfg.val_evaluator = cfg.test_evaluator = dict(type='vlm_dense.CocoMetric', metric=['bbox'])
    scenes = dict(type='vlm_dense.ShapesDataset', size=64, label='shape')
    cfg.train_dataloader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='InfiniteSampler', shuffle=True),
        dataset=dict(num_scenes=4, split='train', pipeline=train, **scenes),
    )
    cfg.val_dataloader = cfg.test_dataloader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(num_scenes=2, split='val', test_mode=True, pipeline=test, **scenes),
    )
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=2)
    cfg.default_hooks.logger.interval = 1
    cfg.custom_hooks = []  # those of YOLOX change the data of the config
    cfg.custom_imports = dict(imports=['vlm_dense'])
    model = cfg.model
    if not detection:
        model.data_preprocessor.size = (64, 64)
    model.data_preprocessor.batch_augments = None
    _fewer_classes(model)


def _fewer_classes(node) -> None:
    if isinstance(node, list):
        for one in node:
            _fewer_classes(one)
    elif isinstance(node, dict):
        if isinstance(node.get('class_weight'), list) and len(node.class_weight) > len(NAMES):
            node.class_weight = [*node.class_weight[: len(NAMES)], node.class_weight[-1]]  # the last: no object
        if isinstance(node.get('num_classes'), int):
            node.num_classes = len(NAMES)
        for value in node.values():
            _fewer_classes(value)


def _without_download(node) -> None:
    if isinstance(node, list):
        for one in node:
            _without_download(one)
    elif isinstance(node, dict):
        if isinstance(node.get('init_cfg'), dict) and 'checkpoint' in node.init_cfg:
            node.init_cfg = None
        if isinstance(node.get('pretrained'), str):
            node.pretrained = None
        for value in node.values():
            _without_download(value)


def _heads(model) -> list:
    found = []
    for name in ('decode_head', 'auxiliary_head'):
        heads = model.get(name) or []
        found += heads if isinstance(heads, list) else [heads]
    return [head.get('kernel_generate_head', head) for head in found]


def put_tower(model, library: str, path: str, **options) -> list[int]:
    """The tower as backbone, and its channels wherever the config has those of the backbone; returns them."""
    channels = [128] * 4
    tower = dict(type='vlm_dense.CLIPViT', pyramid=True, **CLIP)
    neck = model.get('neck')
    if 'yolox' in path:
        tower = dict(type='vlm_dense.CLIPResNet', arch='tiny-rn', pretrained='bundled', out_indices=(1, 2, 3))
        channels = [192, 384, 768]
    elif neck and len(neck.in_channels) == 1:  # one map
        tower, channels = dict(type='vlm_dense.CLIPViT', out_indices=[3], **CLIP), [128]
    model.backbone = dict(tower, **options)
    if neck:
        neck.in_channels = channels
    if library == 'mmseg':
        for head in _heads(model) if not neck else ():
            head.in_channels = 128 if isinstance(head.in_channels, int) else [128] * len(head.in_channels)
            if 'c1_in_channels' in head:
                head.c1_in_channels = 128
    return channels


def put_component(cfg, library: str, path: str, column: str) -> None:
    """What a user writes for a component."""
    model = cfg.model
    if column == 'PseudoLabelHook':
        cfg.custom_hooks = [dict(type='vlm_dense.PseudoLabelHook', teacher=TEACHER)]
        return
    options = dict(frozen=True, image_prompt=PROMPTS[column]) if column in PROMPTS else {}
    channels = put_tower(model, library, path, **options)
    if column == 'PixelTextHead':
        width = model.neck.out_channels if 'neck' in model else 128
        model.auxiliary_head = dict(type='vlm_dense.PixelTextHead', in_channels=width, in_index=2, **TEXT)
    elif column == 'TextGuidedNeck':
        inner = model.get('neck') or dict(type='FPN', out_channels=128, num_outs=4)
        model.neck = dict(type='vlm_dense.TextGuidedNeck', in_channels=channels, neck=inner, **TEXT)


# --- runs -------------------------------------------------------------------------------------------------------------


def run_cell(library: str, path: str, column: str, folder: Path) -> str:
    """What came of a cell in a process of its own: :data:`WORKS`, or the message with which the program ends."""
    folder.mkdir(parents=True)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setsid()
            log = os.open(str(folder / 'log.txt'), os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            _train(library, path, column, folder)
            status = 0
        except BaseException as error:
            text = re.sub(r'\w+\.__init__', '__init__', ' '.join(str(error).split()))  # of whatever detector
            (folder / 'message.txt').write_text(text if _ours(error) else f'{type(error).__name__}: {text}')
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.02)
    else:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return f'was killed after {LIMIT} s'
    message = folder / 'message.txt'
    if message.is_file():
        return message.read_text()
    return WORKS if os.waitstatus_to_exitcode(status) == 0 else f'ended with status {status}'


def _ours(error: BaseException) -> bool:
    from vlm_dense.errors import UserError

    return isinstance(error, UserError)


def _train(library: str, path: str, column: str, folder: Path) -> None:
    from mmengine.config import Config

    mim = Path(sys.modules[library].__file__).parent / '.mim'
    cfg = Config.fromfile(mim / 'configs' / path)
    on_drawn_scenes(cfg, library, labels=column != 'PseudoLabelHook' or library == 'mmdet')
    _without_download(cfg.model)
    put_component(cfg, library, path, column)
    config, work_dir = folder / 'config.py', folder / 'work'
    cfg.dump(config)
    sys.argv = ['train.py', str(config), '--work-dir', str(work_dir)]
    runpy.run_path(str(mim / 'tools' / 'train.py'), run_name='__main__')
    lines = [json.loads(x) for f in work_dir.glob('*/vis_data/scalars.json') for x in f.open()]
    losses = [x['loss'] for x in lines if 'loss' in x]
    metric = 'mIoU' if library == 'mmseg' else 'bbox_mAP'
    told = any(key.endswith(metric) for x in lines for key in x)
    if len(losses) != 2 or not all(map(math.isfinite, losses)) or not told or not (work_dir / 'iter_2.pth').is_file():
        raise AssertionError(f'losses {losses}, {metric} {"" if told else "not "}printed, or no checkpoint')


def run_library(library: str, paths: Sequence[str], folder: Path) -> None:
    """Run the cells of a library's configs; a line of JSON for each."""
    import importlib

    import torch

    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    mim = Path(importlib.import_module(library).__file__).parent / '.mim'
    runpy.run_path(str(mim / 'tools' / 'train.py'), run_name='imports')  # what the program imports, and then
    importlib.import_module('vlm_dense')  # custom_imports of the config
    importlib.import_module(f'{library}.utils').register_all_modules(init_default_scope=False)
    from vlm_dense.registry import MODELS

    MODELS.import_from_location()
    for path in paths:
        for column in COLUMNS:
            start = time.monotonic()
            found = run_cell(library, path, column, folder / Path(path).stem / column.replace(' ', '-'))
            row = dict(library=library, config=path, column=column, found=found)
            print(json.dumps(dict(row, seconds=round(time.monotonic() - start, 1))), flush=True)


def cells(only: str, folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """(library, config) -> column -> what came of it, for the configs with ``only`` in their path."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for library, paths in CONFIGS.items():
        chosen = [path for path in paths if only in path]
        if not chosen:
            continue
        command = [sys.executable, __file__, '--worker', library, *chosen, '--folder', str(folder / library)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if line.startswith('{"library"'):
                    print(line, end='', file=sys.stderr, flush=True)
                    row = json.loads(line)
                    found.setdefault((library, row['config']), {})[row['column']] = row['found']
        if process.returncode:
            raise SystemExit(f'{" ".join(command)} ended with status {process.returncode}')
    return found


# --- table ------------------------------------------------------------------------------------------------------------


def table(found: dict[tuple[str, str], dict[str, str]]) -> str:
    """Markdown: a line a config, and below what the cells with a number say."""
    notes: list[str] = []
    lines = [f'| config | {" | ".join(COLUMNS)} |', f'|---|{"---|" * len(COLUMNS)}']
    for (library, path), row in found.items():
        shown = []
        for column in COLUMNS:
            if row[column] != WORKS and row[column] not in notes:
                notes.append(row[column])
            shown.append(WORKS if row[column] == WORKS else f'refused ({notes.index(row[column]) + 1})')
        lines.append(f'| `{library}::{path}` | {" | ".join(shown)} |')
    lines += ['', *(f'{i}. {_quoted(note)}' for i, note in enumerate(notes, start=1))]
    return '\n'.join(lines)


def _quoted(message: str) -> str:
    return f'`{message.replace("`", chr(39))}`'


def kept(page: Path) -> dict[str, dict[str, str]]:
    """``library::config`` -> column -> what the table of a page says."""
    text = page.read_text(encoding='utf-8').split(BEGIN)[1].split(END)[0]
    notes = dict(re.findall(r'^(\d+)\. `(.*)`$', text, re.M))
    found = {}
    for name, *row in (
        [cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines() if line.startswith('| `')
    ):
        read = [WORKS if cell == WORKS else notes[re.search(r'\d+', cell)[0]] for cell in row]
        found[name.strip('`')] = dict(zip(COLUMNS, read, strict=True))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', default='', metavar='WORD', help='configs with this in their path')
    parser.add_argument('--folder', type=Path, help='where the runs are kept (default: nowhere)')
    parser.add_argument('--write', type=Path, metavar='PAGE', help='replace the table of a page')
    parser.add_argument('--worker', nargs='+', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        run_library(args.worker[0], args.worker[1:], args.folder)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = cells(args.only, (args.folder or Path(folder)).absolute())
    print(table(found))
    if args.write:
        before, rest = args.write.read_text(encoding='utf-8').split(BEGIN)
        after = rest.split(END)[1]
        args.write.write_text(f'{before}{BEGIN}\n\n{table(found)}\n\n{END}{after}', encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
