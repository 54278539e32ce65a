"""Kill runs with signal 9 at random moments, let them go on, and compare what they leave with an uninterrupted run.

    python tests/faults/kills.py --kills 200 --folder /tmp/kills --minutes 30

A third of the moments lie inside the writing of a checkpoint (after a random byte), a third before an operation on a
file of the work dir (open, rename, remove), a third at a random time. A run is killed, with the processes that it
started, up to three times before it may end. What is compared, bit for bit: names of checkpoints, weights, optimizer,
schedules, best score and which files ``last_checkpoint`` and the best ones are; masks and summary of pseudo-labels;
exported files; scores, tables and images of comparisons, without their times and memory. Programs take turns, so that
a run that ends early has killed all of them. The same command with the same folder goes on.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import mmap
import multiprocessing
import os
import random
import re
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

import vlm_dense

vlm_dense.setup()

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from engine.toy import write_config, write_data

import vlm_dense.methods
from vlm_dense.cli import compare, compare_dense
from vlm_dense.comparison import runs
from vlm_dense.engine.runner import launch, runner
from vlm_dense.inference import export_file
from vlm_dense.inference.pseudo_label import pseudo_label

CHAIN = 3
"""Most kills of one run."""

_FILES = ('open', 'os.rename', 'os.remove', 'os.rmdir')
_SEGMENTOR = """
default_hooks['checkpoint'] = dict(type='CheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=1,
                                   save_best='kills/sureness', rule='greater')
val_evaluator = [val_evaluator, dict(type='KillsSureness')]
train_cfg.update(max_iters=8, val_interval=2)
custom_hooks = [dict(type='vlm_dense.SeedIterationHook'), dict(type='vlm_dense.CheckpointFitHook'),
                dict(type='vlm_dense.FrozenWeightsHook')]
"""
_UNLABELLED = """
train_pipeline.insert(-1, dict(type='vlm_dense.SuppressLabels'))
clip = dict(arch='tiny-vit', pretrained='bundled')
teacher = dict(type='vlm_dense.MaskCLIP', backbone=dict(type='vlm_dense.MaskCLIPViT', **clip),
               text_encoder=dict(type='vlm_dense.TextTower', **clip))
custom_hooks += [dict(type='vlm_dense.PseudoLabelHook', teacher=teacher, start_clip_guided=(1, 4),
                      start_self_train=(5, -1))]
"""
_HOOKS = [dict(type=f'vlm_dense.{name}Hook') for name in ('SeedIteration', 'CheckpointFit', 'FrozenWeights')]
_CLASSIFIER = """
_base_ = {base!r}
visualizer = dict(name='classifier')
custom_hooks = [dict(type='vlm_dense.SeedIterationHook'), dict(type='vlm_dense.CheckpointFitHook'),
                dict(type='vlm_dense.FrozenWeightsHook')]
