"""Run the cells of a comparison: what is missing, in processes of their own, going on where a killed one stopped."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import pprint
import re
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from vlm_dense.comparison.cells import Cell, prepared_from
from vlm_dense.comparison.results import ResultHook
from vlm_dense.datasets.config_checks import class_names
from vlm_dense.engine.files import atomic_write, last_checkpoint, lock
from vlm_dense.engine.forked import forked_context
from vlm_dense.engine.runner import launch
from vlm_dense.errors import ConfigError
from vlm_dense.registry import registered


def run_cells(cells: list[Cell], out: Path, workers: int, told: Callable[[int, int], None]) -> dict[Cell, str]:
    """Run what has no result yet.

    Cells with the same training are one process, forked from one that has imported everything, so that it starts at
    once, owns its memory and does not end others when it dies.

    Args:
        cells: What shall have a result.
        out: Folder of the comparison; cells are in ``out/cells``.
        workers: Number of processes.
        told: Called with (finished, all) of the processes to run.

    Returns:
        Cells that failed -> why, in one line; the whole story is in ``log.txt`` of the cell.
    """
    missing: dict[Path, None] = {}
    for cell in cells:
        folder = out / 'cells' / cell.folder
        if not all(result_at(folder / f'{name}.json') for name in cell.files.values()):
            write_cell(cell, folder)
            missing[folder] = None
    context = forked_context('vlm_dense.comparison.preload')
    waiting, running, failed = deque(missing), {}, {}
    told(0, len(missing))
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                folder = waiting.popleft()
                process = context.Process(target=run_cell, args=(folder,), name=folder.name)
                process.start()
                running[process.sentinel] = (process, folder)
            for sentinel in wait(list(running)):
                process, folder = running.pop(sentinel)
                process.join()
                if process.exitcode != 0:
                    failed[folder.name] = _reason(folder, process.exitcode)
                told(len(missing) - len(waiting) - len(running), len(missing))
    finally:
        for process, _ in running.values():  # an error or Ctrl-C: no process is left running
            process.terminate()
            process.join()
    return {cell: failed[cell.folder] for cell in cells if cell.folder in failed}


def results(cells: list[Cell], out: Path) -> dict[Cell, dict[str, dict]]:
    """Results of the finished tests, test set name -> result, see :func:`run_cell`."""
    found: dict[Cell, dict[str, dict]] = {}
    for cell in cells:
        paths = {name: out / 'cells' / cell.folder / f'{file}.json' for name, file in cell.files.items()}
        read = {name: result_at(path) for name, path in paths.items()}
        found[cell] = {name: result for name, result in read.items() if result}
    return found


def result_at(path: Path) -> dict | None:
    """Result of a test; None if there is none, or a damaged one, which is computed again."""
    try:
        result = json.loads(path.read_text('utf-8'))
    except (FileNotFoundError, ValueError):
        return None
    return (
        result if isinstance(result, dict) and ({'metrics', 'minutes'} <= set(result) or 'skipped' in result) else None
    )


def write_cell(cell: Cell, folder: Path) -> None:
    """Write the configs of a cell for tools/train.py and tools/test.py: ``train.py``, ``test_<name>-<digest>.py``.

    ``origin.json`` tells the digests of weights and code, see :attr:`Cell.origin`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / 'origin.json') as begun:
        begun.write_text(json.dumps(cell.origin), encoding='utf-8')
    configs = {cell.files[name]: cfg for name, cfg in cell.tests.items()}
    for name, cfg in dict(configs, **(dict(train=cell.train) if cell.train else {})).items():
        lines = (f'{key} = {pprint.pformat(value, width=118, sort_dicts=False)}\n' for key, value in cfg.items())
        with atomic_write(folder / f'{name}.py') as begun:
            begun.write_text(f'# {cell}\n' + ''.join(lines), encoding='utf-8')


def run_cell(folder: Path) -> None:
    """Train and test what is in a folder in this process; what is printed goes into ``log.txt``.

    Leaves a file ``test_<name>-<digest>.json`` for each test: ``metrics``, ``choices`` (see
    :func:`vlm_dense.comparison.choices.choices`) and what ``CostHook`` found, or ``skipped`` and why; ``minutes`` of
    the training and the test. A killed training resumes from its last checkpoint. Of two processes with the same folder
    the second waits for the first, and finds its results.
    """
    with lock(folder / 'lock'), (folder / 'log.txt').open('a', encoding='utf-8') as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        (folder / 'pid').write_text(f'{os.getpid()}')
        with _errors_told(), launch.user_errors():
            _train_and_test(folder)


