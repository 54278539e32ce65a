"""Common code of the command-line programs: arguments, checks, processes and runs."""

from __future__ import annotations

import argparse
import atexit
import gc
import inspect
import logging
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import FlexibleRunner, Runner

import vlm_dense.engine.registry  # noqa: F401  mmengine finds it nowhere else
from vlm_dense.datasets.config_checks import LOADERS, check_data, check_masks, class_names, leaves
from vlm_dense.engine.checkpoints.fit import class_differences, read_checkpoint
from vlm_dense.engine.configs.checks import check_class_count, check_values, use_classes
from vlm_dense.engine.configs.files import FormattedOnce, load_config
from vlm_dense.engine.configs.names import bundled_checkpoint
from vlm_dense.engine.files import last_checkpoint, locked_work_dir
from vlm_dense.engine.messages import number_in, user_errors
from vlm_dense.engine.outputs import check_work_dir, claim
from vlm_dense.engine.runner.runner import SafeFlexibleRunner, SafeRunner
from vlm_dense.engine.runner.seeding import seed_draws
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import registered
from vlm_dense.vocabulary.class_names import check_names

__all__ = [
    'build_runner',
    'fill_class_names',
    'load_config',
    'prepare',
    'read_config',
    'test',
    'train',
    'user_errors',
]


def fill_class_names(cfg: Config, loaders=('train_dataloader', 'test_dataloader')) -> None:
    """Give the model the class names of the data set if it takes ``class_names`` and the config gives none.

    A model that takes ``base_names`` gets the data set's ``base_classes`` likewise.

    Raises:
        ClassNamesError: heads with another ``num_classes`` than the number of names; names that are a string, empty
            or equal, or that the text tower of a model with ``class_names`` cannot tell apart; names in another order
            than those of the data set.
    """
    names = class_names(cfg, loaders)
    kind = registered(MODELS, cfg.model['type'])
    if names is not None:
        check_names(names, getattr(kind, 'repeated_names', False))
    check_class_count(cfg, names)
    if names is None or 'class_names' not in inspect.signature(kind).parameters:
        return
    if 'base_names' in inspect.signature(kind).parameters and cfg.model.get('base_names') is None:
        base = class_names(cfg, loaders, 'base_classes')
        cfg.model['base_names'] = None if base is None else list(base)
    given = cfg.model.get('class_names')
    if not given:
        cfg.model['class_names'] = list(names)
    elif not isinstance(given, str) and _same_but_for_order(given, names):
        raise ClassNamesError(
            f'model.class_names and the classes of the data set are {class_differences(given, names)} Outputs would be '
            'taken for the wrong classes. Leave model.class_names out, or give it the order of the data set.'
        )
    elif len(given) < len(names) and all(isinstance(name, str) and name in names for name in given):
        raise ClassNamesError(
            f'model.class_names are {len(given)} of the {len(names)} classes of the data set, so that its labels would '
            'stand for other classes than outputs do. Leave model.class_names out, or name the classes in metainfo of '
            'the data sets too.'
        )


def _same_but_for_order(a: Sequence, b: Sequence) -> bool:
    return list(a) != list(b) and sorted(map(str, a)) == sorted(map(str, b))


_OF_TRAINING = ('train_dataloader', 'train_cfg', 'optim_wrapper')
_OF_VALIDATION = ('val_dataloader', 'val_cfg', 'val_evaluator')


def check_parts(cfg: Config) -> None:
    """Check whether a config has what a training needs.

    Raises:
        ConfigError: names the keys that are missing.
    """
    for parts, needed in ((_OF_TRAINING, True), (_OF_VALIDATION, False)):
        absent = [part for part in parts if cfg.get(part) is None]
        if absent and (needed or len(absent) < len(parts)):
            raise ConfigError(
                f'{cfg.filename} has no {" and no ".join(absent)}. {"Training" if needed else "Validation"} needs '
                f'{", ".join(parts)}{"" if needed else "; leave out all three to train without it"}.'
            )
    wrapper = cfg.optim_wrapper
    if isinstance(wrapper, dict) and 'optimizer' not in wrapper and not wrapper.get('constructor'):
        raise ConfigError("optim_wrapper has no optimizer. Give it one, as optimizer=dict(type='AdamW', lr=1e-4).")


