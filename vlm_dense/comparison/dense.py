"""Segmentation models compared on the same images: the cells, and their runs, which resume where they stopped."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import statistics
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.utils import import_modules_from_strings

from vlm_dense.clip.block_tower import BlockTower
from vlm_dense.comparison.choices import choices, infos_of
from vlm_dense.comparison.origin import code_digest, imports_digest, weights_digest
from vlm_dense.comparison.results import figures, make_result, write_result
from vlm_dense.comparison.shared_tower import SharedTower
from vlm_dense.contract.prompt import TextPrompt
from vlm_dense.engine.configs.names import existing_config
from vlm_dense.engine.files import atomic_write
from vlm_dense.engine.runner.launch import prepare
from vlm_dense.engine.runner.memory import PeakMemory
from vlm_dense.errors import ConfigError, UserError
from vlm_dense.methods.maskclip import MaskCLIP
from vlm_dense.segmentation.confusion import ConfusionMatrix

_SAVE_EVERY = 20


@dataclass(frozen=True)
class Cell:
    """A method on a data set.

    Attributes:
        cfg: Its config, checked, with class names and without keys of other programs.
        images: Number of images, evenly chosen; None: all.
        key: Digest of all that the result depends on.
    """

    method: str
    dataset: str
    cfg: Config = field(hash=False, compare=False)
    images: int | None
    key: str

    def file(self, out: Path, kind: str) -> Path:
        """File of a cell: ``'results'``, see :mod:`vlm_dense.comparison.results`, or ``'cost'``."""
        return out / kind / f'{self.method}_{self.dataset}-{self.key}.json'


def plan(
    configs: Path,
    methods: Sequence[str],
    datasets: Sequence[str],
    tower: str,
    images: dict[str, int],
    roots: dict[str, str],
    options: dict,
    out: Path,
    oracles: bool = False,
) -> list[Cell]:
    """All cells, those of one data set together.

    Args:
        configs: Folder of ``<method>/<method>_<tower>_<data set>.py``.
        images: Data set -> number of images; all of the others.
        roots: Data set -> where its data lie.
        options: As of ``--cfg-options``, for every config.
        oracles: Add the figures of :class:`vlm_dense.segmentation.OracleMetric`.

    Raises:
        ConfigError: no such config, with the nearest names; a model that is no MaskCLIP.
        DataError: data that are not there.
    """
    cells = []
    for dataset in datasets:
        for method in methods:
            path = existing_config(configs / f'{method}_{tower}_{dataset}.py')
            cfg = read_cell(path, options, roots.get(dataset), out, oracles)
            cells.append(make_cell(method, dataset, cfg, images.get(dataset)))
    return cells


def make_cell(method: str, dataset: str, cfg: Config, images: int | None) -> Cell:
    """A cell with its key."""
    alike = [cfg.model.to_dict(), cfg.test_dataloader.to_dict(), images]
    alike += [cfg.test_evaluator[1:]] if cfg.test_evaluator[1:] else []
    key = _digest((*_plain(alike), weights_digest(alike[0]), *_code(cfg)))
    return Cell(method, dataset, cfg, images, key)


def _code(cfg: Config) -> list[str]:
    """Digests of the code behind a cell: of the package, and of what its config imports, if it does."""
    return [each for each in (code_digest(), imports_digest(cfg)) if each]


def read_cell(path: Path, options: dict, root: str | None, out: Path, oracles: bool = False) -> Config:
    """The config of a cell, checked; arguments as of :func:`plan`.

    Raises:
        ConfigError: a model that is no MaskCLIP, or no IoU in its test.
        DataError: data that are not there.
    """
    given = dict(config=str(path), data_root=root, cfg_options=options, work_dir=str(out))
    cfg = prepare(Namespace(**given, launcher='none', local_rank=None), ('test_dataloader',))
    if not issubclass(MODELS.get(cfg.model.type), MaskCLIP):
        raise ConfigError(f'{path.name} is no MaskCLIP and none of its successors, found {cfg.model.type}.')
    cfg.model.pop('variants', None)  # which its own test prints
    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    cfg.test_evaluator = [m for m in metrics if m['type'] == 'IoUMetric'][:1]
    if not cfg.test_evaluator:
        raise ConfigError(f'{path.name} has no IoUMetric in its test_evaluator, which the comparison reports.')
    if oracles:
        cfg.model.test_cfg.keep_logits = True
        ignored = cfg.test_evaluator[0].get('ignore_index', 255)
        cfg.test_evaluator.append(dict(type='vlm_dense.OracleMetric', ignore_index=ignored))
    cfg.test_dataloader.batch_size = 1  # what is remembered of a batch grows with it; results do not depend on it
    return cfg


def _plain(value):
    return json.loads(json.dumps(value, default=repr, sort_keys=True))


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def result_at(path: Path) -> dict | None:
    """Contents of a file of results; None if there is none, or a damaged one."""
    try:
        found = json.loads(path.read_text('utf-8'))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: dict) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(value), encoding='utf-8')


def log_into(path: Path) -> None:
    """Redirect the log to a file, with errors on the terminal as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logger = MMLogger.get_instance('compare_dense', log_file=str(path), file_mode='a')
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setLevel(logging.ERROR)


