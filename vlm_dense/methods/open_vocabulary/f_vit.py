"""F-ViT: a detector on a frozen CLIP ViT, with each box classified a second time on CLIP's dense map.

"CLIPSelf: Vision Transformer Distills Itself for Open-Vocabulary Dense Prediction", ICLR 2024, section 4.

CLIP's ViT is frozen; maps of four blocks, rescaled by transposed convolutions, feed a detector that ends in CLIP's
joint space. At test time a box is also classified by RoIAlign on CLIP's dense map, with a last block that runs without
attention. So the detector measures what a CLIP's dense map is worth: CLIPSelf, DeCLIP and others exchange the frozen
weights only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_norm_layer
from mmdet.models.dense_heads import RPNHead
from mmdet.models.necks import FPN
from torch import Tensor, nn

from vlm_dense.clip.block_tower import BlockTower
from vlm_dense.clip.eva_release import convert_eva, is_eva_release
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.sentences import SentencePrompt
from vlm_dense.detection.open_vocabulary import OpenVocabularyTwoStage
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.vocabulary.templates import read_templates

PAPER = dict(
    name='F-ViT',
    title='CLIPSelf: Vision Transformer Distills Itself for Open-Vocabulary Dense Prediction',
    venue='ICLR 2024',
    link='https://arxiv.org/abs/2310.01403',
    code='https://github.com/wusize/CLIPSelf',
    licence='NTU S-Lab 1.0',
    idea="Heads of a detector on CLIP's frozen ViT; boxes are classified by them and on CLIP's dense map.",
    trains='pyramid, FPN, RPN, box and mask heads',
    published='OV-COCO novel AP50, ViT-B/16 / L/14: EVA-CLIP 17.5 / 24.7, CLIPSelf 37.6 / 44.3; OV-LVIS mask APr 25.3 '
    '/ 34.9 (CLIPSelf)',
    contract='any T; maps of four blocks, the dense path of a ViT under boxes',
    notes="""
