"""Classification of images: by words that a call gives, or by the classes of a training."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch import Tensor, nn

from vlm_dense.classification.classifier import CLIPClassifier
from vlm_dense.clip.architectures import of_repository
from vlm_dense.clip.preprocessing import Preprocessing, preprocessing_of
from vlm_dense.datasets.checks import check_limit
from vlm_dense.drawing import draw_captions
from vlm_dense.engine.configs.files import load_config
from vlm_dense.engine.configs.names import existing_config
from vlm_dense.engine.configs.pipelines import preparing_steps
from vlm_dense.engine.outputs import claim
from vlm_dense.errors import ClassNamesError
from vlm_dense.export.runtime import is_exported
from vlm_dense.inference.common import Listing, check_batch_size, check_device, check_task, progress, save
from vlm_dense.inference.exported_classifier import ExportedClassifier
from vlm_dense.inference.images import image_list, load_image, source_name
from vlm_dense.inference.maskclip_models import limits_of, note_on
from vlm_dense.inference.results import Results
from vlm_dense.inference.trained import build_trained, shown_names
from vlm_dense.limits import MAX_PIXELS
from vlm_dense.methods.maskclip.head import ClassNames
from vlm_dense.vocabulary.class_names import one_name_each
from vlm_dense.zoo import CLASSIFIERS, DEFAULT_CLASSIFIER

ON_A_SHEET = 48
"""Images of a contact sheet; more go to further sheets."""
_UNTIL_A_CALL = ('any', 'names', 'until a call gives some')


def classifier_config(arch: str | dict, pretrained: str | None) -> Config:
    """Config of zero-shot classification by any CLIP of open_clip, without class names.

    Images are brought to the size of the tower and normalised as open_clip says for these weights; by default the short
    side is resized and the middle cut out.

    Args:
        arch, pretrained: As for :func:`vlm_dense.clip.load_clip`.

    Raises:
        ConfigError: unknown architecture.
    """
    found = preprocessing_of(arch, pretrained) or Preprocessing.of_openai(arch)
    clip = dict(arch=arch, pretrained=pretrained)
    return Config(
        dict(
            default_scope='mmengine',
            model=dict(
                type='vlm_dense.CLIPClassifier',
                data_preprocessor=dict(
                    type='vlm_dense.ClsDataPreprocessor',
                    **found.colours,
                    bgr_to_rgb=True,
                ),
                backbone=dict(type='vlm_dense.CLIPTower', **clip),
                text_encoder=dict(type='vlm_dense.TextTower', **clip),
                text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
            ),
            test_pipeline=[
                dict(type='vlm_dense.LoadImage'),
                dict(type='vlm_dense.TorchvisionTransforms', transforms=found.resizing()),
                dict(type='vlm_dense.PackClsInputs'),
            ],
        )
    )


def classifier_of(
    cfg: Config, weights: str | os.PathLike | None, classes: ClassNames | None, caller: str
) -> tuple[CLIPClassifier, list[str]]:
    """The classifier of a config and its checkpoint, for some classes, and a name of each.

    Args:
        cfg: Changed in place.
        weights: The checkpoint; None for one without weights that training sets.
        classes: Other classes than those of the checkpoint, if its prompts and head belong to none; else other names
            for them. Default: those of the checkpoint, the config or the data set.
        caller: For messages.

    Raises:
        ClassNamesError: names that cannot be used, or none.
        CheckpointError, ConfigError: see :func:`build_trained`.
    """
    check_task(cfg, 'CLIPClassifier', 'classifier', 'ClassInferencer and vlm-dense classify')
    wanted = None if classes is None else one_name_each(classes, repeated=True)
    if weights is None and wanted is not None:
        check_several(wanted)
    instead = wanted if weights is None else None
    model, _ = build_trained(cfg, weights, caller, instead, wanted)
    model.eval()
    if wanted is None or wanted == list(model.class_names):
        return model, list(model.class_names)
    return _for_names(model, cfg, wanted)


def check_several(names: Sequence[str]) -> None:
    """Raise a :class:`ClassNamesError` if there is one name only, which every image would get with a score of 1."""
    if len(names) == 1:
        raise ClassNamesError(
            f'One class, {names[0]!r}, would be found in every image. Name what else it may show, as in '
            f"'{names[0]}, something else'."
        )


def _for_names(model: CLIPClassifier, cfg: Config, names: Sequence[str]) -> tuple[CLIPClassifier, list[str]]:
    if not _open_to_names(model, cfg):
        return model, shown_names(f'{type(model).__name__} with {_learned(model)}', model.class_names, names)
    other = MODELS.build({**cfg.model, 'class_names': list(names)})
    other.load_state_dict(model.state_dict())
    return other.to(next(model.parameters()).device).eval(), list(names)


def _learned(model: CLIPClassifier) -> str:
    return type(model.text_prompt).__name__


def _open_to_names(model: CLIPClassifier, cfg: Config) -> bool:
    """Whether nothing in the prompt or the head belongs to one class: other names change the shape of no weight."""
    names = [*model.class_names, 'another thing']
    prompt = model.build_part(cfg.model.text_prompt, names)
    head = model.build_part(cfg.model.get('head') or dict(type='vlm_dense.CosineHead'), names)
    own = [model.text_prompt, getattr(model, 'head', head)]
    return all(_shapes(one) == _shapes(other) for one, other in zip(own, (prompt, head), strict=True))


def _shapes(module: nn.Module) -> dict:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


class ClassInferencer(Listing):
    """Names of classes for images.

    By words, with any CLIP, or with a classifier that was trained::

        inferencer = ClassInferencer('clip_vit-b16')
        result = inferencer('photos/', classes=['cat', 'dog'], out_dir='out')
        result['predictions'][0]  # label, name, score, scores

        inferencer = ClassInferencer('coop_own-folders', 'best_accuracy.pth')  # the classes of its training

    Args:
        model: A name of :data:`~vlm_dense.zoo.CLASSIFIERS`, a CLIP as ``hf-hub:ORG/NAME`` or ``local-dir:FOLDER``, the
            name of a config of vlm_dense, the path of a config, a config, as from :func:`classifier_config`; or an
            exported file, ``*.onnx`` or ``*.pt2``. Default: the bundled tiny model, which knows drawn shapes only.
        weights: Checkpoint of a model that has been trained; zero-shot models need none.
        device: Default: a GPU if there is one.
        classes: Of calls that give none. Default: those of the checkpoint, the config or the data set.
        show_progress: Draw a bar while several batches run.
        max_pixels: Height x width above which an image is refused; ``None``: no limit.

    Attributes:
        class_names: Names in label order of calls that give none; ``None`` if there are no such names.
        limits: What the model cannot do, for the user to read; ``None`` if there is nothing to say.

    Raises:
        ConfigError: an unknown model, one with weights that training sets and no ``weights``, or an absent device.
        ClassNamesError: ``classes`` that cannot be used.
        CheckpointError, WeightsNotFoundError: weights that are absent or do not fit.
    """

    def __init__(
        self,
        model: str | os.PathLike | dict | Config | None = None,
        weights: str | os.PathLike | None = None,
        device: str | None = None,
        classes: ClassNames | None = None,
        show_progress: bool = True,
        max_pixels: int | None = MAX_PIXELS,
    ):
        init_default_scope('mmengine')
        self.max_pixels, self.show_progress = check_limit(max_pixels), show_progress
        device = check_device(device) or ('cuda' if torch.cuda.is_available() else 'cpu')
        self.limits, self._file, self._last = None, None, None
        if is_exported(model):
            self._file = self.model = ExportedClassifier(model, device, max_pixels)
            self.class_names = self._file.class_names
            if classes is not None:
                self.class_names = shown_names(os.fspath(model), self.class_names, classes)
            return
        if model is None:
            model = DEFAULT_CLASSIFIER
        if isinstance(model, (str, os.PathLike)):
            name = os.fspath(model)
            found = (name, name) if of_repository(name) else CLASSIFIERS.get(name)
            model = classifier_config(*found) if found else load_config(str(existing_config(name, CLASSIFIERS)))
        self.cfg = model if isinstance(model, Config) else Config(model)
        no_names = weights is None and classes is None and not _has_names(self.cfg)
        built, names = classifier_of(self.cfg, weights, _UNTIL_A_CALL if no_names else classes, 'ClassInferencer')
        self.model = built.to(device)
        self.class_names = None if no_names else names
        self._prepare = Compose(preparing_steps(self.cfg))
        self.limits = limits_of(self.cfg, weights)
        if self.limits:
            print_log(self.limits, logger='current', level=logging.WARNING)

    def _view(self, classes: ClassNames | None) -> tuple[CLIPClassifier | None, list[str]]:
        """The model of a call, None for an exported file, and the names."""
        if classes is None:
            if self.class_names is None:
                raise ClassNamesError(
                    "Expected names of what the images may show, found none. Give classes=['cat', 'dog'], or --classes "
                    'cat dog.'
                )
            return None if self._file else self.model, self.class_names
        if self._file is not None:
            return None, shown_names(self._file.file.path, self._file.class_names, classes)
        names = one_name_each(classes, repeated=True)
        if names == self.class_names:
            return self.model, self.class_names
        check_several(names)
        if self._last is None or self._last[0] != names:
            self._last = names, _for_names(self.model, self.cfg, names)
        return self._last[1]

    @torch.no_grad()
    def logits(self, images: Sequence[np.ndarray], classes: ClassNames | None = None) -> Tensor:
        """Logits (B, K) of images, uint8 (H, W, 3) in BGR, on the CPU."""
        return self._logits(images, self._view(classes)[0])

    def _logits(self, images: Sequence[np.ndarray], model: CLIPClassifier | None) -> Tensor:
        if model is None:
            return self._file.logits(images)
        data = [
            self._prepare(dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])) for image in images
        ]
        batch = model.data_preprocessor(pseudo_collate(data))
        return model(batch['inputs'], mode='tensor').float().cpu()

    @torch.no_grad()
    def __call__(
        self,
        inputs,
        classes: ClassNames | None = None,
        batch_size: int = 1,
        return_vis: bool = False,
        out_dir: str | os.PathLike = '',
    ) -> dict:
        """Classify images.

        Args:
            inputs: What :func:`vlm_dense.inference.images.image_list` takes.
            classes: Names in label order, or the name or path of a list of names. Prompts and heads that belong to the
                classes of a training find these, whatever they are called here.
            batch_size: Images at a time.
            return_vis: Also return the contact sheets.
            out_dir: Where to save ``predictions.csv`` and ``sheet.png`` (``sheet_2.png``, ... for more than
                :data:`ON_A_SHEET` images); ``''``: nowhere.

        Returns:
            ``predictions``, one an image: ``label``, ``name``, ``score`` (its softmax over the classes) and ``scores``,
            float32 (K,); ``classes``: K names in label order; ``visualization``: RGB uint8 (h, w, 3) each, if asked
            for; ``files``: ``dict(csv=path, sheets=[path, ...])``, if saved; ``note``: a warning, of a model that knows
            drawn shapes only, if other names were given.

        Raises:
            ClassNamesError: the names cannot be used, or there are none.
            ConfigError: a batch size that is no positive integer.
            DataError: what is no image, a folder without images, a place that cannot be written, or a result that would
                replace one of the images.
        """
        check_batch_size(batch_size)
        model, names = self._view(classes)
        inputs = image_list(inputs)
        files = _files(os.fspath(out_dir), len(inputs))
        if out_dir:
            claim([files['csv'], *files['sheets']], inputs)
        found, small = [], []
        for start in progress(range(0, len(inputs), batch_size), self.show_progress):
            images = [load_image(one, self.max_pixels) for one in inputs[start : start + batch_size]]
            for scores in self._logits(images, model).softmax(dim=1):
                label = int(scores.argmax())
                found.append(dict(label=label, name=names[label], score=float(scores[label]), scores=scores.numpy()))
            if out_dir or return_vis:
                small += [_small(image) for image in images]
        result = Results(predictions=found, classes=list(names))
        if note_on(self.limits, names):
            result['note'] = note_on(self.limits, names)
        if out_dir or return_vis:
            sheets = [
                draw_captions(
                    small[start : start + ON_A_SHEET],
                    [f'{one["name"]} {one["score"]:.0%}' for one in found[start : start + ON_A_SHEET]],
                    result.get('note', ''),
                )
                for start in range(0, len(small), ON_A_SHEET)
            ]
            if return_vis:
                result['visualization'] = [np.asarray(sheet) for sheet in sheets]
            if out_dir:
                rows = [
                    [source_name(source, i), one] for i, (source, one) in enumerate(zip(inputs, found, strict=True))
                ]
                save(lambda path: _write_csv(path, rows, names), files['csv'])
                for sheet, path in zip(sheets, files['sheets'], strict=True):
                    save(sheet.save, path)
                result['files'] = files
        return result


def _has_names(cfg: Config) -> bool:
    return bool(cfg.model.get('class_names')) or any(cfg.get(f'{name}_dataloader') for name in ('train', 'test'))


def _small(image: np.ndarray) -> np.ndarray:
    thumb = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    thumb.thumbnail((320, 320))
    return np.asarray(thumb)


def _files(out_dir: str, number: int) -> dict:
    sheets = -(-number // ON_A_SHEET)
    names = [f'sheet{f"_{i + 1}" * (i > 0)}.png' for i in range(sheets)]
    return dict(csv=os.path.join(out_dir, 'predictions.csv'), sheets=[os.path.join(out_dir, name) for name in names])


def _write_csv(path: str, rows: Sequence[tuple[str, dict]], names: Sequence[str]) -> None:
    with open(path, 'w', encoding='utf-8', errors='surrogateescape', newline='') as stream:
        writer = csv.writer(stream)
        writer.writerow(['image', 'class', 'score', *names])
        for image, one in rows:
            writer.writerow([image, one['name'], f'{one["score"]:.4f}', *(f'{x:.4f}' for x in one['scores'])])