# --- models ---------------------------------------------------------------------------------------------------


def encode_text(cell: Cell, folder: Path) -> None:
    """Make a cell's model read the embeddings of its names from a file, which is written first if it is missing.

    All methods with the same text tower, prompt and names share the file. Prompts with embeddings that are no (N, D) of
    unit vectors, or depend on the image, are left as they are.
    """
    model = cell.cfg.model
    head = dict(model.get('decode_head') or {})
    if 'text_embeddings_path' in head:
        return
    text = {k: model[k] for k in ('class_names', 'text_encoder', 'text_prompt') if model.get(k) is not None}
    names = {k: head[k] for k in ('refinements', 'aliases', 'background') if k in head}
    path = folder / f'{_digest([_plain([text, names]), weights_digest(_plain(text)), *_code(cell.cfg)])}.pth'
    if model.get('image_prompt') is not None or head.get('random_text') is not None:
        return
    if not path.is_file():
        built = MODELS.build(dict(type='vlm_dense.MaskCLIPHead', **text, **names)).to(_device()).eval()
        prompt = built.text_prompt
        if (
            built.image_conditioned
            or prompt.num_variants
            or type(prompt).classifier_weights is not TextPrompt.classifier_weights
        ):
            return
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad(), atomic_write(path) as partial:
            torch.save(built.embed_classes().cpu(), partial)
    model.decode_head = dict(head, text_embeddings_path=str(path))
    for name in ('text_encoder', 'text_prompt'):
        model.pop(name, None)


def _device() -> torch.device:
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def build(cell: Cell) -> MaskCLIP:
    """A cell's model, frozen."""
    init_default_scope(cell.cfg.get('default_scope', 'mmseg'))
    torch.manual_seed(0)  # of weights that a config leaves random
    model = MODELS.build(cell.cfg.model)
    if any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f'{cell.method} on {cell.dataset} has weights that training sets; compare frozen models.')
    return model.to(_device()).eval()


def share_towers(cells: Sequence[Cell], models: dict[str, MaskCLIP]) -> list[SharedTower]:
    """Give models with the same tower one tower; returns the shared ones."""
    towers: dict[str, SharedTower] = {}
    for cell in cells:
        tower = models[cell.method].backbone
        if not isinstance(tower, BlockTower):
            continue
        own = {k: v for k, v in cell.cfg.model.backbone.items() if k != 'dense_attention'}
        shared = towers.setdefault(_digest(_plain(own)), SharedTower(tower))
        models[cell.method].backbone = shared.view(tower.dense_attention)
    return list(towers.values())


# --- runs -----------------------------------------------------------------------------------------------------


def groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that see the same prepared images together."""
    found = defaultdict(list)
    for cell in cells:
        seen = [cell.cfg.test_dataloader.to_dict(), cell.cfg.model.data_preprocessor.to_dict()]
        found[cell.dataset, _digest(_plain(seen))].append(cell)
    return list(found.values())


def spread(count: int | None, length: int) -> list[int]:
    """So many indices below ``length``, evenly spread; None: all."""
    count = length if count is None else min(count, length)
    return [i * length // count for i in range(count)]


@torch.no_grad()
def run_group(cells: Sequence[Cell], out: Path, drawn: int, told=lambda done, every: None) -> dict[Cell, str]:
    """Test models on the images that they share, and write a result for each.

    A stopped run continues; a method that fails stops no other.

    Args:
        drawn: So many images, evenly spread, are kept with the labels that they got, to be drawn.
        told: Called with (done, all) images.

    Returns:
        Cells that failed -> why, in one line.
    """
    failed: dict[Cell, str] = {}
    models: dict[str, MaskCLIP] = {}
    dataset = DATASETS.build(cells[0].cfg.test_dataloader.dataset)
    indices = spread(cells[0].images, len(dataset))
    infos, made = infos_of(dataset, indices), {}
    for cell in cells:
        try:
            whole = copy.deepcopy(cell.cfg)  # the text of the cell's config is replaced by its embeddings
            encode_text(cell, out / 'text')
            models[cell.method] = build(cell)
            made[cell.method] = choices(whole, models[cell.method], infos)
        except UserError as error:
            failed[cell] = f'{type(error).__name__}: {error}'
    running = [cell for cell in cells if cell.method in models]
    if not running:
        return failed
    kept = spread(drawn, len(indices))
    metrics = {cell.method: _evaluator(cell, dataset.metainfo) for cell in running}
    progress = out / 'progress' / f'{_digest([cell.key for cell in running])}.pth'
    done, shown = _resume(progress, metrics)
    towers = share_towers(running, models)
    for number, index in enumerate(indices[done:], done):
        batch = pseudo_collate([dataset[index]])
        labels = {}
        for cell in list(running):
            try:
                samples = models[cell.method].test_step(copy.deepcopy(batch))
            except (UserError, RuntimeError, ValueError, IndexError) as error:
                failed[cell] = f'{type(error).__name__}: {str(error).splitlines()[0]} (image {index})'
                running.remove(cell)
                continue
            metrics[cell.method].process(data_samples=samples, data_batch=batch)
            labels[cell.method] = samples[0].pred_sem_seg.data[0].to(torch.uint8).cpu()
        for tower in towers:
            tower.forget()
        if number in kept:
            truth = batch['data_samples'][0].gt_sem_seg.data[0].to(torch.uint8)
            shown.append(dict(labels, image=batch['inputs'][0].clone(), truth=truth))
        if (number + 1) % _SAVE_EVERY == 0:
            _save(progress, number + 1, metrics, shown)
        told(number + 1, len(indices))
    for cell in running:
        found = metrics[cell.method].evaluate(len(indices))
        _keep_images(cell, out, shown)
        of_classes = figures(metrics[cell.method].metrics[0].matrix, list(dataset.metainfo['classes']))
        result = make_result(cell.cfg, made[cell.method], found, len(indices), of_classes)
        write_result(result, cell.file(out, 'results'))  # last: who has a result is not run again
    progress.unlink(missing_ok=True)
    return failed


def _evaluator(cell: Cell, metainfo: dict) -> Evaluator:
    """The metrics of a cell, behind one that counts which class is taken for which."""
    iou, *others = copy.deepcopy(cell.cfg.test_evaluator)
    evaluator = Evaluator([ConfusionMatrix(iou.get('ignore_index', 255)), iou, *others])
    evaluator.dataset_meta = metainfo
    return evaluator


def _save(path: Path, done: int, metrics: dict[str, Evaluator], shown: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    results = {name: [list(one.results) for one in metric.metrics] for name, metric in metrics.items()}
    with atomic_write(path) as partial:
        torch.save(dict(done=done, results=results, shown=shown), partial)


def _resume(path: Path, metrics: dict[str, Evaluator]) -> tuple[int, list[dict]]:
    """Images that are done, and those that were kept."""
    if not path.is_file():
        return 0, []
    kept = torch.load(path, map_location='cpu', weights_only=True)
    every = [len(found) for results in kept['results'].values() for found in results]
    if set(kept['results']) != set(metrics) or set(every) != {kept['done']}:
        return 0, []  # other methods, or one that had failed
    for name, results in kept['results'].items():
        for metric, found in zip(metrics[name].metrics, results, strict=True):
            metric.results = found
    return kept['done'], kept['shown']


def _keep_images(cell: Cell, out: Path, shown: list[dict]) -> None:
    path = cell.file(out, 'pictures').with_suffix('.npz')  # codespell:ignore pictures
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for i, one in enumerate(shown):
        if cell.method in one:
            arrays |= {f'{name}_{i}': np.asarray(one[name]) for name in ('image', 'truth', cell.method)}
    with atomic_write(path) as partial:
        np.savez_compressed(partial, **arrays)


@torch.no_grad()
def run_cost(cell: Cell, out: Path, images: int) -> None:
    """Write what one model costs alone: seconds an image and the memory at its peak, text not counted.

    ``processor_seconds`` are those of the processor, which other programs on a busy machine do not change.

    Args:
        images: Number for the median, after one warm-up image.
    """
    log_into(out / 'log.txt')
    if cell.cfg.get('custom_imports'):  # which reading the config did, in another process
        import_modules_from_strings(**cell.cfg.custom_imports)
    encode_text(cell, out / 'text')
    model = build(cell)
    dataset = DATASETS.build(cell.cfg.test_dataloader.dataset)
    some = spread(cell.images, len(dataset))[: images + 1]
    memory, seconds, busy = PeakMemory(_device()).start(), [], []
    for index in some:
        batch = pseudo_collate([dataset[index]])
        start, own = time.perf_counter(), time.process_time()
        model.test_step(batch)
        if memory.device.type == 'cuda':
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - own)
    peak = memory.peak
    beyond = None if peak is None else peak - memory.before
    found = dict(seconds=_median(seconds), processor_seconds=_median(busy), peak_mb=peak, work_mb=beyond)
    write_json(cell.file(out, 'cost'), dict(found, device=_device_name(), threads=torch.get_num_threads()))


def _median(seconds: Sequence[float]) -> float:
    """Of all but the first, which warms up."""
    return statistics.median(seconds[1:] or seconds)


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
