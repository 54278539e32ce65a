"""A model from its config and its checkpoint, without the data it was trained on.

The names of its classes are those that are given, or else those of the checkpoint, which has them in
``meta['dataset_meta']['classes']``, of the config, of the data set.
"""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Sequence
from types import SimpleNamespace

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import nn

from vlm_dense.datasets import config_checks
from vlm_dense.engine.checkpoints.fit import CheckpointFitHook, class_differences, read_checkpoint
from vlm_dense.engine.configs.checks import count_classes
from vlm_dense.engine.runner.launch import fill_class_names
from vlm_dense.errors import ClassNamesError, ConfigError, DataError, first_of
from vlm_dense.registry import registered
from vlm_dense.vocabulary.class_names import as_class_names, check_names, read_class_names

Names = Sequence[str | Sequence[str]]
"""A name of each class, or several of one, in label order."""


def takes_names(cfg: Config) -> bool:
    """Whether the model of a config has class names among the arguments of its constructor."""
    return 'class_names' in inspect.signature(registered(MODELS, cfg.model['type'])).parameters


def build_trained(
    cfg: Config,
    weights: str | os.PathLike | None,
    caller: str | None,
    names: Names | None = None,
    fallback: Names | None = None,
    unnamed: Names | None = None,
) -> tuple[nn.Module, Names | None]:
    """Build a model and load its checkpoint; no data set is built where the checkpoint has the names.

    Args:
        cfg: Its config, which gets the names and their number.
        weights: The checkpoint, if any.
        caller: Name of the inferencer, for the message about a model that needs a checkpoint; None: it need not have
            one.
        names: Instead of those of the checkpoint.
        fallback: If neither the checkpoint nor the config has names.
        unnamed: Stand-in for the names of a model that any call gives others.

    Returns:
        The model, and its names; None if there are none.

    Raises:
        ClassNamesError: names that cannot be used, or none for a model that needs some.
        ConfigError: no checkpoint for a model that needs one.
        CheckpointError, WeightsNotFoundError: a checkpoint that is absent or does not fit.
    """
    checkpoint = None if weights is None else read_checkpoint(os.fspath(weights), map_location='cpu')
    known = names or trained_names(checkpoint)
    if known is None:
        known = _names_of_config(cfg, weights, fallback)
    else:
        give_names(cfg, known)
    if takes_names(cfg):
        known = cfg.model.get('class_names')
        if not known and unnamed is None:
            what = os.path.basename(cfg.filename) if cfg.filename else f'A {cfg.model["type"]}'
            raise ClassNamesError(
                f"{what} has no class names of its own. Give class_names=['sky', 'road', 'car'], or --classes sky road "
                'car.'
            )
        cfg.model.setdefault('class_names', unnamed)
    _give_base_names(cfg, checkpoint)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', module='mmseg')  # advice on losses
        model = MODELS.build(cfg.model)
    if checkpoint is not None:
        CheckpointFitHook().after_load_checkpoint(SimpleNamespace(model=model), checkpoint)
    elif caller is not None:
        check_untrained(model, caller)
    return model, known


def load_weights(model: nn.Module, weights: str | os.PathLike) -> None:
    """Load a checkpoint into a model.

    Raises:
        CheckpointError: it does not fit.
    """
    checkpoint = read_checkpoint(os.fspath(weights), map_location='cpu')
    CheckpointFitHook().after_load_checkpoint(SimpleNamespace(model=model), checkpoint)


def trained_names(checkpoint: dict | None) -> list[str] | None:
    """Names of the classes that a checkpoint was trained for, if it tells."""
    names = ((checkpoint or {}).get('meta') or {}).get('dataset_meta', {}).get('classes')
    return [names] if isinstance(names, str) else list(names) if names else None


