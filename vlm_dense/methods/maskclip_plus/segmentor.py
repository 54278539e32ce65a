"""MaskCLIP+: a segmentation network trained on the labels that a frozen MaskCLIP gives.

"Extract Free Dense Labels from CLIP", ECCV 2022, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmengine.structures import PixelData
from mmseg.models.segmentors.encoder_decoder import EncoderDecoder
from mmseg.structures import SegDataSample
from mmseg.utils import add_prefix
from torch import Tensor

from vlm_dense.datasets.suppress import UNLABELED
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.methods.maskclip.head import ClassNames
from vlm_dense.methods.maskclip.refinements import ThresholdBackground
from vlm_dense.methods.maskclip.segmentor import MaskCLIP
from vlm_dense.methods.maskclip_plus.labeller import Labeller, Window
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.inference import BatchedInference
from vlm_dense.segmentation.strips import Enlargement, channels_last, enlarged_max, strip_loss
from vlm_dense.vocabulary.class_names import as_class_names


@MODELS.register_module()
class MaskCLIPPlus(BatchedInference, EncoderDecoder):
    """An ordinary segmentor that learns from a frozen MaskCLIP, and from itself.

    Call graph::

        loss --> backbone, neck, decode_head.decode_module --> F --> logits = F . text
             |   unlabelled pixels of the labels (-1)
             +-- while in start_clip_guided:  teacher(image) over clip_unlabeled_cats, refined, resized --> argmax
             +-- while in start_self_train:   logits over unlabeled_cats, resized --> argmax
             |   less sure than conf_thresh --> -1; what is still -1 --> ignored
             +-> losses of the decode head (and of an auxiliary head) on these labels
        predict --> backbone, neck, decode_head; the teacher has no part in it

    Labels are those of the data set, with -1 where there is none: ``vlm_dense.SuppressLabels`` in the training pipeline
    takes away some classes (zero-shot) or all of them. Without any label map, as where ``LoadAnnotations`` is left out,
    every pixel of the image is unlabelled. The teacher sees the same augmented and normalised crop.

    Args:
        backbone, neck, auxiliary_head, data_preprocessor, train_cfg, test_cfg, init_cfg: As in mmseg; ``test_cfg`` see
            :class:`BatchedInference`.
        teacher: ``vlm_dense.MaskCLIP``; its ``refinements`` refine the labels. It is frozen, stays in
            eval mode, and ``vlm_dense.FrozenWeightsHook`` leaves it out of checkpoints.
        decode_head: Arguments of :class:`MaskCLIPPlusHead`.
        class_names: Names in label order, as for :class:`MaskCLIP`; with ``cls_bg`` the first is the background's and
            not used. ``tools/train.py`` and ``tools/test.py`` fill in the data set's. Of a class with several names the
            classifier takes the mean direction.
        clip_unlabeled_cats: Classes that the teacher chooses from, as labels or names. Default: all with a name.
        unlabeled_cats: Classes that the network itself chooses from. Default: ``clip_unlabeled_cats``. No label of
            either list may occur in training.
        start_clip_guided: Iterations in which the teacher labels.
        start_self_train: Iterations in which the network labels; the two must not overlap.
        conf_thresh: Pixels with a best value, the teacher's cosine or the network's logit, below it are ignored; 0:
            off.
        conf_drops_labeled: Whether ``conf_thresh`` also drops pixels with a label of the data set, as in the official
            code.
        distill: Instead of pseudo labels, a loss on the distance between F and the teacher's features.
        distill_labeled: Take this distance at all pixels that are not ignored, else at the unlabelled ones only.
        distill_weight: Its weight.
        distill_detach: Reproduces the official code, which detaches F: the loss is logged and has no effect.
        reset_counter: Count from the iteration of the run instead of that in the checkpoint: for weights that
            ``load_from`` takes over from a finished run.
        compare_teacher: Add the teacher's labels as ``pred_teacher`` to the samples when testing, for
            ``dict(type='vlm_dense.VariantIoU', name='teacher')``.

    Raises:
        ClassNamesError: see :class:`MaskCLIP`; a class that does not exist, or one without a name.
        ConfigError: windows that overlap, a teacher that cannot teach, see also :class:`MaskCLIPPlusHead`.
    """

    def __init__(
        self,
        backbone: dict,
        teacher: dict,
        decode_head: dict,
        class_names: ClassNames | None = None,
        clip_unlabeled_cats: Sequence[int | str] | None = None,
        unlabeled_cats: Sequence[int | str] | None = None,
        start_clip_guided: Window = (1, -1),
        start_self_train: Window = (-1, -1),
        conf_thresh: float = 0.0,
        conf_drops_labeled: bool = True,
        distill: bool = False,
        distill_labeled: bool = True,
        distill_weight: float = 1.0,
        distill_detach: bool = False,
        reset_counter: bool = False,
        compare_teacher: bool = False,
        **kwargs: Any,
    ):
        cls_bg = decode_head.get('cls_bg', False)
        own = dict(test_cfg=dict(mode='whole', keep_logits=False))
        if class_names is not None:
            own['class_names'] = as_class_names(class_names)[int(cls_bg) :]
        teacher = _teacher({**own, **teacher})
        names = [aliases[0] for aliases in teacher.decode_head.class_names]
        names = ['background', *names] if cls_bg else names
        own = dict(type='vlm_dense.MaskCLIPPlusHead', channels=teacher.backbone.embed_dim, num_classes=len(names))
        super().__init__(backbone, {**own, **decode_head}, **kwargs)
        if self.num_classes != len(names):
            raise ClassNamesError(
                f'MaskCLIPPlus: {len(names)} class names for decode_head.num_classes={self.num_classes}. Leave '
                'num_classes out, or name the classes of the data set.'
            )
        self.teacher = teacher
        self.class_names = names
        given = range(int(cls_bg), len(names)) if clip_unlabeled_cats is None else clip_unlabeled_cats
        self.labeller = Labeller(
            'MaskCLIPPlus',
            names,
            given,
            unlabeled_cats,
            start_clip_guided,
            start_self_train,
            conf_thresh,
            conf_drops_labeled,
        )
        self.distill = distill
        self.distill_labeled = distill_labeled
        self.distill_weight = distill_weight
        self.distill_detach = distill_detach
        self.reset_counter = reset_counter
        self.compare_teacher = compare_teacher
        self.register_buffer('_iter_counter', torch.tensor(0))
        self._register_load_state_dict_pre_hook(self._read_official)

    def train(self, mode: bool = True) -> MaskCLIPPlus:
        """Switch the mode of everything but the teacher."""
        self.training = mode
        for module in self.children():
            if module is not self.teacher:
                module.train(mode)
        return self

    # --- the network ------------------------------------------------------------------------------------------

    def extract_feat(self, inputs: Tensor) -> Sequence[Tensor]:
        """Maps for the decode head, of images (B, 3, H, W)."""
        self.decode_head.set_text(self._text())
        return super().extract_feat(inputs)

    @torch.no_grad()
    def _text(self) -> Tensor:
        """One unit embedding a class with a name (K, D), of the teacher's names and weights as they are."""
        head = self.teacher.decode_head
        rows = head.text_prompt.classifier_weights(head.embed_classes().float())
        if len(rows) == len(head.class_names):
            return rows
        parts = rows.split([len(names) for names in head.class_names])
        return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """As in :class:`BatchedInference`, with ``pred_teacher`` if ``compare_teacher``."""
        if not self.compare_teacher or data_samples is None:
            return super().predict(inputs, data_samples)
        copies = [SegDataSample(metainfo=sample.metainfo) for sample in data_samples]
        found = self.teacher.predict(inputs, copies)
        data_samples = super().predict(inputs, data_samples)
        for sample, other in zip(data_samples, found, strict=True):
            sample.set_data(dict(pred_teacher=other.pred_sem_seg))
        return data_samples

    # --- training ---------------------------------------------------------------------------------------------

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses ``decode.*`` and ``aux.*`` on images (B, 3, H, W) and the labels that there are."""
        iteration = self._count()
        labels = self._labels(inputs, data_samples)
        self.labeller.check_leak(labels, data_samples)
        x = self.extract_feat(inputs)
        features = self.decode_head.decode_module(x)
        logits = self.decode_head.classify(features)
        losses = {}
        unlabelled = (labels == UNLABELED).any()
        if self.distill:  # 0 where nothing is unlabelled, and never left out: all processes have the same losses
            distance = self._distance(features, inputs, labels)
            losses['loss_distill'] = self.distill_weight * unlabelled * distance
        elif unlabelled:
            labels = self.pseudo_labels(labels, inputs, logits, iteration)
        labels = labels.masked_fill(labels < 0, self.decode_head.ignore_index)
        samples = [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in labels]
        losses.update(self.decode_head.loss_by_feat(logits, samples))
        losses = add_prefix(losses, 'decode')
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(x, samples))
        return losses

    def _count(self) -> int:
        """Number of this iteration, 1 for the first."""
        if self.reset_counter:
            self._iter_counter.fill_(MessageHub.get_current_instance().get_info('iter', 0))
            self.reset_counter = False
        self._iter_counter += 1
        return int(self._iter_counter)

    def _labels(self, inputs: Tensor, data_samples: list) -> Tensor:
        """Labels (B, H, W), int64, -1 where there is none; what is padded to the images is ignored."""
        maps = []
        for sample in data_samples:
            if 'gt_sem_seg' in sample:
                maps.append(sample.gt_sem_seg.data[0].long())
                continue
            size = tuple(inputs.shape[2:])
            height, width = sample.metainfo.get('img_shape', size)[:2]
            labels = torch.full(size, self.decode_head.ignore_index, device=inputs.device)
            labels[:height, :width] = UNLABELED
            maps.append(labels)
        return torch.stack(maps)

    @torch.no_grad()
    def pseudo_labels(self, labels: Tensor, inputs: Tensor, logits: Tensor, iteration: int) -> Tensor:
        """Label pixels that have none.

        Args:
            labels: (B, H, W), -1 where there is none.
            inputs: Images (B, 3, H, W).
            logits: (B, K, h, w).
            iteration: Counted from 1.

        Returns:
            (B, H, W); -1 where no label was found, or none that is sure enough.
        """
        labeller = self.labeller
        if labeller.teaches(iteration):
            maps, cats = self.teacher_maps(inputs), labeller.clip_unlabeled_cats
        elif labeller.trains_itself(iteration):
            cats = labeller.unlabeled_cats
            maps = logits.detach()[:, cats]
        else:
            return labels
        best, index = enlarged_max(maps, labels.shape[1:], self.align_corners)
        return labeller.assign(labels, cats, index, best)

    @torch.no_grad()
    def teacher_maps(self, inputs: Tensor) -> Tensor:
        """The teacher's refined maps (B, n, h, w) of the n ``clip_unlabeled_cats``.

        Refinement weighs these classes against each other, whatever else there is.
        """
        features, head = self.teacher.extract_feat(inputs), self.teacher.decode_head
        maps = head.scores(features.value, head.embed_classes(features.global_))
        if self.decode_head.cls_bg:
            background = self.decode_head.class_embeddings()[:1]
            cosine = torch.einsum('bdhw,kd->bkhw', F.normalize(features.value.float(), dim=1), background)
            maps = torch.cat([cosine, maps], dim=1)
        return head.refine(maps[:, self.labeller.clip_unlabeled_cats], features.key).values

    def _distance(self, features: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean |F - teacher's unit features| at label size."""
        with torch.no_grad():
            wanted = F.normalize(self.teacher.extract_feat(inputs).value, dim=1)
        if self.distill_detach:
            features = features.detach()
        size, dim = labels.shape[1:], features.shape[1]
        wanted = channels_last(wanted)
        enlarge = Enlargement(wanted.shape[1:3], size, self.align_corners, wanted.device)
        where = labels != self.decode_head.ignore_index if self.distill_labeled else labels < 0

        def of_strip(mine: Tensor, images: slice, rows: slice) -> tuple[Tensor, Tensor]:
            counts = where[images, rows][..., None].to(mine.dtype)
            mine.sub_(enlarge(wanted[images, enlarge.source(rows)], rows)).mul_(counts)
            distance = mine.abs().sum() / dim
            mine.sign_().div_(dim)
            return distance, counts.sum()

        total, number = strip_loss(features, size, of_strip, self.align_corners)
        return total / number.clamp(min=1)

    # --- checkpoints ------------------------------------------------------------------------------------------

    def _read_official(self, state_dict: dict, prefix: str, *args) -> None:
        """Read the official release, which keeps counter and teacher in the head; the teacher is the config's here."""
        head = f'{prefix}decode_head.'
        if f'{head}_iter_counter' not in state_dict:
            return
        state_dict[f'{prefix}_iter_counter'] = state_dict.pop(f'{head}_iter_counter')
        theirs = [k for k in state_dict if k.startswith(tuple(f'{head}{n}.' for n in _OFFICIAL_TEACHER))]
        for key in theirs:
            del state_dict[key]
        for key, value in self.teacher.state_dict(prefix=f'{prefix}teacher.').items():
            state_dict.setdefault(key, value)


