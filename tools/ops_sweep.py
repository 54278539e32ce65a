"""Every config of an installed mmdet or mmseg with the stand-in for mmcv's kernels, and with the compiled ones.

Each model is built with random weights, trains one step and predicts once on small random pictures, in this
environment, and in another one if its Python is named; the same seeds in both. Configs whose models are the same run
once. Every run is a process of its own with a limit of time; the results are kept in a file, and a sweep that was
stopped goes on from there.

    python tools/ops_sweep.py mmdet --results sweep.jsonl
    python tools/ops_sweep.py mmdet --results sweep.jsonl --compiled /path/to/other/bin/python

The table counts configs:

- same: runs with both, and losses, gradients and predictions are the same.
- differs: runs with both, and they are not.
- here only: the compiled kernels refuse (mmcv has some for GPUs only).
- compiled only: what the stand-in lacks.
- neither: fails with both for a reason of its own; the reasons are listed.

Where no compiled environment is named, it counts what runs and what fails.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import hashlib
import json
import os
import pickle
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-3  # relative; a step through a network of a hundred layers enlarges differences of rounding
MEMORY = 14 << 30  # bytes of address space for one run
LEFT_OUT = ('pretrained', 'teacher_ckpt', 'batch_augments')


# ---------------------------------------------------------------- one model, in a process of its own


def bare(value):
    """A config without weights to download and without padding; every detection counts, however low its score."""
    if isinstance(value, (list, tuple)):
        return type(value)(bare(item) for item in value)
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, item in value.items():
        if key in LEFT_OUT or (key == 'init_cfg' and isinstance(item, dict) and 'checkpoint' in item):
            item = False if isinstance(item, bool) else None
        elif key == 'score_thr' and isinstance(item, float):
            item = 0.0
        kept[key] = bare(item)
    return kept


def least(value, key: str, bound: int) -> int:
    """The smallest of ``bound`` and all integers under ``key`` in a config."""
    if isinstance(value, (list, tuple)):
        return min([bound, *(least(item, key, bound) for item in value)])
    if not isinstance(value, dict):
        return bound
    own = value.get(key)
    bound = min(bound, own) if isinstance(own, int) else bound
    return min([bound, *(least(item, key, bound) for item in value.values())])


def pictures_for_mmdet(model: dict, size: int) -> tuple[dict, dict]:
    """Inputs to train on and to predict from; more annotations than most models need."""
    import numpy as np
    from mmdet.testing import demo_mm_inputs, demo_mm_proposals, demo_track_inputs

    classes = min(least(model, name, 10) for name in ('num_classes', 'num_things_classes', 'num_stuff_classes') if name)
    shape, kind = (3, size, size), model.get('data_preprocessor', {}).get('type', '')

    def still(count):
        data = demo_mm_inputs(
            count, shape, [3] * count, max(classes, 2), with_mask=True, with_semantic=True, use_box_type=True
        )
        names = dict(text=('one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten')[:classes])
        for sample, proposals in zip(data['data_samples'], demo_mm_proposals([shape] * count, 20), strict=True):
            sample.gt_instances.labels %= max(classes, 1)
            sample.ignored_instances = sample.ignored_instances[:0]
            if 'rpn_head' not in model:
                sample.proposals = proposals
            matrix = np.eye(3, dtype=np.float32)
            sample.set_metainfo(dict(homography_matrix=matrix, batch_input_shape=shape[1:], pad_shape=shape[1:]))
            sample.set_metainfo(dict(names, custom_entities=True) if 'language_model' in model else {})
        return data

    if 'Track' in kind:
        alone = model['data_preprocessor'].get('use_det_processor')  # only the detector is trained, on still pictures
        track = dict(image_shapes=shape, num_items=[3], num_classes=max(classes, 1), with_mask=True)
        return still(2) if alone else demo_track_inputs(1, 2, [0], **track), demo_track_inputs(1, 1, **track)
    if 'MultiBranch' in kind:
        branches = {name: still(2) for name in ('sup', 'unsup_teacher', 'unsup_student')}
        return {key: {name: data[key] for name, data in branches.items()} for key in branches['sup']}, still(1)
    return still(2), still(1)


def pictures_for_mmseg(model: dict, size: int) -> tuple[dict, dict]:
    import numpy as np
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    rng = np.random.default_rng(0)
    classes = least(model, 'num_classes', 10)

    def some(count):
        samples = []
        for _ in range(count):
            shape = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), (size, size))
            sample = SegDataSample(metainfo=dict(shape, scale_factor=(1.0, 1.0), flip=False, flip_direction=None))
            for name in ('gt_sem_seg', 'gt_edge_map', 'gt_depth_map'):
                most = classes if name == 'gt_sem_seg' else 2
                figures = torch.from_numpy(rng.integers(0, most, (1, size // 8, size // 8)))
                figures = figures.repeat_interleave(8, 1).repeat_interleave(8, 2)
                sample.set_data({name: PixelData(data=figures.float() if 'depth' in name else figures)})
            samples.append(sample)
        images = [torch.from_numpy(rng.integers(0, 255, (3, size, size), np.uint8)) for _ in range(count)]
        return dict(inputs=images, data_samples=samples)

    return some(2), some(1)


def seed():
    import random

    import numpy as np
    import torch

    for start in (random.seed, np.random.seed, torch.manual_seed):
        start(0)


def figures_of(value) -> list[float]:
    """Numbers that do not depend on the order of rows: of every array its size, mean and root mean square."""
    import numpy as np
    import torch

    if hasattr(value, 'tensor'):  # boxes
        value = value.tensor
    if isinstance(value, (torch.Tensor, np.ndarray)):
        value = np.asarray(value.detach() if isinstance(value, torch.Tensor) else value, dtype=np.float64)
        return [value.size, float(value.mean()), float(np.sqrt((value**2).mean()))] if value.size else [0]
    if hasattr(value, 'all_items'):
        value = dict(value.all_items())
    if isinstance(value, dict):
        return [number for key in sorted(value, key=str) for number in figures_of(value[key])]
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in figures_of(item)]
    return [float(value)] if isinstance(value, (int, float)) else []


def predictions(samples) -> list[float]:
    """What a model has added to its samples."""
    found = []
    for sample in samples:
        for inner in getattr(sample, 'video_data_samples', [sample]):
            found += [part for name, part in sorted(inner.items()) if name.startswith(('pred', 'seg_logits'))]
    return figures_of(found)


def own_size(config, fallback: int = 320) -> int:
    """The size of picture that a config trains on, where it says so, up to 512."""
    size = config.get('crop_size') or config.model.get('data_preprocessor', {}).get('size') or fallback
    return min(size[0] if isinstance(size, (list, tuple)) else size, 512)


def run(package: str, path: str, size: int) -> dict:
    """Losses, gradients and predictions of a config's model.

    Args:
        package: mmdet or mmseg.
        path: The config.
        size: Sides of the pictures, in pixels; 0: the size of the config.
    """
    import torch
    from mmengine import Config, ConfigDict
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope

    MMLogger.get_instance('ops_sweep', log_level='ERROR')
    init_default_scope(package)
    for name, value in dict(iter=0, max_iters=1000, epoch=0, max_epochs=10).items():
        MessageHub.get_current_instance().update_info(name, value)  # as the runner does, for losses that warm up
    config = Config.fromfile(path)
    if 'model' not in config:
        raise ValueError('this config has no model')
    size = size or own_size(config)
    settings = ConfigDict(bare(config.model.to_dict()))
    seed()
    model = revert_sync_batchnorm(MODELS.build(settings))
    model.init_weights()
    to_train, to_test = (pictures_for_mmdet if package == 'mmdet' else pictures_for_mmseg)(settings, size)
    found, failed = {}, []
    try:
        seed()
        model.train()  # some models return nothing here
        losses = model(**model.data_preprocessor(to_train, True), mode='loss')
        loss, parts = model.parse_losses(losses)
        loss.backward()
        found['losses'] = figures_of({name: value.detach() for name, value in parts.items()})
        norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        found['gradients'] = [float(torch.stack(norms).norm())]
    except Exception:
        failed.append(('train', traceback.format_exc()))
    try:
        seed()
        model.eval()
        with torch.no_grad():
            found['predictions'] = predictions(model.test_step(to_test))
    except Exception:
        failed.append(('predict', traceback.format_exc()))
    return dict(figures=found, size=size, failed=failed)


def text_model(folder: Path) -> None:
    """A small BERT with random weights, as a folder that ``from_pretrained`` reads; it spells every word."""
    import torch
    from transformers import BertConfig, BertModel

    letters = [chr(i) for i in range(ord('a'), ord('z') + 1)]
    tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?', *letters, *(f'##{letter}' for letter in letters)]
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokens), num_hidden_layers=1, intermediate_size=768)
    BertModel(config).save_pretrained(folder)
    (folder / 'vocab.txt').write_text('\n'.join(tokens))
    (folder / 'tokenizer_config.json').write_text(json.dumps(dict(tokenizer_class='BertTokenizer', do_lower_case=True)))


def worker(package: str, limit: float) -> None:
    """Read lines of JSON, a path and a size each, and answer with what :func:`run` finds, or how it failed."""
    import importlib.util

    from vlm_dense.ops import is_stand_in

    answers, sys.stdout = sys.stdout, sys.stderr  # whatever is printed elsewhere is no answer
    warnings.simplefilter('ignore')
    kernels = 'stand-in' if is_stand_in() else 'compiled'
    for part in ('models', 'datasets', 'evaluation', 'structures', 'testing'):
        importlib.import_module(f'{package}.{part}') if part != 'testing' or package == 'mmdet' else None
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # teachers and text models are named from here
        Path('configs').symlink_to(Path(sys.modules[package].__file__).parent / '.mim' / 'configs')
        if package == 'mmdet' and importlib.util.find_spec('transformers'):
            text_model(Path('bert-base-uncased'))
        print(json.dumps(dict(kernels=kernels, torch=torch.__version__)), file=answers, flush=True)
        for line in sys.stdin:
            path, size = json.loads(line)
            result = forked(lambda path=path, size=size: run(package, path, size), limit)
            print(json.dumps(result), file=answers, flush=True)
        os.chdir(ROOT)


def forked(function, limit: float) -> dict:
    """What a function gives in a child process, or what went wrong there.

    Args:
        function: Without arguments.
        limit: Seconds of the processor; ten times as long by the clock, for a machine that others use too.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit)))
        try:
            result = function()
        except BaseException:
            result = dict(figures={}, failed=[('build', traceback.format_exc())])
        with os.fdopen(writer, 'wb') as pipe:
            pipe.write(pickle.dumps(result))
        os._exit(0)
    os.close(writer)
    end, content = time.time() + 10 * limit, b''
    with os.fdopen(reader, 'rb', 0) as pipe:
        while (left := end - time.time()) > 0 and select.select([pipe], [], [], left)[0]:
            if not (chunk := pipe.read(1 << 16)):
                break
            content += chunk
        else:
            os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    seconds = round(used.ru_utime + used.ru_stime, 1)
    if content and not status:
        return dict(pickle.loads(content), seconds=seconds)  # our own child wrote it
    why = f'Stopped: more than {limit:.0f} s' if seconds > limit - 2 else f'Stopped: ended with status {status}'
    return dict(figures={}, failed=[('run', why)], seconds=seconds)


