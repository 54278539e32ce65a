"""DenseCLIP: the segmentor for mmseg, and what the detectors share with it.

"DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, section 3. From the segmentor to
its parts: :class:`DenseCLIP`, :class:`PixelTextMatching` (3.1), :class:`ContextDecoder` (3.2), :class:`IdentityHead`
(3.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS as ROOT_MODELS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors.encoder_decoder import EncoderDecoder
from mmseg.utils import add_prefix
from torch import Tensor, nn

from vlm_dense.clip.preprocessing import colours_of_tag
from vlm_dense.contract.text_side import TextSide, check_image_tower, refuse_head
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.inference import BatchedInference
from vlm_dense.segmentation.strips import use_strips
from vlm_dense.vocabulary.class_names import one_name_each


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
        image_prompt: dict | None = None,
        context_decoder: dict | None = None,
        score_concat_index: int = 3,
        tau: float = 0.07,
        gamma: float = 1e-4,
    ) -> None:
        """Build the text side and the context decoder; for the arguments see :class:`DenseCLIP`."""
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
        variants = self.text_prompt.num_variants
        if self.context_decoder is not None:  # t' of equation (4)
            t = (t if variants is None else t.flatten(-3, -2)).expand(g.shape[0], -1, -1)
            visual = torch.cat([g[:, None], z.flatten(2).transpose(1, 2)], dim=1)
            t = t + self.gamma * self.context_decoder(t, visual)
            t = t if variants is None else t.unflatten(1, (variants, -1))
        score = side.scores(z, t)
        score = score if variants is None else side.combine(score)
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
        class_names: Names in label order, or the type of a data set, a file or a list of the package.
            ``tools/train.py`` and ``tools/test.py`` fill in the data set's.
        score_concat_index: Stage with the channels that the score map joins: 3 for ResNets, 2 for ViT-B/16.
        tau: Temperature of the auxiliary loss.
        gamma: Initial weight of the context decoder's residual.
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
        class_names: str | Sequence[str] | None = None,
        score_concat_index: int = 3,
        tau: float = 0.07,
        gamma: float = 1e-4,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        refuse_head(head, type(self).__name__)
        class_names = one_name_each(class_names)
        count = len(class_names)
        super().__init__(
            backbone=backbone,
            decode_head=counted_head(decode_head, count, 'decode_head'),
            auxiliary_head=counted_head(auxiliary_head, count, 'auxiliary_head'),
            neck=joined_neck(neck, backbone, score_concat_index, count),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=colours_of_tag(data_preprocessor, backbone),
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
        aux = {}
        if self.identity_head is not None:
            aux = self.identity_head.loss(score / self.tau, data_samples, self.train_cfg)
        x = self.neck(stages) if self.with_neck else stages
        losses = self._decode_head_forward_train(x, data_samples)
        losses.update(add_prefix(aux, 'aux_identity'))
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(x, data_samples))
        losses.update(add_prefix(self.text_prompt.losses(text), 'prompt'))
        return losses


# --- section 3.2, equations (3) and (4): post-model prompting ---------------------------------------------------------


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj, x in ((self.q_proj, query), (self.k_proj, memory), (self.v_proj, memory))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))


class _DecoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.self_attn = _Attention(width, heads, dropout)
        self.cross_attn = _Attention(width, heads, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.self_attn(y, y)
        x = x + self.cross_attn(self.norm2(x), memory)
        return x + self.mlp(self.norm3(x))


@MODELS.register_module()
class ContextDecoder(BaseModule):
    """A small transformer with cross-attention of the class embeddings to the image.

    Args:
        width: Inner width.
        heads: Attention heads; must divide ``width``.
        layers: Decoder layers.
        visual_dim: D, width of CLIP's joint space. Filled in by the segmentor.
        dropout: After attention outputs, inside and after the MLP.
        init_cfg: mmengine's. The constructor draws the official initial values.
    """

    def __init__(
        self,
        visual_dim: int,
        width: int = 256,
        heads: int = 4,
        layers: int = 3,
        dropout: float = 0.1,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if width % heads:
            raise ConfigError(f'ContextDecoder: heads must divide width, found heads={heads}, width={width}.')
        self.memory_proj = nn.Sequential(nn.LayerNorm(visual_dim), nn.Linear(visual_dim, width), nn.LayerNorm(width))
        self.text_proj = nn.Sequential(nn.LayerNorm(visual_dim), nn.Linear(visual_dim, width))
        self.decoder = nn.ModuleList(_DecoderLayer(width, heads, dropout) for _ in range(layers))
        self.out_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, visual_dim))
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def forward(self, text: Tensor, visual: Tensor) -> Tensor:
        """Residual of the class embeddings from the image.

        Args:
            text: (B, K, D) class embeddings.
            visual: (B, 1 + h*w, D) global feature and dense features.

        Returns:
            (B, K, D).
        """
        x = self.text_proj(text)
        memory = self.memory_proj(visual)
        for layer in self.decoder:
            x = layer(x, memory)
        return self.out_proj(x)


# --- section 3.3, equation (6): the auxiliary loss --------------------------------------------------------------------


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


# --- configs, before anything is built --------------------------------------------------------------------------------


def joined_neck(neck: dict | None, backbone: dict, index: int, num_classes: int) -> dict | None:
    """Config of a neck with ``in_channels`` of the backbone's stages and of the score map that joins one of them.

    Raises:
        ConfigError: a backbone that is no image tower, no such stage, or a neck for other channels.
    """
    if neck is None:
        return None
    kind = backbone['type'] if isinstance(backbone['type'], type) else ROOT_MODELS.get(backbone['type'])
    if kind is None:  # mmengine says so when it builds it
        return neck
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
