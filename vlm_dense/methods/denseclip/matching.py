"""DenseCLIP's pixel-text matching, the same for a segmentor and a detector, on CLIP's image tower or another backbone.

"DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.methods.base.text_guided import TextGuided
from vlm_dense.registry import MODELS


class PixelTextMatching(TextGuided):
    """Mixin of models whose neck gets a stage map with one more channel a class: how near pixel and class are.

    Attributes:
        join_over_tau: The map joins the stage divided by the temperature (detection), not as it is (segmentation).
    """

    join_over_tau = False

    def build_matching(
        self,
        text_encoder: dict,
        text_prompt: dict,
        context_decoder: dict | None,
        class_names: Sequence[str] | None,
        num_classes: Mapping[str, int],
        score_concat_index: int,
        tau: float,
        gamma: float,
        image_prompt: dict | None = None,
    ) -> None:
        """Set the text side; call it when ``backbone`` is there.

        Args:
            text_encoder, text_prompt, class_names, image_prompt: See :meth:`TextGuided.build_text`.
            context_decoder: Post-model prompting, section 3.2; ``None`` for none.
            num_classes: Config key of each head -> its number of classes.
            score_concat_index: Stage that the score map joins.
            tau: Temperature of the loss on the score map.
            gamma: Initial weight of what the context decoder adds.

        Raises:
            ClassNamesError: no names, or another number of names than a head has classes.
            ConfigError: a backbone without global and dense features in the joint space of the text encoder.
        """
        for key, count in num_classes.items():
            if class_names is not None and len(class_names) != count:
                raise ClassNamesError(
                    f'{type(self).__name__}: {len(class_names)} class names for {key}.num_classes={count}. Set '
                    f'num_classes (and the FPN in_channels, which hold one channel a class) to the number of names.'
                )
        self.build_text(text_encoder, text_prompt, class_names, image_prompt, self.backbone)
        dim = self.text_encoder.embed_dim
        self.context_decoder = None
        if context_decoder is not None:
            self.context_decoder = MODELS.build(context_decoder, default_args=dict(visual_dim=dim))
            self.gamma = nn.Parameter(torch.full((dim,), gamma))
        self.score_concat_index = score_concat_index
        self.tau = tau
        self._register_load_state_dict_pre_hook(self._rename_official_keys)

    def match(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """Score map s (B, K, h, w): cosine between pixels and class embeddings that have seen the image.

        Args:
            features: With ``global_`` g (B, D) and ``dense`` z (B, D, h, w).
            text: t, (K, D) or (B, K, D); with V variants (V, K, D) or (B, V, K, D), whose maps the prompt combines.
        """
        g, z = features.global_, features.dense
        if self.context_decoder is not None:
            variants = self.text_prompt.num_variants
            text = (text if variants is None else text.flatten(-3, -2)).expand(len(g), -1, -1)
            visual = torch.cat([g[:, None], z.flatten(2).transpose(1, 2)], dim=1)
            text = text + self.gamma * self.context_decoder(text, visual)
            text = text if variants is None else text.unflatten(1, (variants, -1))
        return self.similarity(z, text)

    def guide(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Maps for the neck with the score map joined, the score map s (B, K, h, w), and t.

        Args:
            images: (B, 3, H, W), normalised.

        Raises:
            ConfigError: the stage and the score map have different strides.
        """
        features, text = self.encode(images, ('stages', 'global', 'dense'))
        score = self.match(features, text)
        stages = list(features.stages)
        stage = stages[self.score_concat_index]
        if stage.shape[2:] != score.shape[2:]:
            raise ConfigError(
                f'{type(self).__name__}: the score map is {tuple(score.shape[2:])} and stage '
                f'{self.score_concat_index} is {tuple(stage.shape[2:])}. score_concat_index must name the stage with '
                'the stride of the score map: 3 for ResNets, 2 for ViT with patch 16, 1 for ViT with patch 8.'
            )
        joined = score / self.tau if self.join_over_tau else score
        stages[self.score_concat_index] = torch.cat([stage, joined], dim=1)
        return stages, score, text

    def _rename_official_keys(self, state_dict: dict, prefix: str, *args) -> None:
        """Read the official release, whose ``contexts`` live in the prompt here."""
        if prefix + 'contexts' in state_dict:
            state_dict[prefix + 'text_prompt.contexts'] = state_dict.pop(prefix + 'contexts')
