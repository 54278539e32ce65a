"""When checkpoints are saved and removed, in an order that is right after a kill at any moment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from vlm_dense.engine.files import PARTIAL, atomic_write, local_path, remove, write_last
from vlm_dense.errors import ConfigError
from vlm_dense.registry import HOOKS, unknown_name

_VALIDATED = 'last_validation'
_OUTDATED = 'outdated_checkpoints'


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, after which a resumed run is the uninterrupted one wherever it was cut off.

    Nothing is removed before what takes its place is whole, and the file ``last_checkpoint`` never names a checkpoint
    that is not. At a new best one, the order is::

        best_NEW.pth --> iter_N.pth once more, which names it --> last_checkpoint --> best_OLD.pth removed

    The file ``last_validation`` in the work dir keeps the step of the last whole validation. A resumed run first
    validates what was saved but not yet validated to the end, and removes what a cut-off run was about to remove. The
    best checkpoint and the last one are those of the work dir, also where it is a copy.

    ``tools/train.py`` takes this hook for mmengine's. It needs a runner that writes checkpoints whole,
    :class:`vlm_dense.engine.runner.runner.SafeRunner`. For arguments see :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        ConfigError: ``save_best`` names a metric that the validation does not give.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._outdated: list[str] = []  # names of files to remove as soon as the next checkpoint is whole

    # --- beginning ------------------------------------------------------------------------------------------------

    def before_train(self, runner: Runner) -> None:
        """Find the files of a run that is resumed, and make up for the validation in which it was cut off."""
        _make_local(runner)
        super().before_train(runner)
        validated = Path(runner.work_dir, _VALIDATED)
        steps = [_number_in(validated)]
        broadcast_object_list(steps)  # the disk is that of the first process
        step = steps[0]
        if is_main_process() and (not runner._resume or step > _step(runner)):
            remove(validated)  # this run will validate that step again
        if not runner._resume:
            return
        _as_after_step(runner)
        info = runner.message_hub.runtime_info
        self.last_ckpt = info.get('last_ckpt')
        self._outdated = list(info.get(_OUTDATED, ()))
        self._remove_outdated(info)
        if is_main_process():
            for folder in {str(self.out_dir), runner.work_dir}:
                for begun in Path(folder).glob(f'.*{PARTIAL}*'):
                    remove(begun)
        if step != _step(runner) and _validation_is_due(runner):
            runner.logger.info(f'Validating once more: the run was cut off after {_step(runner)} and before the end.')
            runner.val_loop.run()

    def _remove_outdated(self, info: dict) -> None:
        current = {os.path.basename(str(value)) for key, value in info.items() if key.startswith(('best_ckpt', 'last'))}
        current |= {self.filename_tmpl.format(step) for step in info.get('keep_ckpt_ids', ())}
        if is_main_process():
            for name in set(self._outdated) - current:
                remove(os.path.join(self.out_dir, name))
        self._outdated = []

    # --- saving -----------------------------------------------------------------------------------------------------

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        info = runner.message_hub
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                self._outdated.append(self.filename_tmpl.format(self.keep_ckpt_ids[0]))
            self.keep_ckpt_ids.append(step)  # drops the first if there are too many
            info.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        info.update_info('last_ckpt', self.last_ckpt)
        info.update_info(_OUTDATED, list(self._outdated))
        options = dict(save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler)
        self._save(runner, name, meta, by_epoch=self.by_epoch, **options, **self.args)
        if is_main_process():
            write_last(runner.work_dir, self.last_ckpt)
        self._remove_outdated(info.runtime_info)

    def _save(self, runner: Runner, name: str, meta: dict, **options) -> None:
        files = dict(file_client_args=self.file_client_args, backend_args=self.backend_args)
        runner.save_checkpoint(self.out_dir, name, meta=dict(meta), **files, **options)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Keep the best checkpoint, and note that this step was validated."""
        super().after_val_epoch(runner, metrics)
        if is_main_process():
            with atomic_write(Path(runner.work_dir, _VALIDATED)) as begun:
                begun.write_text(str(_step(runner)))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if self.save_best and 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        step = runner.epoch if self.by_epoch else runner.iter
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        rules = zip(self.key_indicators, self.rules, strict=True) if self.save_best else ()
        better = [key for key, rule in rules if self._better(runner, metrics, key, rule)]
        for key in better:
            name = f'best_{key}_{self.filename_tmpl.format(step)}'.replace('/', '_')
            path = self.file_backend.join_path(self.out_dir, name)
            of = self._of(key)
            old = runner.message_hub.runtime_info.get(f'best_ckpt{of}')
            runner.message_hub.update_info(f'best_score{of}', metrics[key])
            runner.message_hub.update_info(f'best_ckpt{of}', path)
            self._remember(key, path)
            self._save(runner, name, meta, by_epoch=False, save_optimizer=False, save_param_scheduler=False)
            if old and os.path.basename(old) != name:
                self._outdated.append(os.path.basename(old))
            what = 'epochs' if self.by_epoch else 'iterations'
            runner.logger.info(f'{name} is the best checkpoint, with {key} {metrics[key]:0.4f} after {step} {what}.')
        if self.last_ckpt is not None and (better or _scheduled_by_validation(runner)):
            self._save_checkpoint_with_step(runner, step, meta)
        elif better:
            self._remove_outdated(runner.message_hub.runtime_info)

    def _better(self, runner: Runner, metrics: dict, key: str, rule: str) -> bool:
        if key not in metrics:
            raise ConfigError(f'save_best: {unknown_name(key, "list of metrics of the validation", metrics)}')
        best = runner.message_hub.runtime_info.get(f'best_score{self._of(key)}', self.init_value_map[rule])
        return metrics[key] is not None and self.is_better_than[key](metrics[key], best)

    def _of(self, key: str) -> str:
        """Suffix in mmengine's names of the best value of a metric."""
        return '' if len(self.key_indicators) == 1 else f'_{key}'

    def _remember(self, key: str, path: str) -> None:
        """Where mmengine's hook looks when it publishes."""
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = path
        else:
            self.best_ckpt_path_dict[key] = path


