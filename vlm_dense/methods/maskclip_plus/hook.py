"""MaskCLIP+'s pseudo labels for any segmentor of mmseg, by a hook.

"Extract Free Dense Labels from CLIP", ECCV 2022, section 3.3; the network keeps a classifier of its own.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from vlm_dense.datasets.suppress import UNLABELED
from vlm_dense.engine.configs.files import load_config
from vlm_dense.engine.models import bare_model
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.methods.maskclip.head import ClassNames
from vlm_dense.methods.maskclip.segmentor import MaskCLIP
from vlm_dense.methods.maskclip_plus.labeller import Labeller, Window
from vlm_dense.registry import HOOKS, MODELS
from vlm_dense.vocabulary.class_names import as_class_names

CLIP_COLOURS = dict(
    type='mmseg.SegDataPreProcessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    bgr_to_rgb=True,
)
"""Normalisation for a teacher without ``data_preprocessor``: CLIP's."""


@HOOKS.register_module()
class PseudoLabelHook(Hook):
    """Labels the pixels of each batch that have no label, before the network is trained on them.

    Call graph::

        before_train_iter --> labels of the samples, -1 where there is none; -1 everywhere without ``gt_sem_seg``
                |   while in start_clip_guided: teacher.predict(image) over clip_unlabeled_cats
                |   while in start_self_train:  encode_decode(image) of the model, over unlabeled_cats
                |   less sure than conf_thresh, or still -1 --> ignore_index
                +-> gt_sem_seg of the samples; model, losses and optimiser are those of the config

    The teacher sees the augmented image, with colours as its own data preprocessor makes them. It is frozen, is no part
    of the model, and so in no checkpoint; its names are encoded once. Labels depend on the image, the weights and the
    iteration only, so a resumed run equals an uninterrupted one.

    Args:
        teacher: ``vlm_dense.MaskCLIP`` or a successor as the config of a model, with its refinements, steps and
            windows; or the name or path of a config that has it as model.
        class_names: Names in label order, one or several a class, as for :class:`~vlm_dense.methods.maskclip.MaskCLIP`.
            Default: those of the training data.
        clip_unlabeled_cats: Classes that the teacher chooses from, as labels or first names; the teacher is built for
            their names alone, if they are several. Default: all.
        unlabeled_cats, start_clip_guided, start_self_train, conf_thresh, conf_drops_labeled: See
            :class:`~vlm_dense.methods.maskclip_plus.labeller.Labeller`. Iterations are those of the run. The value that
            ``conf_thresh`` looks at is the largest score of the pixel, the teacher's or the network's; images without
            an unlabelled pixel are left as they are.
        ignore_index: Label of pixels that the losses ignore.

    Raises:
        ClassNamesError: names that cannot be used, or none in the training data.
        ConfigError: a teacher that is none, or options that cannot be, see ``Labeller``.
        DataError: a label of a class that is to be learned without.
    """

    priority = 'HIGH'

    def __init__(
        self,
        teacher: dict | str,
        class_names: ClassNames | None = None,
        clip_unlabeled_cats: Sequence[int | str] | None = None,
        unlabeled_cats: Sequence[int | str] | None = None,
        start_clip_guided: Window = (1, -1),
        start_self_train: Window = (-1, -1),
        conf_thresh: float = 0.0,
        conf_drops_labeled: bool = True,
        ignore_index: int = 255,
    ):
        self.teacher_cfg, self.given_names, self.cats = teacher, class_names, clip_unlabeled_cats
        self.ignore_index = ignore_index
        self.options = dict(
            unlabeled_cats=unlabeled_cats,
            start_clip_guided=start_clip_guided,
            start_self_train=start_self_train,
            conf_thresh=conf_thresh,
            conf_drops_labeled=conf_drops_labeled,
        )
        self.teacher: MaskCLIP | None = None
        self.only: int | None = None

    def before_train(self, runner: Runner) -> None:
        """Build the teacher, for the names of the training data."""
        names = self.given_names or runner.train_dataloader.dataset.metainfo.get('classes')
        if not names:
            raise ClassNamesError(
                f'PseudoLabelHook: {type(runner.train_dataloader.dataset).__name__} has no class names. Give the hook '
                "class_names=['sky', ...] in label order."
            )
        classes = as_class_names(names)
        cats = range(len(classes)) if self.cats is None else self.cats
        self.labeller = Labeller('PseudoLabelHook', [aliases[0] for aliases in classes], cats, **self.options)
        if self.labeller.start_clip_guided is None:
            return
        chosen = self.labeller.clip_unlabeled_cats
        self.only = chosen[0] if len(chosen) == 1 else None  # a teacher of one name would be refused: it has all
        named = classes if self.only is not None else [classes[cat] for cat in chosen]
        device = next(bare_model(runner).parameters()).device
        self.teacher = self._build([list(names) for names in named]).to(device)

    def _build(self, classes: list[list[str]]) -> MaskCLIP:
        cfg = self.teacher_cfg
        cfg = load_config(cfg).model if isinstance(cfg, str) else cfg
        cfg = {'data_preprocessor': CLIP_COLOURS, **copy.deepcopy(dict(cfg)), 'class_names': classes}
        cfg.pop('variants', None)  # comparisons, which only tests print
        keep = self.labeller.conf_thresh > 0 or self.only is not None
        cfg['test_cfg'] = {**dict(cfg.get('test_cfg') or dict(mode='whole')), 'keep_logits': keep}
        teacher = MODELS.build(cfg)
        if not isinstance(teacher, MaskCLIP):
            raise ConfigError(
                f"PseudoLabelHook: the teacher must be a 'vlm_dense.MaskCLIP', found {type(teacher).__name__}."
            )
        return teacher.requires_grad_(False).eval()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Label a batch of the train loader: its samples get ``gt_sem_seg``."""
        images, samples = data_batch['inputs'], data_batch['data_samples']
        if not all(isinstance(sample, SegDataSample) for sample in samples):
            raise ConfigError(
                'PseudoLabelHook labels the pixels of SegDataSample, which models of mmseg learn from; found '
                f'{type(samples[0]).__name__}. Leave the hook out of this config.'
            )
        labels = [self._given(image, sample) for image, sample in zip(images, samples, strict=True)]
        self.labeller.check_leak(labels, samples)
        iteration, labeller = runner.iter + 1, self.labeller
        todo = [i for i, one in enumerate(labels) if (one < 0).any()]
        if todo and labeller.teaches(iteration):
            cats, found = labeller.clip_unlabeled_cats, self.taught([images[i] for i in todo])
        elif todo and labeller.trains_itself(iteration):
            cats, found = labeller.unlabeled_cats, self._own(bare_model(runner), [images[i] for i in todo])
        else:
            todo, cats, found = [], [], []
        for i, (index, best) in zip(todo, found, strict=True):
            labels[i] = labeller.assign(labels[i].to(index.device), cats, index, best)
        for sample, one in zip(samples, labels, strict=True):
            sample.gt_sem_seg = PixelData(data=one.masked_fill(one < 0, self.ignore_index)[None])

    @staticmethod
    def _given(image: Tensor, sample: SegDataSample) -> Tensor:
        """Labels (H, W), int64, negative where there is none."""
        if 'gt_sem_seg' in sample:
            return sample.gt_sem_seg.data[0].long()
        return torch.full(image.shape[1:], UNLABELED)

    def taught(self, images: Sequence[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
        """Labels of the teacher for images (3, H, W) of a data set, each by itself.

        Returns:
            For each int64 (H, W), which of ``clip_unlabeled_cats`` is best, and its score (H, W), or ``None`` without
            ``conf_thresh``.
        """
        found = _predicted(self.teacher, images)
        if self.only is not None:
            scores = [sample.seg_logits.data[self.only] for sample in found]
            return [(torch.zeros_like(best, dtype=torch.int64), best) for best in scores]
        scored = self.labeller.conf_thresh > 0
        return [(s.pred_sem_seg.data[0].long(), s.seg_logits.data.amax(0) if scored else None) for s in found]

    def _own(self, model: nn.Module, images: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Labels of the network among ``unlabeled_cats``, in eval mode."""
        training = model.training
        model.eval()
        found = _predicted(model, images)
        model.train(training)
        if 'seg_logits' not in found[0]:
            raise ConfigError(
                'PseudoLabelHook: start_self_train reads the logits of the model, which it does not keep. Set '
                'model.test_cfg.keep_logits=True.'
            )
        every = (sample.seg_logits.data[self.labeller.unlabeled_cats].max(dim=0) for sample in found)
        return [(index, best) for best, index in every]


@torch.no_grad()
def _predicted(model: nn.Module, images: Sequence[Tensor]) -> list[SegDataSample]:
    """Predictions for images (3, H, W) as a data set gives them, in their own size; those of one size in one batch."""
    groups = defaultdict(list)
    for i, image in enumerate(images):
        groups[tuple(image.shape[1:])].append(i)
    found = {}
    for size, ids in groups.items():
        samples = [SegDataSample(metainfo=dict(img_shape=size, ori_shape=size)) for _ in ids]
        batch = model.data_preprocessor(dict(inputs=[images[i] for i in ids], data_samples=samples), False)
        found |= zip(ids, model.predict(batch['inputs'], batch['data_samples']), strict=True)
    return [found[i] for i in range(len(images))]
