"""Detection on images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import mmengine
import numpy as np
import torch
from mmdet.apis import DetInferencer as _DetInferencer
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from PIL import Image
from torch import nn

from vlm_dense.colours import class_colours
from vlm_dense.datasets.checks import check_limit
from vlm_dense.drawing import draw_instances
from vlm_dense.engine.configs.names import bundled_checkpoint
from vlm_dense.engine.configs.pipelines import preparing_steps
from vlm_dense.engine.outputs import claim
from vlm_dense.engine.runner.launch import load_config
from vlm_dense.errors import ClassNamesError, DataError
from vlm_dense.export.models import exported_config
from vlm_dense.export.runtime import is_exported
from vlm_dense.inference.common import Listing, check_batch_size, check_device, check_task, save, view_side
from vlm_dense.inference.images import Source, file_names, image_list, load_image, source_name
from vlm_dense.inference.mask_files import (
    above,
    annotation_files,
    check_formats,
    objects_coco,
    objects_labelme,
    write_annotations,
)
from vlm_dense.inference.maskclip_models import limits_of
from vlm_dense.inference.results import Results
from vlm_dense.inference.trained import build_trained, first_names, shown_names
from vlm_dense.limits import MAX_PIXELS
from vlm_dense.vocabulary.class_names import as_class_names

_OF_DATA_SETS = ('img_id', 'instances')


def _extreme(width: int, height: int) -> DataError:
    return DataError(f'An image of {width} x {height} px cannot be resized: it is too narrow.')


class DetInferencer(Listing, _DetInferencer):
    """mmdet's ``DetInferencer`` with the models, checks and messages of this package.

    Use is mmdet's::

        inferencer = DetInferencer('denseclip_mask-rcnn_r50_coco', 'epoch_12.pth')
        result = inferencer('photo.jpg', out_dir='out')
        result['predictions'][0]  # labels, scores, bboxes (x1 y1 x2 y2), masks (COCO's run lengths)
        result['classes']  # names in label order

    Of mmdet's it differs so: a checkpoint that does not fit is refused; weights that the checkpoint left out because
    the config yields them are found; arrays are BGR everywhere; images are drawn large enough to read; images of
    one name do not overwrite each other.

    Args:
        model: The name of a config of the repository, the path of a config, or a config; one of mmdet does as well;
            or an exported file, ``*.onnx`` or ``*.pt2``.
        weights: Checkpoint. Default: the one that comes with the package, if one does.
        device: Default: a GPU if there is one.
        show_progress: Draw a bar.
        max_pixels: Height x width above which an image is refused; ``None``: no limit.
        classes: What to detect, any names, with a model that classifies by text; of any other, names that are shown, as
            many as it was trained for. Default: those of the checkpoint, the config or the data set.

    Attributes:
        class_names: Names in label order.
        limits: What the model cannot do, for the user to read; ``None`` if there is nothing to say.

    Raises:
        ClassNamesError: ``classes`` that cannot be used, or no names at all.
        ConfigError: an unknown model, no ``weights`` for one that training sets, or an absent device.
        CheckpointError, WeightsNotFoundError: weights that are absent or do not fit.
    """

    def __init__(
        self,
        model: str | os.PathLike | dict | Config,
        weights: str | os.PathLike | None = None,
        device: str | None = None,
        show_progress: bool = True,
        max_pixels: int | None = MAX_PIXELS,
        classes: Sequence[str] | str | None = None,
    ):
        init_default_scope('mmdet')
        self._given = classes
        self.max_pixels = check_limit(max_pixels)
        if is_exported(model):
            model = exported_config(model, 'detection')
        elif isinstance(model, (str, os.PathLike)):
            model = load_config(os.fspath(model))
        weights = bundled_checkpoint(getattr(model, 'filename', None)) if weights is None else os.fspath(weights)
        super().__init__(model, weights, check_device(device), 'mmdet', show_progress=show_progress)
        self.limits = limits_of(self.cfg, weights)
        if self.limits:
            print_log(self.limits, logger='current', level=logging.WARNING)

    def _init_model(self, cfg: Config, weights: str | None, device: str = 'cpu') -> nn.Module:
        check_task(cfg, 'BaseDetector', 'detector', 'DetInferencer and vlm-dense detect')
        model, names = build_trained(cfg, weights, 'DetInferencer', fallback=self._given)
        if not names:
            raise ClassNamesError(
                'Neither the checkpoint nor the config tells the names of the classes. Give classes=.'
            )
        model = model.to(device).eval()
        if self._given is not None and not hasattr(model, 'set_class_names'):
            names = shown_names(type(model).__name__, names, self._given)
        elif self._given is not None:
            names = as_class_names(self._given)
        self._show(model, names)
        return model

    def _show(self, model: nn.Module, names: Sequence) -> None:
        """Take names, which a model that classifies by text also gets."""
        self.class_names = names = first_names(names)
        if hasattr(model, 'set_class_names'):
            model.set_class_names(names)
        model.dataset_meta = dict(classes=tuple(names), palette=class_colours(names))

    def set_class_names(self, classes: Sequence[str] | str) -> None:
        """Detect other classes from now on, with a model that classifies by text, as F-ViT.

        Raises:
            ClassNamesError: names that cannot be used, or a model with fixed classes, which may be shown by other names
                only.
        """
        if hasattr(self.model, 'set_class_names'):
            self._show(self.model, as_class_names(classes))
        else:
            self._show(self.model, shown_names(type(self.model).__name__, self.class_names, classes))

    def _init_collate(self, cfg: Config) -> Callable:
        return pseudo_collate  # mmengine's default, which it looks for in mmdet first and warns

    def _init_pipeline(self, cfg: Config) -> Compose:
        steps = preparing_steps(cfg)
        for step in steps:
            if 'meta_keys' in step:
                step['meta_keys'] = tuple(k for k in step['meta_keys'] if k not in _OF_DATA_SETS)
        prepare = Compose(steps)

        def prepared(source: Source) -> dict:
            found = self._read(source)
            height, width = found['ori_shape']
            try:
                packed = prepare(found)
            except (cv2.error, ValueError, ZeroDivisionError) as error:
                raise _extreme(width, height) from error
            if packed is None or not packed['inputs'].numel():
                raise _extreme(width, height)
            return packed

        return prepared

    def _init_visualizer(self, cfg: Config) -> None:
        return None

    def _read(self, source: Source) -> dict:
        image = load_image(source, self.max_pixels)
        shape = image.shape[:2]
        path = source if isinstance(source, str) else None
        return dict(
            img=image,
            img_path=path,
            img_shape=shape,
            ori_shape=shape,
            height=shape[0],
            width=shape[1],
            scale_factor=(1, 1),
        )

    def _inputs_to_list(self, inputs) -> list[Source]:
        inputs = image_list(inputs)
        self._vis_names, self._pred_names = (iter(file_names(inputs)) for _ in range(2))
        return inputs

    def __call__(self, inputs, formats: Sequence[str] = (), **kwargs: Any) -> dict:
        """Detect objects.

        Args:
            inputs: Images, as :func:`vlm_dense.inference.images.image_list` takes them: paths, folders, globs, URLs,
                bytes, arrays, tensors, images of PIL, or several of them.
            formats: What is saved in ``out_dir`` beside, objects with a score above ``pred_score_thr``: ``'coco'``, all
                images as ``coco.json``; ``'labelme'``, ``labelme/NAME.json``.
            **kwargs: mmdet's: ``batch_size``, ``return_vis``, ``show``, ``pred_score_thr`` (of what is drawn, default
                0.3), ``return_datasamples``, ``no_save_vis``, ``no_save_pred`` (default true), ``out_dir``.

        Returns:
            ``predictions``, one an image: ``labels``, ``scores``, ``bboxes`` in pixels of the image, and ``masks``;
            ``visualization``: RGB uint8 (h, w, 3) each, if asked for; ``classes``: names in label order. With
            ``out_dir``, overlays are in ``vis/*.png`` and, with ``no_save_pred=False``, predictions in
            ``preds/*.json``.

        Raises:
            ConfigError: a batch size that is no positive integer.
            DataError: a file that is no image or too narrow to resize, an array of another kind, a folder without
                images, a place that cannot be written, or a result that would replace one of the images.
        """
        check_batch_size(batch := kwargs.get('batch_size', 1))
        inputs, out_dir = image_list(inputs), os.fspath(kwargs.get('out_dir') or '')
        others = annotation_files(out_dir, file_names(inputs), check_formats(formats)) if out_dir else []
        if out_dir:
            names = file_names(inputs)
            shown = [os.path.join(out_dir, 'vis', f'{name}.png') for name in names]
            claim(dict.fromkeys([*shown, *(path for each in others for path in each.values())]), inputs)
        shown, self.show_progress = self.show_progress, self.show_progress and len(inputs) > batch
        try:
            result = Results(super().__call__(inputs, **kwargs), classes=list(self.class_names))
        finally:
            self.show_progress = shown
        if others and formats:
            threshold, contents = kwargs.get('pred_score_thr', 0.3), []
            for i, (source, found) in enumerate(zip(inputs, result['predictions'], strict=True)):
                image, shape = os.path.basename(source_name(source, i)), load_image(source, self.max_pixels).shape[:2]
                sure = above(found, threshold), self.class_names, image, shape
                contents.append(dict(coco=objects_coco(*sure), labelme=objects_labelme(*sure)))
            write_annotations(others, contents)
        return result

    def visualize(
        self,
        inputs: Sequence[Source],
        preds: Sequence[DetDataSample],
        return_vis: bool = False,
        show: bool = False,
        draw_pred: bool = True,
        pred_score_thr: float = 0.3,
        no_save_vis: bool = False,
        img_out_dir: str | os.PathLike = '',
        **kwargs: Any,
    ) -> list[np.ndarray] | None:
        """Images of predictions, RGB uint8, drawn over the input; saved in ``img_out_dir/vis``."""
        img_out_dir = '' if no_save_vis else os.fspath(img_out_dir)
        if not (return_vis or show or img_out_dir):
            return None
        images = []
        for source, sample in zip(inputs, preds, strict=True):
            name, image = next(self._vis_names), load_image(source)
            found = sample.pred_instances
            found = found[found.scores > (pred_score_thr if draw_pred else np.inf)]
            drawn = draw_instances(
                np.ascontiguousarray(image[..., ::-1]), found, self.model.dataset_meta, view_side(image.shape)
            )
            if img_out_dir:
                save(Image.fromarray(drawn).save, os.path.join(img_out_dir, 'vis', f'{name}.png'))
            if show:
                Image.fromarray(drawn).show(name)
            images.append(drawn)
        return images

    @torch.no_grad()
    def samples(self, images: Sequence[np.ndarray]) -> list[DetDataSample]:
        """Predictions of a batch of images, uint8 (H, W, 3) BGR, on the CPU."""
        return [sample.cpu() for sample in self.model.test_step(self.collate_fn([self.pipeline(x) for x in images]))]

    def as_dict(self, data_sample: DetDataSample) -> dict:
        """The prediction of an image as ``__call__`` returns it."""
        return super().pred2dict(data_sample)

    def pred2dict(self, data_sample: DetDataSample, pred_out_dir: str | os.PathLike = '') -> dict:
        """The prediction of an image as ``__call__`` returns it; saved in ``pred_out_dir/preds``."""
        result, name = self.as_dict(data_sample), next(self._pred_names)
        if pred_out_dir:
            path = os.path.join(pred_out_dir, 'preds', f'{name}.json')
            save(lambda place: mmengine.dump(result, place), path)
        return result
