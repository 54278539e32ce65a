"""Detection on pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence

import mmengine
import numpy as np
from mmdet.apis import DetInferencer as _DetInferencer
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch import nn

from vlm_dense.apis.common import (
    file_names,
    load_picture,
    load_weights,
    named_config,
    picture_list,
    preparing_steps,
    save,
    view_side,
)
from vlm_dense.apis.overlay import palette
from vlm_dense.engine.config_checks import class_names
from vlm_dense.engine.launch import fill_class_names
from vlm_dense.engine.pictures import draw_instances

_OF_DATA_SETS = ('img_id', 'instances')


class DetInferencer(_DetInferencer):
    """mmdet's ``DetInferencer`` with the models, checks and messages of this package.

    Use is mmdet's::

        inferencer = DetInferencer('denseclip_mask-rcnn_r50_coco', 'epoch_12.pth')
        result = inferencer('photo.jpg', out_dir='out')
        result['predictions'][0]  # labels, scores, bboxes (x1 y1 x2 y2), masks (COCO's run lengths)
        result['classes']  # names in label order

    Of mmdet's it differs so: a checkpoint that does not fit is refused; weights that the checkpoint left out because
    the config yields them are found; arrays are BGR everywhere; pictures are drawn large enough to read; pictures of
    one name do not overwrite each other.

    Args:
        model: The name of a config of the repository, the path of a config, or a config; one of mmdet does as well.
        weights: Checkpoint.
        device: Default: a GPU if there is one.
        show_progress: Draw a bar.

    Attributes:
        class_names: Names in label order.

    Raises:
        ConfigError: an unknown model, or no ``weights`` for one that training sets.
        CheckpointError, WeightsNotFoundError: weights that are absent or do not fit.
    """

    def __init__(
        self,
        model: str | os.PathLike | dict | Config,
        weights: str | os.PathLike | None = None,
        device: str | None = None,
        show_progress: bool = True,
    ):
        init_default_scope('mmdet')
        if isinstance(model, (str, os.PathLike)):
            model = named_config(os.fspath(model))
        weights = os.fspath(weights) if weights is not None else None
        super().__init__(model, weights, device, 'mmdet', show_progress=show_progress)

    def _init_model(self, cfg: Config, weights: str | None, device: str = 'cpu') -> nn.Module:
        fill_class_names(cfg)
        model = MODELS.build(cfg.model)
        names = load_weights(model, weights, 'DetInferencer') or class_names(cfg)
        self.class_names = list(names)
        model.dataset_meta = dict(classes=tuple(names), palette=palette(len(names)))
        return model.to(device).eval()

    def _init_pipeline(self, cfg: Config) -> Compose:
        steps = preparing_steps(cfg)
        for step in steps:
            if 'meta_keys' in step:
                step['meta_keys'] = tuple(k for k in step['meta_keys'] if k not in _OF_DATA_SETS)
        return Compose([self._read, *steps])

    def _init_visualizer(self, cfg: Config) -> None:
        return None

    @staticmethod
    def _read(source: str | np.ndarray) -> dict:
        image = load_picture(source)
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

    def _inputs_to_list(self, inputs) -> list[str | np.ndarray]:
        inputs = picture_list(inputs)
        self._vis_names, self._pred_names = (iter(file_names(inputs)) for _ in range(2))
        return inputs

    def __call__(self, inputs: str | os.PathLike | np.ndarray | Sequence, **kwargs) -> dict:
        """Detect objects.

        Args:
            inputs: Path, folder, uint8 array (H, W, 3) in BGR, or a list of paths and arrays.
            **kwargs: mmdet's: ``batch_size``, ``return_vis``, ``show``, ``pred_score_thr`` (of what is drawn, default
                0.3), ``return_datasamples``, ``no_save_vis``, ``no_save_pred`` (default true), ``out_dir``.

        Returns:
            ``predictions``, one a picture: ``labels``, ``scores``, ``bboxes`` in pixels of the picture, and ``masks``;
            ``visualization``: RGB uint8 (h, w, 3) each, if asked for; ``classes``: names in label order. With
            ``out_dir``, overlays are in ``vis/*.png`` and, with ``no_save_pred=False``, predictions in
            ``preds/*.json``.

        Raises:
            DataError: a file that is no picture, an array of another kind, a folder without pictures, or a place that
                cannot be written.
        """
        return dict(super().__call__(inputs, **kwargs), classes=list(self.class_names))

    def visualize(
        self,
        inputs: Sequence[str | np.ndarray],
        preds: Sequence[DetDataSample],
        return_vis: bool = False,
        show: bool = False,
        draw_pred: bool = True,
        pred_score_thr: float = 0.3,
        no_save_vis: bool = False,
        img_out_dir: str | os.PathLike = '',
        **kwargs,
    ) -> list[np.ndarray] | None:
        """Pictures of predictions, RGB uint8, drawn over the input; saved in ``img_out_dir/vis``."""
        img_out_dir = '' if no_save_vis else os.fspath(img_out_dir)
        if not (return_vis or show or img_out_dir):
            return None
        pictures = []
        for source, sample in zip(inputs, preds, strict=True):
            name, image = next(self._vis_names), load_picture(source)
            found = sample.pred_instances
            found = found[found.scores > (pred_score_thr if draw_pred else np.inf)]
            picture = draw_instances(
                np.ascontiguousarray(image[..., ::-1]), found, self.model.dataset_meta, view_side(image.shape)
            )
            if img_out_dir:
                save(Image.fromarray(picture).save, os.path.join(img_out_dir, 'vis', f'{name}.png'))
            if show:
                Image.fromarray(picture).show(name)
            pictures.append(picture)
        return pictures

    def pred2dict(self, data_sample: DetDataSample, pred_out_dir: str | os.PathLike = '') -> dict:
        """The prediction of a picture as ``__call__`` returns it; saved in ``pred_out_dir/preds``."""
        result, name = super().pred2dict(data_sample), next(self._pred_names)
        if pred_out_dir:
            path = os.path.join(pred_out_dir, 'preds', f'{name}.json')
            save(lambda place: mmengine.dump(result, place), path)
        return result
