"""Pretraining of the bundled tiny CLIPs. Importing this package registers its models, data sets and metric."""

from tiny_clip.distillation import CaptionDistillation, SigmoidDistillation
from tiny_clip.patch_captions import BlockwiseDataset, CaptionedMosaic, PatchCaptions
from tiny_clip.pretraining import CaptionPretraining, PackCaptioned, ZeroShotShapes

__all__ = [
    'BlockwiseDataset',
    'CaptionDistillation',
    'CaptionPretraining',
    'CaptionedMosaic',
    'PackCaptioned',
    'PatchCaptions',
    'SigmoidDistillation',
    'ZeroShotShapes',
]
