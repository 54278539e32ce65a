"""DenseCLIP: pixel-text matching as guidance; the detectors are in ``detector.py``, which needs mmdet.

DenseCLIP turns CLIP's matching of images and texts into a matching of pixels and texts: class embeddings, with a
learned context and refined by a small transformer with cross-attention to the image, are compared with each position
of CLIP's feature map. The map of scores joins the features of the last stage before the neck, and a loss of its own
supervises it. Segmentors and detectors stay ordinary, and with a new attention pool the text also guides backbones
without CLIP weights.
"""

from vlm_dense.methods.denseclip.any_backbone import PooledBackbone, TorchvisionBackbone
from vlm_dense.methods.denseclip.neck import TextGuidedNeck
from vlm_dense.methods.denseclip.prompt import DenseCLIPPrompt
from vlm_dense.methods.denseclip.segmentor import ContextDecoder, DenseCLIP, IdentityHead

__all__ = [
    'ContextDecoder',
    'DenseCLIP',
    'DenseCLIPPrompt',
    'IdentityHead',
    'PooledBackbone',
    'TextGuidedNeck',
    'TorchvisionBackbone',
]

PAPER = dict(
    name='DenseCLIP',
    title='DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting',
    venue='CVPR 2022',
    link='https://arxiv.org/abs/2112.01518',
    code='https://github.com/raoyongming/DenseCLIP',
    licence='MIT',
    idea=(
        'Scores of pixels and class names join the features of a segmentor or a detector, and the text sees the image.'
    ),
    contract='any T; I when its backbone is a ViT; score map; pixel-text CE',
    notes="""
More in [docs/denseclip.md](../../docs/denseclip.md).
""",
)
