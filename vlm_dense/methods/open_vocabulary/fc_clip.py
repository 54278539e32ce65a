"""FC-CLIP: masks of a Mask2Former on a single frozen convolutional CLIP, each classified twice.

"Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP", NeurIPS 2023, section 3.

A frozen convolutional CLIP keeps its alignment with texts at large images, so that one pass serves all. Its four maps
feed a Mask2Former that knows no classes; each mask is classified by a trained embedding and by CLIP's features under
the mask. The two probabilities are multiplied with exponents that depend on whether a class was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.utils import add_prefix
from torch import Tensor

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.errors import ConfigError
from vlm_dense.methods.open_vocabulary.proposals import TEMPLATES, ProposalSegmentor, region_embeddings
from vlm_dense.methods.open_vocabulary.text import ClassNames
from vlm_dense.registry import MODELS
from vlm_dense.vocabulary.class_names import Aliases, as_class_names

PAPER = dict(
    name='FC-CLIP',
    title='Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP',
    venue='NeurIPS 2023',
    link='https://arxiv.org/abs/2308.02487',
    code='https://github.com/bytedance/fc-clip',
    licence='Apache-2.0',
    idea='A Mask2Former on a frozen convolutional CLIP; masks are classified by it and by CLIP under the mask.',
    trains='pixel decoder, decoder of queries, embedding of nothing',
    published='COCO panoptic, mIoU of ADE20K / PC-59: RN50 23.3 / 50.5, RN50x64 28.4 / 55.7, ConvNeXt-L 34.1 / 58.4',
    contract='any T; maps of four strides, the last one under masks',
    notes="""
