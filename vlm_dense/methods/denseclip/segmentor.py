"""DenseCLIP for mmseg.

"DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models import EncoderDecoder
from mmseg.utils import add_prefix
from torch import Tensor

from vlm_dense.methods.denseclip.matching import PixelTextMatching
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.inference import BatchedInference
from vlm_dense.segmentation.strip_loss import use_strips


@MODELS.register_module()
class DenseCLIP(PixelTextMatching, BatchedInference, EncoderDecoder):
    """Pixel-text matching as guidance for an ordinary segmentor.

    Call graph::

        loss / predict --> guide: backbone.encode --> stages, g, z
                          |       class embeddings t (text_prompt, text_encoder; cached in eval mode)
                          |       t' = t + gamma * context_decoder(t, [g; z])        (section 3.2, eq. 4)
                          |       s = <z/|z|, t'/|t'|>                               (section 3.1, eq. 1)
                          +------ stages[score_concat_index] = [stage; s] --> neck
        decode_head(neck) ; identity_head(s / tau) during training                        (section 3.3, eq. 6)

    Args:
        backbone: ``vlm_dense.CLIPResNet`` with ``attnpool=True`` or ``vlm_dense.CLIPViT`` with ``head=True``.
        text_encoder: ``vlm_dense.TextTower``.
        text_prompt: Any text prompt of the contract; the published models use ``vlm_dense.DenseCLIPPrompt``.
        image_prompt: Any image prompt of the contract; tokens need a ViT.
        context_decoder: ``vlm_dense.ContextDecoder``, or ``None`` for no post-model prompting (t' = t).
        decode_head, neck, auxiliary_head, train_cfg, test_cfg, data_preprocessor, init_cfg: As in mmseg.
        identity_head: Head of the auxiliary pixel-text loss, ``vlm_dense.IdentityHead``; ``None`` for no such loss.
        class_names: Names in label order. ``tools/train.py`` and ``tools/test.py`` fill in the data set's.
        score_concat_index: Stage whose channels the score map joins: 3 for ResNets, 2 for ViT-B/16.
        tau: Temperature of the auxiliary loss.

    Raises:
        ClassNamesError: no names, or another number of names than ``decode_head.num_classes``.
        ConfigError: a backbone that is no CLIP image tower.
    """

    def __init__(
        self, *args: Any, identity_head: dict | None = None, class_names: Sequence[str] | None = None, **kwargs: Any
    ):
        super().__init__(*args, class_names=class_names, **kwargs)
        self.identity_head = None
        if identity_head is not None:
            self.identity_head = MODELS.build(identity_head, default_args=dict(num_classes=self.num_classes))
            use_strips(self.identity_head)

    def _neck(self, stages: list[Tensor]) -> list[Tensor]:
        return self.neck(stages) if self.with_neck else stages

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """Maps for the decode head, of images (B, 3, H, W)."""
        return self._neck(self.guide(inputs)[0])

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses ``decode.*``, ``aux_identity.*``, ``aux.*`` (auxiliary_head) and ``prompt.*`` (the prompt's own)."""
        stages, score, text = self.guide(inputs)
        x = self._neck(stages)
        losses = self._decode_head_forward_train(x, data_samples)
        if self.identity_head is not None:
            aux = self.identity_head.loss(score / self.tau, data_samples, self.train_cfg)
            losses.update(add_prefix(aux, 'aux_identity'))
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(x, data_samples))
        losses.update(add_prefix(self.text_prompt.losses(text), 'prompt'))
        return losses