def check_same_classes(cfg: Config) -> None:
    """Compare the classes of the data sets for training, validation and test.

    Those for the test may be others, where a model with an open vocabulary is tested on them later, but not the same in
    another order. Those for validation may be others where ``vlm_dense.ClassNamesHook`` gives the model their names.

    Raises:
        ClassNamesError: they differ.
    """
    first = class_names(cfg, ('train_dataloader',))
    for loader in ('val_dataloader', 'test_dataloader'):
        names = class_names(cfg, (loader,))
        if first is None or names is None or names == first:
            continue
        renamed = loader == 'test_dataloader' or _renames(cfg)
        if not renamed or _same_but_for_order(first, names):
            raise ClassNamesError(
                f'The classes of train_dataloader and {loader} differ: {class_differences(first, names)} Outputs would '
                f'be taken for the wrong classes. Give both data sets the same classes in the same order.'
            )


def _renames(cfg: Config) -> bool:
    """Whether a hook gives the model the names of the data of the moment."""
    return any(str(hook.get('type')).endswith('ClassNamesHook') for hook in cfg.get('custom_hooks') or ())


# --- processes ------------------------------------------------------------------------------------------------


def _rank(launcher: str) -> int:
    """Rank of this process, before processes are connected."""
    names = () if launcher == 'none' else ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    return next((number_in(name) for name in names if name in os.environ), 0)


def _use_gloo(cfg: Config) -> None:
    """Start the process group where there is no GPU, which mmengine's own start needs."""
    for name, *others in (
        ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'),
        ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'),
        ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK'),
    ):
        value = next((os.environ[o] for o in (name, *others) if o in os.environ), None)
        if value is None:
            raise ConfigError(
                f'--launcher {cfg.launcher}: the environment has no {name}. Start with tools/dist_train.sh, '
                'tools/slurm_train.sh or mpirun.'
            )
        os.environ[name] = value
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_PORT'):
        number_in(name)
    try:
        socket.getaddrinfo(os.environ['MASTER_ADDR'], None)
    except OSError as error:  # torch would go on trying
        raise ConfigError(
            f'The environment variable MASTER_ADDR must name the machine of the first process, found '
            f'{os.environ["MASTER_ADDR"]!r}, which is not known: {error.strerror}.'
        ) from error
    if not is_distributed():
        torch.distributed.init_process_group('gloo')
        atexit.register(_disconnect)  # else a thread of gloo may still run when the process ends, which aborts it
    cfg.setdefault('env_cfg', dict()).setdefault('dist_cfg', dict())['backend'] = 'gloo'
    wrapper = dict(cfg.get('model_wrapper_cfg') or {}, type='vlm_dense.CPUDistributedDataParallel')
    wrapper.setdefault('broadcast_buffers', False)
    wrapper.setdefault('find_unused_parameters', cfg.get('find_unused_parameters', False))
    strategy = (cfg.get('strategy') or {}).get('type')
    if strategy == 'DDPStrategy':
        cfg.strategy['model_wrapper'] = wrapper
    elif strategy == 'FSDPStrategy':
        given = cfg.strategy.get('model_wrapper') or {}
        cfg.strategy['model_wrapper'] = dict(given, type='vlm_dense.CPUFullyShardedDataParallel')
    else:
        cfg.model_wrapper_cfg = wrapper


def _disconnect() -> None:
    if is_distributed():
        torch.distributed.destroy_process_group()
        gc.collect()  # a model in a circle of references would hold the group, and with it the threads


# --- runs -----------------------------------------------------------------------------------------------------


def read_config(args: argparse.Namespace) -> Config:
    """The config that the arguments name, with their changes, data and classes; its default scope is set.

    Args:
        args: With ``config``, ``cfg_options``, ``data_root`` and, of data of one's own, ``classes``.
    """
    options = dict(args.cfg_options or {}, **(dict(data_root=args.data_root) if args.data_root else {}))
    cfg = load_config(args.config, options)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    names = getattr(args, 'classes', None) or _trained_names(cfg, getattr(args, 'checkpoint', None))
    if names:
        use_classes(cfg, names)
    return cfg


def _trained_names(cfg: Config, checkpoint: str | None) -> list[str] | None:
    """Names in a checkpoint, for masks of one's own, which are numbers without names."""
    found = (leaf for name in LOADERS if cfg.get(name) for _, leaf in leaves(cfg[name]['dataset'], name))
    unnamed = [leaf for leaf in found if hasattr(registered(DATASETS, leaf['type']), 'label_remedy')]
    unnamed = [leaf for leaf in unnamed if not (leaf.get('metainfo') or {}).get('classes')]
    if checkpoint is None or not unnamed:
        return None
    meta = (read_checkpoint(checkpoint, map_location='cpu').get('meta') or {}).get('dataset_meta') or {}
    return list(meta.get('classes') or ()) or None


