"""Steps of a classification pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from vlm_dense.classification.structures import ClsDataSample
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import TRANSFORMS, unknown_name


@TRANSFORMS.register_module()
class TorchvisionTransforms(BaseTransform):
    """Transforms of torchvision, on the image as PIL reads it: published CLIP figures are made with these.

    The test-time preprocessing of CLIP is ``Resize(size=224, interpolation='bicubic')`` and ``CenterCrop(size=224)``,
    training crops of CoOp are ``RandomResizedCrop(size=224, interpolation='bicubic')``. OpenCV's bicubic differs.
    Changes ``img``, uint8 (H, W, 3) BGR or (H, W), and ``img_shape``.

    Args:
        transforms: Each ``dict(type=..., ...)``: a class of ``torchvision.transforms.v2`` and its arguments.
            ``interpolation`` may be a word, and ``transforms`` a list of such configs.

    Raises:
        ConfigError: no such class, or arguments that it does not take.
    """

    def __init__(self, transforms: Sequence[dict]):
        self.transforms = v2.Compose([_transform(**cfg) for cfg in transforms])

    def transform(self, results: dict) -> dict:
        """Change the image."""
        image = results['img']
        colour = image.ndim == 3
        image = self.transforms(Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if colour else image))
        image = np.asarray(image)
        results['img'] = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if colour else image
        results['img_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.transforms})'


def _transform(type: str, **kwargs) -> v2.Transform:  # noqa: A002
    known = {
        name: kind for name, kind in vars(v2).items() if inspect.isclass(kind) and issubclass(kind, torch.nn.Module)
    }
    if type not in known:
        raise ConfigError(unknown_name(type, 'transforms of torchvision', known))
    if isinstance(kwargs.get('transforms'), (list, tuple)):  # of RandomApply and its like
        kwargs['transforms'] = [_transform(**inner) for inner in kwargs['transforms']]
    if isinstance(kwargs.get('interpolation'), str):
        kwargs['interpolation'] = InterpolationMode(kwargs['interpolation'])
    try:
        return known[type](**kwargs)
    except (TypeError, ValueError) as error:
        raise ConfigError(f'torchvision does not build {type}({kwargs}): {error}') from error


@TRANSFORMS.register_module()
class PackClsInputs(BaseTransform):
    """Pack an image and its label for :class:`~vlm_dense.classification.CLIPClassifier`.

    Takes ``img``, (H, W, 3) or (H, W) or views (N, H, W, 3), and ``gt_label``, an int, if there is one. Gives
    ``inputs``, a tensor (3, H, W), (1, H, W) or (N, 3, H, W), and ``data_samples``, a :class:`ClsDataSample`.

    Args:
        meta_keys: What else is kept, as metainfo of the sample.
        multi_label: Take ``gt_labels``, the labels of the classes shown, ``unknown_labels``, if given, and
            ``num_classes``, and give the sample's ``gt_labels`` (K,). Default: if there is no ``gt_label`` but these.

    Raises:
        DataError: a label out of range, or none where ``multi_label`` asks for them.
    """

    def __init__(
        self, meta_keys: Sequence[str] = ('img_path', 'img_shape', 'ori_shape'), multi_label: bool | None = None
    ):
        self.meta_keys = tuple(meta_keys)
        self.multi_label = multi_label

    def transform(self, results: dict) -> dict:
        """Pack."""
        image = results['img']
        image = image[None] if image.ndim == 2 else np.moveaxis(image, -1, -3)
        sample = ClsDataSample(metainfo={k: results[k] for k in self.meta_keys if k in results})
        several = 'gt_label' not in results and 'gt_labels' in results
        if several if self.multi_label is None else self.multi_label:
            sample.gt_labels = label_vector(results)
        elif 'gt_label' in results:
            sample.set_label(results['gt_label'])
        return dict(inputs=torch.from_numpy(np.ascontiguousarray(image)), data_samples=sample)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(meta_keys={self.meta_keys}, multi_label={self.multi_label})'


def label_vector(results: dict) -> torch.Tensor:
    """int64 (K,) of 1, 0 and -1 from ``gt_labels``, ``unknown_labels`` and ``num_classes``.

    Raises:
        DataError: see :class:`PackClsInputs`.
    """
    where = results.get('img_path', 'An image')
    if 'gt_labels' not in results or 'num_classes' not in results:
        raise DataError(
            f'{where} has no gt_labels and num_classes; multi_label=True needs a data set with several labels an image.'
        )
    count = int(results['num_classes'])
    vector = torch.zeros(count, dtype=torch.int64)
    for key, value in (('unknown_labels', -1), ('gt_labels', 1)):
        labels = [int(label) for label in results.get(key, ())]
        wrong = [label for label in labels if not 0 <= label < count]
        if wrong:
            raise DataError(
                f'{where} has the label {wrong[0]} in {key}; expected 0 to {count - 1} for {count} classes. Fix '
                'the label, or name all classes.'
            )
        vector[labels] = value
    return vector
