"""What the cases of trained open-vocabulary segmentation have in common: images, labels, samples, official weights."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from dense_case import image_of
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from official import Case, integers
from timm.models import _registry
from torch import Tensor, nn

from vlm_dense.engine.checkpoints.fit import CheckpointFitHook, read_checkpoint

MEAN, STD = (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)


def first_names(names: list[str]) -> list[str]:
    """The first synonym of each class."""
    return [name.split(', ')[0] for name in names]


def load_release(model: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    """Load weights of the release's layout out of a file, as ``tools/test.py`` does: detectron2's, with pickled arrays.

    Raises:
        CheckpointError: a weight of the model is missing, or one of the file is unknown to it.
    """
    arrays = {key: value.numpy() for key, value in weights.items()}
    with open(folder / 'model_final.pkl', 'wb') as file:
        pickle.dump(dict(model=arrays, __author__='third party', matching_heuristics=False), file)
    checkpoint = read_checkpoint(str(folder / 'model_final.pkl'))
    CheckpointFitHook().after_load_checkpoint(SimpleNamespace(model=model), checkpoint)


def images_of(entry: dict) -> Tensor:
    """Normalised images (B, 3, H, W) of an entry with values from 0 to 255, RGB."""
    entry = dict(entry, base=['array', *entry['base']], noise=['array', *entry['noise']])
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    return (image_of(entry) - mean) / std


def labels_of(entry: list, number: int, size: tuple[int, int]) -> Tensor:
    """Labels (n, H, W) of an entry [name, block, high]; the last value stands for 255."""
    name, block, high = entry
    rows, columns = (-(-side // block) for side in size)
    cells = integers(name, number * rows * columns, high).view(number, rows, columns)
    cells[cells == high - 1] = 255
    return cells.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, : size[0], : size[1]]


def samples_of(labels: Tensor) -> list[SegDataSample]:
    """Samples with labels (n, H, W)."""
    return [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in labels]


def probabilities(model: nn.Module, image: Tensor, ori_shape) -> Tensor:
    """Scores (K, H, W) of one image by the way of a test."""
    meta = dict(img_shape=tuple(image.shape[2:]), ori_shape=tuple(ori_shape))
    with torch.no_grad():
        return model.predict(image, [SegDataSample(metainfo=meta)])[0].seg_logits.data


def every(value: Tensor, channels: int, sub: int = 1) -> Tensor:
    """Some channels of maps (..., C, h, w), some rows and columns."""
    return value[..., ::channels, ::sub, ::sub]


def check_gradients(case: Case, gradients: dict[str, Tensor], steps: dict[str, int]) -> None:
    """grad/*: flattened, every n-th entry."""
    for key in case.keys('grad/'):
        case.check_grad(f'grad/{key}', gradients[key].flatten()[:: steps[key]])


def cut_convnext(depths: Sequence[int], dims: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a trunk of timm that has these sizes, as long as ``monkeypatch`` lasts."""
    entry = _registry._model_entrypoints['convnext_base']
    cut = dict(depths=tuple(depths), dims=tuple(dims))
    monkeypatch.setitem(_registry._model_entrypoints, 'convnext_base', lambda **kwargs: entry(**{**cut, **kwargs}))
    return 'convnext_base'
