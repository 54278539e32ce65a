"""Checkpoints that come with the package, ``bundled://NAME``, small enough for it.

A file is safetensors, compressed by xz, with ``meta`` as JSON in its metadata. Frozen weights are left out, as
:class:`~vlm_dense.engine.checkpoints.fit.FrozenWeightsHook` does. A trained tensor that began as one of a bundled CLIP
is kept as its difference from that: int8, in steps of ``KEY.step``, a number a row, 127 steps the largest difference of
the row. All others are kept whole, in half precision.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Mapping

import safetensors.torch
import torch
from torch import Tensor

from vlm_dense.engine.checkpoints.fingerprints import fingerprint, same
from vlm_dense.engine.configs.names import BUNDLED, bundled_file, bundled_names
from vlm_dense.errors import CheckpointError, unknown_name

_DIFFERENCES = 'differences'
"""Entry of ``meta``: key -> fingerprint of the tensor that its difference is from."""

_PAIRS = dict(
    id=lzma.FILTER_LZMA2, preset=9 | lzma.PRESET_EXTREME, lc=0, lp=1, pb=0, mf=lzma.MF_BT2, nice_len=273, depth=1000
)
"""How xz compresses pairs of bytes, which half precision is."""


def pack(checkpoint: Mapping, begun: Mapping[str, Tensor]) -> bytes:
    """The content of a file.

    Args:
        checkpoint: Of a training: ``state_dict``, and ``meta`` with the names of the classes and the frozen weights.
        begun: Key -> what the config alone gives, of tensors that begin as those of a bundled CLIP.
    """
    tensors, marks = {}, {}
    for key, value in checkpoint['state_dict'].items():
        value = value.detach().cpu()
        if not value.is_floating_point():
            tensors[key] = value
        elif key in begun and value.dim() > 1:
            difference = value - begun[key]
            step = difference.flatten(1).abs().amax(dim=1).clamp(min=1e-30) / 127
            tensors[key] = (difference / _rows(step, value)).round().to(torch.int8)
            tensors[f'{key}.step'], marks[key] = step, fingerprint(begun[key])
        else:
            tensors[key] = value.half()
    told = checkpoint['meta']
    meta = dict(
        dataset_meta=dict(classes=list(told['dataset_meta']['classes'])),
        frozen_weights=told.get('frozen_weights', {}),
        **{_DIFFERENCES: marks},
    )
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    return lzma.compress(
        safetensors.torch.save(tensors, dict(meta=json.dumps(meta))), check=lzma.CHECK_CRC32, filters=[_PAIRS]
    )


def read_bundled(filename: str, map_location=None) -> dict:
    """Read a checkpoint of the package; mmengine's loader of ``bundled://NAME``.

    Returns:
        ``meta`` and ``state_dict``, for :func:`add_differences`.

    Raises:
        CheckpointError: there is none of that name.
    """
    name = filename.removeprefix(BUNDLED)
    if name not in bundled_names():
        raise CheckpointError(unknown_name(name, 'checkpoints that come with vlm_dense', bundled_names()))
    content = lzma.decompress(bundled_file(name).read_bytes())
    length = int.from_bytes(content[:8], 'little')  # of the header, which safetensors.torch does not give
    meta = json.loads(json.loads(content[8 : 8 + length])['__metadata__']['meta'])
    tensors = safetensors.torch.load(content)
    return dict(meta=meta, state_dict={key: _read(value).to(map_location or 'cpu') for key, value in tensors.items()})


def add_differences(checkpoint: dict, own: Callable[[], Mapping[str, Tensor]]) -> None:
    """Put weights instead of differences from those of a model, in place.

    Args:
        checkpoint: What was read; without differences nothing changes.
        own: Gives the tensors of the model as its config builds it.

    Raises:
        CheckpointError: the model began with other weights.
    """
    marks = (checkpoint.get('meta') or {}).pop(_DIFFERENCES, None)
    if not marks:
        return
    weights, begun = checkpoint['state_dict'], own()
    other = [key for key, mark in marks.items() if key not in begun or not same(mark, fingerprint(begun[key]))]
    if other:
        raise CheckpointError(
            f'The checkpoint holds differences from the bundled CLIP, and {len(other)} of {len(marks)} tensors of this '
            f'model begin with other values, as {other[0]}. Use the config of its name, unchanged.'
        )
    for key in marks:
        difference, step = weights[key].float(), weights.pop(f'{key}.step')
        weights[key] = begun[key].detach().float().to(step.device) + difference * _rows(step, difference)


def _rows(step: Tensor, like: Tensor) -> Tensor:
    """A number a row, shaped to be multiplied with the rows of a tensor."""
    return step.view(-1, *[1] * (like.dim() - 1))


def _read(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
