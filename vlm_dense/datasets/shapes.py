"""Shapes: a data set of drawn scenes that needs no file, for segmentation, detection and classification."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, Resize
from mmengine.dataset import BaseDataset

from vlm_dense.colours import class_colours
from vlm_dense.datasets import scenes
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import DATASETS, TRANSFORMS, unknown_name

IGNORE = 255
_COLOURS = tuple(scenes.COLOURS)


def _classes(label: str) -> dict[str, list[tuple[int, int]]]:
    """Class name -> its (shape id, colour id) pairs, in label order."""
    if label == 'shape':
        return {n: [p for p in scenes.PAIRS if p[0] == s] for s, n in enumerate(scenes.SHAPES)}
    if label == 'colour':
        return {n: [p for p in scenes.PAIRS if p[1] == c] for c, n in enumerate(_COLOURS)}
    if label == 'shape_colour':
        return {scenes.pair_name(*p): [p] for p in scenes.PAIRS}
    raise ConfigError(unknown_name(label, 'label kinds of ShapesDataset', ('shape', 'colour', 'shape_colour')))


def _group(name: str, groups: dict[str, Sequence[str]]) -> str:
    return next(g for g, members in groups.items() if name in members)


def shapes_metainfo(label: str = 'shape', classes: str | Sequence[str] = 'all', background: bool = False) -> dict:
    """Metainfo of :class:`ShapesDataset`, for the same arguments.

    Returns:
        dict with ``classes`` (names in label order), ``palette`` (RGB per class), ``taxonomy`` (parent name -> its
        classes: 'round' -> circle, ring, ...; 'warm' -> red, ...; of shape_colour: 'circle' -> 'red circle', ...) and
        ``attributes`` (class name -> words that are true of it, as ('circle', 'round', 'red', 'warm')).
    """
    every = _classes(label)
    if isinstance(classes, str):
        half = len(every) // 2
        splits = {'all': list(every), 'base': list(every)[:half], 'new': list(every)[half:]}
        if classes not in splits:
            raise ConfigError(unknown_name(classes, 'class splits of ShapesDataset', splits))
        names = splits[classes]
    else:
        names = [n for n in classes if n != 'background']
        for name in names:
            if name not in every:
                raise ConfigError(unknown_name(name, f'classes of ShapesDataset with label={label!r}', every))
        if not names or len(set(names)) < len(names):
            raise ConfigError(f'classes must be one or more different names, but it is {list(classes)}.')
    taxonomy, attributes, palette = {}, {}, []
    for name in names:
        shape, colour = every[name][0]
        of_shape = (scenes.SHAPES[shape], _group(scenes.SHAPES[shape], scenes.SHAPE_GROUPS))
        of_colour = (_COLOURS[colour], _group(_COLOURS[colour], scenes.COLOUR_GROUPS))
        attributes[name] = {'shape': of_shape, 'colour': of_colour, 'shape_colour': of_shape + of_colour}[label]
        parent = {'shape': of_shape[1], 'colour': of_colour[1], 'shape_colour': of_shape[0]}[label]
        taxonomy.setdefault(parent, []).append(name)
        if label == 'shape':
            palette += map(list, class_colours([scenes.SHAPES[shape]]))
        else:  # the colour itself, darker from shape to shape where both count
            dim = 100 - (8 * shape if label == 'shape_colour' else 0)
            palette.append([v * dim // 100 for v in scenes.COLOURS[_COLOURS[colour]]])
    if background:
        names, palette = ['background', *names], [list(*class_colours(['background'])), *palette]
    taxonomy = {parent: tuple(members) for parent, members in taxonomy.items()}
    return dict(classes=tuple(names), palette=palette, taxonomy=taxonomy, attributes=attributes)


@DATASETS.register_module()
class ShapesDataset(BaseDataset):
    """Scenes of drawn objects, generated on the fly: nothing is read, nothing is written.

    A data info holds what :class:`DrawScene` needs; the pipeline draws. Scene ``i`` of a split and a seed has the
    same objects at the same places in every domain and at every size.

    Args:
        num_scenes: Length of the data set.
        split: 'train', 'val' or 'test': different scenes.
        seed: Other seeds give other scenes.
        size: Side in pixels, or (height, width).
        num_objects: (least, greatest) number of objects of a scene, both inclusive. Objects that would be almost
            hidden are left out.
        domain: 'source' (filled shapes on textured backgrounds), 'sketch' (coloured outlines on paper), 'inverted'
            (negative of source), 'noisy' (low contrast under noise) or 'night' (dark and bluish).
        label: What a class is: 'shape' (8), 'colour' (8) or 'shape_colour' (64, as 'red circle').
        classes: 'all', 'base' (first half), 'new' (second half) or names. Only objects of these classes are drawn.
            ``metainfo['classes']``, if given, takes its place.
        background: Whether 'background' is class 0. Otherwise background pixels are 255, which is ignored.
        held_out: Names of classes of which no object is drawn; they keep their labels.
        metainfo: As in mmengine; ``classes`` chooses classes, other keys are added.
        **kwargs: As in :class:`mmengine.dataset.BaseDataset`: ``pipeline``, ``indices``, ``lazy_init``, ...

    Raises:
        DataError: ``num_scenes`` is not positive.
        ConfigError: an argument that cannot work, with the values that can.

    Examples:
        >>> scenes = ShapesDataset(num_scenes=2, size=32, pipeline=[dict(type='vlm_dense.DrawScene')])
        >>> scenes[0]['img'].shape, scenes[0]['gt_seg_map'].shape
        ((32, 32, 3), (32, 32))
        >>> scenes.metainfo['classes'][:3]
        ('circle', 'square', 'triangle')
    """

    METAINFO = shapes_metainfo()
    _SPLITS = ('train', 'val', 'test')

    def __init__(
        self,
        num_scenes: int = 1000,
        split: str = 'train',
        seed: int = 0,
        size: int | Sequence[int] = 64,
        num_objects: Sequence[int] = (1, 4),
        domain: str = 'source',
        label: str = 'shape',
        classes: str | Sequence[str] = 'all',
        background: bool = False,
        held_out: Sequence[str] = (),
        metainfo: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if num_scenes < 1:
            raise DataError(
                f'The {split} split of ShapesDataset is empty: num_scenes is {num_scenes}; set it to at least 1.'
            )
        if split not in self._SPLITS:
            raise ConfigError(unknown_name(str(split), 'splits of ShapesDataset', self._SPLITS))
        self.num_scenes, self.split, self.seed, self.domain = num_scenes, split, seed, domain
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.num_objects = tuple(num_objects)
        if len(self.size) != 2 or len(self.num_objects) != 2:
            raise ConfigError(
                f'size must be a side or (height, width) and num_objects (least, greatest), but they are '
                f'{size} and {num_objects}.'
            )
        metainfo = dict(metainfo or {})
        meta = shapes_metainfo(label, metainfo.pop('classes', classes), background)
        every = _classes(label)
        for name in held_out:
            if name not in every or name not in meta['classes']:
                raise ConfigError(unknown_name(str(name), 'classes of ShapesDataset', meta['classes']))
        self._labels = np.full((len(scenes.SHAPES), len(_COLOURS)), -1)
        self._pairs = []
        for index, name in enumerate(meta['classes']):
            for pair in () if name in held_out else every.get(name, ()):
                self._labels[pair] = index
                self._pairs.append(pair)
        self._fill = 0 if background else IGNORE
        scenes.draw_scene('', self.size, self.num_objects, domain, self._pairs)  # complains now, not in a worker
        super().__init__(metainfo={**meta, **metainfo}, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One small dict per scene; :meth:`get_data_info` adds what all share."""
        return [dict(img_id=i) for i in range(self.num_scenes)]

    def get_data_info(self, idx: int) -> dict:
        """Input of :class:`DrawScene` for scene ``idx``; for scenes of one object with ``gt_label``."""
        info = super().get_data_info(idx)
        name = f'{self.seed}/{self.split}/{info["img_id"]}'
        path = f'shapes/{self.domain}/{name}.png'
        info.update(
            scene=name,
            size=self.size,
            num_objects=self.num_objects,
            domain=self.domain,
            pairs=self._pairs,
            labels=self._labels,
            background_label=self._fill,
            num_classes=len(self._metainfo['classes']),  # the property copies all of it
            img_path=path,
            seg_map_path=path,
            label_map=None,
            reduce_zero_label=False,
            seg_fields=[],
        )
        if self.num_objects == (1, 1):
            info['gt_label'] = int(self._labels[scenes.single_pair(name, self._pairs)])
        return info

    def write_coco(self, folder: str | os.PathLike) -> None:
        """Write the scenes as a COCO data set: ``images/*.png`` and ``annotations.json``, with ids from 1.

        Args:
            folder: Made if it does not exist; files of the same name are replaced.
        """
        folder = Path(folder)
        (folder / 'images').mkdir(parents=True, exist_ok=True)
        draw, images, annotations = DrawScene(), [], []
        for i in range(len(self)):
            scene = draw(self.get_data_info(i))
            name = f'{scene["img_id"]:06d}.png'
            cv2.imwrite(str(folder / 'images' / name), scene['img'])
            image_id = scene['img_id'] + 1
            images.append(dict(id=image_id, file_name=name, height=scene['height'], width=scene['width']))
            for (x1, y1, x2, y2), label, mask in zip(
                scene['gt_bboxes'].tolist(), scene['gt_bboxes_labels'].tolist(), scene['gt_instance_masks'], strict=True
            ):
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=image_id,
                        category_id=label + 1,
                        bbox=[x1, y1, x2 - x1, y2 - y1],
                        area=int(mask.sum()),
                        segmentation=coco_mask(mask),
                        iscrowd=0,
                    )
                )
        categories = [dict(id=i, name=name) for i, name in enumerate(self.metainfo['classes'], start=1)]
        content = dict(images=images, annotations=annotations, categories=categories)
        (folder / 'annotations.json').write_text(json.dumps(content), encoding='utf-8')


