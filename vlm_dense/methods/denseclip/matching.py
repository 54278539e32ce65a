"""DenseCLIP's pixel-text matching, the same for a segmentor and a detector, on CLIP's image tower or another backbone.

"DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.contract.text_guided import TextGuided
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import MODELS


class PixelTextMatching(TextGuided):
    """Mixin of models whose neck gets a stage map with one more channel a class: how near pixel and class are.

    Attributes:
        join_over_tau: The map joins the stage divided by the temperature (detection), not as it is (segmentation).
    """

    join_over_tau = False

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        text_prompt: dict,
        image_prompt: dict | None = None,
        context_decoder: dict | None = None,
        class_names: Sequence[str] | None = None,
        score_concat_index: int = 3,
        tau: float = 0.07,
        gamma: float = 1e-4,
        neck: dict | None = None,
        **kwargs: Any,
    ):
        """Build the model of mmseg or mmdet, then the text side.

        Args:
            backbone: CLIP's image tower, or ``vlm_dense.PooledBackbone``.
            text_encoder, text_prompt, class_names, image_prompt: See :meth:`TextGuided.build_text`.
            context_decoder: ``vlm_dense.ContextDecoder``: post-model prompting, section 3.2; ``None`` for none.
            score_concat_index: Stage that the score map joins.
            tau: Temperature of the loss on the score map.
            gamma: Initial weight of what the context decoder adds.
            neck: As in mmseg and mmdet. Its ``in_channels`` may be left out, or be those of the backbone: the channels
                of the score map, one a class, are added here.
            **kwargs: Of the model; heads whose ``num_classes`` is left out get the number of ``class_names``.

        Raises:
            ClassNamesError: no names, or another number of names than a head has classes.
            ConfigError: a backbone without global and dense features in the joint space of the text encoder, or a neck
                for other channels.
        """
        self.check_parts(kwargs)
        self.check_names(class_names)
        kwargs = _with_classes(kwargs, len(class_names))
        tower = ROOT_MODELS.build(backbone)  # first, as its channels are those of the neck
        if neck is not None:
            neck = dict(neck, in_channels=self._neck_channels(tower, neck, score_concat_index, len(class_names)))
        super().__init__(backbone=dict(type=lambda: tower), neck=neck, **kwargs)
        self.build_text(text_encoder, text_prompt, class_names, image_prompt, self.backbone)
        self.context_decoder = None
        if context_decoder is not None:
            dim = self.text_encoder.embed_dim
            self.context_decoder = MODELS.build(context_decoder, default_args=dict(visual_dim=dim))
            self.gamma = nn.Parameter(torch.full((dim,), gamma))
        self.score_concat_index = score_concat_index
        self.tau = tau
        self._register_load_state_dict_pre_hook(self._rename_official_keys)

    def _neck_channels(self, tower: nn.Module, neck: dict, index: int, num_classes: int) -> list[int]:
        """Channels of the stages with the score map joined."""
        self.check_tower(tower)
        own, given = list(tower.out_channels), neck.get('in_channels')
        if not -len(own) <= index < len(own):
            raise ConfigError(
                f'{type(self).__name__}: score_concat_index={index}, but the backbone has {len(own)} stages.'
            )
        joined = [c + num_classes * (i == index % len(own)) for i, c in enumerate(own)]
        if given is not None and list(given) not in (own, joined):
            raise ConfigError(
                f'{type(self).__name__}: neck.in_channels={list(given)}, but the stages of the backbone have {own} '
                f'channels and there are {num_classes} classes. Leave in_channels out.'
            )
        return joined

    def match(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """Score map s (B, K, h, w): cosine between pixels and class embeddings that have seen the image.

        Args:
            features: With ``global_`` g (B, D) and ``dense`` z (B, D, h, w).
            text: t, (K, D) or (B, K, D); with V variants (V, K, D) or (B, V, K, D), whose maps the prompt combines.
        """
        g, z = features.global_, features.dense
        if self.context_decoder is not None:
            variants = self.text_prompt.num_variants
            text = (text if variants is None else text.flatten(-3, -2)).expand(g.shape[0], -1, -1)
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


def _with_classes(parts: dict, num_classes: int, path: str = '') -> dict:
    """A model's config whose heads have a number of classes; a copy.

    Raises:
        ClassNamesError: a head has another one.
    """
    filled = dict(parts)
    for key in [k for k in ('decode_head', 'auxiliary_head', 'bbox_head', 'mask_head', 'roi_head') if k in parts]:
        several = isinstance(parts[key], (list, tuple))
        heads = [dict(one) if isinstance(one, dict) else one for one in (parts[key] if several else [parts[key]])]
        for i, head in enumerate(heads):
            here = f'{path}{key}.{i}' if several else f'{path}{key}'
            if isinstance(head, dict) and key == 'roi_head':
                heads[i] = _with_classes(head, num_classes, f'{here}.')
            elif isinstance(head, dict) and head.setdefault('num_classes', num_classes) not in (None, num_classes):
                raise ClassNamesError(
                    f'{num_classes} class names for {here}.num_classes={head["num_classes"]}. Leave num_classes out, '
                    'or set it to the number of names.'
                )
            elif isinstance(head, dict):
                head['num_classes'] = num_classes
        filled[key] = heads if several else heads[0]
    return filled
