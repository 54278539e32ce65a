"""Kill runs with signal 9 at random moments, let them go on, and compare what they leave with an uninterrupted run.

    python tests/faults/kills.py --kind segmentor classifier pseudo_label --kills 200

A third of the moments lie inside the writing of a checkpoint (after a random byte), a third before an operation on a
file of the work dir (open, rename, remove), a third at a random time. A run is killed up to three times before it may
end. What is compared, bit for bit: names of checkpoints, weights, optimiser, schedules, best score and which files
``last_checkpoint`` and the best ones are; masks and summary of pseudo-labels.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

import vlm_dense

vlm_dense.setup()

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.fileio import LocalBackend
from mmengine.registry import METRICS
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from engine.toy import write_config, write_data

import vlm_dense.methods
from vlm_dense.engine.runner import launch
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
    """A small FCN whose best checkpoint is kept."""
    config = write_config(folder, write_data(folder / 'data'), _SEGMENTOR, 'segmentor')
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


KINDS = dict(segmentor=segmentor, classifier=classifier, pseudo_label=pseudo_labels)


# --- moments ----------------------------------------------------------------------------------------------------------


class Killer:
    """Ends this process at a moment, or counts the moments that there are.

    Args:
        work_dir: Whose files count.
        note: File that the moment is written to.
        moment: ``('byte', number of the write, share)``, ``('file', number of the operation)``, ``('time', seconds)``,
            or None for no end.
    """

    def __init__(self, work_dir: Path, note: Path, moment: tuple | None):
        self.work_dir, self.note, self.moment = str(work_dir), note, moment
        self.writes, self.files, self.last = 0, 0, 'start'

    def start(self) -> None:
        """Watch this process from now on."""
        put, killer = LocalBackend.put, self

        def watched(backend, obj, filepath):
            killer.writes += 1
            if killer.moment and killer.moment[:2] == ('byte', killer.writes):
                length = int(killer.moment[2] * len(obj))
                with open(filepath, 'wb', buffering=0) as file:
                    file.write(obj[:length])
                killer.kill(f'byte {length} of {len(obj)} of {Path(filepath).name}')
            return put(backend, obj, filepath)

        LocalBackend.put = watched
        sys.addaudithook(self._operation)
        if self.moment and self.moment[0] == 'time':
            threading.Thread(target=self._later, args=(self.moment[1],), daemon=True).start()

    def _operation(self, event: str, arguments: tuple) -> None:
        if event not in _FILES or not isinstance(arguments[0], (str, os.PathLike)):
            return
        path = os.fspath(arguments[0])
        if not path.startswith(self.work_dir) or path.endswith(('.log', '.json', '.py', '.png')) and 'vis' in path:
            return
        self.files += 1
        self.last = f'{event} {os.path.basename(path)}'
        if self.moment == ('file', self.files):
            self.kill(f'before {self.last}')

    def _later(self, seconds: float) -> None:
        time.sleep(seconds)
        self.kill(f'{seconds:.2f} s, after {self.last}')

    def kill(self, moment: str) -> None:
        """End this process."""
        number = os.open(str(self.note), os.O_WRONLY | os.O_CREAT)
        os.write(number, f'{self.moment[0]}: {moment}'.encode())
        os.kill(os.getpid(), signal.SIGKILL)


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
            log = os.open(str(logs.with_suffix('.log')), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            killer, start = Killer(work_dir, note, moment), time.perf_counter()
            killer.start()
            run(work_dir)
            counted = dict(writes=killer.writes, files=killer.files, seconds=time.perf_counter() - start)
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
    text = note.read_text() if note.is_file() else ''
    return status, json.loads(text) if status == 0 else text


def draw(dice: random.Random, counted: dict) -> tuple:
    """A moment of a run."""
    kind = dice.choice(('byte', 'file', 'time') if counted['writes'] else ('file', 'time'))
    if kind == 'byte':
        return 'byte', dice.randint(1, counted['writes']), dice.random()
    if kind == 'file':
        return 'file', dice.randint(1, counted['files'])
    return 'time', dice.uniform(0, counted['seconds'])


# --- results ----------------------------------------------------------------------------------------------------------


def result(work_dir: Path) -> dict[str, object]:
    """What a run leaves, as bytes and numbers that can be compared."""
    found: dict[str, object] = {}
    for path in sorted(p for p in work_dir.rglob('*') if p.is_file() and not p.name.startswith('.training')):
        name = str(path.relative_to(work_dir))
        if path.suffix == '.pth':
            found[name] = _content(torch.load(path, map_location='cpu', weights_only=False))
        elif path.name == 'last_checkpoint':
            found[name] = Path(path.read_text()).name
        elif path.name == 'pseudo_labels.json':
            summary = json.loads(path.read_text())
            found[name] = repr({k: v for k, v in summary.items() if k != 'new' and 'time' not in k})
        elif path.parent == work_dir and path.suffix not in ('.py', '.json', '.log') or path.suffix == '.png':
            found[name] = path.read_bytes()
    return {k: v for k, v in found.items() if not k.startswith(('vis', 'features'))}


def _content(checkpoint: dict) -> dict:
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
    """Let runs be as they are on one thread, and without a look for compilers, which takes longer than one of them."""
    torch.set_num_threads(1)
    launch.SafeRunner._log_env = lambda self, env_cfg: None


# --- program ----------------------------------------------------------------------------------------------------------


def attack(kind: str, kills: int, folder: Path, seed: int) -> tuple[list[str], list[str]]:
    """Kill runs of a kind so many times; the moments, and what went wrong."""
    run, dice = KINDS[kind](folder), random.Random(f'{kind} {seed}')
    status, counted = forked(run, folder / 'whole', None)
    if status != 0:
        raise SystemExit(f'The uninterrupted {kind} fails, see {folder}/whole.log')
    print(f'{kind}: uninterrupted, {counted}', flush=True)
    expected = result(folder / 'whole')
    moments: list[str] = []
    failures: list[str] = []
    number = 0
    while len(moments) < kills:
        work_dir = folder / f'run{number}'
        number += 1
        chain = [draw(dice, counted) for _ in range(dice.randint(1, min(CHAIN, kills - len(moments))))]
        told = []
        for moment in [*chain, None]:
            status, where = forked(run, work_dir, moment)
            if status == 0:  # the moment did not come, or this was the last run
                break
            if status == -signal.SIGKILL:
                told.append(where)
                continue
            break
        moments += told
        wrong = [f'left with status {status}'] if status else differences(expected, result(work_dir))
        if wrong:
            failures.append(f'{work_dir}: {"; ".join(wrong)} after kills at {told}')
            print(failures[-1], flush=True)
        else:
            _remove(work_dir)
        print(f'{kind}: {len(moments)} kills, {len(failures)} failures', flush=True)
    return moments, failures


def _remove(work_dir: Path) -> None:
    shutil.rmtree(work_dir, ignore_errors=True)
    for suffix in ('.log', '.note'):
        work_dir.with_suffix(suffix).unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kind', nargs='+', choices=list(KINDS), default=list(KINDS))
    parser.add_argument('--kills', type=int, default=200, help='of all kinds together (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--folder', type=Path, help='default: a temporary one; failed runs are kept there')
    args = parser.parse_args(argv)
    prepare_process()
    folder = args.folder or Path(tempfile.mkdtemp(prefix='kills_'))
    moments: list[str] = []
    failures: list[str] = []
    for index, kind in enumerate(args.kind):
        (folder / kind).mkdir(parents=True)
        share = args.kills // len(args.kind) + (index < args.kills % len(args.kind))
        fell, failed = attack(kind, share, folder / kind, args.seed)
        places = collections.Counter(_place(moment) for moment in fell)
        print(f'{kind}: {len(fell)} kills, {len(failed)} failures. Where they fell:')
        for place, count in sorted(places.items()):
            print(f'  {count:4}  {place}')
        moments += fell
        failures += failed
    print(f'{len(moments)} kills, {len(failures)} failures')
    return len(failures)


def _place(moment: str) -> str:
    """Without numbers: what the moment lies in."""
    return re.sub(r'\d+(\.\d+)?', 'N', moment)


if __name__ == '__main__':
    sys.exit(min(main(), 1))