def _train_and_test(folder: Path) -> None:
    configs = sorted(folder.glob('test_*.py'))
    tests = [path for path in configs if not result_at(path.with_suffix('.json'))]
    if not tests:
        return
    start, train, checkpoint, cost, broken = time.perf_counter(), folder / 'train.py', None, {}, False
    first = Config.fromfile(train if train.is_file() else configs[0])
    read = {} if train.is_file() else prepared_from(first)
    prepared = [name for name in ('support', 'search') if name in read]  # labelled, so of the model's classes
    names = _names(first, read[prepared[0]] if prepared else None)
    if train.is_file():
        launch.train(_arguments(train, folder / 'train', resume='auto', load_from=None, amp=False))
        checkpoint = result_of(folder / 'train')
        cost = _cost(folder / 'train')
    minutes = (time.perf_counter() - start) / 60
    for config in tests:
        start, found = time.perf_counter(), {}
        try:
            with _errors_told(), launch.user_errors():
                other = _names(Config.fromfile(config)) != names
                fitted = _of_each_class(first, names) if other else []
                if fitted:
                    found['skipped'] = f'{", ".join(fitted[:3])} belong to the classes of the training'
                elif other and prepared:
                    found['skipped'] = f'what it is prepared from ({", ".join(prepared)}) are images of other classes'
                else:
                    more = dict(checkpoint=checkpoint, tta=False, show_dir=None, out=None)
                    hook = ResultHook()
                    metrics = launch.test(_arguments(config, folder / config.stem, **more), [hook])
                    found['metrics'] = {name: float(value) for name, value in metrics.items()}
                    found['choices'] = hook.made
                    found.update(cost or _cost(folder / config.stem))
        except SystemExit:  # one test set is not there: the others are
            broken = True
            continue
        found['minutes'] = minutes + (time.perf_counter() - start) / 60
        with atomic_write(config.with_suffix('.json')) as begun:
            begun.write_text(json.dumps(found), encoding='utf-8')
    if broken:
        sys.exit(1)


@contextlib.contextmanager
def _errors_told() -> Iterator[None]:
    """Print an error with its traceback and leave with status 1."""
    try:
        yield
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def result_of(work_dir: Path) -> str:
    """Checkpoint that a training leaves as its result: the best one if it kept one and nothing was fitted after it."""
    last = Path(last_checkpoint(str(work_dir)))
    best = sorted(work_dir.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    return str(best[-1] if best and re.match('(epoch|iter)_', last.name) else last)


def _arguments(config: Path, work_dir: Path, **more) -> argparse.Namespace:
    given = dict(launcher='none', local_rank=None, data_root=None, cfg_options=None)
    return argparse.Namespace(config=str(config), work_dir=str(work_dir), **given, **more)


def _cost(work_dir: Path) -> dict:
    return json.loads((work_dir / 'cost.json').read_text(encoding='utf-8'))


def _names(cfg: Config, loader: dict | None = None) -> tuple[str, ...]:
    """Class names of ``loader`` if one is given, of the training, or of the test where nothing is trained."""
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    names = class_names(dict(test_dataloader=loader) if loader else cfg, ('train_dataloader', 'test_dataloader'))
    if names is None:
        raise ConfigError('The data sets of a comparison need class names in their metainfo.')
    return names


def _model(cfg: Config, names: tuple[str, ...]):
    kind = registered(MODELS, cfg.model['type'])
    given = dict(class_names=list(names)) if 'class_names' in inspect.signature(kind).parameters else {}
    return MODELS.build({**cfg.model, **given})


def _of_each_class(cfg: Config, names: tuple[str, ...]) -> list[str]:
    """Entries of the state dict that change with the number of classes: they mean nothing to other classes."""
    fewer = names[:-1] or (*names, 'something else')  # a method may know texts of its classes only
    some, others = (_model(cfg, n).state_dict() for n in (names, fewer))
    return [key for key in some if some[key].shape != others[key].shape]


def _reason(folder: Path, code: int | None) -> str:
    if code is not None and code < 0:
        return f'killed by signal {-code}'
    lines = (folder / 'log.txt').read_text(encoding='utf-8').splitlines() if (folder / 'log.txt').is_file() else []
    errors = [line for line in lines if re.match(r'[\w.]*(Error|Exception|Interrupt)\b', line)]
    return (errors or [f'left with status {code}'])[-1].strip()
