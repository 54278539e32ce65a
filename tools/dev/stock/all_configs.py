"""Every config of a package through the environments, and what was kept of it."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import subprocess
from pathlib import Path

from stock.one_model import KILLED, MEMORY, bare, own_size

DEV = Path(__file__).parents[1]


class Environment:
    """A Python with its worker process."""

    def __init__(self, python: str, package: str, limit: float, memory: float = MEMORY):
        command = [python, '-W', 'ignore', str(DEV / 'ops_sweep.py'), package, '--worker']
        command += ['--limit', str(limit), '--memory', str(memory)]
        variables = dict(
            OMP_NUM_THREADS='1', PYTHONPATH=str(DEV.parents[1]), HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1'
        )
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **variables},
        )
        self.kernels = self.answer()['kernels']

    def ask(self, path: str, size: int) -> None:
        print(json.dumps([path, size]), file=self.process.stdin, flush=True)

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f'the worker of {self.process.args[0]} has ended; run its command to see why')
        return json.loads(line)


def breadth_first(folder: Path) -> list[Path]:
    """Every config below a folder: first one of each method, then a second, and so on."""
    by_method = collections.defaultdict(list)
    for path in sorted(folder.rglob('*.py')):
        if '_base_' not in path.parts:
            by_method[path.parent].append(path)
    ranked = [(rank, path) for paths in by_method.values() for rank, path in enumerate(paths)]
    return [path for _, path in sorted(ranked)]


def fingerprint(path: Path) -> str:
    """Equal for configs with the same model and the same size of images."""
    from mmengine import Config

    try:
        config = Config.fromfile(path)
        model = [bare(config.model.to_dict()), own_size(config)]
    except Exception:  # the run itself will tell what is wrong
        return str(path)
    return hashlib.md5(json.dumps(model, sort_keys=True, default=str).encode()).hexdigest()


def answers(path: Path, environments: list[Environment], size: int) -> dict[str, dict]:
    """What every environment finds, by its kernels: in all of them with images of the same size.

    Where one fails, the size of the images may be why, so all try again with the size of the config, which counts
    unless it fails more often. Where one is killed, memory may be why, so they run one after the other.
    """

    def ask(sides: int, groups: list[list[Environment]]) -> dict[str, dict]:
        found = {}
        for group in groups:
            for environment in group:
                environment.ask(str(path), sides)
            found.update({environment.kernels: environment.answer() for environment in group})
        killed = [what for result in found.values() for _, what in result['failed'] if KILLED in what]
        return (
            ask(sides, [[environment] for environment in environments])
            if killed and len(groups) < len(environments)
            else found
        )

    def failed(found: dict[str, dict]) -> list[str]:
        return [step for result in found.values() for step, _ in result['failed']]

    found = ask(size, [environments])
    if size and {'train', 'predict'} & set(failed(found)):
        larger = ask(0, [environments])
        if len(failed(larger)) <= len(failed(found)) and 'run' not in failed(larger):
            found = larger
    return found


def sweep(paths: list[Path], folder: Path, environments: list[Environment], results: Path, size: int) -> None:
    """Run what ``results`` does not hold yet, and add it there."""
    done = read(results)
    kernels = [environment.kernels for environment in environments]
    known = {(result['model'], k): result for (_, k), result in done.items()}
    with results.open('a') as file:
        for number, path in enumerate(paths, start=1):
            name = str(path.relative_to(folder))
            if all((name, k) in done for k in kernels):
                continue
            model = fingerprint(path)
            found = {k: known[model, k] for k in kernels if (model, k) in known}
            if len(found) < len(kernels):
                found = answers(path, environments, size)
                seconds = ', '.join(f'{k} {result["seconds"]} s' for k, result in found.items())
                print(f'{number}/{len(paths)} {name}: {seconds}', flush=True)
            for k, result in found.items():
                known[model, k] = done[name, k] = {**result, 'config': name, 'kernels': k, 'model': model}
                print(json.dumps(done[name, k]), file=file, flush=True)


def read(results: Path) -> dict[tuple[str, str], dict]:
    """Results by config and kernels."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {(result['config'], result['kernels']): result for result in map(json.loads, lines)}
