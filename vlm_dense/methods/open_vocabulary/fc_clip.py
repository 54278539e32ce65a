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
from mmdet.models.seg_heads.panoptic_fusion_heads import MaskFormerFusionHead
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData, PixelData
from mmseg.utils import add_prefix
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.errors import ConfigError
from vlm_dense.methods.open_vocabulary.proposals import region_embeddings
from vlm_dense.methods.open_vocabulary.text import ClassNames, OpenVocabularySegmentor
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.inference import own_sizes
from vlm_dense.segmentation.steps import ClassMaps
from vlm_dense.segmentation.window_maps import original_size
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

TEMPLATES = (
    'a photo of a {}.',
    'This is a photo of a {}',
    'There is a {} in the scene',
    'There is the {} in the scene',
    'a photo of a {} in the scene',
    *(f'a photo of a {size} {{}}.' for size in ('small', 'medium', 'large')),
    *(f'This is a photo of a {size} {{}}.' for size in ('small', 'medium', 'large')),
    *(f'There is a {size} {{}} in the scene.' for size in ('small', 'medium', 'large')),
)
"""FC-CLIP's 14."""


@MODELS.register_module()
class FCCLIP(OpenVocabularySegmentor):
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
        masks_first: Masks go to the original size before they are summed up; else the sum goes there.
        pad_multiple: Images are padded at the right and bottom to a multiple of this.
        panoptic: Also give each sample ``pred_panoptic_seg`` and ``pred_instances``, as mmdet's metrics read them:
            ``things``, a list of classes or how many of the first ones are objects, and the options of
            :meth:`panoptic` and :meth:`instances`. Masks then go to the original size first.
        **kwargs: See :class:`~vlm_dense.methods.open_vocabulary.text.OpenVocabularySegmentor`.
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
        masks_first: bool = False,
        pad_multiple: int = 32,
        panoptic: dict | None = None,
        **kwargs: Any,
    ):
        for name, value in (('alpha', alpha), ('beta', beta)):
            if not 0 <= value <= 1:
                raise ConfigError(f'{type(self).__name__}: {name} must be from 0 to 1, found {value}.')
        head = dict(type='vlm_dense.NamedMask2FormerHead') | dict(decode_head or {})
        super().__init__(dict(backbone, frozen=True), text_encoder, head, class_names=class_names, **kwargs)
        self.void_embedding = nn.Embedding(1, self.text_encoder.embed_dim)
        trained = self.class_names if trained_names is None else as_class_names(trained_names)
        self.trained_names = frozenset(name for names in trained for name in names)
        self.alpha, self.beta = alpha, beta
        self.ensemble_on_valid_mask = ensemble_on_valid_mask
        self.masks_first = masks_first or panoptic is not None
        self.panoptic_cfg = panoptic
        self.pad_multiple = pad_multiple

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

    def classify(self, embeddings: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
        """Logits (B, N, K + 1) of embeddings (B, N, D): those of the best name of each class, and of nothing.

        Args:
            embeddings: Not normalised.
            text: Class embeddings of all names, as the prompt gives them.
            logit_scale: Logarithm of the inverse temperature, which is at most 100.
        """
        side = self.text_side
        names = side.combine(side.scores(embeddings.mT[..., None], text))[..., 0].mT  # (B, N, Q)
        names = self.of_classes(names)
        void = F.normalize(self.void_embedding.weight[0], dim=0)
        nothing = F.normalize(embeddings.float(), dim=-1) @ void
        return logit_scale.exp().clamp(max=100) * torch.cat([names, nothing[..., None]], dim=-1)

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

    def ensemble(self, trained: Tensor, frozen: Tensor, valid: Tensor) -> Tensor:
        """Logarithms of scores (B, N, K + 1): both classifiers' probabilities, and that of nothing.

        Args:
            trained: Logits (B, N, K + 1) of the trained embeddings.
            frozen: Logits (B, N, K + 1) of CLIP under the masks.
            valid: (B, N), whether a mask has a place on CLIP's last map.
        """
        power = trained.new_tensor([self.alpha if known else self.beta for known in self.overlaps])
        power = power.expand(*trained.shape[:2], -1)
        if self.ensemble_on_valid_mask:
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

    def scores(self, features: ImageFeatures, text: Tensor, logits: Tensor, masks: Tensor) -> Tensor:
        """Logarithms of scores (B, N, K + 1) of the last prediction."""
        small = F.interpolate(masks, features.patch.shape[2:], mode='bilinear', align_corners=False)
        embeddings = region_embeddings(self.backbone, features.patch, small)
        frozen = self.classify(embeddings, text, self.text_encoder.logit_scale)
        return self.ensemble(logits, frozen, (small > 0).flatten(2).any(dim=2))

    def masks_and_scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of masks (B, N, H, W) at the size of the images (B, 3, H, W), and logarithms of scores."""
        height, width = images.shape[2:]
        padded = F.pad(images, (0, -width % self.pad_multiple, 0, -height % self.pad_multiple))
        features, text = self.extract_feat(padded)
        logits, masks = self.propose(features, text)
        scores = self.scores(features, text, logits[-1], masks[-1])
        masks = F.interpolate(masks[-1], padded.shape[2:], mode='bilinear', align_corners=False)
        return masks[:, :, :height, :width], scores

    @staticmethod
    def semantic(scores: Tensor, masks: Tensor) -> Tensor:
        """Scores of classes (B, K, H, W): the sum over queries of class and mask probabilities."""
        return torch.einsum('bnk,bnhw->bkhw', scores.softmax(dim=-1)[..., :-1], masks.sigmoid())

    def _forward(self, inputs: Tensor, data_samples: list | None = None) -> Tensor:
        """Scores of classes (B, K, H, W) of images (B, 3, H, W)."""
        masks, scores = self.masks_and_scores(inputs)
        return self.semantic(scores, masks)

    def class_maps(self, values: Tensor) -> ClassMaps:
        """Sums of probabilities."""
        return ClassMaps(values, kind='probabilities')

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses ``decode.*`` of images (B, 3, H, W), Mask2Former's, and ``prompt.*``, the prompt's own."""
        features, text = self.extract_feat(inputs)
        losses = add_prefix(self.decode_head.losses(*self.propose(features, text), data_samples), 'decode')
        losses.update(add_prefix(self.text_prompt.losses(text), 'prompt'))
        return losses

    # --- from masks to labels ---------------------------------------------------------------------------------

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """As in :class:`BatchedInference`; with ``masks_first`` masks go to the original size before the sum."""
        if not self.masks_first or data_samples is None or self._mode() != 'whole':
            return super().predict(inputs, data_samples)
        order, images = own_sizes(inputs, data_samples)
        for index, image in zip(order, images, strict=True):
            sample = data_samples[index]
            masks, scores = self.masks_and_scores(image[None])
            masks = original_size(masks[0], sample.metainfo)
            found = self.semantic(scores, masks[None])[0]
            if self.panoptic_cfg is not None:
                self._add_objects(sample, scores[0], masks, **self.panoptic_cfg)
            if self.test_cfg.get('keep_logits', True):
                sample.set_data(dict(seg_logits=PixelData(data=found)))
            sample.set_data(dict(pred_sem_seg=PixelData(data=found.argmax(dim=0)[None])))
        return data_samples

    def _add_objects(
        self, sample, scores: Tensor, masks: Tensor, things: int | Sequence[int], top_k: int = 100, **options: float
    ) -> None:
        things = range(things) if isinstance(things, int) else things
        wrong = [k for k in things if not 0 <= k < self.num_classes]
        if wrong:
            raise ConfigError(
                f'{type(self).__name__}: panoptic.things names class {wrong[0]}, but there are {self.num_classes}.'
            )
        segments = self.panoptic(scores, masks, things, **options)
        objects = self.instances(scores, masks, things, top_k)
        sample.set_data(dict(pred_panoptic_seg=PixelData(sem_seg=segments[None]), pred_instances=objects))

    def panoptic(self, scores: Tensor, masks: Tensor, things: Sequence[int], **options: float) -> Tensor:
        """Panoptic segments of an image, by mmdet's rule.

        Args:
            scores: Logarithms (N, K + 1).
            masks: Logits (N, H, W) at the size that the segments shall have.
            things: Classes of which each segment is an object of its own.
            **options: ``object_mask_thr`` and ``iou_thr``, see mmdet's ``MaskFormerFusionHead``.

        Returns:
            (H, W), int64: class + 1000 * i of the i-th object, class of stuff, and K where there is nothing.
        """
        head, order = self._fusion(things, **options)
        found = head.panoptic_postprocess(scores[:, [*order, -1]], masks).sem_seg[0].long()
        names = torch.tensor([*order, len(order)], device=found.device)
        return names[found % 1000] + found // 1000 * 1000

    def instances(self, scores: Tensor, masks: Tensor, things: Sequence[int], top_k: int = 100) -> InstanceData:
        """Objects of an image, by mmdet's rule: ``scores``, ``labels``, ``masks`` (n, H, W) and ``bboxes``.

        Args:
            scores, masks, things: As of :meth:`panoptic`.
            top_k: Pairs of query and class that are looked at.
        """
        head, order = self._fusion(things, max_per_image=min(top_k, scores[:, :-1].numel()))
        found = head.instance_postprocess(scores[:, [*order, -1]], masks)
        found.labels = torch.tensor(order, device=found.labels.device)[found.labels]
        return found

    def _fusion(self, things: Sequence[int], **options: float) -> tuple[MaskFormerFusionHead, list[int]]:
        order = [*things, *(k for k in range(self.num_classes) if k not in things)]
        cfg = ConfigDict(dict(object_mask_thr=0.0, iou_thr=0.8, filter_low_score=True) | options)
        return MaskFormerFusionHead(len(things), len(order) - len(things), test_cfg=cfg), order

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
