"""DenseCLIP for mmseg.

"DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.utils import add_prefix
from torch import Tensor

from vlm_dense.contract.text_side import refuse_head
from vlm_dense.methods.denseclip.matching import PixelTextMatching, counted_head, joined_neck
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.inference import BatchedInference
from vlm_dense.segmentation.strip_loss import use_strips
from vlm_dense.vocabulary.class_names import check_names


@MODELS.register_module()
class DenseCLIP(PixelTextMatching, BatchedInference, EncoderDecoder):
    """Pixel-text matching as guidance for an ordinary segmentor.

    Call graph::

        loss / predict --> guide: text_side.encode --> stages, g, z (backbone)
                          |       class embeddings t (text_prompt, text_encoder; cached in eval mode)
                          |       t' = t + gamma * context_decoder(t, [g; z])        (section 3.2, eq. 4)
                          |       s = <z/|z|, t'/|t'|>                               (section 3.1, eq. 1)
                          +------ stages[score_concat_index] = [stage; s] --> neck
        decode_head(neck) ; identity_head(s / tau) during training                        (section 3.3, eq. 6)

    Args:
        backbone: ``vlm_dense.CLIPResNet`` with ``attnpool=True``, ``vlm_dense.CLIPViT`` with ``head=True`` or
            ``vlm_dense.PooledBackbone``.
        text_encoder: ``vlm_dense.TextTower``.
        text_prompt: Any text prompt of the contract; the published models use ``vlm_dense.DenseCLIPPrompt``.
        image_prompt: Any image prompt of the contract; tokens need a ViT.
        context_decoder: ``vlm_dense.ContextDecoder``, or ``None`` for no post-model prompting (t' = t).
        decode_head, auxiliary_head: As in mmseg; where ``num_classes`` is left out, it is the number of names.
        neck: As in mmseg. Its ``in_channels`` may be left out, or be those of the backbone: the channels of the score
            map, one a class, are added here.
        train_cfg, test_cfg, data_preprocessor, init_cfg: As in mmseg.
        identity_head: Head of the auxiliary pixel-text loss, ``vlm_dense.IdentityHead``; ``None`` for no such loss.
        class_names: Names in label order. ``tools/train.py`` and ``tools/test.py`` fill in the data set's.
        score_concat_index: Stage whose channels the score map joins: 3 for ResNets, 2 for ViT-B/16.
        tau: Temperature of the auxiliary loss.
        gamma: Initial weight of what the context decoder adds.
        head: Of a classifier; refused here.

    Raises:
        ClassNamesError: no names, or another number of names than a head has classes.
        ConfigError: a backbone without global and dense features in the joint space of the text encoder, or a neck for
            other channels.
    """

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        text_prompt: dict,
        decode_head: dict,
        image_prompt: dict | None = None,
        context_decoder: dict | None = None,
        neck: dict | None = None,
        auxiliary_head: dict | Sequence[dict] | None = None,
        identity_head: dict | None = None,
        head: dict | None = None,
        class_names: Sequence[str] | None = None,
        score_concat_index: int = 3,
        tau: float = 0.07,
        gamma: float = 1e-4,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        refuse_head(head, type(self).__name__)
        check_names(class_names)
        count = len(class_names)
        super().__init__(
            backbone=backbone,
            neck=joined_neck(neck, backbone, score_concat_index, count),
            decode_head=counted_head(decode_head, count, 'decode_head'),
            auxiliary_head=counted_head(auxiliary_head, count, 'auxiliary_head'),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.build_matching(
            text_encoder, text_prompt, class_names, image_prompt, context_decoder, score_concat_index, tau, gamma
        )
        self.identity_head = None
        if identity_head is not None:
            self.identity_head = MODELS.build(identity_head, default_args=dict(num_classes=self.num_classes))
            use_strips(self.identity_head)

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """Maps for the decode head, of images (B, 3, H, W)."""
        stages = self.guide(inputs)[0]
        return self.neck(stages) if self.with_neck else stages

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses ``decode.*``, ``aux_identity.*``, ``aux.*`` (auxiliary_head) and ``prompt.*`` (the prompt's own)."""
        stages, score, text = self.guide(inputs)
        x = self.neck(stages) if self.with_neck else stages
        losses = self._decode_head_forward_train(x, data_samples)
        if self.identity_head is not None:
            aux = self.identity_head.loss(score / self.tau, data_samples, self.train_cfg)
            losses.update(add_prefix(aux, 'aux_identity'))
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(x, data_samples))
        losses.update(add_prefix(self.text_prompt.losses(text), 'prompt'))
        return losses


@MODELS.register_module()
class IdentityHead(BaseDecodeHead):
    """Supervises a map that already has one channel a class; has no weights.

    DenseCLIP's auxiliary pixel-text matching loss, section 3.3, equation (6).

    Args:
        num_classes: K.
        loss_decode, ignore_index, sampler, align_corners: As in mmseg.
    """

    def __init__(
        self,
        num_classes: int,
        loss_decode: dict | Sequence[dict] | None = None,
        ignore_index: int = 255,
        sampler: dict | None = None,
        align_corners: bool = False,
    ):
        super().__init__(
            in_channels=num_classes,
            channels=num_classes,
            num_classes=num_classes,
            dropout_ratio=0,
            loss_decode=loss_decode or dict(type='mmseg.CrossEntropyLoss'),
            ignore_index=ignore_index,
            sampler=sampler,
            align_corners=align_corners,
            init_cfg=None,
        )
        del self.conv_seg

    def forward(self, inputs: Tensor) -> Tensor:
        """The map (B, K, h, w) itself."""
        return inputs
