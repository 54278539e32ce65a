"""A training from its config to the end, with mmseg's losses and labels at full size, and strip by strip.

    OMP_NUM_THREADS=1 python tools/benchmarks/whole_training.py                      # configs/denseclip_shapes.py
    OMP_NUM_THREADS=1 python tools/benchmarks/whole_training.py CONFIG --cfg-options train_cfg.max_iters=100

Both start from the same seed, one after the other in processes of their own. Told are the mIoU of each validation, the
processor's time, and the peak memory of the process. Losses agree but for rounding, amplified by training.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import vlm_dense

vlm_dense.setup()  # before others import mmseg
from dense_inference import answer
from denseclip_inference import whole_losses
from mmseg.models import EncoderDecoder

from vlm_dense.cli.arguments import add_config_arguments
from vlm_dense.engine.runner.launch import build_runner, prepare

CONFIG = Path(__file__).parents[2] / 'configs' / 'denseclip_shapes.py'


def worker(args: argparse.Namespace) -> None:
    """Train, and print a line of JSON."""
    options = dict(args.cfg_options or {}, **{'randomness.seed': 0})
    run = argparse.Namespace(config=args.config, work_dir=args.work_dir, launcher='none', local_rank=None)
    run.data_root, run.cfg_options = None, options
    runner = build_runner(prepare(run, ('train_dataloader', 'val_dataloader')))
    if args.worker == 'mmseg':
        whole_losses(runner.model)
        runner.model.predict = functools.partial(EncoderDecoder.predict, runner.model)
    cpu = time.process_time()
    runner.train()
    cpu = time.process_time() - cpu
    lines = [json.loads(x) for f in Path(args.work_dir).glob('*/vis_data/scalars.json') for x in f.open()]
    curve = [x['mIoU'] for x in lines if 'mIoU' in x]
    losses = [x['loss'] for x in lines if 'loss' in x]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print('\n' + json.dumps(dict(cpu=cpu, peak=peak, curve=curve, losses=losses)), flush=True)


def main() -> None:
    """Run both and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', default=str(CONFIG), help='of a segmentor of vlm_dense')
    add_config_arguments(parser)
    parser.add_argument('--worker', choices=['mmseg', 'strips'], help=argparse.SUPPRESS)
    parser.add_argument('--work-dir', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args)
    rows = {}
    for name in ('mmseg', 'strips'):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, *sys.argv[1:], '--worker', name, '--work-dir', folder]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            rows[name] = answer(process)
            process.wait()
        row = rows[name]
        curve = ' '.join(f'{x:.1f}' for x in row['curve'])
        print(f'{name:7s} {row["cpu"]:8.1f} CPU s {row["peak"]:7.0f} MB   mIoU {curve}', flush=True)
    before, after = rows.values()
    first = abs(before['losses'][0] - after['losses'][0])
    print(f'ratio   {before["cpu"] / after["cpu"]:8.2f}x     {after["peak"] / before["peak"]:7.2f}')
    print('(time: mmseg / strips; memory: strips / mmseg)')
    last = after['curve'][-1] - before['curve'][-1]
    print(f'the first loss of the log differs by {first:.1e}, the last mIoU by {last:+.2f}')


if __name__ == '__main__':
    main()