Any ViT of the package takes the place of the released EVA-02 towers, and any `dense_attention` that of the value path.
""",
)


@MODELS.register_module()
class FViTPrompt(SentencePrompt):
    """ViLD's sentences with the right article; of each class the mean of their unit embeddings, normalised.

    Names are in lower case, with spaces for ``_``, ``or`` for ``/`` and without dots at their end. The article is that
    of the name as it is given. Sentences that begin with ``a`` or ``the`` get ``This is`` in front.

    Args:
        class_names, text_tower, init_cfg, truncate: See :class:`~vlm_dense.contract.sentences.SentencePrompt`.
        templates: Sentences with ``{}`` for the name and ``{article}`` for its article, or the name of a list.

    Raises:
        ConfigError: no such list, or a sentence without ``{}`` or with other braces.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        templates: str | Sequence[str] = 'vild',
        truncate: bool = False,
        init_cfg: dict | None = None,
    ):
        templates = read_templates(templates) if isinstance(templates, str) else tuple(templates)
        wrong = [t for t in templates if t.count('{}') != 1 or '{' in t.replace('{}', '').replace('{article}', '')]
        if wrong or not templates:
            raise ConfigError(
                f'FViTPrompt: templates need one {{}} each for the class name, and may have {{article}}; found '
                f'{wrong or templates!r}.'
            )
        sentences = [[self.sentence(t, name) for t in templates] for name in class_names]
        super().__init__(class_names, text_tower, sentences, truncate, init_cfg)

    @staticmethod
    def sentence(template: str, name: str) -> str:
        """The sentence of a class."""
        article = 'an' if name[:1] in tuple('aeiou') else 'a'
        shown = name.replace('_', ' ').replace('/', ' or ').lower().rstrip('.')
        text = template.replace('{article}', article).replace('{}', shown)
        return f'This is {text}' if text.startswith(('a', 'the')) else text

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D) of unit length."""
        embeddings = F.normalize(self.mean_by_class(self.unit_sentences(text_tower)), dim=-1)
        return embeddings if classes is None else embeddings[classes]


@MODELS.register_module()
class FViTNeck(FPN):
    """mmdet's ``FPN`` on maps of strides s/4, s/2, s and 2s, made of four maps of a ViT with patches of side s.

    Args:
        in_channels: Of the four maps, all the same; the detector fills them in.
        norm_cfg: Of the first map and of the FPN.
        **kwargs: As in mmdet.
    """

    def __init__(self, in_channels: Sequence[int], *args: Any, norm_cfg: dict | None = None, **kwargs: Any):
        norm_cfg = norm_cfg or dict(type='BN')
        super().__init__(list(in_channels), *args, norm_cfg=norm_cfg, **kwargs)
        width = in_channels[0]

        def up() -> nn.Module:
            return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)

        self.interpolate1 = nn.Sequential(up(), build_norm_layer(norm_cfg, width)[1], nn.GELU(), up())
        self.interpolate2 = nn.Sequential(up())

    def pyramid(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, C, h, w) of four strides, finest first, of maps of one."""
        first, second, third, fourth = maps
        return self.interpolate1(first), self.interpolate2(second), third, F.max_pool2d(fourth, 2)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of the pyramid."""
        return super().forward(self.pyramid(maps))


@MODELS.register_module()
class NormedRPNHead(RPNHead):
    """mmdet's ``RPNHead`` with norms in its convolutions, as F-ViT has it on LVIS.

    Args:
        norm_cfg: Of the convolutions.
        **kwargs: As in mmdet; ``num_convs`` is 2.
    """

    def __init__(self, in_channels: int, norm_cfg: dict | None = None, **kwargs: Any):
        self.norm_cfg = norm_cfg or dict(type='BN')
        super().__init__(in_channels, **{'num_convs': 2, **kwargs})

    def _init_layers(self) -> None:
        super()._init_layers()
        widths = [self.in_channels] + [self.feat_channels] * self.num_convs
        self.rpn_conv = nn.Sequential(
            *(
                ConvModule(a, b, 3, padding=1, norm_cfg=self.norm_cfg, inplace=False)
                for a, b in zip(widths[:-1], widths[1:], strict=True)
            )
        )


@MODELS.register_module()
class FViT(OpenVocabularyTwoStage):
    """F-ViT.

    Args:
        backbone: A CLIP ViT with four ``out_indices``, the last block among them; the map of that block is made without
            attention, as the feature ``value`` is.
        neck: :class:`FViTNeck`.
        roi_head: With ``vlm_dense.DenseMapScorer`` as ``scorer``.
        **kwargs: See :class:`~vlm_dense.detection.open_vocabulary.OpenVocabularyTwoStage`.

    Raises:
        ConfigError: a tower that is no stack of blocks, or another number of stages.
    """

    default_prompt = dict(type='vlm_dense.FViTPrompt')
    stage_features = ('value',)
    stage_options = dict(value_stage=True)
    published_colours = True

    def neck_channels(self) -> list[int]:
        """Channels of the maps for the neck."""
        tower = self.backbone
        if not isinstance(tower, BlockTower) or len(tower.out_indices) != 4 or tower.with_pyramid:
            raise ConfigError(
                f'FViT makes its pyramid of the maps of four blocks of a ViT, found {type(tower).__name__} with '
                f"{len(tower.out_indices)} stages. Use 'vlm_dense.CLIPViT' or 'vlm_dense.CLIPTower' of a ViT with four "
                "out_indices and without pyramid; for ResNets there is 'vlm_dense.FVLM'."
            )
        return super().neck_channels()

    def _read_official(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Give weights of the official release the names that they have here."""
        tower = f'{prefix}backbone.'
        visual = {k.removeprefix(tower): state_dict.pop(k) for k in list(state_dict) if k.startswith(f'{tower}visual.')}
        visual = convert_eva(visual) if is_eva_release(visual) else visual
        state_dict.update({tower + name.removeprefix('visual.'): value for name, value in visual.items()})
        for key in list(state_dict):
            name = key.removeprefix(prefix)
            if re.fullmatch(r'roi_head\.bbox_head\.(fc_cls\..*|all_embeddings)', name):  # unused; follows from names
                del state_dict[key]
                continue
            for pattern, ours in _OFFICIAL:
                name = re.sub(pattern, ours, name)
            value = state_dict.pop(key)
            state_dict[prefix + name] = value.reshape(1) if name == 'roi_head.bbox_head.temperature' else value


_OFFICIAL = (
    (r'^backbone\.interpolate', 'neck.interpolate'),
    (r'\.detect_temperature$', '.temperature'),
)
