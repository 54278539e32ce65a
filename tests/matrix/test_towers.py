"""Methods on every family of image towers work, or say why not and what would work."""

from __future__ import annotations

import re

import pytest
import torch
from matrix.towers import FAMILIES, ROWS, outcome
from tower_table import reason

_QUICK = {  # one method of each kind, on the families where it has something of its own to do
    'CoOp': ('coca', 'fastvit'),
    'VPT': ('pe', 'siglip', 'convnext'),
    'CAVPT': ('eva02',),
    'LoRA': ('eva02_post', 'swin'),
    'TDA': ('clipa',),
    'DenseCLIP': ('vitamin', 'convnext', 'siglip'),
    'DenseCLIP detection': ('fastvit',),
    'MaskCLIP': ('coca', 'gap'),
    'SC-CLIP': ('pe', 'siglip'),
    'ResCLIP': ('eva02',),
    'ProxyCLIP': ('siglip', 'resnet'),
    'Trident': ('siglip',),
    'CorrCLIP': ('vit', 'siglip'),
    'LPOSS': ('resnet', 'convnext'),
    'MaskCLIP+': ('pe_bare',),
}
REFUSED = {
    ('VPT', 'convnext'): r'only a ViT takes.*found CLIPTimmMaps \(ConvNeXt\)',
    ('LoRA', 'swin'): 'no linear map.*only blocks have them',
    ('SC-CLIP', 'siglip'): 'set class_weight=0.*no class token, as those of SigLIP',
    ('CorrCLIP', 'siglip'): "masks the attention of open_clip's own blocks",
    ('ProxyCLIP', 'resnet'): 'has no blocks for dense_attention',
}


@pytest.mark.parametrize(('method', 'family'), [(m, f) for m, names in _QUICK.items() for f in names])
def test_it_works_or_says_why_not(method, family):
    torch.manual_seed(0)
    found, why = outcome(method, family), REFUSED.get((method, family))
    if why is None:
        assert found == 'works'
    else:
        assert re.search(why, found), found


@pytest.mark.long
def test_every_refusal_has_a_reason_that_the_table_knows():
    found = {(method, family): outcome(method, family) for method in ROWS for family in FAMILIES}
    assert {pair: told for pair, told in found.items() if told != 'works' and reason(told) == 'other'} == {}