# ---------------------------------------------------------------- all configs


class Environment:
    """A Python with its worker process."""

    def __init__(self, python: str, package: str, limit: float):
        command = [python, '-W', 'ignore', __file__, package, '--worker', '--limit', str(limit)]
        variables = dict(OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT), HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1')
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
    """Equal for configs with the same model and the same size of pictures."""
    from mmengine import Config

    try:
        config = Config.fromfile(path)
        model = [bare(config.model.to_dict()), own_size(config)]
    except Exception:  # the run itself will tell what is wrong
        return str(path)
    return hashlib.md5(json.dumps(model, sort_keys=True, default=str).encode()).hexdigest()


def answers(path: Path, environments: list[Environment], size: int) -> dict[str, dict]:
    """What every environment finds, by its kernels: in all of them with pictures of the same size.

    Where one fails, the size of the pictures may be why, so all try again with the size of the config; what fails less
    often counts.
    """

    def ask(sides: int) -> dict[str, dict]:
        for environment in environments:
            environment.ask(str(path), sides)
        return {environment.kernels: environment.answer() for environment in environments}

    def failures(found: dict[str, dict]) -> int:
        return sum(len(result['failed']) for result in found.values())

    found = ask(size)
    if size and any(step != 'build' for result in found.values() for step, _ in result['failed'][:1]):
        larger = ask(0)
        found = larger if failures(larger) < failures(found) else found
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


