"""What the official releases of methods save, and how it gets in here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from vlm_dense.clip.loading import allowed_in_pickles, check_fit, read_state_dict
from vlm_dense.errors import CheckpointError

_CLIP = ('image_encoder.', 'text_encoder.', 'logit_scale', 'dtype')
"""Releases that save the whole model have the frozen CLIP under these names."""


def read_release(path: str) -> dict[str, Tensor]:
    """All weights of an official checkpoint, under the release's names; see :func:`read_state_dict`."""
    with allowed_in_pickles(_TRAINER_OBJECTS):
        return read_state_dict(path)


def block_before(pattern: str, name: str) -> dict[str, Callable]:
    """Entry of :attr:`Pretrained.key_map`: the number in ``pattern`` counts blocks, ours what stands before them.

    ``block_before(r'resblocks\\.(\\d+)\\.VPT', 'deep.')`` makes ``deep.0`` of ``resblocks.1.VPT``.
    """
    return {pattern: lambda match: f'{name}{int(match[1]) - 1}'}


class Pretrained:
    """Mixin of modules that load what their method's release saves; goes in front of the module class.

    Attributes:
        ignored_prefixes: Beginnings of names that follow from class names or that nothing reads; left out when loading.
        key_map: Regular expression -> replacement, as in :func:`re.sub`, of the release's names that differ from ours.
    """

    ignored_prefixes: tuple[str, ...] = ('token_prefix', 'token_suffix')
    key_map: Mapping[str, str | Callable] = {}

    def from_release(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the release under our names, without what is rebuilt and without the frozen CLIP."""
        found = {}
        for key, value in weights.items():
            name = key.removeprefix('prompt_learner.')
            for pattern, replacement in self.key_map.items():
                name = re.sub(pattern, replacement, name)
            if not name.startswith((*self.ignored_prefixes, *_CLIP)):
                found[name] = value
        return found

    def load_pretrained(self, path: str | Mapping[str, str] | None) -> None:
        """Load learned weights as the official release of the method saves them; nothing for ``None``.

        Args:
            path: A file, or name of a module in the official code -> its file where it saves each in one of its own.

        Raises:
            CheckpointError: the file is for other classes, another size or another tower; names both shapes.
        """
        if path is None:
            return
        files = path if isinstance(path, Mapping) else {'': path}
        read = {f'{module}.': read_release(file) for module, file in files.items()}
        weights = {
            f'{module}{name}'.lstrip('.'): value for module, part in read.items() for name, value in part.items()
        }
        weights = self.from_release(weights)
        path = ', '.join(map(str, files.values()))
        try:
            check_fit(weights, {k: v.shape for k, v in self.state_dict().items()}, path)
        except CheckpointError as error:
            raise CheckpointError(f'{error}\n{self.describe_shapes()}') from error
        self.load_state_dict(weights)

    def describe_shapes(self) -> str:
        """One sentence on the sizes of this module, for the message about a file that does not fit."""
        return f'This is a {type(self).__name__}.'


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