def coco_mask(mask: np.ndarray) -> dict:
    """Run-length code of a mask (H, W) of 0 and 1, as COCO's annotation files hold it."""
    from pycocotools.mask import encode

    code = encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(code, counts=code['counts'].decode())


@TRANSFORMS.register_module()
class ResizeImage(Resize):
    """mmcv's ``Resize`` of the image alone: labels that are there already keep the size at which they are compared."""

    def _resize_seg(self, results: dict) -> None:
        """Leave labels as they are."""


@TRANSFORMS.register_module()
class DrawScene(BaseTransform):
    """Draw the scene of a data info of :class:`ShapesDataset`; replaces loading of image and annotations.

    Added keys, for a scene of n objects, labels being indices into the data set's classes:

    - ``img``: uint8 (H, W, 3), BGR; ``img_shape``, ``ori_shape``, ``height``, ``width``
    - ``gt_seg_map``: uint8 (H, W), in ``seg_fields``
    - ``gt_bboxes``: float32 (n, 4) x1 y1 x2 y2; ``gt_bboxes_labels``: int64 (n,); ``gt_ignore_flags``: bool (n,)
    - ``gt_instance_masks``: uint8 (n, H, W), visible parts
    - ``gt_labels``: int64, the different labels of the scene, ascending; ``gt_label``: int, if there is one object
    - ``shape_ids``, ``colour_ids``: int64 (n,)
    - ``caption``: as 'a red circle and a blue square'

    Args:
        detection: Give ``gt_bboxes`` and ``gt_masks`` as mmdet's ``HorizontalBoxes`` and ``BitmapMasks`` and add
            ``instances`` in COCO's format, from which mmdet's ``CocoMetric`` takes boxes and masks when it has no
            annotation file (``'instances'`` must be among the ``meta_keys``).
    """

    def __init__(self, detection: bool = False) -> None:
        self.detection = detection

    def transform(self, results: dict) -> dict:
        scene = scenes.draw_scene(
            results['scene'], results['size'], results['num_objects'], results['domain'], results.pop('pairs')
        )
        labels = results.pop('labels')[scene.shapes, scene.colours].astype(np.int64)
        seg_map = np.full(scene.image.shape[:2], results.pop('background_label'), np.uint8)
        for mask, label in zip(scene.masks, labels, strict=True):
            seg_map[mask] = label
        height, width = seg_map.shape
        results.update(
            img=np.ascontiguousarray(scene.image[..., ::-1]),
            img_shape=(height, width),
            ori_shape=(height, width),
            height=height,
            width=width,
            gt_seg_map=seg_map,
            gt_bboxes=scene.boxes,
            gt_bboxes_labels=labels,
            gt_ignore_flags=np.zeros(len(labels), bool),
            gt_instance_masks=scene.masks.astype(np.uint8),
            gt_labels=np.unique(labels),
            shape_ids=scene.shapes,
            colour_ids=scene.colours,
            caption=scene.caption,
        )
        results['seg_fields'].append('gt_seg_map')
        if len(labels) == 1:
            results['gt_label'] = int(labels[0])
        if self.detection:
            self._for_mmdet(results)
        return results

    @staticmethod
    def _for_mmdet(results: dict) -> None:
        from mmdet.structures.bbox import HorizontalBoxes
        from mmdet.structures.mask import BitmapMasks

        boxes, masks = results['gt_bboxes'], results.pop('gt_instance_masks')
        results['instances'] = [
            dict(bbox=box.tolist(), bbox_label=int(label), mask=coco_mask(mask), ignore_flag=0)
            for box, label, mask in zip(boxes, results['gt_bboxes_labels'], masks, strict=True)
        ]
        results['gt_bboxes'] = HorizontalBoxes(boxes)
        results['gt_masks'] = BitmapMasks(masks, results['height'], results['width'])

    def __repr__(self) -> str:
        return f'{type(self).__name__}(detection={self.detection})'
