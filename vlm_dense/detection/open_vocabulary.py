"""Detectors of mmdet that classify by text: the towers, the text prompt, and names that may be replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmengine.config import ConfigDict
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.preprocessing import colours_of_tag
from vlm_dense.contract.text_side import TextSide, check_image_tower, refuse_head
from vlm_dense.detection.text_head import RegionInputs, SecondOpinion, TextRetinaHead, TextRoIHead
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import MODELS, registered
from vlm_dense.vocabulary.class_names import one_name_each


class OpenVocabularyDetection:
    """Methods of a detector with a text side and heads that have no weight for any class.

    The rows of text are the classes, then ``padding`` rows of the word 'empty', then the background.

    Attributes:
        default_prompt: Config of the text prompt that the paper has.
        stage_features, stage_options: Further features and options of the tower's ``encode``.
        published_colours: Images are normalised as the paper does, whatever the weights were trained with.
        class_names: In label order.
        base_names: Names that have boxes in training.
    """

    default_prompt: dict = {}
    stage_features: tuple[str, ...] = ()
    stage_options: dict = {}
    published_colours = False

    def check_parts(self, head: dict | None, backbone: dict, option: str, given: dict, wanted: type) -> None:
        """Refuse a classifier's head, a backbone that is no image tower, and heads of another kind than ``wanted``.

        Raises:
            ConfigError: names the part.
        """
        refuse_head(head, type(self).__name__)
        check_image_tower(registered(MODELS, backbone['type']))
        kind = registered(MODELS, given['type'])
        if not issubclass(kind, wanted):
            raise ConfigError(
                f"{type(self).__name__}: {option} must be a 'vlm_dense.{wanted.__name__}', found {kind.__name__}."
            )

    def build_text(
        self,
        text_encoder: dict,
        text_prompt: dict | None,
        class_names: Sequence[str],
        base_names: str | Sequence[str] | None,
        background: str | None,
        padding: int,
        image_prompt: dict | None,
    ) -> None:
        """Build the text side; for the arguments see :class:`OpenVocabularyTwoStage`."""
        self._prompt_cfg = dict(text_prompt or self.default_prompt)
        self.class_names = one_name_each(class_names)
        self.base_names = frozenset(self.class_names if base_names is None else one_name_each(base_names))
        self.background_name, self.padding = background, padding
        self.background = None
        built = TextSide.build(
            text_encoder, self._prompt_cfg, self._rows(self.class_names), image_prompt, self.backbone
        )
        self.text_encoder, self.text_prompt, self.image_prompt = built.modules
        pool = getattr(self.backbone, 'attnpool', None)
        if image_prompt is not None and pool is not None and any(hasattr(m, 'branches') for m in pool.children()):
            raise ConfigError(
                f'{type(self).__name__}: {image_prompt["type"]} updates the attention pool of the image tower, which '
                'the maps of a detector do not pass, so that it would learn nothing. Use a ViT, or another '
                'image_prompt.'
            )
        if background is None:
            self.background = nn.Parameter(torch.randn(self.text_encoder.embed_dim))

    def finish(self) -> None:
        """Last step of a constructor."""
        if self.text_head.scorer is not None:
            self.text_head.scorer.check(self.backbone)
        self._tell_heads()
        self._register_load_state_dict_pre_hook(self._read_official)

    def _rows(self, names: Sequence[str]) -> list[str]:
        """Names of the rows that the prompt encodes."""
        phrase = [] if self.background_name is None else [self.background_name]
        return [*names, *['empty'] * self.padding, *phrase]

    @property
    def text_side(self) -> TextSide:
        """Text tower and prompts."""
        return TextSide(self.text_encoder, self.text_prompt, self.image_prompt)

    @property
    def novel(self) -> list[bool]:
        """Whether each class was not trained on."""
        return [name not in self.base_names for name in self.class_names]

    def set_class_names(self, class_names: str | Sequence[str]) -> None:
        """Detect other classes from now on; what the prompt has learned is kept.

        Raises:
            ClassNamesError: names that cannot be used, or a prompt that has learned something for each class.
        """
        names = one_name_each(class_names)
        if names != self.class_names:
            prompt = self.text_side.prompt_for(self._prompt_cfg, self._rows(names), self.backbone)
            self.text_prompt, self.class_names = prompt.train(self.training), names
        self._tell_heads()

    @property
    def text_head(self) -> SecondOpinion:
        """The head that compares regions with texts."""
        raise NotImplementedError

    def _tell_heads(self) -> None:
        """Tell the heads which classes there are."""
        raise NotImplementedError

    # --- features -------------------------------------------------------------------------------------------------

    def region_inputs(self, features: ImageFeatures, text: Tensor) -> RegionInputs:
        """What heads get beside the maps of the neck."""
        novel = torch.tensor([*self.novel, *[True] * self.padding, False], device=text.device)
        return RegionInputs(self.text_side, self.backbone, features, text, novel, self.background)

    def check_labels(self, data_samples: list) -> None:
        """Refuse boxes of classes that are not trained on.

        Raises:
            DataError: names the class.
        """
        found = {label for sample in data_samples for label in sample.gt_instances.labels.tolist()}
        wrong = sorted(label for label in found if label >= len(self.class_names) or self.novel[label])
        if wrong:
            names = self.class_names
            what = f'of {names[wrong[0]]!r}' if wrong[0] < len(names) else f'with label {wrong[0]} of {len(names)}'
            raise DataError(
                f'{type(self).__name__}: a training image has a box {what}, which is none of its '
                f'{len(self.base_names)} base_names. Novel classes must not be trained on: take their boxes out of the '
                "training data, as 'vlm_dense.OVCocoDataset' does, or add the name to base_names."
            )

    def neck_channels(self) -> list[int]:
        """Channels of the maps for the neck."""
        return list(self.backbone.out_channels)

    def _read_official(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Give weights of the official release the names that they have here."""

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Maps of the neck, of images (B, 3, H, W); tells the head what it needs besides."""
        names = {'stages', *self.stage_features}
        if not self.training and self.text_head.scorer is not None:
            names |= {*self.text_head.scorer.features}
        features, text = self.text_side.encode(self.backbone, batch_inputs, tuple(names), **self.stage_options)
        self.text_head.regions = self.region_inputs(features, text)
        return self.neck(features.stages)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Any]:
        """Losses of mmdet, and ``prompt.*``, the prompt's own."""
        self.check_labels(batch_data_samples)
        try:
            losses = super().loss(batch_inputs, batch_data_samples)
            text = self.text_head.regions.text
        finally:
            self.text_head.regions = None
        losses.update({f'prompt.{name}': value for name, value in self.text_prompt.losses(text).items()})
        return losses

    def predict(self, batch_inputs: Tensor, batch_data_samples: list, rescale: bool = True) -> list:
        """As in mmdet."""
        try:
            return super().predict(batch_inputs, batch_data_samples, rescale)
        finally:
            self.text_head.regions = None