def _give_base_names(cfg: Config, checkpoint: dict | None) -> None:
    """Give a model that takes ``base_names`` those of its checkpoint, or of the data of its config."""
    parameters = inspect.signature(registered(MODELS, cfg.model['type'])).parameters
    if 'base_names' not in parameters or cfg.model.get('base_names') is not None:
        return
    found = ((checkpoint or {}).get('meta') or {}).get('dataset_meta', {}).get('base_classes')
    cfg.model['base_names'] = found or config_checks.class_names(cfg, key='base_classes')


def give_names(cfg: Config, names: Names) -> None:
    """Put class names, and their number, instead of those that a config and its data set have.

    Args:
        cfg: Changed in place.
        names: In label order, or what :func:`vlm_dense.vocabulary.class_names.read_class_names` takes.

    Raises:
        ClassNamesError: names that cannot be used.
    """
    number = len(read_class_names(names) if isinstance(names, str) else names)
    if not takes_names(cfg):
        check_names(names)
    elif isinstance(names, str) or first_names(cfg.model.get('class_names')) != first_names(names):
        cfg.model['class_names'] = names if isinstance(names, str) else list(names)  # its constructor checks them
    count_classes(cfg, number)


def first_names(names: Names | None) -> list[str] | None:
    """The first name of each class."""
    if names is None or isinstance(names, str):
        return None
    return [name[0] if isinstance(name, (list, tuple)) and name else name for name in names]


def _names_of_config(cfg: Config, weights: str | os.PathLike | None, fallback: Names | None) -> Names | None:
    try:
        known = config_checks.class_names(cfg)
    except (DataError, ClassNamesError) as error:  # of data that are not here
        known, absent = None, error
    else:
        absent = None
        fill_class_names(cfg)
    known = cfg.model.get('class_names') or known
    if not known and fallback is not None:
        give_names(cfg, fallback)
        return fallback
    if not known and absent is not None:
        name = os.path.splitext(os.path.basename(cfg.filename or 'the model'))[0]
        raise ClassNamesError(
            f'{name} has the classes of the data that it is trained on. Give the checkpoint of its training '
            '(--weights CHECKPOINT).'
            if weights is None
            else f'{os.fspath(weights)} does not tell the names of its classes: it holds weights only. Give the names, '
            'in the order of the training (--classes NAME NAME ...).'
        ) from absent
    return known


def check_untrained(model: nn.Module, caller: str) -> None:
    """Raise a :class:`ConfigError` if a model without checkpoint has weights that training sets."""
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    if trained:
        raise ConfigError(
            f'The model has {len(trained)} weights that training sets ({", ".join(trained[:3])}, ...): name a '
            f'checkpoint, as in {caller}(CONFIG, weights=CHECKPOINT), or --weights CHECKPOINT.'
        )


def shown_names(model: str, own: Sequence[str], given) -> list[str]:
    """Names for the outputs of a model with fixed classes, in label order.

    Args:
        model: Its name, for messages.
        own: Names of its training.
        given: Others in their place, as :func:`vlm_dense.vocabulary.class_names.as_class_names` takes them.

    Raises:
        ClassNamesError: another number of names, or one that the training had at another label.
    """
    own, names = list(own), first_names(as_class_names(given))
    if names == own:
        return own
    if len(names) != len(own):
        raise ClassNamesError(
            f'{model} was trained for its {len(own)} classes ({first_of(own)}) and takes no others, found {len(names)} '
            f'({first_of(names)}). Leave the classes out, or use a model that takes any names.'
        )
    moved = [(label, name) for label, name in enumerate(names) if name in own and own.index(name) != label]
    if moved:
        label, name = moved[0]
        raise ClassNamesError(
            f'{model} was trained with {name!r} as class {own.index(name)}, found it as class {label}: '
            f'{class_differences(own, names)} Leave the classes out, or give them in this order: {", ".join(own)}.'
        )
    other = [f'{a!r} as {b!r}' for a, b in zip(own, names, strict=True) if a != b]
    print_log(
        f'{model} finds the classes of its training, whatever they are called: it shows {", ".join(other)}.',
        logger='current',
        level=logging.WARNING,
    )
    return names
