"""MAFT+: image and text side of CLIP tuned together under the masks of a Mask2Former.

"Collaborative Vision-Text Representation Optimizing for Open-Vocabulary Segmentation", ECCV 2024, section 3.

The trunk of a convolutional CLIP is tuned so that the probabilities of the classes under a mask follow the quality of
the mask, while a frozen copy holds its features in place. Each image rewrites the class embeddings by one attention to
its map. In a test CLIP alone names the masks, which a Mask2Former proposes.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.layers import SinePositionalEncoding
from mmseg.utils import add_prefix
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.errors import ConfigError
from vlm_dense.methods.open_vocabulary.fc_clip import FCCLIP
from vlm_dense.methods.open_vocabulary.text import ClassNames
from vlm_dense.registry import MODELS

PAPER = dict(
    name='MAFT+',
    title='Collaborative Vision-Text Representation Optimizing for Open-Vocabulary Segmentation',
    venue='ECCV 2024',
    link='https://arxiv.org/abs/2408.00744',
    code='https://github.com/jiaosiyu1999/MAFT-Plus',
    licence='MIT',
    idea='The trunk of a convolutional CLIP learns the quality of masks; each image rewrites the class embeddings.',
    trains='trunk of the image tower, Mask2Former, one attention to the image',
    published='COCO-Stuff, mIoU of A-847 / A-150 / PC-459 / PC-59 / PAS-20: Base 13.8 / 34.6 / 16.2 / 57.5 / 95.4, '
    'Large 15.1 / 36.1 / 21.6 / 59.4 / 96.5',
    contract='any T; maps of four strides, of which the last one rewrites T',
    notes="""
