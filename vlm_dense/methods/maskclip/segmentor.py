"""MaskCLIP: segmentation by a frozen CLIP, with no training.

"Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample
from mmseg.utils import add_prefix
from torch import Tensor

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.contract.text_side import TextSide, check_image_tower, refuse_head
from vlm_dense.errors import ConfigError
from vlm_dense.methods.maskclip.head import ClassNames, MaskCLIPHead
from vlm_dense.methods.maskclip.name_inference import NameInference
from vlm_dense.methods.maskclip.refinements import Aliases as AliasPart
from vlm_dense.methods.maskclip.refinements import KeySmoothing, PromptDenoising, ThresholdBackground
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.inference import own_sizes
from vlm_dense.segmentation.name_decision import NameDecision
from vlm_dense.segmentation.pamr import PAMR
from vlm_dense.vocabulary.class_names import Aliases


@MODELS.register_module()
class MaskCLIP(NameInference, EncoderDecoder):
    """MaskCLIP as a segmentor: ``backbone`` (frozen tower), :class:`MaskCLIPHead`, and refinement on the pixels.

    Call graph::

        predict --> backbone.encode: value, key --> decode_head: cosines, refinements --> (B, K, h, w)
                    --> bilinear to image size, windows averaged --> pamr --> original size --> argmax

    Args:
        backbone: ``vlm_dense.MaskCLIPViT`` or ``vlm_dense.MaskCLIPResNet`` (published settings); the plain towers,
            ``vlm_dense.CLIPViT`` with ``head=True`` and ``vlm_dense.CLIPResNet`` with ``attnpool=True``, do as well.
        class_names, text_encoder, text_prompt, image_prompt: See :class:`MaskCLIPHead`. ``tools/train.py`` and
            ``tools/test.py`` fill in the data set's names if none are given.
        decode_head: Further arguments of :class:`MaskCLIPHead`.
        pamr: Arguments of :class:`~vlm_dense.segmentation.pamr.PAMR`, which then refines the probabilities at image
            size.
        decision: Arguments of :class:`~vlm_dense.segmentation.name_decision.NameDecision`, which then makes the labels
            of the cosines of all names, in original size, in the place of the head's refinements and ``pamr``.
        variants: Options of the head to be compared, ``{name: options}`` as for :meth:`MaskCLIPHead.variant`. Each adds
            its labels as ``pred_<name>`` to the samples, from the same image features, for
            ``vlm_dense.VariantIoU``; logits are not kept then.
        data_preprocessor, train_cfg, test_cfg, init_cfg: As in mmseg; ``test_cfg`` see :class:`BatchedInference`.

    Raises:
        ClassNamesError, ConfigError: see :class:`MaskCLIPHead`; a backbone that is no CLIP image tower.

    Examples:
        >>> clip = dict(arch='tiny-vit', pretrained='bundled')
        >>> model = MaskCLIP(
        ...     backbone=dict(type='vlm_dense.MaskCLIPViT', **clip),
        ...     text_encoder=dict(type='vlm_dense.TextTower', **clip),
        ...     class_names=['circle', 'star', 'background'],
        ...     test_cfg=dict(mode='whole'),
        ... ).eval()
        >>> with torch.no_grad():
        ...     [sample] = model.predict(torch.zeros(1, 3, 96, 96))
        >>> sample.pred_sem_seg.data.shape
        torch.Size([1, 96, 96])
    """

    def __init__(
        self,
        backbone: dict,
        class_names: ClassNames | None = None,
        text_encoder: dict | None = None,
        text_prompt: dict | None = None,
        image_prompt: dict | None = None,
        decode_head: dict | None = None,
        pamr: dict | None = None,
        decision: dict | None = None,
        variants: dict[str, dict] | None = None,
        **kwargs,
    ):
        refuse_head(kwargs.pop('head', None), 'MaskCLIP')
        own = dict(
            class_names=class_names, text_encoder=text_encoder, text_prompt=text_prompt, image_prompt=image_prompt
        )
        own = {k: v for k, v in own.items() if v is not None}
        super().__init__(backbone, dict(type='vlm_dense.MaskCLIPHead') | own | dict(decode_head or {}), **kwargs)
        self.pamr = None if pamr is None else PAMR(**pamr)
        self.decision = None if decision is None else NameDecision(**decision)
        self.variants = dict(variants or {})
        for head in self._heads():  # refuses what cannot be
            self._check_decision(head)

    def _heads(self) -> list[MaskCLIPHead]:
        return [self.decode_head, *(self.decode_head.variant(**options) for options in self.variants.values())]

    def _check_decision(self, head: MaskCLIPHead) -> None:
        """Refuse refinements that would have no effect."""
        if self.decision is None:
            return
        found = dict(
            pamr=self.pamr is not None,
            aliases=head.part(AliasPart).keep == 'mean',
            pd_thresh=head.part(PromptDenoising) is not None,
            ks_thresh=head.part(KeySmoothing) is not None,
            background=head.part(ThresholdBackground) is not None,
        )
        wrong = [name for name, used in found.items() if used]
        if wrong:
            raise ConfigError(
                f'MaskCLIP: decision makes the labels of the cosines of all names, so {wrong} would have no effect. '
                'Leave them out; decision has pamr and prob_thresh (which gives class 0) of its own.'
            )

    def _init_decode_head(self, decode_head: dict) -> None:
        """As in mmseg; the head's prompts are shown the image tower."""
        check_image_tower(type(self.backbone), ('vlm_dense.MaskCLIPResNet', 'vlm_dense.MaskCLIPViT'))
        super()._init_decode_head(dict(decode_head, image_tower=self.backbone))

    @property
    def text_side(self) -> TextSide:
        """The head's."""
        return self.decode_head.text_side

    def extract_feat(
        self, inputs: Tensor, head: MaskCLIPHead | None = None, classes: tuple[Aliases, ...] | None = None
    ) -> ImageFeatures:
        """Values, keys, and the global feature if the prompt needs it, of images (B, 3, H, W).

        Args:
            head: What labels features for a part of the tower that reads classes; default: the decode head.
            classes: Of :meth:`MaskCLIPHead.parse_classes`, for the same.
        """
        return self.text_side.encode(self.backbone, inputs, ('value',), text=False, **self._feedback(head, classes))[0]

    @property
    def _reads_classes(self) -> bool:
        return getattr(getattr(self.backbone, 'dense_attention', None), 'reads_classes', False)

    def _feedback(self, head: MaskCLIPHead | None = None, classes: tuple[Aliases, ...] | None = None) -> dict:
        """The classifier of features, for a tower that reads it."""
        if not self._reads_classes:
            return {}
        head = head or self.decode_head
        scale = head.scale if self.decision is None else self.decision.scale

        def classify(value: Tensor) -> Tensor:
            return scale * head.name_scores(value, head.embed_classes(None, classes, self.backbone))

        return dict(classify=classify)

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses ``decode.*`` of images (B, 3, H, W), for prompts that learn."""
        features, text = self.text_side.encode(self.backbone, inputs, ('value',), **self._feedback())
        return add_prefix(self.decode_head.loss(features, data_samples, self.train_cfg, text), 'decode')

    def set_class_names(self, class_names: ClassNames) -> None:
        """Segment by other classes from now on, see :meth:`MaskCLIPHead.set_class_names`."""
        self.decode_head.set_class_names(class_names, self.backbone)
        self.num_classes = self.out_channels = self.decode_head.num_classes

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """As in :class:`NameInference`, with ``pred_<name>`` for each of ``variants``."""
        if not self.variants or data_samples is None:
            return super().predict(inputs, data_samples)
        views = [(head, head.class_names) for head in self._heads()]
        for i, labels in self._several(inputs, data_samples, views):
            names = ['sem_seg', *self.variants]
            data_samples[i].set_data({f'pred_{n}': PixelData(data=x[None]) for n, x in zip(names, labels, strict=True)})
        return data_samples

    def predict_lists(
        self, inputs: Tensor, data_samples: list, class_lists: Sequence[ClassNames]
    ) -> list[list[SegDataSample]]:
        """Segment a batch by several lists of classes; the image features are computed once.

        Args:
            inputs, data_samples: As in :meth:`predict`.
            class_lists: Each as ``class_names``.

        Returns:
            For each list B samples with ``pred_sem_seg`` and the metainfo of ``data_samples``.
        """
        views = [(self.decode_head, self.decode_head.parse_classes(names)) for names in class_lists]
        results = [[SegDataSample(metainfo=sample.metainfo) for sample in data_samples] for _ in views]
        for i, labels in self._several(inputs, data_samples, views):
            for samples, found in zip(results, labels, strict=True):
                samples[i].set_data(dict(pred_sem_seg=PixelData(data=found[None])))
        return results

    def _several(
        self, inputs: Tensor, data_samples: list, views: Sequence[tuple[MaskCLIPHead, tuple[Aliases, ...]]]
    ) -> Iterator[tuple[int, list[Tensor]]]:
        """Index of each sample and its label maps (H, W), one of each head and its classes."""
        order, images = own_sizes(inputs, data_samples)
        counts: list[int] = []

        def forward(crops: Tensor) -> Tensor:
            shared = None if self._reads_classes else self.extract_feat(crops)
            maps = [self._maps_of(shared or self.extract_feat(crops, *view), *view) for view in views]
            counts[:] = [m.shape[1] for m in maps]
            return torch.cat(maps, dim=1)

        for n, pieces in self._maps(images, forward):
            refine, meta = self._refinement(images[n]), data_samples[order[n]].metainfo
            boxes = [box for box, _ in pieces]
            parts = zip(*(maps.split(counts) for _, maps in pieces), strict=True)
            parts = [list(zip(boxes, maps, strict=True)) for maps in parts]
            if self.decision is None:
                yield order[n], [self._label_map(part, meta, refine) for part in parts]
            else:
                classes = [names for _, names in views]
                yield order[n], [self._decided_labels(*p, images[n], meta) for p in zip(parts, classes, strict=True)]

    # --- maps of windows ------------------------------------------------------------------------------------------

    def _maps_of(
        self, features: ImageFeatures, head: MaskCLIPHead, classes: tuple[Aliases, ...] | None = None
    ) -> Tensor:
        text = head.embed_classes(features.global_, classes, self.backbone)
        if self.decision is not None:
            return head.name_scores(features.value, text)
        maps = head(features, classes, text)
        return maps if self.pamr is None else head.probabilities(maps)

    def _window_map(self, crops: Tensor) -> Tensor:
        return self._maps_of(self.extract_feat(crops), self.decode_head)
