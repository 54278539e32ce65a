"""Segmentation of images by the names of classes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose, Resize  # of images; of masks there are none, and that of mmseg imports SciPy
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.infer.infer import BaseInferencer
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope
from mmseg.structures import SegDataSample
from PIL import Image
from torch import nn

from vlm_dense.clip.digest import BoundedCache
from vlm_dense.colours import label_image
from vlm_dense.datasets.checks import check_limit
from vlm_dense.engine.configs.names import bundled_checkpoint
from vlm_dense.engine.configs.pipelines import preparing_steps
from vlm_dense.engine.models import view_of
from vlm_dense.engine.outputs import claim
from vlm_dense.errors import ClassNamesError, ConfigError, DataError
from vlm_dense.export.models import ExportedSegmentor, exported_config
from vlm_dense.export.runtime import is_exported
from vlm_dense.inference.common import Listing, check_batch_size, check_device, check_task, progress, save
from vlm_dense.inference.images import Source, file_names, image_list, load_image, source_name
from vlm_dense.inference.mask_files import annotation_files, check_formats, coco_of, labelme_of, write_annotations
from vlm_dense.inference.maskclip_models import DEFAULT_MODEL, limits_of, note_on, segmentor_config
from vlm_dense.inference.overlay import draw_overlay
from vlm_dense.inference.results import Results
from vlm_dense.inference.trained import build_trained, first_names, shown_names
from vlm_dense.limits import MAX_PIXELS
from vlm_dense.methods.maskclip.head import ClassNames, MaskCLIPHead
from vlm_dense.registry import registered
from vlm_dense.segmentation.inference import BatchedInference
from vlm_dense.vocabulary.class_names import Aliases, as_class_names

_NO_NAMES = ('any', 'names', 'until a call gives some')


@dataclass(frozen=True)
class View:
    """A model that segments by certain names, ``class_names``, a name of each class; used by calls, not changed."""

    model: nn.Module
    class_names: list[str]


class SegInferencer(Listing, BaseInferencer):
    """Segments images; MaskCLIP models by any names of classes that a call gives.

    Use is that of ``mmseg.apis.MMSegInferencer``::

        inferencer = SegInferencer('maskclip_vit-b16')
        result = inferencer('photo.jpg', classes=['sky', 'road', 'car'], out_dir='out')
        result['predictions']  # (H, W), 0: sky, 1: road, 2: car

    Args:
        model: A name of :data:`~vlm_dense.zoo.MASKCLIP`, or ``<method>_<tower>`` of :data:`~vlm_dense.zoo.METHODS`
            and :data:`~vlm_dense.zoo.TOWERS`, as ``'naclip_vit-b16'``; MaskCLIP on a CLIP, as ``hf-hub:OWNER/NAME`` or
            ``local-dir:FOLDER``; the name of a config of the repository, the
            path of a config, or a config, as from :func:`vlm_dense.inference.method_config`; or an exported file,
            ``*.onnx`` or ``*.pt2``. Default: the bundled tiny model, which knows drawn shapes only.
        weights: Checkpoint of a model that has been trained. Default: the one that comes with the package, if one does;
            MaskCLIP needs none.
        device: Default: a GPU if there is one.
        classes: Of calls that give none. Default: those of the checkpoint, the config or the data set. A model with
            fixed classes is shown with these names.
        show_progress: Draw a bar, in the main thread.
        max_pixels: Height x width above which an image is refused; ``None``: no limit.

    Attributes:
        class_names: Names in label order, one a class, of calls that give none; ``None`` if there are no such names.
        limits: What the model cannot do, for the user to read; ``None`` if there is nothing to say.

    A call changes neither the inferencer nor its model, so calls in several threads do not see each other.

    Raises:
        ConfigError: an unknown model, one with weights that training sets and no ``weights``, or an absent device.
        ClassNamesError: ``classes`` that cannot be used, or given to a model with fixed classes.
        CheckpointError, WeightsNotFoundError: weights that are absent or do not fit.
    """

    def __init__(
        self,
        model: str | os.PathLike | dict | Config | None = None,
        weights: str | None = None,
        device: str | None = None,
        classes: ClassNames | None = None,
        show_progress: bool = True,
        max_pixels: int | None = MAX_PIXELS,
    ):
        init_default_scope('mmseg')
        self.max_pixels = check_limit(max_pixels)
        self._views = BoundedCache()
        if model is None:
            model = DEFAULT_MODEL
        if is_exported(model):
            model = exported_config(model, 'segmentation')
        elif isinstance(model, (str, os.PathLike)):
            model = segmentor_config(os.fspath(model))
        self._given = classes
        weights = weights or bundled_checkpoint(getattr(model, 'filename', None))
        super().__init__(model, weights, check_device(device), 'mmseg', show_progress)
        if classes is not None:
            self.class_names = self.view(classes).class_names
            if hasattr(self.model, 'set_class_names'):
                self._own_classes = classes
        self.limits = limits_of(self.cfg, weights)
        if self.limits:
            print_log(self.limits, logger='current', level=logging.WARNING)

    # --- model ------------------------------------------------------------------------------------------------

    def _init_model(self, cfg: Config, weights: str | None, device: str = 'cpu') -> nn.Module:
        check_task(cfg, 'BaseSegmentor', 'segmentor', 'SegInferencer and vlm-dense segment')
        for comparison in ('variants', 'compare_teacher'):  # only tests print them
            cfg.model.pop(comparison, None)
        open_to_names = hasattr(registered(MODELS, cfg.model['type']), 'set_class_names')
        fallback = None if open_to_names else self._given
        unnamed = _NO_NAMES if open_to_names else None
        model, known = build_trained(cfg, weights, 'SegInferencer', fallback=fallback, unnamed=unnamed)
        self._own_classes = known
        self.class_names = first_names(known) or None
        if not hasattr(model, 'set_class_names') and not known:
            self._own_classes = self.class_names = [f'class {i}' for i in range(max(2, model.out_channels))]
        return model.to(device).eval()

    def view(self, classes: ClassNames | None = None, return_scores: bool = False) -> View:
        """The model as a call with these arguments uses it.

        Raises:
            ClassNamesError: the names cannot be used.
        """
        if hasattr(self.model, 'set_class_names'):
            names = self._names(classes)
        else:
            names = None
            self._check_exported(classes)
        view = self._views.get((names, return_scores), lambda: self._view(names, return_scores))
        if names is not None:
            return view
        if classes is None or isinstance(self.model, ExportedSegmentor):
            return View(view.model, list(self.class_names))
        return View(view.model, shown_names(type(self.model).__name__, self._own_classes, classes))

    def _check_exported(self, classes: ClassNames | None) -> None:
        """Raise a :class:`ClassNamesError` if an exported file has other classes."""
        if classes is None or not isinstance(self.model, ExportedSegmentor):
            return
        if list(classes) != self.class_names:
            raise ClassNamesError(
                f'{self.model.file.path} was exported for its {len(self.class_names)} classes '
                f'({", ".join(self.class_names[:5])}, ...), found {len(classes)} others. Leave classes out, or export '
                'the model again, with --classes.'
            )

    def _view(self, names: tuple[Aliases, ...] | None, return_scores: bool) -> View:
        model = view_of(self.model)
        if names is not None:
            model.set_class_names(names)
        if isinstance(model, BatchedInference):
            model.test_cfg['keep_logits'] = return_scores
        return View(model, list(self._own_classes or ()) if names is None else [aliases[0] for aliases in names])

    def _names(self, classes: ClassNames | None) -> tuple[Aliases, ...]:
        classes = self._own_classes if classes is None else classes
        if classes is None:
            raise ClassNamesError(
                "Expected names of what the image may show, found none. Give classes=['sky', 'road', 'car'], or "
                '--classes sky road car.'
            )
        classes = list(as_class_names(classes))
        background = getattr(self.model.decode_head, 'background', None)
        if background is not None and ('background',) not in classes[background:][:1]:
            classes.insert(background, ('background',))
        return tuple(classes)

    def _init_visualizer(self, cfg: Config) -> None:
        return None

    def _init_collate(self, cfg: Config) -> Callable:
        return pseudo_collate  # mmengine's default, which it looks for in mmseg first and warns

    # --- images in ------------------------------------------------------------------------------------------

    def _init_pipeline(self, cfg: Config) -> Compose:
        steps = [dict(type='LoadImageFromNDArray'), *preparing_steps(cfg)]
        return Compose([dict(step, type=Resize) if step['type'] == 'Resize' else step for step in steps])

    def _inputs_to_list(self, inputs) -> list[Source]:
        return image_list(inputs)

    def preprocess(self, inputs: Sequence[np.ndarray], batch_size: int = 1) -> dict:
        """A batch of images, ready for ``forward``.

        Raises:
            DataError: an image so narrow that nothing is left of it.
        """
        data = []
        for image in inputs:
            try:
                data.append(self.pipeline(dict(img=image)))
            except cv2.error as error:
                height, width = image.shape[:2]
                raise DataError(f'An image of {width} x {height} px cannot be resized: it is too narrow.') from error
        return self.collate_fn(data)

    # --- labels out -------------------------------------------------------------------------------------------

    def __call__(
        self,
        inputs,
        classes: ClassNames | None = None,
        return_datasamples: bool = False,
        batch_size: int = 1,
        return_vis: bool = False,
        return_scores: bool = False,
        show: bool = False,
        out_dir: str | os.PathLike = '',
        img_out_dir: str = 'vis',
        pred_out_dir: str = 'pred',
        opacity: float = 0.5,
        formats: Sequence[str] = (),
    ) -> dict | SegDataSample | list[SegDataSample]:
        """Segment images.

        Args:
            inputs: Images, as :func:`vlm_dense.inference.images.image_list` takes them: paths, folders, globs, URLs,
                bytes, arrays, tensors, images of PIL, or several of them.
            classes: Names in label order, several of one class as a list, or the name or path of a list of names, see
                :func:`vlm_dense.vocabulary.class_names.as_class_names`. A model that finds a background keeps it:
                ``'background'`` is put in its place if it is not there. A model with fixed classes finds them,
                whatever they are called here.
            return_datasamples: Return mmseg's samples instead of the dict.
            batch_size: Images at a time.
            return_vis: Also return the images that are saved in ``img_out_dir``.
            return_scores: Also return the probabilities, which takes K maps of the size of the image.
            show: Open each image in a viewer.
            out_dir: Where to save; ``''``: nowhere.
            img_out_dir: Folder inside ``out_dir`` of the overlays with legend (PNG).
            pred_out_dir: Folder inside ``out_dir`` of the label maps (PNG, one channel).
            opacity: Of the colours over the greyed image, 0 to 1.
            formats: What is saved in ``out_dir`` beside: ``'coco'``, all images as ``coco.json``, an annotation with
                run lengths for each class of an image; ``'labelme'``, ``labelme/NAME.json`` with polygons.

        Returns:
            ``predictions``: label map (H, W), uint8, or uint16 for more than 256 classes; ``classes``: K names in
            label order; if asked for, ``visualization``: RGB uint8 (h, w, 3), and ``scores``: float32 (K, H, W), with
            key smoothing relative weights; if saved, ``files``: ``dict(vis=path, pred=path)``, and those of
            ``formats``. Of several images all
            but ``classes`` are lists. ``note``: a warning, of a model that knows drawn shapes only, if other names
            were given; it stands in the images too.

        Raises:
            ClassNamesError: the names cannot be used; see :func:`as_class_names`.
            ConfigError: a batch size or an opacity out of range.
            DataError: a file that is no image, an array of another kind, a folder without images, a place that
                cannot be written, or a result that would replace one of the images.
        """
        check_batch_size(batch_size)
        if not 0 <= opacity <= 1:
            raise ConfigError(f'opacity must be from 0 to 1, found {opacity}.')
        view = self.view(classes, return_scores)
        inputs = self._inputs_to_list(inputs)
        names = file_names(inputs)
        files = [
            [os.path.join(out_dir, folder, f'{name}.png') for folder in (img_out_dir, pred_out_dir)] for name in names
        ]
        others = annotation_files(os.fspath(out_dir), names, check_formats(formats)) if out_dir else []
        if out_dir:
            claim(dict.fromkeys(path for paths in (*files, *(o.values() for o in others)) for path in paths), inputs)
        samples, results = [], []
        starts = range(0, len(inputs), batch_size)
        for start in progress(starts, self.show_progress):
            stop = start + batch_size
            images = [load_image(x, self.max_pixels) for x in inputs[start:stop]]
            batch = self.forward(self.preprocess(images), view)
            if return_datasamples:
                samples += batch
            found = self.postprocess(batch, view, return_scores)
            if out_dir or show or return_vis:
                overlays = self.visualize(images, batch, names[start:stop], view, opacity)
                for one, name, paths, overlay in zip(
                    found, names[start:stop], files[start:stop], overlays, strict=True
                ):
                    if return_vis:
                        one['visualization'] = np.asarray(overlay)
                    if out_dir:
                        save(overlay.save, paths[0])
                        save(label_image(one['predictions'], view.class_names).save, paths[1])
                        one['files'] = dict(zip(('vis', 'pred'), paths, strict=True))
                    if show:
                        overlay.show(name)
            results += found
        if others and formats:
            contents = []
            for i, (one, places) in enumerate(zip(results, others, strict=True)):
                one['files'] |= places
                image = os.path.basename(source_name(inputs[i], i))
                shown = one['predictions'], view.class_names, image
                contents.append(dict(coco=coco_of(*shown), labelme=labelme_of(*shown)))
            write_annotations(others, contents)
        if return_datasamples:
            return samples[0] if len(samples) == 1 else samples
        result = results[0] if len(results) == 1 else {key: [one[key] for one in results] for key in results[0]}
        note = note_on(self.limits, view.class_names)
        return Results(result, classes=list(view.class_names), **(dict(note=note) if note else {}))

    @torch.no_grad()
    def forward(self, inputs: dict, view: View) -> list[SegDataSample]:
        """Samples with ``pred_sem_seg``, and ``seg_logits`` if the view is one for scores, on the CPU."""
        return [sample.cpu() for sample in view.model.test_step(inputs)]

    def visualize(
        self,
        inputs: Sequence[np.ndarray],
        preds: Sequence[SegDataSample],
        titles: Sequence[str],
        view: View,
        opacity: float = 0.5,
    ) -> list[Image.Image]:
        """An image of each prediction, see :func:`vlm_dense.inference.overlay.draw_overlay`.

        Args:
            inputs: uint8 (H, W, 3) BGR.
            preds: Samples with ``pred_sem_seg`` on the CPU.
            titles: A line above each image.
            view: What made them.
            opacity: Of the colours, 0 to 1.
        """
        note = note_on(self.limits, view.class_names) or ''
        return [
            draw_overlay(image, sample.pred_sem_seg.data[0].numpy(), view.class_names, title, opacity, note)
            for image, sample, title in zip(inputs, preds, titles, strict=True)
        ]

    def postprocess(self, preds: Sequence[SegDataSample], view: View, return_scores: bool = False) -> list[dict]:
        """``predictions`` and, if asked for, ``scores`` of each image, as ``__call__`` returns them."""
        kind = np.uint8 if len(view.class_names) <= 256 else np.uint16
        results = []
        for sample in preds:
            one = dict(predictions=sample.pred_sem_seg.data[0].numpy().astype(kind))
            if return_scores:
                one['scores'] = _probabilities(view.model, sample.seg_logits.data).numpy()
            results.append(one)
        return results


def _probabilities(model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    if isinstance(model, BatchedInference):
        return model.probabilities(logits)
    if isinstance(model.decode_head, MaskCLIPHead):
        return model.decode_head.probabilities(logits[None])[0]
    return logits.softmax(dim=0) if len(logits) > 1 else torch.cat([1 - logits.sigmoid(), logits.sigmoid()])
