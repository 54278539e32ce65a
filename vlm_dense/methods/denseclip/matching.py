"""DenseCLIP's pixel-text matching, the same for a segmentor and a detector, on CLIP's image tower or another backbone.

"DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from vlm_dense.contract.text_side import TextSide, check_image_tower
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import MODELS


class PixelTextMatching:
    """Methods of a model with a neck that gets a stage map with one more channel a class: how near pixel and class are.

    The model is one of mmseg or mmdet with ``backbone``, CLIP's image tower or ``vlm_dense.PooledBackbone``. Its
    constructor calls :meth:`build_matching`.

    Attributes:
        join_over_tau: The map joins the stage divided by the temperature (detection), not as it is (segmentation).
    """

    join_over_tau = False

    def build_matching(
        self,
        text_encoder: dict,
        text_prompt: dict,
        class_names: Sequence[str],
        image_prompt: dict | None,
        context_decoder: dict | None,
        score_concat_index: int,
        tau: float,
        gamma: float,
    ) -> None:
        """Build the text side and the context decoder; for the arguments see
        :class:`vlm_dense.methods.denseclip.segmentor.DenseCLIP`."""
        built = TextSide.build(text_encoder, text_prompt, class_names, image_prompt, self.backbone)
        self.text_encoder, self.text_prompt, self.image_prompt = built.modules
        self.context_decoder = None
        if context_decoder is not None:
            dim = self.text_encoder.embed_dim
            self.context_decoder = MODELS.build(context_decoder, default_args=dict(visual_dim=dim))
            self.gamma = nn.Parameter(torch.full((dim,), gamma))
        self.score_concat_index = score_concat_index
        self.tau = tau
        self._register_load_state_dict_pre_hook(self._rename_official_keys)

    @property
    def text_side(self) -> TextSide:
        """Text tower and prompts."""
        return TextSide(self.text_encoder, self.text_prompt, self.image_prompt)

    def guide(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Maps for the neck with the score map joined, the score map, and the class embeddings.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            Stages; s (B, K, h, w), the cosine between pixels and class embeddings that have seen the image; and t,
            (K, D) or (B, K, D), with V variants (V, K, D) or (B, V, K, D), of which the prompt combines the maps.

        Raises:
            ConfigError: the stage and the score map have different strides.
        """
        side = self.text_side
        features, text = side.encode(self.backbone, images, ('stages', 'global', 'dense'))
        g, z, t = features.global_, features.dense, text
        if self.context_decoder is not None:  # t' of equation (4)
            variants = self.text_prompt.num_variants
            t = (t if variants is None else t.flatten(-3, -2)).expand(g.shape[0], -1, -1)
            visual = torch.cat([g[:, None], z.flatten(2).transpose(1, 2)], dim=1)
            t = t + self.gamma * self.context_decoder(t, visual)
            t = t if variants is None else t.unflatten(1, (variants, -1))
        score = side.combine(side.scores(z, t))
        stages, index = list(features.stages), self.score_concat_index
        if stages[index].shape[2:] != score.shape[2:]:
            raise ConfigError(
                f'{type(self).__name__}: the score map is {tuple(score.shape[2:])} and stage {index} is '
                f'{tuple(stages[index].shape[2:])}. score_concat_index must name the stage with the stride of the '
                'score map: 3 for ResNets, 2 for ViT with patch 16, 1 for ViT with patch 8.'
            )
        stages[index] = torch.cat([stages[index], score / self.tau if self.join_over_tau else score], dim=1)
        return stages, score, text

    def _rename_official_keys(self, state_dict: dict, prefix: str, *args) -> None:
        """Read the official release, with ``contexts`` that live in the prompt here."""
        if prefix + 'contexts' in state_dict:
            state_dict[prefix + 'text_prompt.contexts'] = state_dict.pop(prefix + 'contexts')


# --- configs, before anything is built --------------------------------------------------------------------------------


def joined_neck(neck: dict | None, backbone: dict, index: int, num_classes: int) -> dict | None:
    """Config of a neck with ``in_channels`` of the backbone's stages and of the score map that joins one of them.

    Raises:
        ConfigError: a backbone that is no image tower, no such stage, or a neck for other channels.
    """
    if neck is None:
        return None
    kind = backbone['type'] if isinstance(backbone['type'], type) else ROOT_MODELS.get(backbone['type'])
    check_image_tower(kind)
    own, given = kind.stage_channels(backbone), neck.get('in_channels')
    if not -len(own) <= index < len(own):
        raise ConfigError(f'DenseCLIP: score_concat_index={index}, but the backbone has {len(own)} stages.')
    joined = [c + num_classes * (i == index % len(own)) for i, c in enumerate(own)]
    if given is not None and list(given) not in (own, joined):
        raise ConfigError(
            f'DenseCLIP: neck.in_channels={list(given)}, but the stages of the backbone have {own} channels and there '
            f'are {num_classes} classes. Leave in_channels out.'
        )
    return dict(neck, in_channels=joined)


def counted_head(head: dict | list | None, num_classes: int, name: str) -> dict | list | None:
    """Config of a head of mmseg or mmdet, or of a list of them, with ``num_classes`` filled in; a copy.

    Raises:
        ClassNamesError: it has another number of classes.
    """
    if isinstance(head, (list, tuple)):
        return [counted_head(one, num_classes, f'{name}.{i}') for i, one in enumerate(head)]
    if not isinstance(head, dict):
        return head
    if name == 'roi_head':
        parts = {k: counted_head(head[k], num_classes, f'{name}.{k}') for k in ('bbox_head', 'mask_head') if k in head}
        return dict(head, **parts)
    if head.get('num_classes') not in (None, num_classes):
        raise ClassNamesError(
            f'{num_classes} class names for {name}.num_classes={head["num_classes"]}. Leave num_classes out, or set it '
            'to the number of names.'
        )
    return dict(head, num_classes=num_classes)