def _number_in(path: Path) -> int:
    """The number that a file holds; 0 if there is none, so that the validation is made again."""
    try:
        return int(path.read_text(encoding='utf-8'))
    except (FileNotFoundError, ValueError):
        return 0


def _make_local(runner: Runner) -> None:
    """Restore the checkpoint list of a resumed run from its work directory."""
    info = runner.message_hub.runtime_info
    for key in [k for k in info if k.startswith('best_ckpt') or k == 'last_ckpt']:
        if info[key]:
            runner.message_hub.update_info(key, _found(runner.work_dir, str(info[key])))


def _found(work_dir: str, recorded: str) -> str:
    """A checkpoint of the work dir, or of the one that the run was resumed from by its path."""
    local = local_path(work_dir, recorded)
    return local if os.path.exists(local) or not os.path.exists(recorded) else recorded


def _step(runner: Runner) -> int:
    return runner.epoch if isinstance(runner.train_loop, EpochBasedTrainLoop) else runner.iter


def _scheduled_by_validation(runner: Runner) -> bool:
    """Whether a validation changes what the checkpoint before it holds: the learning rate, by its metrics."""
    schedulers = runner.param_schedulers
    lists = schedulers.values() if isinstance(schedulers, dict) else [schedulers or ()]
    return any(getattr(scheduler, 'need_val_args', False) for each in lists for scheduler in each)


def _validation_is_due(runner: Runner) -> bool:
    """Whether the checkpoint that was resumed from is one that is validated."""
    loop, step = runner.train_loop, _step(runner)
    if runner.val_loop is None or not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        return False
    loop._decide_current_val_interval()
    last = loop.max_epochs if isinstance(loop, EpochBasedTrainLoop) else loop.max_iters
    return step >= max(loop.val_begin, 1) and (step % loop.val_interval == 0 or step == last)


def save_result(runner: Runner, name: str, meta: dict | None = None) -> None:
    """Save the finished model as the last checkpoint of the run."""
    place: dict[str, object] = dict(epoch=runner.epoch, iter=runner.iter)
    runner.save_checkpoint(runner.work_dir, name, meta=dict(place, **(meta or {})))
    if is_main_process():
        write_last(runner.work_dir, os.path.join(runner.work_dir, name))


def best_checkpoint(runner: Runner) -> str | None:
    """Path of the best checkpoint of a run, if it keeps the best by one metric."""
    best = runner.message_hub.runtime_info.get('best_ckpt')
    return _found(runner.work_dir, str(best)) if best else None


def _as_after_step(runner: Runner) -> None:
    """Set the message hub to the last iteration and epoch, as between two iterations, not the next ones.

    What is saved before the next iteration, or because there is none, then equals what an uninterrupted run saves.
    """
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    runner.message_hub.update_info('iter', max(runner.iter - 1, 0))
    runner.message_hub.update_info('epoch', max(runner.epoch - int(by_epoch), 0))
