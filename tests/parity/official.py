"""Official numbers: how their weights and inputs are drawn, and how results are compared.

Every array comes from ``numpy.random.RandomState`` seeded by the crc32 of its name, so nothing but figures is stored.
"""

from __future__ import annotations

import json
import math
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor

TINY = {
    'vit': dict(
        embed_dim=64,
        quick_gelu=True,
        vision_cfg=dict(image_size=32, patch_size=8, width=128, layers=3),
        text_cfg=dict(context_length=77, vocab_size=49408, width=128, heads=2, layers=3),
    ),
    'resnet': dict(
        embed_dim=64,
        quick_gelu=True,
        vision_cfg=dict(image_size=64, layers=[1, 1, 1, 1], width=16),
        text_cfg=dict(context_length=77, vocab_size=49408, width=128, heads=2, layers=3),
    ),
}
"""open_clip configs of the two tiny CLIPs behind all cases."""


errors: dict[str, tuple[float, str]] = {}
"""Of every case that the running test compared, the largest error over the largest entry, and its key."""


class Case:
    """One npz file: ``case.config``, and ``case['key']`` for its arrays."""

    def __init__(self, path: Path):
        self.name = path.stem
        with np.load(path) as data:
            self.arrays = {k: data[k] for k in data.files}
        self.config = json.loads(str(self.arrays.pop('config')))
        self.unread = set(self.arrays)

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __getitem__(self, key: str) -> np.ndarray:
        self.unread.discard(key)
        return self.arrays[key]

    def keys(self, prefix: str) -> list[str]:
        """Keys that start with ``prefix``, without it."""
        return [k[len(prefix) :] for k in self.arrays if k.startswith(prefix)]

    def check(self, key: str, value, rtol: float = 1e-4) -> None:
        """Compare with the official array; the tolerance is relative to its largest entry."""
        wanted = torch.as_tensor(np.asarray(self[key]))
        found = torch.as_tensor(value).detach()
        assert found.shape == wanted.shape or found.numel() == wanted.numel() == 1, (key, found.shape, wanted.shape)
        found = found.reshape(wanted.shape)
        if not wanted.is_floating_point():
            assert torch.equal(found.to(wanted.dtype), wanted), key
            return
        self._compare(key, found, wanted, rtol, 1e-7)

    def check_grad(self, key: str, value) -> None:
        """Gradients: 1e-3 of the largest entry; entries that are mathematically zero are noise."""
        self._compare(key, value.detach(), torch.as_tensor(np.asarray(self[key])), 1e-3, 1e-6)

    def _compare(self, key: str, found: Tensor, wanted: Tensor, rtol: float, atol: float) -> None:
        error = (found.double() - wanted.double()).abs().max().item()
        scale = wanted.double().abs().max().item()
        errors[self.name] = max(
            errors.get(self.name, (0.0, '')), (error / (scale + atol / rtol if rtol else scale or 1.0), key)
        )
        assert error <= rtol * scale + atol, f'{key}: differs by {error:.3g} of {scale:.3g}'

    def done(self) -> None:
        """Fail if some official number was never looked at."""
        assert not self.unread, f'never compared: {sorted(self.unread)}'


def array(name: str, shape, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Standard normal float32 numbers drawn from the name's own stream."""
    stream = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy((stream.standard_normal(tuple(shape)) * scale + shift).astype(np.float32))


def integers(name: str, n: int, high: int) -> Tensor:
    """n int64 labels in [0, high)."""
    stream = np.random.RandomState(zlib.crc32(f'integers/{name}'.encode()))
    return torch.from_numpy(stream.randint(0, high, size=n).astype(np.int64))


def inputs(entry: list | dict) -> Tensor:
    """Images of a config entry.

    Args:
        entry: ``['image_batch', name, n, size]``; ``['array', name, shape(, scale)]``; or a dict for images around one
            image of coarse blocks a class: image i is ``base_scale * base[labels[i]] + noise_scale * noise[i]``.
            ``base`` and ``noise`` are the names of arrays (``num_classes``, 3, ``size / block``, ``size / block``),
            each value ``block`` times along height and width, and (n, 3, ``size``, ``size``).
    """
    if isinstance(entry, dict):
        size, block, labels = entry['size'], entry['block'], torch.tensor(entry['labels'])
        base = array(entry['base'], (entry['num_classes'], 3, size // block, size // block))
        base = base.repeat_interleave(block, 2).repeat_interleave(block, 3)
        noise = array(entry['noise'], (len(labels), 3, size, size))
        return base[labels] * entry['base_scale'] + noise * entry['noise_scale']
    kind, name, *rest = entry
    if kind == 'image_batch':
        n, size = rest
        return array(f'images/{name}', (n, 3, size, size))
    if kind == 'array':
        return array(name, *rest)
    raise ValueError(f'unknown input entry {entry}')


def fill(key: str, shape) -> Tensor:
    """The value that the official runs gave to the state-dict entry ``key``."""
    leaf = key.rsplit('.', 1)[-1]
    if key == 'logit_scale':
        return torch.tensor(math.log(100.0), dtype=torch.float32)
    if leaf == 'num_batches_tracked':
        return torch.tensor(0)
    if leaf == 'running_var':
        return 1.0 + array(key, shape, 0.1).abs()
    if leaf in ('running_mean', 'bias', 'in_proj_bias'):
        return array(key, shape, 0.1)
    if leaf == 'weight' and len(shape) == 1:
        return array(key, shape, 0.1, 1.0)
    if 'embedding' in key:
        return array(key, shape, 0.3)
    fan_in = shape[0] if leaf in ('proj', 'text_projection') or len(shape) == 1 else math.prod(shape[1:])
    return array(key, shape, 1.0 / math.sqrt(fan_in))


def tiny_clip(kind: str) -> dict[str, Tensor]:
    """OpenAI-layout state dict of the tiny ``'vit'`` or ``'resnet'`` CLIP; the caller's own."""
    return {key: value.clone() for key, value in _drawn(kind).items()}


@cache
def _drawn(kind: str) -> dict[str, Tensor]:
    """Drawn once in a process: a table of 49,408 tokens takes longer than most comparisons."""
    with torch.device('meta'):  # of the model only shapes are looked at
        shapes = {k: tuple(v.shape) for k, v in open_clip.model.CLIP(**TINY[kind]).state_dict().items()}
    return {k: fill(k, s) for k, s in shapes.items() if k != 'attn_mask'}