def prepare(args: argparse.Namespace, loaders: tuple[str, ...]) -> Config:
    """Config of a run, checked: data are there, class counts agree, processes are connected.

    Args:
        args: With ``config``, ``work_dir``, ``launcher``, ``local_rank``, ``data_root``, ``classes``,
            ``cfg_options``.
        loaders: Data loaders that the run uses.
    """
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if 'LOCAL_RANK' in os.environ:
        number_in('LOCAL_RANK')  # mmengine reads it in a single process too
    cfg = read_config(args)
    stem = os.path.splitext(os.path.basename(args.config))[0]
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', stem)
    cfg.launcher = args.launcher
    if getattr(args, 'quiet', False):
        cfg.quiet = True
    check_values(cfg, loaders)
    check_data(cfg, loaders)
    fill_class_names(cfg, loaders)
    check_masks(cfg)
    _check_writable(cfg.work_dir)
    if cfg.launcher != 'none' and get_device() == 'cpu':
        _use_gloo(cfg)
    return cfg


def _check_writable(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f'--work-dir {folder} cannot be written: {error.strerror}. Give another folder.') from error


def build_runner(cfg: Config) -> Runner | FlexibleRunner:
    """A FlexibleRunner where the config names a ``strategy`` (FSDP, DeepSpeed, ...), else a Runner.

    Both save checkpoints whole or not at all, and ``vlm_dense.SafeCheckpointHook`` takes the place of mmengine's hook.
    """
    hooks = dict(cfg.get('default_hooks') or {})
    saving = hooks.get('checkpoint', dict(type='CheckpointHook'))
    if saving is not None and saving['type'] in ('CheckpointHook', 'mmengine.CheckpointHook', CheckpointHook):
        hooks['checkpoint'] = dict(saving, type='vlm_dense.SafeCheckpointHook')
    cfg.default_hooks = hooks
    return (SafeFlexibleRunner if cfg.get('strategy') else SafeRunner).from_cfg(FormattedOnce.of(cfg))


def train(args: argparse.Namespace) -> dict[str, float]:
    """Run the training of ``tools/train.py``.

    Returns:
        The metrics of the last validation; none without one.
    """
    with ExitStack() as held:
        with user_errors(once_per_machine=True):
            cfg = prepare(args, ('train_dataloader', 'val_dataloader'))
            check_parts(cfg)
            check_same_classes(cfg)
            if args.amp:
                if get_device() == 'cpu':
                    raise ConfigError('--amp needs a GPU, and this machine has none. Train without --amp.')
                cfg.optim_wrapper.type = 'AmpOptimWrapper'
                cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
            if args.load_from and args.resume:
                raise ConfigError(
                    f'--load-from {args.load_from} beside --resume: a run begins with the weights of one checkpoint. '
                    '--resume continues with optimiser, schedule and iteration; --load-from starts with the weights.'
                )
            if args.load_from:
                cfg.load_from = args.load_from
            if _rank(cfg.launcher) == 0:
                held.enter_context(locked_work_dir(cfg.work_dir))
            _resume(cfg, args.resume)
            if _rank(cfg.launcher) == 0:
                check_work_dir(
                    cfg.work_dir, cfg.get('load_from'), bool(cfg.get('resume')), getattr(args, 'overwrite', False)
                )
            seed_draws(cfg)
            if cfg.get('resume'):
                cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='vlm_dense.ResumeCheckHook')]
            runner = build_runner(cfg)
        with user_errors(interrupted=lambda: _left_by(cfg.work_dir)):
            runner.train()
    scalars = runner.message_hub.log_scalars.items()
    found = {key.removeprefix('val/'): history.data[0] for key, history in scalars if key.startswith('val/')}
    found = {key: values for key, values in found.items() if key not in ('time', 'data_time')}
    if nothing_learned(found):
        figures = ', '.join(f'{key} {values[-1]:.4g}' for key, values in list(found.items())[:3])
        print_log(
            f'Every validation found the same ({figures}): nothing was learned, or nothing after the first of them. '
            'Train for longer, with another rate, or look at what the loader gives: vlm-dense check-data.',
            logger='current',
            level=logging.WARNING,
        )
    return {key: float(values[-1]) for key, values in found.items()}


def nothing_learned(metrics: Mapping[str, Sequence[float]]) -> bool:
    """Whether all validations of a training gave the same metrics, or the only one gave nothing but zeros.

    Args:
        metrics: Name -> values, one a validation.
    """
    values = [np.nan_to_num(np.asarray(each, float)) for each in metrics.values()]
    most = max((float(each.max()) for each in values), default=100.0)
    if most >= 99.995 or most == 1:  # perfect from the beginning; average precisions go up to 1
        return False
    return most <= 0 or all(len(each) > 1 and (each == each[0]).all() for each in values)


