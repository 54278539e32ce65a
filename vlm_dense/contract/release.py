"""Contents of the official releases of methods, and how they are loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from vlm_dense.clip.loading import allowed_in_pickles, check_fit, read_state_dict
from vlm_dense.errors import CheckpointError

_CLIP = ('image_encoder.', 'text_encoder.', 'logit_scale', 'dtype')
"""Releases that save the whole model have the frozen CLIP under these names."""


def read_release(path: str) -> dict[str, Tensor]:
    """All weights of an official checkpoint, under the release's names; see :func:`read_state_dict`."""
    with allowed_in_pickles(_TRAINER_OBJECTS):
        return read_state_dict(path)


def block_before(pattern: str, name: str) -> dict[str, Callable]:
    """Entry of a ``key_map``: the number in ``pattern`` counts blocks, ours what stands before them.

    ``block_before(r'resblocks\\.(\\d+)\\.VPT', 'deep.')`` makes ``deep.0`` of ``resblocks.1.VPT``.
    """
    return {pattern: lambda match: f'{name}{int(match[1]) - 1}'}


_REBUILT = ('token_prefix', 'token_suffix')
"""Entries in releases of the CoOp family besides the vectors and buffers that follow from class names."""


def release_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an official release under the names of ``module``, without the frozen CLIP and what is rebuilt.

    Args:
        module: Module for the weights. Optional attributes describe how the release differs:

            - ``key_map``: regular expression -> replacement, as in :func:`re.sub`, of names;
            - ``ignored_prefixes``: beginnings of names that are left out; default: ``token_prefix``, ``token_suffix``;
            - ``convert_release(weights)``: a method that gets the renamed weights and returns those of the module.

        weights: Under the release's names.
    """
    found = {}
    ignored = (*getattr(module, 'ignored_prefixes', _REBUILT), *_CLIP)
    for key, value in weights.items():
        name = key.removeprefix('prompt_learner.')
        for pattern, replacement in getattr(module, 'key_map', {}).items():
            name = re.sub(pattern, replacement, name)
        if not name.startswith(ignored):
            found[name] = value
    return module.convert_release(found) if hasattr(module, 'convert_release') else found


def load_release(module: nn.Module, path: str | Mapping[str, str] | None) -> None:
    """Load learned weights of a method's official release; nothing for ``None``.

    Args:
        module: A prompt or head, see :func:`release_weights`; its method ``describe_shapes``, if there is one, gives a
            sentence on its sizes for the message about a file that does not fit.
        path: A file, or name of a module in the official code -> its file where it saves each in one of its own.

    Raises:
        CheckpointError: the file is for other classes, another size or another tower; names both shapes.
    """
    if path is None:
        return
    files = path if isinstance(path, Mapping) else {'': path}
    read = {f'{name}.': read_release(file) for name, file in files.items()}
    weights = {f'{name}{key}'.lstrip('.'): value for name, part in read.items() for key, value in part.items()}
    weights = release_weights(module, weights)
    path = ', '.join(map(str, files.values()))
    try:
        check_fit(weights, {k: v.shape for k, v in module.state_dict().items()}, path)
    except CheckpointError as error:
        described = hasattr(module, 'describe_shapes')
        shapes = module.describe_shapes() if described else f'This is a {type(module).__name__}.'
        raise CheckpointError(f'{error}\n{shapes}') from error
    module.load_state_dict(weights)


class Pretrained:
    """Mixin of modules that load a release by a method; :func:`load_release` needs none."""

    def load_pretrained(self, path: str | Mapping[str, str] | None) -> None:
        """As :func:`load_release`."""
        load_release(self, path)


# --- what official trainers save beside the weights -------------------------------------------------------------------


def _stand_in(module: str, name: str) -> type:
    """An empty class that a pickle finds as ``module.name``; nothing of the real one runs."""
    return type(name, (), dict(__module__=module))


def _plain_dict(*args) -> dict:
    return {}


_plain_dict.__module__, _plain_dict.__name__, _plain_dict.__qualname__ = 'collections', 'defaultdict', 'defaultdict'

# The CoOp family saves the state of its scheduler, which holds a whole scheduler, which holds the optimiser.
_TRAINER_OBJECTS = [
    dict,
    _plain_dict,
    *(_stand_in('torch.optim.lr_scheduler', name) for name in ('CosineAnnealingLR', 'MultiStepLR', 'StepLR')),
    *(_stand_in(f'torch.optim.{name.lower()}', name) for name in ('SGD', 'Adam', 'AdamW')),
]