@MODELS.register_module()
class OpenVocabularyTwoStage(OpenVocabularyDetection, TwoStageDetector):
    """A two-stage detector on a frozen CLIP, with regions classified by text.

    Call graph::

        loss / predict --> extract_feat: text_side.encode --> stages, features of regions, class embeddings
                          |    stages --> neck --> rpn_head (mmdet's)
                          +--> roi_head: box embeddings --> cosines with the class embeddings --> loss
                                         boxes --> scorer on the frozen features --> cosines --> fuse

    Args:
        backbone: CLIP's image tower; it is frozen.
        text_encoder: ``vlm_dense.TextTower``.
        roi_head: :class:`~vlm_dense.detection.text_head.TextRoIHead`; widths and numbers of classes are filled in.
        neck: As in mmdet; ``in_channels`` may be left out.
        rpn_head, train_cfg, test_cfg, data_preprocessor, init_cfg: As in mmdet.
        text_prompt: Any text prompt of the contract.
        image_prompt: Any image prompt of the contract.
        class_names: Names in label order, or the type of a data set, a file or a list of the package.
            ``tools/train.py`` and ``tools/test.py`` fill in the data set's.
        base_names: The names that have boxes in training, in any order; others are left out of the loss and get the
            weight ``beta`` at test time. Default: all of ``class_names``.
        background: Phrase of the row of the background; ``None``: a learned vector instead (ViLD).
        padding: Further rows 'empty', which take part in every softmax at test time and are never found.
        head: Of a classifier; refused here.

    Raises:
        ClassNamesError: names that cannot be used.
        ConfigError: a backbone that is no CLIP image tower, towers of different joint spaces, or heads of other kinds.
    """

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        roi_head: dict,
        rpn_head: dict,
        neck: dict,
        text_prompt: dict | None = None,
        image_prompt: dict | None = None,
        class_names: str | Sequence[str] | None = None,
        base_names: str | Sequence[str] | None = None,
        background: str | None = 'background',
        padding: int = 0,
        head: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        self.check_parts(head, backbone, 'roi_head', roi_head, TextRoIHead)
        train_cfg, test_cfg = ConfigDict(train_cfg or {}) or None, ConfigDict(test_cfg or {}) or None
        super().__init__(
            backbone=dict(backbone, frozen=True),
            rpn_head=rpn_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=colours_of_tag(data_preprocessor, backbone, type(self)),
            init_cfg=init_cfg,
        )
        self.neck = MODELS.build(neck, default_args=dict(in_channels=self.neck_channels()))
        self.build_text(text_encoder, text_prompt, class_names, base_names, background, padding, image_prompt)
        self.roi_head = MODELS.build(self._filled(roi_head, train_cfg, test_cfg))
        self.finish()

    @property
    def text_head(self) -> TextRoIHead:
        """As in :class:`OpenVocabularyDetection`."""
        return self.roi_head

    def _filled(self, roi_head: dict, train_cfg: dict | None, test_cfg: dict | None) -> dict:
        """Config of the RoI head with widths, number of classes and the parts of mmdet's train and test config."""
        number = len(self.class_names)
        own = dict(roi_head, train_cfg=train_cfg and train_cfg['rcnn'], test_cfg=test_cfg and test_cfg['rcnn'])
        own['bbox_head'] = dict(own['bbox_head'], num_classes=number, embed_dim=self.text_encoder.embed_dim)
        if own.get('mask_head'):
            own['mask_head'] = dict(own['mask_head'], num_classes=number, class_agnostic=True)
        return own

    def _tell_heads(self) -> None:
        self.roi_head.bbox_head.set_classes([not novel for novel in self.novel])


