"""Images, their regions, and the regions cut out: the data of CLIPSelf and DeCLIP.

A pipeline chooses regions (:class:`GridBoxes` or :class:`ProposalBoxes`) and ends with :class:`PackRegions`, which cuts
them out and brings images and cut-outs to their sizes; :class:`RegionDataPreprocessor` normalises both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.model import ImgDataPreprocessor
from mmengine.structures import BaseDataElement
from PIL import Image
from torch import Tensor

from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import MODELS, TRANSFORMS


def grid_choices(max_split: int) -> list[tuple[int, int]]:
    """Grids (rows, columns) that are drawn from: at most ``max_split`` each, columns about one to two times the rows.

    Examples:
        >>> grid_choices(2)
        [(1, 1), (1, 2), (2, 1), (2, 2)]
    """
    return [
        (rows, columns)
        for rows in range(1, max_split + 1)
        for columns in range((rows + 1) // 2, min(2 * rows + 1, max_split + 1))
    ]


def grid_boxes(grid: tuple[int, int], width: int, height: int) -> np.ndarray:
    """The equal boxes (rows * columns, 4), x1 y1 x2 y2, of an image, row by row; float32."""
    rows, columns = grid
    x, y = (np.linspace(0, side, n + 1, dtype=np.float64) for side, n in ((width, columns), (height, rows)))
    left, top = np.meshgrid(x[:-1], y[:-1])
    right, bottom = np.meshgrid(x[1:], y[1:])
    return np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4).astype(np.float32)


def enlarged(boxes: np.ndarray, factor: float, width: int, height: int) -> np.ndarray:
    """Boxes (n, 4) enlarged about their centres and cut at the borders of the image."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) * (factor / 2)
    return np.concatenate([centres - half, centres + half], axis=1).clip(0, [width, height] * 2)


