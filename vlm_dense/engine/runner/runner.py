"""mmengine's runners with atomic checkpoints: whole or not there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from mmengine.device import get_device
from mmengine.dist import barrier, is_main_process
from mmengine.runner import FlexibleRunner, Runner
from mmengine.runner import runner as mmengine_runner
from torch import nn

from vlm_dense import light
from vlm_dense.engine.configs.keys import unmatched
from vlm_dense.engine.files import commit, partial_of, remove
from vlm_dense.engine.models import bare_model
from vlm_dense.engine.outputs import claim
from vlm_dense.engine.runner.compilation import compile_parts
from vlm_dense.engine.runner.startup_log import ShortStart
from vlm_dense.errors import CheckpointError, ConfigError, DataError, UserError


@contextmanager
def _saved_whole(path: str) -> Iterator[None]:
    """Move the file written at ``partial_of(path)`` to ``path``.

    Raises:
        CheckpointError: the disk is full, or the place cannot be written.
    """
    try:
        yield
        if is_main_process():
            commit(path)
    except OSError as error:
        if is_main_process():
            remove(partial_of(path))
        raise CheckpointError(
            f'{path} cannot be written: {error.strerror or error}. What was saved before is untouched. Make room, or '
            'fix the cause, and continue with --resume.'
        ) from error


def write_checkpoint(checkpoint: dict, path: str, **_: Any) -> None:
    """Write a checkpoint to a file of this machine piece by piece; mmengine makes all of its bytes in memory first.

    Raises:
        OSError: the disk is full, or the place cannot be written.
    """
    try:
        with open(path, 'wb') as file:
            torch.save(checkpoint, file)
    except RuntimeError as error:  # torch's, on an archive that it could not end
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


@contextmanager
def _resumable(filename: str) -> Iterator[None]:
    """Raise a :class:`CheckpointError` that names the file for a state that does not fit the run."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        if isinstance(error, UserError):
            raise
        raise CheckpointError(
            f'Training cannot be resumed from {filename}: the state of its optimiser, schedules or log does not fit '
            f'this run ({type(error).__name__}: {str(error)[:200]}). Use the config it was trained with, or begin '
            'again with its weights by --load-from.'
        ) from error


def _dump_config(runner: Runner | FlexibleRunner) -> None:
    name = os.path.basename(runner.cfg.filename or f'{runner.timestamp}.py')
    path = os.path.join(runner.work_dir, name)
    try:
        claim([path])
    except DataError:
        path = os.path.join(runner.work_dir, f'dump_{name}')
    runner.cfg.dump(path)


