"""Concise start-up log on the console; the full log in the file."""

from __future__ import annotations

import logging
from collections import Counter

from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from vlm_dense import light
from vlm_dense.engine.models import bare_model
from vlm_dense.errors import ConfigError, first_of

BEGINNINGS = ('before_train', 'before_val', 'before_test')


class ShortStart:
    """Runners that show no environment, config, list of hooks or options of each parameter on the console at the start.

    mmengine's runners print hundreds of lines before the first loss, in which a warning is not seen. The log file keeps
    them all; the console gets one line each for parameters, learning rates and the place of the log file. With
    ``quiet=True`` in the config the console gets warnings only.
    """

    _filter: _OneLiners | None = None
    _without_gradient: Untouched | None = None

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """Build the logger, see :meth:`mmengine.runner.Runner.build_logger`."""
        logger = super().build_logger(*args, **kwargs)
        if self.cfg.get('quiet'):
            for handler in _console(logger):
                handler.setLevel(logging.WARNING)
        return logger

    def _log_env(self, *args, **kwargs) -> None:
        self._filter = _OneLiners()
        for handler in _console(self.logger):
            handler.addFilter(self._filter)
        with light.passing_over():  # for the version of torchvision
            super()._log_env(*args, **kwargs)

    def call_hook(self, fn_name: str, **kwargs) -> None:
        """Call all hooks; at the start of a loop, say what is trained and where the rest stands first."""
        if fn_name in BEGINNINGS and self._filter is not None:
            for handler in _console(self.logger):
                handler.removeFilter(self._filter)
            self._filter = None
            if fn_name == 'before_train':
                self._say_what_is_trained()
                if isinstance(self, Runner):  # others may shard the parameters
                    self._without_gradient = Untouched(bare_model(self))
            for handler in self.logger.handlers:
                if isinstance(handler, logging.FileHandler):
                    self.logger.info(
                        f'Environment, config, hooks and the options of each parameter: {handler.baseFilename}'
                    )
        if fn_name == 'after_train_iter' and self._without_gradient is not None:
            names = self._without_gradient.close()
            self._without_gradient = None
            if names:
                self.logger.warning(
                    f'{len(names)} trained parameters have no gradient after the first iteration, so the loss does not '
                    f'depend on them: {first_of(names)}. A method that '
                    'overrides a misspelt name, or a part that nothing calls, looks like this.'
                )
        super().call_hook(fn_name, **kwargs)

    def _say_what_is_trained(self) -> None:
        model = bare_model(self)
        if self.max_iters > 0 and not any(p.requires_grad for p in model.parameters()):
            raise ConfigError(
                f'The model {type(model).__name__} has nothing to train: none of its parameters requires a gradient. '
                'Test it without training (`vlm-dense test`), unfreeze a part, or choose a prompt or head that learns.'
            )
        self.logger.info(parameter_line(model))
        self.logger.info(learning_rate_line(self.optim_wrapper))


class _OneLiners(logging.Filter):
    """Lets warnings and single lines pass, each line once."""

    def __init__(self):
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the console shows a record."""
        if record.levelno > logging.INFO:
            return True
        text = record.getMessage()
        known = text in self._told
        self._told.add(text)
        return not (known or '\n' in text or text.startswith('paramwise_options'))


class Untouched:
    """The trained parameters of a model that have got no gradient yet."""

    def __init__(self, model: nn.Module):
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._names = dict.fromkeys(trained)
        self._handles = [
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: self._names.pop(name, None))
            for name, parameter in trained.items()
        ]

    def close(self) -> list[str]:
        """Watch no longer; the names of those without gradient."""
        for handle in self._handles:
            handle.remove()
        return list(self._names)


def _console(logger: logging.Logger) -> list[logging.Handler]:
    return [h for h in logger.handlers if not isinstance(h, logging.FileHandler)]


def parameter_line(model: nn.Module) -> str:
    """Numbers of parameters and trained parameters of a model, and the parts with frozen ones."""
    trained, frozen = 0, Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            trained += parameter.numel()
        else:
            frozen[name.split('.')[0]] += parameter.numel()
    total = trained + frozen.total()
    kept = ', '.join(f'{part} {count:,}' for part, count in frozen.most_common())
    return f'Parameters: {total:,}, trained: {trained:,}, frozen: {kept or "none"}.'


def learning_rate_line(optim_wrapper) -> str:
    """The learning rates of an optimiser before any schedule, and how many parameters have each."""
    wrappers = optim_wrapper.values() if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]
    counts: Counter = Counter()
    for wrapper in wrappers:
        for group in wrapper.optimizer.param_groups:
            trained = sum(p.numel() for p in group['params'] if p.requires_grad)
            if trained:
                counts[group.get('initial_lr', group['lr'])] += trained
    return (
        'Learning rates: ' + ', '.join(f'{lr:g} for {count:,} parameters' for lr, count in counts.most_common()) + '.'
    )