def difference(ours: dict, theirs: dict) -> float:
    """The largest relative difference between figures; infinite if their numbers differ."""
    worst = 0.0
    for name in ours.keys() | theirs.keys():
        one, other = ours.get(name, []), theirs.get(name, [])
        if len(one) != len(other):
            return float('inf')
        for a, b in zip(one, other, strict=True):
            if a != b and not (a != a and b != b):  # NaN in both is no difference
                worst = max(
                    worst, abs(a - b) / max(abs(a), abs(b), 1e-6) if abs(a - b) < float('inf') else float('inf')
                )
    return worst


def reason(result: dict) -> str:
    """The last line of what failed first, without paths and numbers."""
    step, trace = result['failed'][0]
    lines = trace.strip().splitlines()
    errors = [line for line in lines if re.match(r'\w[\w.]*(Error|Exception|Stopped|NotFound)?\b.*:', line)]
    text = re.sub(r'/\S+/|0x\w+', '', (errors or lines)[-1])
    return f'{step}: {text[:140]}'


def outcomes(done: dict, names: list[str], compared: bool) -> dict[str, dict[str, str]]:
    """Configs by outcome; of each a note."""
    table = collections.defaultdict(dict)
    for name in names:
        ours, theirs = done[name, 'stand-in'], done.get((name, 'compiled'))
        if not compared:
            kind, note = ('fails', reason(ours)) if ours['failed'] else ('runs', '')
        elif theirs is None:
            kind, note = 'not compared yet', ''
        elif ours['failed'] and theirs['failed']:
            kind, note = 'neither', reason(ours)
        elif ours['failed']:
            kind, note = 'compiled only', reason(ours)
        elif theirs['failed']:
            kind, note = 'here only', reason(theirs)
        else:
            worst = difference(ours['figures'], theirs['figures'])
            kind, note = ('same' if worst <= TOLERANCE else 'differs'), f'{worst:.1e}'
        table[kind][name] = note
    return table


