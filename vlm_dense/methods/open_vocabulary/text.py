"""Base of trained open-vocabulary segmentors: the towers, the text prompt, and names that may be replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models.segmentors.encoder_decoder import EncoderDecoder
from torch import Tensor

from vlm_dense.contract.text_side import TextSide
from vlm_dense.registry import MODELS, registered
from vlm_dense.segmentation.inference import BatchedInference
from vlm_dense.vocabulary.class_names import Aliases, as_class_names, one_name_each

ClassNames = str | Sequence[str | Sequence[str]]


class OpenVocabularySegmentor(BatchedInference, EncoderDecoder):
    """A segmentor with a text side, and a head with no weight for any class.

    Args:
        backbone: CLIP's image tower.
        text_encoder: ``vlm_dense.TextTower``.
        decode_head: The head; what follows from towers, prompt and names is filled in.
        text_prompt: Any text prompt of the contract.
        image_prompt: Any image prompt of the contract.
        class_names: Names in label order, one or several a class, or the type of a data set, a file or a list of the
            package. ``tools/train.py`` and ``tools/test.py`` fill in the data set's.
        **kwargs: ``data_preprocessor``, ``train_cfg``, ``test_cfg``, ``init_cfg`` as in mmseg; ``test_cfg`` see
            :class:`~vlm_dense.segmentation.inference.BatchedInference`.

    Attributes:
        default_prompt: Config of the text prompt that the paper has.
        class_names: The names of each class.

    Raises:
        ClassNamesError: names that cannot be used.
        ConfigError: a backbone that is no CLIP image tower, or towers of different joint spaces.
    """

    default_prompt: dict = {}

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        decode_head: dict,
        text_prompt: dict | None = None,
        image_prompt: dict | None = None,
        class_names: ClassNames | None = None,
        **kwargs: Any,
    ):
        text = dict(
            text_encoder=text_encoder,
            text_prompt=dict(text_prompt or self.default_prompt),
            image_prompt=image_prompt,
            class_names=class_names,
        )
        super().__init__(backbone, dict(decode_head, text=text), **kwargs)
        self._register_load_state_dict_pre_hook(self._read_official)

    def _init_decode_head(self, decode_head: dict) -> None:
        """As in mmseg; the text side is built first, since the head's width follows from its variants."""
        text = decode_head.pop('text')
        self._prompt_cfg, names = text['text_prompt'], text.pop('class_names')
        if names is None:
            one_name_each(None)  # tells where names come from
        self.class_names = as_class_names(names)
        built = TextSide.build(
            text['text_encoder'],
            text['text_prompt'],
            self._prompt_names(self.class_names),
            text['image_prompt'],
            self.backbone,
        )
        self.text_encoder, self.text_prompt, self.image_prompt = built.modules
        super()._init_decode_head(dict(decode_head, num_classes=len(self.class_names), **self.head_options()))

    def head_options(self) -> dict:
        """Options of the head that follow from towers and prompt."""
        raise NotImplementedError

    def _prompt_names(self, classes: Sequence[Aliases]) -> list[str]:
        """One string a class: its first name; all, where the prompt has a ``separator`` at which it splits them."""
        separator = getattr(registered(MODELS, self._prompt_cfg['type']), 'separator', None)
        return [names[0] if separator is None else separator.join(names) for names in classes]

    @property
    def text_side(self) -> TextSide:
        """Text tower and prompts."""
        return TextSide(self.text_encoder, self.text_prompt, self.image_prompt)

    def set_class_names(self, class_names: ClassNames) -> None:
        """Segment by other classes from now on; what the prompt has learned is kept.

        Raises:
            ClassNamesError: names that cannot be used, or a prompt that has learned something for each class.
        """
        classes = as_class_names(class_names)
        if classes != self.class_names:
            prompt = self.text_side.prompt_for(self._prompt_cfg, self._prompt_names(classes), self.backbone)
            self.text_prompt, self.class_names = prompt.train(self.training), classes
        self.num_classes = self.out_channels = len(classes)
        self.decode_head.num_classes = self.decode_head.out_channels = len(classes)

    def _read_official(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Give weights of the official release the names that they have here."""