_OFFICIAL_TEACHER = ('clip', 'proj', 'q_proj', 'k_proj', 'v_proj', 'c_proj')


def _teacher(cfg: dict) -> MaskCLIP:
    """The frozen teacher."""
    teacher = MODELS.build(cfg)
    if not isinstance(teacher, MaskCLIP):
        raise ConfigError(f"MaskCLIPPlus: the teacher must be a 'vlm_dense.MaskCLIP', found {type(teacher).__name__}.")
    head = teacher.decode_head
    if head.image_conditioned:
        raise ConfigError(
            f'MaskCLIPPlus: {type(head.text_prompt).__name__} gives each image its own class embeddings, but the '
            'network has one classifier for all images. Use a text prompt that does not depend on the image.'
        )
    if head.text_prompt.num_variants is not None:
        raise ConfigError(
            f'MaskCLIPPlus: {type(head.text_prompt).__name__} gives each class {head.text_prompt.num_variants} '
            "embeddings, but the network's classifier has one a class. Use a text prompt with one."
        )
    if head.part(ThresholdBackground) is not None:
        raise ConfigError(
            'MaskCLIPPlus: a background found by a threshold has no embedding that the network could use. Name what '
            'it consists of (background=dict(names=[...])), or learn it with decode_head=dict(cls_bg=True).'
        )
    return teacher.requires_grad_(False).eval()