@MODELS.register_module()
class OpenVocabularySingleStage(OpenVocabularyDetection, SingleStageDetector):
    """A RetinaNet on a frozen CLIP, with anchors classified by text.

    Args:
        bbox_head: :class:`~vlm_dense.detection.text_head.TextRetinaHead`.
        **kwargs: See :class:`OpenVocabularyTwoStage`; ``background`` is a phrase, which only CLIP's own classification
            of a box knows.

    Raises:
        ClassNamesError: names that cannot be used.
        ConfigError: a backbone that is no CLIP image tower, towers of different joint spaces, or another kind of head.
    """

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        bbox_head: dict,
        neck: dict,
        text_prompt: dict | None = None,
        image_prompt: dict | None = None,
        class_names: str | Sequence[str] | None = None,
        base_names: str | Sequence[str] | None = None,
        background: str = 'background',
        head: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        self.check_parts(head, backbone, 'bbox_head', bbox_head, TextRetinaHead)
        train_cfg, test_cfg = ConfigDict(train_cfg or {}) or None, ConfigDict(test_cfg or {}) or None
        colours = colours_of_tag(data_preprocessor, backbone, type(self))
        super(SingleStageDetector, self).__init__(data_preprocessor=colours, init_cfg=init_cfg)  # builds no head yet
        self.backbone = MODELS.build(dict(backbone, frozen=True))
        self.neck = MODELS.build(neck, default_args=dict(in_channels=self.neck_channels()))
        self.build_text(text_encoder, text_prompt, class_names, base_names, background, 0, image_prompt)
        own = dict(num_classes=len(self.class_names), embed_dim=self.text_encoder.embed_dim)
        self.bbox_head = MODELS.build(dict(bbox_head, train_cfg=train_cfg, test_cfg=test_cfg, **own))
        self.train_cfg, self.test_cfg = train_cfg, test_cfg
        self.finish()

    @property
    def text_head(self) -> TextRetinaHead:
        """As in :class:`OpenVocabularyDetection`."""
        return self.bbox_head

    def _tell_heads(self) -> None:
        self.bbox_head.set_classes([not novel for novel in self.novel])