val_evaluator = [dict(type='vlm_dense.Accuracy'), dict(type='KillsSureness')]
"""


@METRICS.register_module()
class KillsSureness(BaseMetric):
    """Mean of the greatest logit or score: unlike accuracy on a few images, it changes with every step."""

    default_prefix = 'kills'

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            scores = sample['seg_logits']['data'] if 'seg_logits' in sample else sample['pred_scores']
            self.results.append(float(scores.amax(0).double().mean()))

    def compute_metrics(self, results):
        return dict(sureness=sum(results) / len(results))


# --- what runs --------------------------------------------------------------------------------------------------------


def _arguments(config: str, work_dir: Path) -> argparse.Namespace:
    given = dict(launcher='none', local_rank=None, data_root=None, cfg_options=None, load_from=None, amp=False)
    return argparse.Namespace(config=config, work_dir=str(work_dir), resume='auto', **given)


def segmentor(folder: Path) -> Callable[[Path], None]:
    """A small FCN; its best checkpoint is kept."""
    config = write_config(folder, write_data(folder / 'data'), _SEGMENTOR, 'segmentor')
    return lambda work_dir: launch.train(_arguments(config, work_dir))


def label_hook(folder: Path) -> Callable[[Path], None]:
    """The same FCN without labels: a hook gives it those of a MaskCLIP and later its own."""
    config = write_config(folder, write_data(folder / 'data'), _SEGMENTOR + _UNLABELLED, 'label_hook')
    return lambda work_dir: launch.train(_arguments(config, work_dir))


def classifier(folder: Path) -> Callable[[Path], None]:
    """Tip-Adapter-F: a cache that is prepared, trained, and finished with the weights of the best epoch."""
    base = str(Path(__file__).parents[2] / 'configs' / 'tip_adapter_f' / 'tip_adapter_f_shapes.py')
    path = folder / 'classifier.py'
    path.write_text(_CLASSIFIER.format(base=base))
    options = {'train_cfg.max_epochs': 4, 'train_dataloader.batch_size': 8, 'model.head.shots': 2}
    options |= {'model.head.passes': 2, 'default_hooks.checkpoint.interval': 1}
    options |= {'default_hooks.checkpoint.max_keep_ckpts': 1}
    options |= {'default_hooks.checkpoint.save_best': 'kills/sureness'}
    prepared = [f'default_hooks.prepare.data.{name}' for name in ('support', 'search')]
    data = ['train_dataloader', 'val_dataloader', *prepared]
    for loader in data:
        options |= {f'{loader}.dataset.dataset.shots': 2, f'{loader}.dataset.dataset.dataset.num_scenes': 80}

    def run(work_dir: Path) -> None:
        arguments = _arguments(str(path), work_dir)
        cache = {f'{loader}.dataset.cache_dir': str(work_dir / 'features') for loader in data}
        arguments.cfg_options = options | cache
        launch.train(arguments)

    return run


def pseudo_labels(folder: Path) -> Callable[[Path], None]:
    """MaskCLIP labels a folder of images."""
    rng = np.random.RandomState(0)
    (folder / 'images').mkdir()
    for number in range(8):
        noise = rng.randint(0, 255, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(noise).resize((64, 48)).save(folder / 'images' / f'{number}.png')
    return lambda work_dir: pseudo_label(
        'maskclip_tiny-vit_shapes', None, str(folder / 'images'), str(work_dir), batch_size=2
    )


def detector(folder: Path) -> Callable[[Path], None]:
    """RetinaNet with DenseCLIP's text on drawn scenes, validated and saved at each second step."""
    config = str(Path(__file__).parents[2] / 'configs' / 'denseclip' / 'denseclip_retinanet_shapes.py')
    options = {'train_cfg.max_iters': 4, 'train_cfg.val_interval': 2, 'train_dataloader.batch_size': 1}
    options |= {'val_dataloader.dataset.indices': 1, 'visualizer.name': 'detector', 'custom_hooks': _HOOKS}
    options |= {'default_hooks.checkpoint.interval': 2, 'default_hooks.checkpoint.max_keep_ckpts': 1}
    options |= {'default_hooks.checkpoint.by_epoch': False}

    def run(work_dir: Path) -> None:
        arguments = _arguments(config, work_dir)
        arguments.cfg_options = options
        launch.train(arguments)

    return run


def export(folder: Path) -> Callable[[Path], None]:
    """A MaskCLIP as a .pt2 and an .onnx file."""

    def run(work_dir: Path) -> None:
        for name in ('model.pt2', 'model.onnx'):
            export_file('maskclip_tiny-vit_shapes', None, str(work_dir / name), ['circle', 'star'], size=(32, 32))

    run(folder / 'imported')  # what the exporters import takes longer than they do
    return run


def comparison(folder: Path) -> Callable[[Path], None]:
    """Two cells that train and test CoOp."""
    options = ['train_cfg.max_epochs=2', 'train_dataloader.batch_size=8', 'test_dataloader.dataset.num_scenes=18']
    options += ['train_dataloader.dataset.dataset.num_scenes=80', 'default_hooks.checkpoint.interval=1']
    words = ['--methods', 'coop', '--shots', '1', '--seeds', '1', '2', '--workers', '1', '--quiet']
    return lambda work_dir: _ended(compare.main([*words, '--out', str(work_dir), '--cfg-options', *options]))


def dense_comparison(folder: Path) -> Callable[[Path], None]:
    """Two methods of dense attention on drawn scenes, with their costs."""
    words = ['--methods', 'naclip', 'maskclip', '--images', 'shapes=2', '--timed', '1', '--drawn', '1', '--quiet']
    return lambda work_dir: _ended(compare_dense.main([*words, '--out', str(work_dir)]))


def _ended(status: int) -> None:
    if status:
        raise SystemExit(status)


KINDS = dict(
    segmentor=segmentor,
    label_hook=label_hook,
    detector=detector,
    classifier=classifier,
    pseudo_label=pseudo_labels,
    export=export,
    compare=comparison,
    compare_dense=dense_comparison,
)


