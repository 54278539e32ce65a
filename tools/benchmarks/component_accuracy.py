"""mIoU of the components of docs/components.md on drawn scenes: mean and standard deviation of three seeds.

    OMP_NUM_THREADS=1 python tools/benchmarks/component_accuracy.py                # all, about 50 minutes of one core
    OMP_NUM_THREADS=1 python tools/benchmarks/component_accuracy.py --only labels  # some rows, see --help

Prompts: a tiny-vit with a feature pyramid, trained with labels: the frozen tower alone, with VPT, with low-rank
updates, and the whole tower trained. Labels: SegFormer's decoder and UPerNet on tiny-rn, trained without any
label by PseudoLabelHook, beside the MaskCLIP that labels. All have the same scenes, schedule and number of iterations,
and are scored on the same 200 scenes after the last. Minutes are those of the processor, with start and validation.
Each run leaves a file in --out; a run that has one is not made again, so that a stopped program goes on. A run that
fails is told, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from vlm_dense.cli.arguments import positive

CONFIGS = Path(__file__).parents[2] / 'configs'
VPT, PLUS = 'vpt/vpt_fpn_shapes.py', 'maskclip_plus/maskclip_plus_hook_{}_shapes.py'
PYRAMID = {f'backbone.fpn{i}': dict(lr_mult=1.0) for i in range(1, 5)}  # new layers, in a tower that is trained
WHOLE = {
    'model.backbone.image_prompt': None,
    'model.backbone.frozen': False,
    'optim_wrapper.paramwise_cfg.custom_keys': {'backbone': dict(lr_mult=0.3), **PYRAMID},
}
ROWS = {
    'prompts, frozen': (VPT, {'model.backbone.image_prompt': None}),
    'prompts, frozen and VPT': (VPT, {}),
    'prompts, frozen and LoRA': ('clip_lora/clip_lora_fpn_shapes.py', {}),
    'prompts, all trained': (VPT, WHOLE),
    'labels, SegFormer': (PLUS.format('segformer'), {}),
    'labels, UPerNet': (PLUS.format('upernet'), {}),
    'labels, the teacher': ('maskclip/maskclip_tiny-vit_shapes.py', {}),
}
"""Name -> config and its changes; the last is tested and not trained."""
TEACHER = 'labels, the teacher'


def worker(row: str, seed: int, iterations: int, folder: Path) -> None:
    """Train and validate, or test; write the result."""
    from vlm_dense.engine.runner import launch

    path, changes = ROWS[row]
    args = argparse.Namespace(config=str(CONFIGS / path), work_dir=str(folder / 'work'), launcher='none')
    args.local_rank = args.data_root = args.load_from = args.resume = args.checkpoint = args.out = args.show_dir = None
    args.amp = args.tta = False
    args.overwrite = True  # what a stopped run left
    counted, build = {}, launch.build_runner

    def watched(cfg):
        runner = build(cfg)
        sizes = [(p.numel(), p.requires_grad) for p in runner.model.parameters()]
        counted.update(parameters=sum(n for n, _ in sizes), trained=sum(n for n, learns in sizes if learns))
        return runner

    launch.build_runner = watched
    if row == TEACHER:
        args.cfg_options = None
        found = launch.test(args)
        counted['trained'] = 0
    else:
        warm_up = min(50, iterations // 2)
        schedule = {
            'train_cfg.max_iters': iterations,
            'train_cfg.val_interval': iterations,
            'param_scheduler.0.end': warm_up,
            'param_scheduler.1.begin': warm_up,
            'param_scheduler.1.end': iterations,
            'default_hooks.checkpoint.interval': iterations,
        }
        args.cfg_options = {**changes, **schedule, 'randomness.seed': seed}
        found = launch.train(args)
    result = dict(counted, miou=round(float(found['mIoU']), 2), minutes=round(time.process_time() / 60, 2))
    (folder / 'result.json').write_text(json.dumps(result))


def run(row: str, seed: int, iterations: int, out: Path) -> dict | None:
    """Result of a run, from its file if there is one; ``None`` if it failed."""
    folder = out / f'{row.replace(", ", "_").replace(" ", "-")}_{iterations}' / str(seed)
    result = folder / 'result.json'
    if not result.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, '--worker', row, str(seed), str(iterations), str(folder)]
        with (folder / 'log.txt').open('w', encoding='utf-8') as log:
            status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        if status or not result.is_file():
            print(f'{row}, seed {seed}: ended with status {status}, see {folder / "log.txt"}', flush=True)
            return None
        print(f'{row}, seed {seed}: {result.read_text()}', flush=True)
    return json.loads(result.read_text())


def line(row: str, found: list[dict]) -> str:
    """The means of a row, with the standard deviation of mIoU."""
    scores = [one['miou'] for one in found]
    deviation = f'{statistics.stdev(scores):4.1f}' if len(scores) > 1 else '   -'
    minutes = statistics.mean(one['minutes'] for one in found)
    numbers = f'{found[0]["trained"]:10d} {found[0]["parameters"]:10d} {statistics.mean(scores):6.1f} {deviation}'
    return f'{row:26}{numbers} {minutes:8.1f} {len(found):6d}'


def main() -> int:
    """Run all and print the table; returns the number of runs that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', metavar='WORD', default='', help=f'rows with this in their name: {"; ".join(ROWS)}')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--iterations', type=positive, default=400)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/component_accuracy'), help='where runs are kept')
    parser.add_argument('--worker', nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        row, seed, iterations, folder = args.worker
        worker(row, int(seed), int(iterations), Path(folder))
        return 0
    results = {row: [] for row in ROWS if args.only in row}
    failed = 0
    for seed in args.seeds:
        for row, found in results.items():
            if row != TEACHER or not found:  # it draws nothing
                one = run(row, seed, args.iterations, args.out.absolute())
                failed += one is None
                found += [one] if one else []
    print(f'\n{"":26}{"trained":>10} {"parameters":>10} {"mIoU":>6} {"+-":>4} {"minutes":>8} {"seeds":>6}')
    for row, found in results.items():
        print(line(row, found) if found else f'{row:26}failed')
    return failed


if __name__ == '__main__':
    sys.exit(main())
