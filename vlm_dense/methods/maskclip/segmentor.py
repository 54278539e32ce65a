"""MaskCLIP: segmentation by a frozen CLIP, with no training.

"Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from mmengine.logging import print_log
from mmengine.structures import PixelData
from mmseg.models.segmentors.encoder_decoder import EncoderDecoder
from mmseg.structures import SegDataSample
from mmseg.utils import add_prefix
from torch import Tensor

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.preprocessing import colours_of_tag
from vlm_dense.contract.text_side import TextSide, check_image_tower, refuse_head
from vlm_dense.errors import ConfigError
from vlm_dense.methods.maskclip import older
from vlm_dense.methods.maskclip.head import ClassNames, MaskCLIPHead
from vlm_dense.methods.maskclip.refinements import KeySmoothing, NamedBackground
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.inference import BatchedInference, own_sizes
from vlm_dense.segmentation.postprocess import PostProcess, build_step
from vlm_dense.segmentation.steps import Aliases as AliasPart
from vlm_dense.segmentation.steps import ClassMaps, Probabilities, Step
from vlm_dense.vocabulary.class_names import Aliases


@MODELS.register_module()
class MaskCLIP(BatchedInference, EncoderDecoder):
    """MaskCLIP as a segmentor: ``backbone`` (frozen tower), :class:`MaskCLIPHead`, and steps from its maps to labels.

    Call graph::

        predict --> for each image: window_maps --> window_map of its windows:
                |       backbone.encode: value, key --> decode_head: cosines, refinements --> (B, K, h, w)
                --> postprocess: bilinear to image size, windows averaged, steps, original size, argmax

    The steps on the merged maps are a list as well::

        postprocess=[
            dict(type='vlm_dense.OriginalSize', at_once=True),
            dict(type='vlm_dense.PAMR', iterations=10),  # moves borders to edges of the image
            dict(type='vlm_dense.Probabilities', scale=40.0),  # softmax over all names
            dict(type='vlm_dense.Aliases'),  # a class is as probable as the most probable of its names
            dict(type='vlm_dense.AreaThreshold', thresh=0.1),  # removes classes with a small area
            dict(type='vlm_dense.ProbabilityThreshold', thresh=0.1),  # class 0 is where nothing is this probable
        ]

    SCLIP and its successors decide like this: with ``Aliases`` in the list the head gives the cosines of all names.

    Args:
        backbone: ``vlm_dense.MaskCLIPViT`` or ``vlm_dense.MaskCLIPResNet`` (published settings); the plain towers,
            ``vlm_dense.CLIPViT`` with ``head=True`` and ``vlm_dense.CLIPResNet`` with ``attnpool=True``, do as well.
        class_names, text_encoder, text_prompt, image_prompt: See :class:`MaskCLIPHead`. ``tools/train.py`` and
            ``tools/test.py`` fill in the data set's names if none are given.
        decode_head: Further arguments of :class:`MaskCLIPHead`.
        postprocess: Configs of :class:`~vlm_dense.segmentation.steps.Step`, see
            :class:`~vlm_dense.segmentation.postprocess.PostProcess`. Default: none, the argmax of the maps.
        variants: Options of the head to be compared, ``{name: options}`` as for :meth:`MaskCLIPHead.variant`. Each adds
            its labels as ``pred_<name>`` to the samples, from the same image features, for
            ``vlm_dense.VariantIoU``; logits are not kept then. One that needs keys of a tower that gives none is left
            out, with a warning.
        **kwargs: ``data_preprocessor``, ``train_cfg``, ``test_cfg``, ``init_cfg`` as in mmseg; ``test_cfg`` see
            :class:`BatchedInference`; and the deprecated ``pamr`` and ``decision``, which change ``postprocess``, see
            :func:`vlm_dense.methods.maskclip.older.postprocess`.

    Raises:
        ClassNamesError, ConfigError: see :class:`MaskCLIPHead`; a backbone that is no CLIP image tower, or steps that
            would have no effect.

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
        postprocess: Sequence[dict] = (),
        variants: dict[str, dict] | None = None,
        **kwargs,
    ):
        steps = [build_step(step) for step in postprocess or ()]
        steps = older.postprocess(steps, older.take(kwargs, older.OF_MODEL))
        refuse_head(kwargs.pop('head', None), 'MaskCLIP')
        own = dict(
            class_names=class_names, text_encoder=text_encoder, text_prompt=text_prompt, image_prompt=image_prompt
        )
        own = {k: v for k, v in own.items() if v is not None}
        kwargs['data_preprocessor'] = colours_of_tag(kwargs.get('data_preprocessor'), backbone)
        super().__init__(backbone, dict(type='vlm_dense.MaskCLIPHead') | own | dict(decode_head or {}), **kwargs)
        self.postprocess = PostProcess(steps)
        self.variants = {}
        self._check_steps(self.decode_head)
        for name, options in (variants or {}).items():
            head = self.decode_head.variant(**options)
            if self._lacks_keys(head):
                print_log(
                    f'MaskCLIP: the variant {name!r} is left out: KeySmoothing needs keys, which '
                    f'{self._tower_name} does not give.',
                    logger='current',
                    level=logging.WARNING,
                )
                continue
            self._check_steps(head)
            self.variants[name] = options

    def _lacks_keys(self, head: MaskCLIPHead) -> bool:
        part = getattr(self.backbone, 'dense_attention', self.backbone)
        return head.part(KeySmoothing) is not None and not getattr(part, 'gives_keys', True)

    @property
    def _tower_name(self) -> str:
        return type(getattr(self.backbone, 'dense_attention', self.backbone)).__name__

    def _heads(self) -> list[MaskCLIPHead]:
        return [self.decode_head, *(self.decode_head.variant(**options) for options in self.variants.values())]

    def _check_steps(self, head: MaskCLIPHead) -> None:
        """Refuse refinements that cannot work or would have no effect."""
        if self._lacks_keys(head):
            raise ConfigError(
                f'MaskCLIP: KeySmoothing needs keys, which {self._tower_name} does not give. Leave it out, or return '
                'keys with the tokens (gives_keys = True of a dense attention).'
            )
        late = next((step for step in self.postprocess.steps if isinstance(step, AliasPart)), None)
        if late is None:
            return
        wrong = [type(step).__name__ for step in head.refinements if not _is_of_names(step)]
        if wrong or late.keep == 'first':
            raise ConfigError(
                f'MaskCLIP: with Aliases in postprocess the head gives the cosines of all names, so {wrong} of its '
                "refinements would have no effect; keep='first' goes the other way, into the head's refinements. "
                'Leave them out; postprocess takes PAMR and ProbabilityThreshold (which gives class 0).'
            )

    def _init_decode_head(self, decode_head: dict) -> None:
        """As in mmseg; the head's prompts get the image tower."""
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
        scales = [step.scale for step in self.postprocess.steps if isinstance(step, Probabilities)]
        scale = (scales[0] if scales else None) or head.scale

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
        """As in :class:`BatchedInference`, with ``pred_<name>`` for each of ``variants``."""
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
            described = [self._class_maps_of(*view, one) for view, one in zip(views, maps, strict=True)]
            maps = [self.postprocess.of_window(one).values for one in described]
            counts[:] = [m.shape[1] for m in maps]
            return torch.cat(maps, dim=1)

        for n, maps in self.window_maps(images, forward):
            todo = zip(maps.split(counts), views, strict=True)
            image, meta = images[n], data_samples[order[n]].metainfo
            yield (
                order[n],
                [self.postprocess.labels(m, image, meta, partial(self._class_maps_of, *view)) for m, view in todo],
            )

    # --- maps of windows ------------------------------------------------------------------------------------------

    def _maps_of(
        self, features: ImageFeatures, head: MaskCLIPHead, classes: tuple[Aliases, ...] | None = None
    ) -> Tensor:
        text = head.embed_classes(features.global_, classes, self.backbone)
        if self.postprocess.has(AliasPart):
            return head.name_scores(features.value, text)
        return head(features, classes, text)

    def _class_maps_of(self, head: MaskCLIPHead, classes: tuple[Aliases, ...], values: Tensor) -> ClassMaps:
        if self.postprocess.has(AliasPart):
            return ClassMaps(values, head.scale, classes, background=head.background)
        return head.class_maps(values)

    def window_map(self, crops: Tensor) -> Tensor:
        """Maps (B, n, h, w) of windows: of classes, or cosines of names if ``postprocess`` makes classes of them."""
        return self._maps_of(self.extract_feat(crops), self.decode_head)

    def class_maps(self, values: Tensor) -> ClassMaps:
        """Cosines, or what the head's refinements make of them; see :class:`BatchedInference`."""
        return self._class_maps_of(self.decode_head, self.decode_head.class_names, values)


def _is_of_names(step: Step) -> bool:
    """Whether a refinement only chooses names."""
    return isinstance(step, NamedBackground) or (isinstance(step, AliasPart) and step.keep != 'mean')