def fit_square(image: Image.Image, side: int, centred: bool) -> tuple[np.ndarray, float]:
    """An image with its longest side ``side``, black beside it: around it if ``centred``, else right and below.

    Returns:
        uint8 (side, side, 3), and by how much lengths grew, the smaller of both directions.
    """
    longest = max(image.size)
    width, height = (max(1, round(length * side / longest)) for length in image.size)
    scale = min(width / image.size[0], height / image.size[1])
    canvas = np.zeros((side, side, 3), np.uint8)
    left, top = ((side - width) // 2, (side - height) // 2) if centred else (0, 0)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas[top : top + height, left : left + width] = np.asarray(resized)
    return canvas, scale


@TRANSFORMS.register_module()
class GridBoxes(BaseTransform):
    """Regions of an image by a grid of random numbers of rows and columns, as CLIPSelf's image patches.

    Added keys: ``regions`` and ``crops``, float32 (n, 4), x1 y1 x2 y2 in pixels: the same boxes, in random order.

    Args:
        max_split: Most rows and columns, see :func:`grid_choices`.
        max_boxes: Most regions of an image.
        crop_scale: By how much what is cut out is larger than the region.

    Raises:
        ConfigError: a number that leaves no region.
        DataError: an image so small that a cell of the grid has no pixel.
    """

    def __init__(self, max_split: int = 6, max_boxes: int = 20, crop_scale: float = 1.0):
        _check_numbers(type(self).__name__, max_split=max_split, max_boxes=max_boxes)
        self.choices = grid_choices(max_split)
        self.max_boxes, self.crop_scale = max_boxes, crop_scale

    def transform(self, results: dict) -> dict:
        """Draw a grid."""
        height, width = results['img'].shape[:2]
        grid = self.choices[int(torch.randint(len(self.choices), ()))]
        if height < grid[0] or width < grid[1]:
            raise DataError(
                f'{results.get("img_path", "An image")} has {width} x {height} px, fewer than the {grid[1]} x '
                f'{grid[0]} cells of its grid. Leave such images out (filter_cfg of the data set), or set max_split of '
                'vlm_dense.GridBoxes to a smaller number.'
            )
        boxes = grid_boxes(grid, width, height)
        boxes = boxes[torch.randperm(len(boxes)).numpy()[: self.max_boxes]]
        results['regions'] = boxes
        results['crops'] = enlarged(boxes, self.crop_scale, width, height) if self.crop_scale > 1 else boxes
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({len(self.choices)} grids, max_boxes={self.max_boxes})'


@TRANSFORMS.register_module()
class ProposalBoxes(BaseTransform):
    """Regions of an image by the boxes of its annotations: proposals of any kind, written as a COCO file.

    Added keys: ``regions``, float32 (n, 4), some of ``gt_bboxes`` in random order, and ``crops``, those enlarged and
    cut at the borders. An image without a box of the right size has one region, a quarter of its sides at the upper
    left, as in the release.

    Args:
        max_boxes: Most regions of an image; of so many, drawn at random, those of a wrong size are left out.
        min_size, max_size: Least and greatest root of a region's area, in pixels of the image.
        crop_scale: By how much what is cut out is larger than the region.

    Raises:
        ConfigError: a number that leaves no region.
        DataError: no boxes were loaded.
    """

    def __init__(self, max_boxes: int = 20, min_size: float = 8, max_size: float = 1024, crop_scale: float = 1.5):
        _check_numbers(type(self).__name__, max_boxes=max_boxes, max_size=max_size)
        self.max_boxes, self.min_size, self.max_size, self.crop_scale = max_boxes, min_size, max_size, crop_scale

    def transform(self, results: dict) -> dict:
        """Choose boxes."""
        height, width = results['img'].shape[:2]
        boxes = _boxes_of(results, type(self).__name__)[_counted(results)]
        boxes = boxes[torch.randperm(len(boxes)).numpy()[: self.max_boxes]]
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        boxes = boxes[(area >= self.min_size**2) & (area <= self.max_size**2)]
        if len(boxes):
            results['crops'] = enlarged(boxes, self.crop_scale, width, height)
        else:
            results['crops'] = boxes = np.array([[0, 0, max(1, width / 4), max(1, height / 4)]], np.float32)
        results['regions'] = boxes
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(max_boxes={self.max_boxes}, crop_scale={self.crop_scale})'


def _check_numbers(name: str, **numbers: float) -> None:
    wrong = {key: value for key, value in numbers.items() if value < 1}
    if wrong:
        raise ConfigError(f'{name}: {" and ".join(wrong)} must be at least 1, found {wrong}.')


def _boxes_of(results: dict, owner: str) -> np.ndarray:
    """Boxes of the annotations, float32 (n, 4); crowds and the like are among them."""
    if 'gt_bboxes' not in results:
        raise DataError(
            f'{owner} found no boxes in the pipeline. Put dict(type="LoadAnnotations", with_bbox=True) in front of it, '
            'with a data set of boxes such as vlm_dense.CocoDataset.'
        )
    boxes = results['gt_bboxes']
    return np.asarray(getattr(boxes, 'tensor', boxes), np.float32).reshape(-1, 4)


def _counted(results: dict) -> np.ndarray | slice:
    """Which annotations are no crowds and not ignored otherwise."""
    return ~np.asarray(results['gt_ignore_flags'], bool) if 'gt_ignore_flags' in results else slice(None)


@TRANSFORMS.register_module()
class PackRegions(BaseTransform):
    """Cut regions out, bring image and cut-outs to their sizes, and pack them.

    The image gets its longest side ``image_size`` and is filled up with black at the right and bottom; cut-outs get
    ``crop_size`` and black around them. ``inputs`` is the image, uint8 (3, S, S), BGR as it was; the data sample has

    - ``boxes``: float32 (n, 4), x1 y1 x2 y2, the regions in pixels of the packed image
    - ``crops``: uint8 (n, 3, C, C), if regions were chosen
    - ``proxy``: uint8 (3, P, P), the image once more, with ``proxy_size``
    - ``labels``: int64 (n,), and ``masks``, bool (n, S, S), of annotations where no regions were chosen: for tests

    Args:
        image_size: S.
        crop_size: C, the size of images that the teacher was trained with.
        proxy_size: P, for a second backbone with another patch: its grid should be that of the tower.
        masks: Pack the masks of the annotations.

    Raises:
        DataError: neither regions nor annotated boxes; a region without a pixel.
    """

    def __init__(self, image_size: int, crop_size: int = 224, proxy_size: int | None = None, masks: bool = False):
        self.image_size, self.crop_size, self.proxy_size, self.masks = image_size, crop_size, proxy_size, masks

    def transform(self, results: dict) -> dict:
        """Pack one image."""
        image = Image.fromarray(np.ascontiguousarray(results['img']))
        packed, scale = fit_square(image, self.image_size, centred=False)
        keys = ('img_id', 'img_path', 'ori_shape')
        sample = BaseDataElement(metainfo={key: results[key] for key in keys if key in results})
        sample.set_metainfo(dict(scale=scale))
        if 'regions' in results:
            boxes = results['regions']
            sample.set_field(_as_images([self._cut(image, box, results) for box in results['crops']]), 'crops')
        else:
            counted = _counted(results)
            boxes = _boxes_of(results, type(self).__name__)[counted]
            labels = np.asarray(results['gt_bboxes_labels'], np.int64)[counted]
            sample.set_field(torch.from_numpy(labels), 'labels')
            if self.masks:
                sample.set_field(self._packed_masks(results), 'masks')
        sample.set_field(torch.from_numpy(np.asarray(boxes, np.float32) * np.float32(scale)), 'boxes')
        if self.proxy_size is not None:
            sample.set_field(_as_images([fit_square(image, self.proxy_size, centred=False)[0]])[0], 'proxy')
        return dict(inputs=_as_images([packed])[0], data_samples=sample)

    def _cut(self, image: Image.Image, box: np.ndarray, results: dict) -> np.ndarray:
        corners = tuple(round(x) for x in box.tolist())
        if corners[0] >= corners[2] or corners[1] >= corners[3]:
            raise DataError(
                f'{results.get("img_path", "An image")} of {image.size[0]} x {image.size[1]} px has the region '
                f'{box.tolist()}, which holds no pixel. Raise min_size of vlm_dense.ProposalBoxes, or set max_split of '
                'vlm_dense.GridBoxes to a smaller number.'
            )
        return fit_square(image.crop(corners), self.crop_size, centred=True)[0]

    def _packed_masks(self, results: dict) -> Tensor:
        found = results['gt_masks'].to_ndarray() if 'gt_masks' in results else results['gt_instance_masks']
        found = found[_counted(results)]
        height, width = results['img'].shape[:2]
        longest = max(height, width)
        size = tuple(max(1, round(side * self.image_size / longest)) for side in (width, height))
        out = torch.zeros(len(found), self.image_size, self.image_size, dtype=torch.bool)
        for i, mask in enumerate(found):
            resized = Image.fromarray(np.asarray(mask, np.uint8)).resize(size, Image.Resampling.NEAREST)
            out[i, : size[1], : size[0]] = torch.from_numpy(np.array(resized) > 0)
        return out

    def __repr__(self) -> str:
        return f'{type(self).__name__}(image_size={self.image_size}, crop_size={self.crop_size})'


def _as_images(images: Sequence[np.ndarray]) -> Tensor:
    """Images (H, W, 3) of one size -> (n, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))


@MODELS.register_module()
class RegionDataPreprocessor(ImgDataPreprocessor):
    """mmengine's ``ImgDataPreprocessor``, which normalises the ``crops`` and ``proxy`` of samples like the images.

    For arguments see :class:`mmengine.model.ImgDataPreprocessor`.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """Batch and normalise what :class:`PackRegions` packed."""
        data = super().forward(data, training)
        for sample in data.get('data_samples') or ():
            for name in ('crops', 'proxy'):
                if name in sample:
                    sample.set_field(self.normalised(sample.get(name)), name)
        return data

    def normalised(self, images: Tensor) -> Tensor:
        """Images (..., 3, H, W) as the towers take them, float32."""
        if self._channel_conversion:
            images = images.flip(-3)
        return (images.float() - self.mean) / self.std if self._enable_normalize else images.float()