The frozen copy and the trained trunk are in eval mode, where the release leaves drop path on. The tokens of the image
for the attention are the map reshaped without a change of axes, as in the release, with which its weights were trained.
""",
)


@MODELS.register_module()
class ContentDependentTransfer(nn.Module):
    """Class embeddings rewritten by one attention to the map of the image, section 3.3.

    Args:
        embed_dim: D; the model fills it in.
        heads: Attention heads.
        panoptic: The form of the panoptic models: the norm of the update is added, which is 0 at the start.
    """

    def __init__(self, embed_dim: int, heads: int = 8, panoptic: bool = False):
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(embed_dim, heads, batch_first=True)
        self.norm, self.MLP = nn.LayerNorm(embed_dim), nn.Linear(embed_dim, embed_dim)
        self.positions = SinePositionalEncoding(embed_dim // 2, normalize=True)
        self.panoptic = panoptic
        nn.init.xavier_uniform_(self.multihead_attn.in_proj_weight)
        nn.init.xavier_uniform_(self.multihead_attn.out_proj.weight)
        if panoptic:
            nn.init.zeros_(self.MLP.weight)
            nn.init.zeros_(self.MLP.bias)

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """Rows of text (B, Q, D) rewritten, of a map (B, D, h, w); not normalised."""
        places = self.positions(image.new_zeros((len(image), *image.shape[2:]), dtype=torch.bool))
        keys, values = ((image + places).flatten(2).mT, image.flatten(2).mT)
        update = self.MLP(self.multihead_attn(text, keys, values, need_weights=False)[0])
        return text + self.norm(update) if self.panoptic else self.norm(text + update)


@MODELS.register_module()
class MAFTPlus(FCCLIP):
    """MAFT+.

    Args:
        backbone: ``vlm_dense.CLIPTower`` of a ConvNeXt or a ResNet; stem and stages are trained.
        cdt: Options of :class:`ContentDependentTransfer`.
        rc_weight: Of the loss that holds the features in place.
        **kwargs: See :class:`~vlm_dense.methods.open_vocabulary.fc_clip.FCCLIP`; its ensemble is not used.
    """

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        decode_head: dict | None = None,
        class_names: ClassNames | None = None,
        cdt: dict | None = None,
        rc_weight: float = 0.1,
        **kwargs: Any,
    ):
        head = dict(num_queries=100) | dict(decode_head or {})
        super().__init__(backbone, text_encoder, head, class_names, **kwargs)
        self._tune_trunk()
        self.cdt = MODELS.build(
            dict(type='vlm_dense.ContentDependentTransfer', embed_dim=self.backbone.embed_dim) | dict(cdt or {})
        )
        self.rc_weight = rc_weight

    def _tune_trunk(self) -> None:
        """Train stem and stages of the tower, and keep a frozen copy."""
        self.teacher = copy.deepcopy(self.backbone)
        self.backbone.frozen = False
        trunk = getattr(self.backbone, 'trunk', None)
        if trunk is None:  # a ResNet: all but its attention pool
            parts = [part for name, part in self.backbone.named_children() if name not in ('attnpool', 'image_prompt')]
        elif hasattr(trunk, 'stem') and hasattr(trunk, 'stages'):
            parts = [trunk.stem, trunk.stages]
        else:
            raise ConfigError(
                f'MAFTPlus trains stem and stages of a tower, which a {type(trunk).__name__} has not got. Use a '
                "ConvNeXt, as arch='convnext_base_w_320', or a ResNet."
            )
        for part in parts:
            part.requires_grad_(True)

    def train(self, mode: bool = True) -> MAFTPlus:
        """Switch the mode of everything but the towers."""
        super().train(mode)
        self.backbone.eval()
        if hasattr(self, 'teacher'):
            self.teacher.eval()
        return self

    # --- the two classifiers ----------------------------------------------------------------------------------

    def image_tokens(self, dense: Tensor) -> Tensor:
        """Map (B, D, h, w) for the attention, of CLIP's last map (B, C, h, w).

        As in the release its numbers are cut into tokens in the order of memory, channels and places not swapped.
        """
        batch, channels, height, width = dense.shape
        tokens = dense.contiguous().view(batch, height, width, channels)
        return self.backbone.embed_map(tokens.permute(0, 3, 1, 2))

    def rewritten(self, text: Tensor, dense: Tensor) -> Tensor:
        """Rows of all names and of nothing (B, Q + 1, D), not normalised, of class embeddings (Q, D) or (B, Q, D)."""
        rows = self.text_prompt.classifier_weights(text.float())
        if self.text_prompt.num_variants is not None:
            rows = F.normalize(rows.mean(dim=-3), dim=-1)
        void = F.normalize(self.void_embedding.weight, dim=-1)
        rows = torch.cat([rows.expand(len(dense), *rows.shape[-2:]), void.expand(len(dense), -1, -1)], dim=1)
        return self.cdt(rows, self.image_tokens(dense))

    def classify_by(self, embeddings: Tensor, rows: Tensor) -> Tensor:
        """Logits (B, N, K + 1) of embeddings (B, N, D) by rows (B, Q + 1, D) as they are."""
        found = torch.einsum('bnd,bqd->bnq', F.normalize(embeddings.float(), dim=-1), rows)
        found = self.text_encoder.logit_scale.exp().clamp(max=100) * found
        return torch.cat([self.of_classes(found[..., :-1]), found[..., -1:]], dim=-1)

    def logits(self, embeddings: Tensor, dense: Tensor, text: Tensor) -> Tensor:
        """Logits (B, N, K + 1) of embeddings (B, N, D), by the rewritten rows."""
        return self.classify_by(embeddings, self.rewritten(text, dense))

    def scores(self, features: ImageFeatures, text: Tensor, logits: Tensor, masks: Tensor) -> Tensor:
        """Logarithms of scores (B, N, K + 1): CLIP's probabilities, and the decoder's of nothing."""
        found = self.out_logits(features.patch, masks, text)[..., :-1].softmax(dim=-1)
        nothing = logits.softmax(dim=-1)[..., -1:]
        return (torch.cat([found * (1 - nothing), nothing], dim=-1) + 1e-8).log()

    # --- training ---------------------------------------------------------------------------------------------

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses ``decode.*``, Mask2Former's, ``loss_ranking`` and ``loss_rc``, and ``prompt.*``."""
        features, text = self.extract_feat(inputs)
        held = ImageFeatures(stages=tuple(stage.detach() for stage in features.stages))
        logits, masks = self.propose(held, text)
        losses = add_prefix(self.decode_head.losses(logits, masks, data_samples), 'decode')
        last = masks[-1].detach()
        targets = [self.decode_head.targets_of(sample, inputs.device) for sample in data_samples]
        found = self.out_logits(features.patch, last, text)[..., :-1].softmax(dim=-1)
        losses['loss_ranking'] = ranking_loss(found, last, targets, inputs.shape[2:])
        with torch.no_grad():
            held_in_place = self.teacher.encode(inputs, ('patch',)).patch
        losses['loss_rc'] = self.rc_weight * representation_loss(features.patch, held_in_place)
        losses.update(add_prefix(self.text_prompt.losses(text), 'prompt'))
        return losses

    # --- checkpoints ------------------------------------------------------------------------------------------

    def _read_official(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Read the official release; without the frozen copy that copy stays as it is."""
        for key in list(state_dict):
            name = key.removeprefix(prefix)
            if re.match(r'backbone_t\.clip_model\.(?!visual\.)', name):
                del state_dict[key]
                continue
            name = name.replace('backbone_t.clip_model.visual.', 'teacher.', 1)
            if name.startswith('teacher.') and not hasattr(self, 'teacher'):
                del state_dict[key]
                continue
            state_dict[prefix + name.replace('cdt.cross_atten.', 'cdt.', 1)] = state_dict.pop(key)
        super()._read_official(state_dict, prefix, *args)
        if hasattr(self, 'teacher'):
            for key, value in self.teacher.state_dict(prefix=f'{prefix}teacher.').items():
                state_dict.setdefault(key, value)


def ranking_loss(probabilities: Tensor, masks: Tensor, targets: list, size: tuple[int, int]) -> Tensor:
    """How far the probability of a target's class under each mask is from the quality of the mask, section 3.2.

    Args:
        probabilities: (B, N, K).
        masks: Logits (B, N, h, w).
        targets: Of each image, with ``masks`` (n, H, W) and ``labels`` (n,).
        size: (H, W).
    """
    found, wanted = [], []
    for i, target in enumerate(targets):
        if not len(target.labels):
            continue
        soft = F.interpolate(masks[i : i + 1].sigmoid(), tuple(size), mode='bilinear', align_corners=False)[0]
        both = torch.einsum('nhw,thw->tn', soft, target.masks.to(soft.dtype))
        either = target.masks.sum((1, 2))[:, None] + soft.sum((1, 2)) - both
        quality = both / (either + 1e-7)
        low, high = quality.amin(dim=1, keepdim=True), quality.amax(dim=1, keepdim=True)
        wanted.append((quality - low) / (high - low + 1e-8))
        found.append(probabilities[i][:, target.labels].T)
    if not found:
        return 0 * probabilities.sum()
    return F.smooth_l1_loss(torch.cat(found), torch.cat(wanted))


def representation_loss(dense: Tensor, wanted: Tensor) -> Tensor:
    """How far maps (B, C, h, w) are from those of the frozen copy, in sums over strips at three scales."""
    width, size = dense.shape[3], max(dense.shape[2:])
    if width < 4:
        raise ConfigError(
            f'MAFTPlus compares maps at least 4 places wide, found {tuple(dense.shape[2:])}: train with images of at '
            'least 128 px.'
        )
    vectors = []
    for maps in (dense, wanted):
        maps = maps.relu()
        if maps.shape[2] != maps.shape[3]:
            maps = F.interpolate(maps, (size, size), mode='bilinear', align_corners=False)
        pooled = [F.avg_pool2d(maps, width // scale) for scale in (1, 2, 4)]
        vectors.append(torch.cat([sums.flatten(1) for one in pooled for sums in (one.sum(2), one.sum(3))], dim=1))
    return F.smooth_l1_loss(*vectors)
