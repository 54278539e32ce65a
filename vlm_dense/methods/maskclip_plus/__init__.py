"""MaskCLIP+: a segmentation network trained on the labels that a frozen MaskCLIP gives.

MaskCLIP+ trains an ordinary segmentation network on labels that a frozen MaskCLIP gives to unlabelled pixels during
training. The network's classifier is the matrix of class embeddings, so that it can name classes without labelled
pixels. In the zero-shot setting the network later trains on its own predictions.
"""

from vlm_dense.methods.maskclip_plus.head import MaskCLIPPlusHead
from vlm_dense.methods.maskclip_plus.hook import PseudoLabelHook
from vlm_dense.methods.maskclip_plus.labeller import Labeller
from vlm_dense.methods.maskclip_plus.segmentor import MaskCLIPPlus

__all__ = ['Labeller', 'MaskCLIPPlus', 'MaskCLIPPlusHead', 'PseudoLabelHook']

PAPER = dict(
    name='MaskCLIP+',
    title='Extract Free Dense Labels from CLIP',
    venue='ECCV 2022',
    link='https://arxiv.org/abs/2112.01071',
    code='https://github.com/chongzhou96/MaskCLIP',
    licence='Apache-2.0',
    idea='A segmentation network trained on the labels that a frozen MaskCLIP gives, and later on its own.',
    contract='any T for its labels; CE on its labels',
    notes="""
The released configs that are named after ViT-B/16 do not name a tower for the labels, so that code labels with
ResNet-50; ours label with ViT-B/16.

More in [docs/maskclip_plus.md](../../docs/maskclip_plus.md).
""",
)
