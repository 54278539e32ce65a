"""DenseCLIP for mmseg.

"DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmseg.models import EncoderDecoder
from mmseg.utils import add_prefix
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.methods.text_prompts.guided import TextGuided
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.inference import BatchedInference


@MODELS.register_module()
class DenseCLIP(TextGuided, BatchedInference, EncoderDecoder):
    """Pixel-text matching as guidance for an ordinary segmentor.

    Call graph::

        loss / predict --> _features: backbone.encode --> stages, g, z
                               |       class embeddings t (text_prompt, text_encoder; cached in eval mode)
                               |       t' = t + gamma * context_decoder(t, [g; z])        (section 3.2, eq. 4)
                               |       s = <z/|z|, t'/|t'|>                               (section 3.1, eq. 1)
                               +------ stages[score_concat_index] = [stage; s] --> neck
        decode_head(neck) ; identity_head(s / tau) during training                        (section 3.3, eq. 6)

    Args:
        backbone: ``vlm_dense.CLIPResNet`` with ``attnpool=True`` or ``vlm_dense.CLIPViT`` with ``head=True``.
        text_encoder: ``vlm_dense.TextTower``.
        text_prompt: Any text prompt of the contract; the published models use ``vlm_dense.DenseCLIPPrompt``.
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
        self,
        backbone: dict,
        text_encoder: dict,
        text_prompt: dict,
        decode_head: dict,
        context_decoder: dict | None = None,
        identity_head: dict | None = None,
        class_names: Sequence[str] | None = None,
        score_concat_index: int = 3,
        tau: float = 0.07,
        gamma: float = 1e-4,
        **kwargs,
    ):
        super().__init__(backbone=backbone, decode_head=decode_head, **kwargs)
        if class_names is not None and len(class_names) != self.num_classes:
            raise ClassNamesError(
                f'DenseCLIP: {len(class_names)} class names for decode_head.num_classes={self.num_classes}. Set '
                f'num_classes (and the FPN in_channels, which hold one channel a class) to the number of names.'
            )
        self.build_text(text_encoder, text_prompt, class_names)
        dim = self.text_encoder.embed_dim
        if context_decoder is not None:
            self.context_decoder = MODELS.build(context_decoder, default_args=dict(visual_dim=dim))
            self.gamma = nn.Parameter(torch.full((dim,), gamma))
        else:
            self.context_decoder = None
        self.identity_head = None
        if identity_head is not None:
            self.identity_head = MODELS.build(identity_head, default_args=dict(num_classes=self.num_classes))
        self.score_concat_index = score_concat_index
        self.tau = tau
        self._register_load_state_dict_pre_hook(self._rename_official_keys)

    # --- forward ----------------------------------------------------------------------------------------------

    def match(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """Score map s (B, K, h, w): cosine between pixels and class embeddings that have seen the image.

        Args:
            features: With ``global_`` g (B, D) and ``dense`` z (B, D, h, w).
            text: t, (K, D) or (B, K, D).
        """
        g, z = features.global_, features.dense
        text = text.expand(len(g), -1, -1)
        if self.context_decoder is not None:
            visual = torch.cat([g[:, None], z.flatten(2).transpose(1, 2)], dim=1)
            text = text + self.gamma * self.context_decoder(text, visual)
        return torch.einsum('bdhw,bkd->bkhw', F.normalize(z, dim=1), F.normalize(text, dim=-1))

    def _features(self, inputs: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Maps for the neck with the score map joined, the score map s, and t."""
        features = self.backbone.encode(inputs, ('stages', 'global', 'dense'))
        text = self.class_embeddings(features.global_)
        score = self.match(features, text)
        stages = list(features.stages)
        stage = stages[self.score_concat_index]
        if stage.shape[2:] != score.shape[2:]:
            raise ConfigError(
                f'DenseCLIP: the score map is {tuple(score.shape[2:])} and stage {self.score_concat_index} is '
                f'{tuple(stage.shape[2:])}. score_concat_index must name the stage with the stride of the score map: '
                '3 for ResNets, 2 for ViT with patch 16, 1 for ViT with patch 8.'
            )
        stages[self.score_concat_index] = torch.cat([stage, score], dim=1)
        return stages, score, text

    def _neck(self, stages: list[Tensor]) -> list[Tensor]:
        return self.neck(stages) if self.with_neck else stages

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """Maps for the decode head, of images (B, 3, H, W)."""
        return self._neck(self._features(inputs)[0])

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses ``decode.*``, ``aux_identity.*``, ``aux.*`` (auxiliary_head) and ``prompt.*`` (the prompt's own)."""
        stages, score, text = self._features(inputs)
        x = self._neck(stages)
        losses = self._decode_head_forward_train(x, data_samples)
        if self.identity_head is not None:
            aux = self.identity_head.loss(score / self.tau, data_samples, self.train_cfg)
            losses.update(add_prefix(aux, 'aux_identity'))
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(x, data_samples))
        losses.update(add_prefix(self.text_prompt.losses(text), 'prompt'))
        return losses

    # --- checkpoints ------------------------------------------------------------------------------------------

    def _rename_official_keys(self, state_dict: dict, prefix: str, *args) -> None:
        """Read the official release, whose ``contexts`` live in the prompt here."""
        if prefix + 'contexts' in state_dict:
            state_dict[prefix + 'text_prompt.contexts'] = state_dict.pop(prefix + 'contexts')
