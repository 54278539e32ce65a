"""Images of what a segmentor or a detector predicts."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vlm_dense.drawing import colour, draw_instances, draw_rows
from vlm_dense.engine.outputs import claim
from vlm_dense.registry import HOOKS


@HOOKS.register_module()
class PredictionPictureHook(Hook):
    """Save what a model predicts: at each validation one image of samples spread over the set, at test one an image.

    Columns: image, ground truth, prediction; of a detector what it is sure of. The image is what the model was given,
    so that data need not lie on disk. Models that give neither ``pred_sem_seg`` nor ``pred_instances`` get no image.

    Args:
        num_samples: Rows of the validation image, ``<work_dir>/vis/iter_<n>.png``.
        test_dir: Where images of a test go; ``None``: nowhere. ``tools/test.py --show-dir`` sets it.
        tile: Side of an image's tiles in pixels.
        score_thr: Least score of an instance that is drawn.
    """

    priority = 'LOW'

    def __init__(self, num_samples: int = 3, test_dir: str | None = None, tile: int = 256, score_thr: float = 0.3):
        self.num_samples, self.test_dir, self.tile, self.score_thr = num_samples, test_dir, tile, score_thr
        self._rows: list[list[np.ndarray]] = []
        self._labels: set[int] = set()
        self._tested = 0
        self._seen, self._chosen = 0, set()

    def before_val_epoch(self, runner: Runner) -> None:
        """Forget the samples of the last validation, and choose those of this one."""
        self._rows, self._labels, self._seen = [], set(), 0
        here = -(-len(runner.val_dataloader.dataset) // get_world_size())
        self._chosen = set(np.linspace(0, here - 1, self.num_samples).astype(int).tolist())

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keep the chosen samples of this batch."""
        for number, (sample, image) in enumerate(self._samples(runner, data_batch, outputs), self._seen):
            if number not in self._chosen:
                continue
            row, labels = self._row(sample, image, runner.val_dataloader.dataset.metainfo)
            self._rows.append(row)
            self._labels |= labels
        self._seen += len(outputs or ())

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Save the image."""
        if not self._rows:
            return
        numbers = {k: v for k, v in (metrics or {}).items() if isinstance(v, (int, float, np.number))}
        scores = ', '.join(f'{k} {v:.2f}' for k, v in numbers.items() if '_mAP_' not in k)  # by size and overlap
        path = os.path.join(runner.work_dir, 'vis', f'iter_{runner.iter}.png')
        self._save(path, self._rows, self._labels, runner.val_dataloader.dataset.metainfo, scores)
        runner.logger.info(f'Predictions are drawn in {path}')

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save an image of each image of the batch."""
        if self.test_dir is None:
            return
        meta = runner.test_dataloader.dataset.metainfo
        for sample, image in self._samples(runner, data_batch, outputs, everywhere=True):
            row, labels = self._row(sample, image, meta)
            stem = os.path.splitext(os.path.basename(sample.get('img_path') or 'image'))[0]
            place = self._tested * get_world_size() + get_rank()
            self._save(os.path.join(self.test_dir, f'{place:05d}_{stem}.png'), [row], labels, meta)
            self._tested += 1

    @staticmethod
    def _samples(runner, data_batch, outputs, everywhere: bool = False):
        if not (everywhere or is_main_process()) or not outputs:
            return
        if not any(key in outputs[0] for key in ('pred_sem_seg', 'pred_instances')):
            return
        model = runner.model
        while hasattr(model, 'module'):  # DDP, test-time augmentation
            model = model.module
        preprocessor = getattr(model, 'data_preprocessor', None)
        inputs = data_batch['inputs']
        if isinstance(inputs[0], (list, tuple)):  # test-time augmentation: views of the batch, the plain one first
            inputs = inputs[0]
        for sample, image in zip(outputs, inputs, strict=True):
            image = image.permute(1, 2, 0).cpu().numpy()
            if getattr(preprocessor, 'channel_conversion', True):  # given as BGR, turned by the preprocessor
                image = image[..., ::-1]
            yield sample, np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))

    def _row(self, sample, image: np.ndarray, meta: dict) -> tuple[list[np.ndarray], set[int]]:
        if 'pred_instances' in sample:
            return self._instances_row(sample, image, meta), set()
        palette = meta['palette']
        predicted = sample.pred_sem_seg.data[0].cpu().numpy()
        image = cv2.resize(image, predicted.shape[::-1], interpolation=cv2.INTER_AREA)
        truth = sample.gt_sem_seg.data[0].cpu().numpy() if 'gt_sem_seg' in sample else np.full_like(predicted, 255)
        labels = {int(v) for v in (*np.unique(predicted), *np.unique(truth)) if v < len(palette)}
        return [image, colour(truth, palette), colour(predicted, palette)], labels

    def _instances_row(self, sample, image: np.ndarray, meta: dict) -> list[np.ndarray]:
        if 'ori_shape' in sample:  # of boxes and masks
            image = cv2.resize(image, sample.ori_shape[1::-1], interpolation=cv2.INTER_AREA)
        found = sample.pred_instances
        found = found[found.scores > self.score_thr]
        truth = sample.get('gt_instances')
        drawn = [draw_instances(image, x, meta, self.tile) if x is not None else image for x in (truth, found)]
        return [image, *drawn]

    def _save(self, path: str, rows, labels: set[int], meta: dict, title: str = '') -> None:
        legend = [(meta['classes'][v], meta['palette'][v]) for v in sorted(labels)]
        canvas = draw_rows(rows, ('image', 'ground truth', 'prediction'), legend, title, self.tile)
        claim([path])
        canvas.save(path)
