"""MaskCLIP: segmentation by a frozen CLIP, with no training.

In the last attention layer of a frozen CLIP, MaskCLIP drops the mixing by queries and keys and sends the value of
each position through the last projection. Each position is then classified by its cosine with the class embeddings,
with no training. Two refinements are optional: smoothing by the similarity of keys, and removing classes that are
nowhere probable.
"""

from vlm_dense.methods.maskclip.head import MaskCLIPHead
from vlm_dense.methods.maskclip.refinements import (
    Aliases,
    KeySmoothing,
    NamedBackground,
    PromptDenoising,
    ThresholdBackground,
)
from vlm_dense.methods.maskclip.segmentor import MaskCLIP
from vlm_dense.methods.maskclip.towers import MaskCLIPResNet, MaskCLIPViT

__all__ = [
    'Aliases',
    'KeySmoothing',
    'MaskCLIP',
    'MaskCLIPHead',
    'MaskCLIPResNet',
    'MaskCLIPViT',
    'NamedBackground',
    'PromptDenoising',
    'ThresholdBackground',
]

PAPER = dict(
    name='MaskCLIP',
    title='Extract Free Dense Labels from CLIP',
    venue='ECCV 2022',
    link='https://arxiv.org/abs/2112.01071',
    code='https://github.com/chongzhou96/MaskCLIP',
    licence='Apache-2.0',
    idea=(
        'Each position of a frozen CLIP, sent through the value path of its last attention layer, is compared with '
        'the class names.'
    ),
    contract='any T; `value`; cosines per pixel',
    notes="""
More in [docs/maskclip.md](../../docs/maskclip.md).
""",
)