# --- moments ----------------------------------------------------------------------------------------------------------


class Killer:
    """Ends this process at a moment, or counts the moments that there are.

    Args:
        work_dir: Folder of the files that count.
        note: File that the moment is written to.
        moment: ``('byte', number of the write, share)``, ``('file', number of the operation)``, ``('time', seconds)``,
            or None for no end.
    """

    def __init__(self, work_dir: Path, note: Path, moment: tuple | None):
        self.work_dir, self.note, self.moment, self.last = str(work_dir), note, moment, 'start'
        self.counts = mmap.mmap(-1, 16)  # shared with the processes that the run starts

    def counted(self) -> tuple[int, int]:
        """Checkpoints that were written, and operations on files."""
        return struct.unpack('qq', self.counts[:])

    def _count(self, which: int) -> int:
        numbers = list(self.counted())
        numbers[which] += 1
        self.counts[:] = struct.pack('qq', *numbers)
        return numbers[which]

    def start(self) -> None:
        """Watch this process from now on."""
        write, killer = runner.write_checkpoint, self

        def watched(checkpoint, path, **kwargs):
            number = killer._count(0)
            write(checkpoint, path, **kwargs)
            if killer.moment and killer.moment[:2] == ('byte', number):
                whole = os.path.getsize(path)
                length = int(killer.moment[2] * whole)
                os.truncate(path, length)
                killer.kill(f'byte {length} of {whole} of {Path(path).name}')

        runner.write_checkpoint = watched
        sys.addaudithook(self._operation)
        if self.moment and self.moment[0] == 'time':
            threading.Thread(target=self._later, args=(self.moment[1],), daemon=True).start()

    def _operation(self, event: str, arguments: tuple) -> None:
        if event not in _FILES or not isinstance(arguments[0], (str, os.PathLike)):
            return
        path = os.fspath(arguments[0])
        if not path.startswith(self.work_dir) or path.endswith(('.log', '.json', '.py', '.png')) and 'vis' in path:
            return
        number = self._count(1)
        self.last = f'{event} {os.path.basename(path)}'
        if self.moment == ('file', number):
            self.kill(f'before {self.last}')

    def _later(self, seconds: float) -> None:
        time.sleep(seconds)
        self.kill(f'{seconds:.2f} s, after {self.last}')

    def kill(self, moment: str) -> None:
        """End this process and those that it started."""
        number = os.open(str(self.note), os.O_WRONLY | os.O_CREAT)
        os.write(number, f'{self.moment[0]}: {moment}'.encode())
        os.killpg(0, signal.SIGKILL)