class SafeRunner(ShortStart, Runner):
    """mmengine's ``Runner`` with six differences.

    - A checkpoint is written beside its place and put there when it is whole and on the disk. A kill at any moment, or
      a full disk, leaves the one that was there before.
    - A model of which nothing is trained is not wrapped in DDP, which would refuse it, so that it can be tested in
      several processes.
    - The parameters that the optimiser skips are counted in one line of the log instead of one line for each.
    - ``compile=True``, or ``compile=dict(...)`` with options of ``torch.compile``, compiles the parts of the model that
      map tensors to tensors, see :func:`~vlm_dense.engine.runner.compilation.compile_parts`, where mmengine hands data
      samples and optimiser to the compiler as well.
    - What it says before the first iteration fits on a screen, see :class:`ShortStart`.
    - A module that depends on how gradients are used is shown the optimiser wrapper, and may refuse it.
    """

    _compiled = False

    def dump_config(self) -> None:
        """Write the config into the work dir without replacing a user's config of that name."""
        _dump_config(self)

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Resume from a checkpoint, see :meth:`mmengine.runner.Runner.resume`.

        Raises:
            CheckpointError: its optimiser, schedules or log are none of this run.
        """
        with _resumable(filename):
            super().resume(filename, *args, **kwargs)

    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """Save a checkpoint, see :meth:`mmengine.runner.Runner.save_checkpoint`.

        Raises:
            CheckpointError: it cannot be written.
        """
        if not is_main_process():
            return
        if '://' in str(out_dir):  # of a storage that writes whole objects
            return super().save_checkpoint(out_dir, filename, *args, **kwargs)
        with _saved_whole(f'{out_dir}/{filename}'), patch.object(mmengine_runner, 'save_checkpoint', write_checkpoint):
            super().save_checkpoint(out_dir, partial_of(filename).name, *args, **kwargs)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes if anything of it is trained."""
        if self.distributed and not any(p.requires_grad for p in model.parameters()):
            return model.to(get_device())
        with light.passing_over():  # for one layer of mmcv.ops, which is looked for in the model
            return super().wrap_model(model_wrapper_cfg, model)

    def _maybe_compile(self, target: str) -> None:
        options = self.cfg.get('compile')
        if not options or self._compiled:
            return
        if options is not True and not isinstance(options, dict):
            raise ConfigError(f'compile must be True, False or a dict of options of torch.compile, found {options!r}.')
        self._compiled = True
        parts = compile_parts(bare_model(self), **({} if options is True else options))
        self.logger.info(f'torch.compile takes {", ".join(parts)}; the first iterations are slow.')

    def build_optim_wrapper(self, optim_wrapper):
        """Build the optimiser, and show it to the modules that have ``meet_optim_wrapper(optim_wrapper)``."""
        skipped = _Skipped()
        self.logger.addFilter(skipped)
        try:
            built = super().build_optim_wrapper(optim_wrapper)
        finally:
            self.logger.removeFilter(skipped)
            if skipped.count:
                self.logger.info(f'The optimiser skips {skipped.count} parameters, which are frozen.')
        self._check_custom_keys()
        for module in self.model.modules():
            if hasattr(module, 'meet_optim_wrapper'):
                module.meet_optim_wrapper(built)
        return built

    def _check_custom_keys(self) -> None:
        paramwise = (self.cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
        names = [name for name, _ in self.model.named_parameters()]
        for key, near in unmatched(paramwise.get('custom_keys') or {}, names):
            raise ConfigError(
                f'optim_wrapper.paramwise_cfg.custom_keys: {key!r} is in the name of no parameter, so it would have no '
                f'effect. Did you mean {near!r}?'
            )


class SafeFlexibleRunner(ShortStart, FlexibleRunner):
    """mmengine's ``FlexibleRunner`` with atomic checkpoints, files or folders of shards.

    Their ``meta`` tells the step that the caller gives, where mmengine always counts the one after the next iteration.
    """

    _meta: dict = {}

    def dump_config(self) -> None:
        """Write the config into the work dir without replacing a user's config of that name."""
        _dump_config(self)

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Resume from a checkpoint.

        Raises:
            CheckpointError: its optimiser, schedules or log are none of this run.
        """
        with _resumable(filename):
            super().resume(filename, *args, **kwargs)

    def call_hook(self, fn_name: str, **kwargs) -> None:
        """Call all hooks."""
        if fn_name == 'before_save_checkpoint':
            kwargs['checkpoint']['meta'].update(self._meta)
        super().call_hook(fn_name, **kwargs)

    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """Save a checkpoint; all processes call it.

        Raises:
            CheckpointError: it cannot be written.
        """
        self._meta = dict(kwargs.get('meta') or {})
        if '://' in str(out_dir):
            return super().save_checkpoint(out_dir, filename, *args, **kwargs)
        with _saved_whole(f'{out_dir}/{filename}'):
            super().save_checkpoint(out_dir, partial_of(filename).name, *args, **kwargs)
            barrier()  # the shards of all
        barrier()


class _Skipped(logging.Filter):
    """Drops, and counts, mmengine's line for each frozen parameter."""

    count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged."""
        skipped = record.getMessage().endswith('is skipped since its requires_grad=False')
        self.count += skipped
        return not skipped