def _resume(cfg: Config, wanted: str | None) -> None:
    """Set where a training resumes: ``auto`` is the last checkpoint of the work dir, None as in the config."""
    if wanted not in (None, 'auto'):
        cfg.resume, cfg.load_from = True, wanted
    elif wanted == 'auto' or (cfg.get('resume') and not cfg.get('load_from')):
        latest = last_checkpoint(cfg.work_dir)
        cfg.resume = latest is not None
        if latest:  # otherwise the run starts from the beginning
            cfg.load_from = latest


def _left_by(work_dir: str) -> str:
    """Message on what a stopped training has saved, and how to continue."""
    latest = last_checkpoint(work_dir)
    if latest is None:
        return f'Nothing is saved in {work_dir} yet; start again.'
    return f'Saved: {latest}. Go on with the same command and --resume.'


def test(args: argparse.Namespace, hooks: Sequence[Hook] = ()) -> dict:
    """Run the test of ``tools/test.py``.

    Args:
        args: Of the command line.
        hooks: Hooks beside those of the config.

    Returns:
        The metrics.
    """
    with user_errors(once_per_machine=True):
        cfg = prepare(args, ('test_dataloader',))
        cfg.load_from, cfg.resume = args.checkpoint or bundled_checkpoint(args.config), False
        for parts in (_OF_TRAINING, _OF_VALIDATION):
            if any(cfg.get(part) is None for part in parts):  # a config for tests only, on data that have more
                cfg.update(dict.fromkeys(parts))
        if args.tta:
            _use_tta(cfg)
        if args.show_dir:
            hooks = [h for h in cfg.get('custom_hooks', []) if h['type'] != 'vlm_dense.PredictionPictureHook']
            cfg.custom_hooks = [*hooks, dict(type='vlm_dense.PredictionPictureHook', test_dir=args.show_dir)]
        if args.out:
            _keep_predictions(cfg, args.out)
        runner = build_runner(cfg)
        if cfg.load_from is None:
            _check_untrained(runner, cfg)
        if args.out and _rank(cfg.launcher) == 0:
            claim(*_predictions_and_inputs(runner, args.out))
        for hook in hooks:
            runner.register_hook(hook)
    with user_errors(interrupted='Nothing was written over; start the test again.'):
        return runner.test()


def _predictions_and_inputs(runner: Runner | FlexibleRunner, out: str) -> tuple[list[str], list[str]]:
    """The files that ``--out`` will make, and those that the test reads."""
    dataset = runner.test_dataloader.dataset
    infos = [dataset.get_data_info(i) for i in range(len(dataset))] if hasattr(dataset, 'get_data_info') else []
    read = [info[key] for info in infos for key in ('img_path', 'seg_map_path') if isinstance(info.get(key), str)]
    if out.endswith(('.pkl', '.pickle')):
        return [out], read
    names = (os.path.splitext(os.path.basename(info.get('img_path') or ''))[0] for info in infos)
    return [os.path.join(out, f'{name}.png') for name in names if name], read


def _check_untrained(runner: Runner | FlexibleRunner, cfg: Config) -> None:
    """Refuse to test random weights: without checkpoint, every weight must be frozen, so that the config gives it."""
    if isinstance(runner, FlexibleRunner):
        raise ConfigError(f'{cfg.filename} names a strategy: name the checkpoint to test as second argument.')
    trained = [name for name, p in runner.model.named_parameters() if p.requires_grad]
    if trained:
        raise ConfigError(
            f'The model of {cfg.filename} has {len(trained)} weights that training sets ({", ".join(trained[:3])}, '
            '...): name a checkpoint to test as second argument, as in `vlm-dense test CONFIG CHECKPOINT`.'
        )


def _use_tta(cfg: Config) -> None:
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise ConfigError(
            f'--tta: {cfg.filename} has no tta_model and tta_pipeline. Add them, for segmentation '
            "tta_model=dict(type='mmseg.SegTTAModel') and a tta_pipeline that ends in TestTimeAug."
        )
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(cfg.tta_model, module=cfg.model)


def _keep_predictions(cfg: Config, out: str) -> None:
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    if out.endswith(('.pkl', '.pickle')):
        evaluators = [*evaluators, dict(type='DumpResults', out_file_path=out)]
    elif not any(str(e['type']).endswith('IoUMetric') for e in evaluators):
        raise ConfigError(f'--out {out}: label maps come from IoUMetric, which this config has not. Give a .pkl file.')
    for evaluator in evaluators:
        if str(evaluator['type']).endswith('IoUMetric'):
            evaluator['output_dir'] = None if out.endswith(('.pkl', '.pickle')) else out
    cfg.test_evaluator = evaluators