def forked(
    run: Callable[[Path], None], work_dir: Path, moment: tuple | None, logs: Path | None = None
) -> tuple[int, str | dict]:
    """Run in a process of its own; its exit status and where it was killed, or the moments that it counted.

    What it prints goes into ``logs``, or beside ``work_dir``.
    """
    logs = (logs or work_dir.parent) / work_dir.name
    note = logs.with_suffix('.note')
    note.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setsid()  # a group of its own
            log = os.open(str(logs.with_suffix('.log')), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            killer, start = Killer(work_dir, note, moment), time.perf_counter()
            killer.start()
            run(work_dir)
            writes, files = killer.counted()
            counted = dict(writes=writes, files=files, seconds=time.perf_counter() - start)
            note.write_text(json.dumps(counted))
            status = 0
        except SystemExit as left:
            status = left.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    _wait_for_group(pid)
    text = note.read_text() if note.is_file() else ''
    return status, json.loads(text) if status == 0 else text


def _wait_for_group(group: int) -> None:
    """Wait until no process of a killed run is left, ten seconds at most."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.02)


def draw(dice: random.Random, counted: dict) -> tuple:
    """A moment of a run."""
    kind = dice.choice(('byte', 'file', 'time') if counted['writes'] else ('file', 'time'))
    if kind == 'byte':
        return 'byte', dice.randint(1, counted['writes']), dice.random()
    if kind == 'file':
        return 'file', dice.randint(1, counted['files'])
    return 'time', dice.uniform(0, counted['seconds'])


# --- results ----------------------------------------------------------------------------------------------------------


_COSTS = ('second', 'minute', 'memory', '_mb', 'time', 'new')


def result(work_dir: Path) -> dict[str, object]:
    """What a run leaves, as bytes and numbers that can be compared."""
    found: dict[str, object] = {}
    for path in sorted(p for p in work_dir.rglob('*') if p.is_file() and not p.name.startswith('.training')):
        name = str(path.relative_to(work_dir))
        if name.startswith(('vis', 'features')) or path.name in ('lock', 'pid'):
            continue
        if path.suffix == '.pth':
            found[name] = _content(torch.load(path, map_location='cpu', weights_only=False))
        elif path.name == 'last_checkpoint':
            found[name] = Path(path.read_text()).name
        elif path.suffix == '.npz':
            with np.load(path) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays}
        elif path.name == 'results.csv':
            with path.open(encoding='utf-8') as file:
                found[name] = repr([_without_costs(row) for row in csv.DictReader(file)])
        elif path.name == 'pseudo_labels.json' or path.name.startswith('test_') and path.suffix == '.json':
            found[name] = repr(_without_costs(json.loads(path.read_text())))
        elif path.parts[-2] == 'results' or (
            path.parent == work_dir
            and path.suffix not in ('.py', '.json', '.log', '.md', '.txt')
            or (path.suffix == '.png' and path.name != 'results.png')
        ):
            found[name] = path.read_bytes()
    return found


def _without_costs(node):
    """A table or a summary without times and memory, which no two runs share."""
    if isinstance(node, dict):
        return {k: _without_costs(v) for k, v in node.items() if not any(word in k for word in _COSTS)}
    return [_without_costs(one) for one in node] if isinstance(node, list) else node


def _content(checkpoint: dict) -> dict:
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        return dict(_flat(checkpoint))
    hub = checkpoint.get('message_hub', {}).get('runtime_info', {})
    info = {k: v for k, v in hub.items() if k.startswith(('best', 'keep', 'last', 'iter', 'epoch'))}
    kept = {k: checkpoint.get(k) for k in ('state_dict', 'optimizer', 'param_schedulers')}
    meta = {k: checkpoint.get('meta', {}).get(k) for k in ('iter', 'epoch', 'seed')}
    return dict(_flat(dict(kept, info=info, meta=meta)))


def _flat(value, path: str = ''):
    if isinstance(value, dict):
        for key in value:
            yield from _flat(value[key], f'{path}.{key}')
    elif isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            yield from _flat(one, f'{path}.{index}')
    elif isinstance(value, torch.Tensor):
        yield (
            path,
            (str(value.dtype), tuple(value.shape), value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()),
        )
    else:
        yield path, os.path.basename(value) if isinstance(value, str) else value


def differences(expected: dict, found: dict) -> list[str]:
    """What is not as expected, in words."""
    lines = [f'{name} is missing' for name in expected.keys() - found.keys()]
    lines += [f'{name} is left over' for name in found.keys() - expected.keys()]
    for name in sorted(expected.keys() & found.keys()):
        a, b = expected[name], found[name]
        if isinstance(a, dict) and isinstance(b, dict):
            unlike = [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
            lines += [f'{name} differs in {", ".join(unlike[:4])}'] if unlike else []
        elif a != b:
            lines.append(f'{name} differs')
    return lines


def prepare_process() -> None:
    """Run on one thread, and without the search for compilers, which takes longer than a run."""
    torch.set_num_threads(1)
    launch.SafeRunner._log_env = lambda self, env_cfg: None
    for module in (runs, compare_dense):  # from here, where everything is imported and the kill waits
        module.forked_context = lambda *imported: multiprocessing.get_context('fork')


# --- program ----------------------------------------------------------------------------------------------------------


@dataclass
class Attack:
    """Kills of one program so far; a file of the folder keeps them.

    Attributes:
        kind: Of :data:`KINDS`.
        folder: For its runs.
        moments: Where kills fell.
        failures: What went wrong.
        number: Runs begun.
        seconds: That they took.
        counted: Moments of the uninterrupted run.
    """

    kind: str
    folder: Path
    seed: int
    moments: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    number: int = 0
    seconds: float = 0.0
    counted: dict | None = None

    def prepare(self) -> None:
        """Read what an earlier call left, and make the run that is not interrupted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._state.is_file():
            vars(self).update(json.loads(self._state.read_text()))
        place = self.folder / f'inputs{time.time_ns()}'
        place.mkdir()
        self.run = KINDS[self.kind](place)
        whole = self.folder / 'whole'
        if self.counted is None:
            shutil.rmtree(whole, ignore_errors=True)
            status, self.counted = forked(self.run, whole, None)
            if status != 0:
                raise SystemExit(f'The uninterrupted {self.kind} fails, see {whole}.log')
            self._keep()
            print(f'{self.kind}: uninterrupted, {self.counted}', flush=True)
        self.expected = result(whole)

    @property
    def _state(self) -> Path:
        return self.folder / 'state.json'

    def _keep(self) -> None:
        kept = {k: v for k, v in asdict(self).items() if k not in ('kind', 'folder', 'seed')}
        self._state.write_text(json.dumps(kept))

    def go_on(self, most: int) -> None:
        """Kill one run up to three times, ``most`` at most, and compare what it leaves."""
        dice, start = random.Random(f'{self.kind} {self.seed} {self.number}'), time.monotonic()
        work_dir = self.folder / f'run{self.number}'
        _remove(work_dir)  # of a call that was stopped
        self.number += 1
        told = []
        for moment in [*(draw(dice, self.counted) for _ in range(dice.randint(1, min(CHAIN, most)))), None]:
            status, where = forked(self.run, work_dir, moment)
            if status != -signal.SIGKILL:  # the end: the moment did not come, or this was the last run
                break
            told.append(where)
        wrong = [f'left with status {status}'] if status else differences(self.expected, result(work_dir))
        if wrong:
            self.failures.append(f'{work_dir}: {"; ".join(wrong)} after kills at {told}')
            print(self.failures[-1], flush=True)
        else:
            _remove(work_dir)
        self.moments += told
        self.seconds += time.monotonic() - start
        self._keep()


def table(attacks: Sequence[Attack]) -> str:
    """Kills and what they changed, a line a program."""
    rows = [('program', 'kills', 'runs', 'differences', 'seconds')]
    rows += [(a.kind, len(a.moments), a.number, len(a.failures), round(a.seconds)) for a in attacks]
    rows.append(('all', *(sum(row[i] for row in rows[1:]) for i in range(1, 5))))
    return '\n'.join(f'{row[0]:14}' + ''.join(f'{cell:>12}' for cell in row[1:]) for row in rows)


def _remove(work_dir: Path) -> None:
    shutil.rmtree(work_dir, ignore_errors=True)
    for suffix in ('.log', '.note'):
        work_dir.with_suffix(suffix).unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kind', nargs='+', choices=list(KINDS), default=list(KINDS))
    parser.add_argument('--kills', type=int, default=200, help='of all kinds together (default: %(default)s)')
    parser.add_argument('--minutes', type=float, default=float('inf'), help='begin no run after that (default: no end)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--folder', type=Path, help='default: a temporary one; failed runs are kept there')
    args = parser.parse_args(argv)
    prepare_process()
    folder = args.folder or Path(tempfile.mkdtemp(prefix='kills_'))
    end = time.monotonic() + 60 * args.minutes
    attacks = [Attack(kind, folder.absolute() / kind, args.seed) for kind in args.kind]
    for attack in attacks:
        attack.prepare()
    for attack, most in _turns(attacks, args.kills):
        if time.monotonic() > end:
            break
        attack.go_on(most)
        if attack is attacks[-1]:
            print(f'{sum(len(a.moments) for a in attacks)} kills', flush=True)
    places = collections.Counter(f'{a.kind}: {_place(moment)}' for a in attacks for moment in a.moments)
    print('Where they fell:')
    for place, count in sorted(places.items()):
        print(f'  {count:4}  {place}')
    for failure in (failure for attack in attacks for failure in attack.failures):
        print(failure)
    failures = sum(len(attack.failures) for attack in attacks)
    print(f'{table(attacks)}\n{sum(len(a.moments) for a in attacks)} kills, {failures} failures')
    return failures


def _turns(attacks: Sequence[Attack], kills: int) -> Iterator[tuple[Attack, int]]:
    """The attacks in turn, each with how many kills it lacks, until all have their share."""
    shares = [kills // len(attacks) + (i < kills % len(attacks)) for i in range(len(attacks))]
    while any(len(a.moments) < share for a, share in zip(attacks, shares, strict=True)):
        for attack, share in zip(attacks, shares, strict=True):
            if len(attack.moments) < share:
                yield attack, share - len(attack.moments)


def _place(moment: str) -> str:
    """Without numbers: what the moment lies in."""
    return re.sub(r'\d+(\.\d+)?', 'N', moment)


if __name__ == '__main__':
    sys.exit(min(main(), 1))