Masks, matching and losses are those of mmdet's Mask2Former. A text prompt other than the paper's classifies both ways.
""",
)


@MODELS.register_module()
class FCCLIP(ProposalSegmentor):
    """FC-CLIP as a segmentor; its masks also make panoptic segments and instances.

    Call graph::

        loss / predict --> text_side.encode: maps of the frozen tower, class embeddings of all names
                --> decode_head: masks (B, N, h, w), logits of trained embeddings (B, N, K + 1)
        predict --> region_embeddings: CLIP's last map under masks --> classify --> ensemble --> scores (B, N, K + 1)
                --> semantic: sum of scores * masks; panoptic; instances

    Args:
        backbone: A frozen tower with maps of strides 4, 8, 16 and 32, ``vlm_dense.CLIPTower`` of a ConvNeXt or ResNet.
        text_encoder: ``vlm_dense.TextTower``, frozen.
        decode_head: Options of ``vlm_dense.NamedMask2FormerHead``.
        class_names: See :class:`~vlm_dense.methods.open_vocabulary.text.OpenVocabularySegmentor`; a class is as
            probable as the most probable of its names.
        trained_names: Classes of the training, as ``class_names``, for tests on others. Default: ``class_names``.
        alpha, beta: Exponents of CLIP's probability for classes with a name among ``trained_names``, and for others.
        ensemble_on_valid_mask: Masks without a place on CLIP's last map are classified by the trained embedding alone.
        **kwargs: ``masks_first``, ``pad_multiple`` and ``panoptic``, see
            :class:`~vlm_dense.methods.open_vocabulary.proposals.ProposalSegmentor`, and those of
            :class:`~vlm_dense.methods.open_vocabulary.text.OpenVocabularySegmentor`.
    """

    default_prompt = dict(type='vlm_dense.ZeroShotPrompt', templates=TEMPLATES)

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        decode_head: dict | None = None,
        class_names: ClassNames | None = None,
        trained_names: ClassNames | None = None,
        alpha: float = 0.4,
        beta: float = 0.8,
        ensemble_on_valid_mask: bool = False,
        **kwargs: Any,
    ):
        for name, value in (('alpha', alpha), ('beta', beta)):
            if not 0 <= value <= 1:
                raise ConfigError(f'{type(self).__name__}: {name} must be from 0 to 1, found {value}.')
        head = dict(type='vlm_dense.NamedMask2FormerHead') | dict(decode_head or {})
        super().__init__(dict(backbone, frozen=True), text_encoder, head, class_names=class_names, **kwargs)
        trained = self.class_names if trained_names is None else as_class_names(trained_names)
        self.trained_names = frozenset(name for names in trained for name in names)
        self.alpha, self.beta = alpha, beta
        self.ensemble_on_valid_mask = ensemble_on_valid_mask

    def head_options(self) -> dict:
        """Widths of the tower."""
        tower = self.backbone
        if not hasattr(tower, 'attnpool') and not hasattr(tower, 'embed_map'):
            raise ConfigError(
                f'{type(self).__name__} embeds regions of the last map of a convolutional tower, found '
                f"{type(tower).__name__}. Use vlm_dense.CLIPTower of a ConvNeXt ('convnext_large_d_320') or a ResNet."
            )
        return dict(in_channels=tower.out_channels, embed_dim=tower.embed_dim)

    def _prompt_names(self, classes: Sequence[Aliases]) -> list[str]:
        """All names of all classes."""
        return [name for names in classes for name in names]

    # --- classifier -------------------------------------------------------------------------------------------

    def of_classes(self, names: Tensor) -> Tensor:
        """The best of the names of each class, (B, N, Q) -> (B, N, K)."""
        owners = torch.tensor([k for k, own in enumerate(self.class_names) for _ in own], device=names.device)
        if len(owners) == len(self.class_names):
            return names
        best = names.new_full((*names.shape[:2], len(self.class_names)), -torch.inf)
        return best.scatter_reduce(2, owners.expand_as(names), names, 'amax')

    @property
    def overlaps(self) -> list[bool]:
        """Whether a name of each class was among those of the training."""
        return [any(name in self.trained_names for name in names) for names in self.class_names]

    def ensemble(self, trained: Tensor, frozen: Tensor, valid: Tensor | None = None) -> Tensor:
        """Logarithms of scores (B, N, K + 1): both classifiers' probabilities, and that of nothing.

        Args:
            trained: Logits (B, N, K + 1) of the trained embeddings.
            frozen: Logits (B, N, K + 1) of CLIP under the masks.
            valid: (B, N), whether CLIP's probability counts for a mask; None: for all.
        """
        power = trained.new_tensor([self.alpha if known else self.beta for known in self.overlaps])
        power = power.expand(*trained.shape[:2], -1)
        if valid is not None:
            power = power * valid[..., None]
        inside, outside = (x[..., :-1].log_softmax(dim=-1) for x in (trained, frozen))
        found = ((1 - power) * inside + power * outside).softmax(dim=-1)
        nothing = trained.softmax(dim=-1)[..., -1:]
        return (torch.cat([found * (1 - nothing), nothing], dim=-1) + 1e-8).log()

    # --- network ----------------------------------------------------------------------------------------------

    def extract_feat(self, inputs: Tensor) -> tuple[ImageFeatures, Tensor]:
        """Maps of the tower, and class embeddings of all names, for padded images (B, 3, H, W)."""
        return self.text_side.encode(self.backbone, inputs, ('stages', 'patch'))

    def propose(self, features: ImageFeatures, text: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Logits (B, N, K + 1) and logits of masks (B, N, h, w) of each prediction, the last one last."""
        self.decode_head.classify = lambda embeddings, scale: self.classify(embeddings, text, scale)
        return self.decode_head(list(features.stages), None)

    def embed_regions(self, dense: Tensor, masks: Tensor) -> Tensor:
        """Embeddings (B, N, D) of regions of CLIP's last map (B, C, h, w), by logits of masks (B, N, H, W)."""
        small = F.interpolate(masks, dense.shape[2:], mode='bilinear', align_corners=False)
        return region_embeddings(self.backbone, dense, small)

    def logits(self, embeddings: Tensor, dense: Tensor, text: Tensor) -> Tensor:
        """Logits (B, N, K + 1) of embeddings (B, N, D) of regions of CLIP's last map."""
        return self.classify(embeddings, text, self.text_encoder.logit_scale)

    def out_logits(self, dense: Tensor, masks: Tensor, text: Tensor) -> Tensor:
        """Logits (B, N, K + 1) of CLIP under masks (B, N, H, W)."""
        return self.logits(self.embed_regions(dense, masks), dense, text)

    def scores(self, features: ImageFeatures, text: Tensor, logits: Tensor, masks: Tensor) -> Tensor:
        """Logarithms of scores (B, N, K + 1) of the last prediction."""
        valid = None
        if self.ensemble_on_valid_mask:
            small = F.interpolate(masks, features.patch.shape[2:], mode='bilinear', align_corners=False)
            valid = (small > 0).flatten(2).any(dim=2)
        return self.ensemble(logits, self.out_logits(features.patch, masks, text), valid)

    def last_prediction(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As in :class:`ProposalSegmentor`."""
        features, text = self.extract_feat(images)
        logits, masks = self.propose(features, text)
        return masks[-1], self.scores(features, text, logits[-1], masks[-1])

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses ``decode.*`` of images (B, 3, H, W), Mask2Former's, and ``prompt.*``, the prompt's own."""
        features, text = self.extract_feat(inputs)
        losses = add_prefix(self.decode_head.losses(*self.propose(features, text), data_samples), 'decode')
        losses.update(add_prefix(self.text_prompt.losses(text), 'prompt'))
        return losses

    # --- checkpoints ------------------------------------------------------------------------------------------

    def _read_official(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Give weights of the official release the names that they have here."""
        for key in list(state_dict):
            name = key.removeprefix(prefix)
            if name == 'backbone.clip_model.logit_scale':  # a buffer that no state dict holds
                self.text_encoder.logit_scale.data.copy_(state_dict[key])
            if name in _LEFT_OUT:
                del state_dict[key]
                continue
            for pattern, ours in _OFFICIAL:
                name = re.sub(pattern, ours, name)
            state_dict[prefix + name] = state_dict.pop(key)


_LEFT_OUT = ('criterion.empty_weight', 'backbone.clip_model.logit_scale', 'backbone.clip_model.attn_mask')
_LAYER = r'decode_head.transformer_decoder.layers.\1'
_OFFICIAL = (
    (r'^backbone\.clip_model\.visual\.', 'backbone.'),
    (r'^backbone\.clip_model\.', 'text_encoder.'),
    (r'^sem_seg_head\.pixel_decoder\.', 'decode_head.pixel_decoder.'),
    (r'pixel_decoder\.input_proj\.(\d+)\.0', r'pixel_decoder.input_convs.\1.conv'),
    (r'pixel_decoder\.input_proj\.(\d+)\.1', r'pixel_decoder.input_convs.\1.gn'),
    (r'pixel_decoder\.transformer\.level_embed', 'pixel_decoder.level_encoding.weight'),
    (r'pixel_decoder\.transformer\.encoder', 'pixel_decoder.encoder'),
    (r'(encoder\.layers\.\d+)\.norm1', r'\1.norms.0'),
    (r'(encoder\.layers\.\d+)\.norm2', r'\1.norms.1'),
    (r'(encoder\.layers\.\d+)\.linear1', r'\1.ffn.layers.0.0'),
    (r'(encoder\.layers\.\d+)\.linear2', r'\1.ffn.layers.1'),
    (r'pixel_decoder\.adapter_1\.norm', 'pixel_decoder.lateral_convs.0.gn'),
    (r'pixel_decoder\.adapter_1', 'pixel_decoder.lateral_convs.0.conv'),
    (r'pixel_decoder\.layer_1\.norm', 'pixel_decoder.output_convs.0.gn'),
    (r'pixel_decoder\.layer_1', 'pixel_decoder.output_convs.0.conv'),
    (r'pixel_decoder\.mask_features', 'pixel_decoder.mask_feature'),
    (r'^sem_seg_head\.predictor\.', 'decode_head.'),
    (r'^decode_head\.transformer_cross_attention_layers\.(\d+)\.multihead_attn', rf'{_LAYER}.cross_attn.attn'),
    (r'^decode_head\.transformer_cross_attention_layers\.(\d+)\.norm', rf'{_LAYER}.norms.0'),
    (r'^decode_head\.transformer_self_attention_layers\.(\d+)\.self_attn', rf'{_LAYER}.self_attn.attn'),
    (r'^decode_head\.transformer_self_attention_layers\.(\d+)\.norm', rf'{_LAYER}.norms.1'),
    (r'^decode_head\.transformer_ffn_layers\.(\d+)\.linear1', rf'{_LAYER}.ffn.layers.0.0'),
    (r'^decode_head\.transformer_ffn_layers\.(\d+)\.linear2', rf'{_LAYER}.ffn.layers.1'),
    (r'^decode_head\.transformer_ffn_layers\.(\d+)\.norm', rf'{_LAYER}.norms.2'),
    (r'^decode_head\.decoder_norm', 'decode_head.transformer_decoder.post_norm'),
    (r'^decode_head\.input_proj\.', 'decode_head.decoder_input_projs.'),
    (r'^decode_head\._mask_pooling_proj', 'decode_head.mask_pooling_proj'),
    *((rf'_embed\.layers\.{i}\.', f'_embed.{2 * i}.') for i in range(3)),
)
