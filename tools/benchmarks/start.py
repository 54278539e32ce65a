"""What a program costs from the command to its first result: seconds of processor, the median of several runs.

    OMP_NUM_THREADS=1 python tools/benchmarks/start.py
    OMP_NUM_THREADS=1 python tools/benchmarks/start.py --before ../clone_of_another_version

Each program does the least that it can do, on the bundled models and one drawn image, in a new process; what processes
of its own take is counted. With ``--before`` the programs of another clone run in turn with these.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKPOINT = """
import sys, torch, vlm_dense
vlm_dense.setup()
from mmengine import Config
from vlm_dense.datasets import ShapesDataset
from vlm_dense.registry import MODELS
names = list(ShapesDataset.METAINFO['classes'])
model = MODELS.build(dict(Config.fromfile(sys.argv[1]).model, class_names=names))
model.init_weights()
torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=names))), sys.argv[2])
"""
"""Makes a checkpoint of a detector with random weights, which is not measured."""
DETECTOR = 'denseclip_mask-rcnn_shapes'
ROOT = Path(__file__).parents[2]
NAMES = ['--classes', 'empty background', 'circle', 'star']
ONE_STEP = ['train_cfg.max_iters=1', 'train_cfg.val_interval=10', 'train_dataloader.num_workers=0']
ONE_STEP += ['train_dataloader.persistent_workers=False', 'default_hooks.checkpoint.interval=10']
PROGRAMS = {
    'segment': ['segment', '{image}', *NAMES, '--out', '{out}'],
    'segment, NACLIP': ['segment', '{image}', *NAMES, '--method', 'naclip', '--out', '{out}'],
    'classify': ['classify', '{image}', *NAMES, '--out', '{out}'],
    'pseudo-label': ['pseudo-label', 'maskclip_tiny-vit', 'none', '{images}', '{out}', *NAMES, '-q'],
    'label': ['label', '{images}', '{out}', '--model', 'maskclip_tiny-vit', *NAMES, '-q'],
    'features': ['features', '{images}', '{out}', '--model', 'maskclip_tiny-vit', '-q'],
    'detect': ['detect', '{image}', '--model', DETECTOR, '--weights', '{detector}', '--out', '{out}'],
    'export': ['export', 'maskclip_tiny-vit', '--out', '{out}.onnx', *NAMES],
    'train': ['train', 'denseclip_shapes', '--work-dir', '{out}', '--cfg-options', *ONE_STEP],
    'check-data': ['check-data', 'denseclip_shapes'],
    'print-config': ['print-config', 'denseclip_shapes'],
    'info': ['info', 'denseclip_shapes'],
    'models': ['models', 'denseclip'],
    'segment --help': ['segment', '--help'],
}
"""Row of the table -> arguments of ``vlm-dense``."""


def cost(arguments: list[str], clone: Path) -> float | None:
    """Seconds of processor of a program of a clone; None if the clone does not have it, or it fails."""
    environment = {**os.environ, 'PYTHONPATH': str(clone)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, '-m', 'vlm_dense', *arguments]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        print(f'{" ".join(arguments)}: {done.stderr.strip().splitlines()[-1:]}', file=sys.stderr)
        return None
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(names: list[str], clones: list[Path], repeats: int) -> dict[str, list[float | None]]:
    """Row -> the median of each clone."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, 'images')
        images.mkdir()
        image = images / 'scene.png'
        image.write_bytes((ROOT / 'docs' / 'images' / 'shapes.png').read_bytes())
        detector = Path(folder, 'detector.pth')
        if 'detect' in names:
            config = ROOT / 'configs' / f'{DETECTOR}.py'
            command = [sys.executable, '-c', CHECKPOINT, str(config), str(detector)]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        for name in names:
            runs = [[] for _ in clones]
            for repeat in range(repeats):
                for number, clone in enumerate(clones):
                    out = str(Path(folder, f'{number}_{repeat}_{len(found)}'))
                    places = dict(image=str(image), images=str(images), detector=str(detector), out=out)
                    runs[number].append(cost([one.format(**places) for one in PROGRAMS[name]], clone))
            found[name] = [None if None in each else statistics.median(each) for each in runs]
            print(row(name, found[name]), flush=True)
    return found


def row(name: str, figures: list[float | None]) -> str:
    """A line of the table."""
    return f'| {name} | {" | ".join("-" if each is None else f"{each:.1f}" for each in figures)} |'


def main(argv: list[str] | None = None) -> dict[str, list[float | None]]:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--before', type=Path, help='clone of another version, for a column before this one')
    parser.add_argument('--programs', nargs='+', choices=PROGRAMS, default=list(PROGRAMS), metavar='NAME')
    parser.add_argument('--repeats', type=int, default=3)
    args = parser.parse_args(argv)
    clones = [*([args.before.resolve()] if args.before else []), ROOT]
    heads = ['before, s', 'now, s'] if args.before else ['s of processor']
    print(f'| program | {" | ".join(heads)} |\n|---|{"---|" * len(heads)}')
    return measure(args.programs, clones, args.repeats)


if __name__ == '__main__':
    main()