def report(done: dict, names: list[str], compared: bool) -> None:
    """Print the table, and below it the notes of all that is not well."""
    table = outcomes(done, names, compared)
    print('| Outcome | Configs | Different models |\n|---|---|---|')
    for kind, configs in sorted(table.items(), key=lambda item: -len(item[1])):
        models = {done[name, 'stand-in']['model'] for name in configs}
        print(f'| {kind} | {len(configs)} | {len(models)} |')
    worst = max((float(note) for note in table['same'].values()), default=0)
    if table['same']:
        print(f'\nLargest relative difference of those that are the same: {worst:.1e}')
    for kind in ('differs', 'compiled only', 'here only', 'fails', 'neither'):
        by_note = collections.defaultdict(list)
        for name, note in table[kind].items():
            by_note[note].append(name)
        if by_note:
            print(f'\n{kind}:')
        for note, configs in sorted(by_note.items(), key=lambda item: -len(item[1])):
            more = f' and {len(configs) - 2} more' if len(configs) > 2 else ''
            print(f'- {len(configs)}: {note} ({", ".join(configs[:2])}{more})')


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('package', choices=['mmdet', 'mmseg'])
    parser.add_argument('--results', type=Path, default=Path('ops_sweep.jsonl'), help='kept results')
    parser.add_argument('--compiled', metavar='PYTHON', help='of an environment whose mmcv has compiled kernels')
    parser.add_argument('--only', default='*', metavar='PATTERN', help='configs whose path matches')
    parser.add_argument('--size', type=int, default=128, help='sides of the pictures, pixels; 0: of each config')
    parser.add_argument('--limit', type=float, default=120, help='seconds of the processor for one model')
    parser.add_argument('--report', action='store_true', help='only print the table of the kept results')
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        worker(args.package, args.limit)
        return 0
    from importlib.util import find_spec

    folder = Path(find_spec(args.package).origin).parent / '.mim' / 'configs'
    paths = [path for path in breadth_first(folder) if fnmatch.fnmatch(str(path.relative_to(folder)), args.only)]
    if not args.report:
        pythons = [sys.executable] + ([args.compiled] if args.compiled else [])
        environments = [Environment(python, args.package, args.limit) for python in pythons]
        found = [environment.kernels for environment in environments]
        if found != ['stand-in', 'compiled'][: len(found)]:
            parser.error(f'the kernels must be the stand-in here and compiled in --compiled; found {found}')
        sweep(paths, folder, environments, args.results, args.size)
    done = read(args.results)
    names = [str(path.relative_to(folder)) for path in paths]
    names = [name for name in names if (name, 'stand-in') in done]
    compared = bool(args.compiled) or any(kernels == 'compiled' for _, kernels in done)
    report(done, names, compared)
    return int(bool(outcomes(done, names, compared).keys() & {'differs', 'compiled only'}))


if __name__ == '__main__':
    sys.exit(main())
