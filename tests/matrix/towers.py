"""Methods on the families of image towers: what is run, and what comes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import families
import pytest
import torch
from matrix import models
from matrix.models import NAMES, SIZE, samples
from matrix.test_matrix import OPTIONS, check
from mmengine import ConfigDict
from mmseg.structures import SegDataSample
from tiny_towers import TEXT

from vlm_dense.errors import UserError
from vlm_dense.registry import MODELS

FAMILIES = (
    'vit',
    'resnet',
    'clipa',
    'coca',
    'siglip',
    'pe',
    'pe_bare',
    'eva01',
    'eva02',
    'eva02_post',
    'timm_vit_norm',
    'vitamin',
    'convnext',
    'fastvit',
    'swin',
    'gap',
    'relpos',
)
_PROXY = dict(
    type='vlm_dense.ProxyViT',
    model='vit_tiny_patch16_224',
    pretrained=False,
    img_size=32,
    patch_size=8,
    embed_dim=32,
    depth=1,
    num_heads=2,
)
WINDOW = 112
"""Side of images and windows, a multiple of every patch."""
_COOP = dict(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=2))
_ZERO_SHOT = dict(text_prompt=dict(type='vlm_dense.ZeroShotPrompt'))


def _part(name: str, task: str = 'classifier') -> Callable[[str], None]:
    return lambda family: check(name, task, family)


def _test_time(cfg: dict) -> Callable[[str], None]:
    def run(family: str) -> None:
        model = models.build('classifier', family, dict(_COOP, test_time=cfg)).eval()
        views = torch.randn(1, 4, 3, SIZE, SIZE)
        one = model(views, samples('classifier', 1))
        assert one.shape == (1, len(NAMES)) and one.isfinite().all()

    return run


def _dense(cfg: dict | None) -> Callable[[str], None]:
    """MaskCLIP with a dense attention: a class map, the same for copies of an image."""

    def run(family: str) -> None:
        parts = dict(_ZERO_SHOT, dense={} if cfg is None else dict(dense_attention=cfg))
        model = models.build('maskclip', family, parts).eval()
        images = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
        alone = models.output('maskclip', model, images)[0]
        assert alone.isfinite().all() and alone.shape[1] == len(NAMES) and alone.std() > 0
        for number in (2, 3):
            several = models.output('maskclip', model, images.expand(number, -1, -1, -1))[0]
            torch.testing.assert_close(several, alone.expand_as(several), rtol=1e-3, atol=1e-4)

    return run


def _lposs(family: str) -> None:
    cfg = dict(models.maskclip(family, _ZERO_SHOT), type='vlm_dense.LPOSS', proxy=_PROXY, k=4)
    cfg.pop('decode_head')
    model = MODELS.build(ConfigDict(cfg)).eval()
    with torch.no_grad():
        found = model.predict(torch.randn(2, 3, SIZE, SIZE), samples('maskclip', 2))
    assert [tuple(sample.pred_sem_seg.data.shape) for sample in found] == [(1, SIZE, SIZE)] * 2


def _whole_images(kind: str, attention: dict, **options) -> Callable[[str], None]:
    """A successor that looks at whole images: labels, the same for copies of an image."""

    def run(family: str) -> None:
        parts = dict(_ZERO_SHOT, dense=dict(dense_attention=attention))
        cfg = dict(models.maskclip(family, parts), type=kind, **options)
        cfg.pop('decode_head')
        arch = copy.deepcopy(cfg['backbone']['arch'])
        if isinstance(arch['vision_cfg'].get('layers'), int):
            arch['vision_cfg']['layers'] = 3  # CorrCLIP reads a block in front of the last two
        cfg['backbone'].update(arch=arch)
        cfg['text_encoder'].update(arch=arch)
        model = MODELS.build(ConfigDict(cfg)).eval()
        image = torch.randn(1, 3, WINDOW, WINDOW, generator=torch.Generator().manual_seed(1))
        found = []
        for number in (1, 2, 3):
            batch = [
                SegDataSample(metainfo=dict(ori_shape=image.shape[2:], img_shape=image.shape[2:]))
                for _ in range(number)
            ]
            with torch.no_grad():
                found += model.predict(image.expand(number, -1, -1, -1), batch)
        labels = torch.stack([sample.pred_sem_seg.data for sample in found])
        assert labels.shape == (6, 1, WINDOW, WINDOW) and (labels == labels[:1]).all()

    return run


def _maskclip_plus(family: str) -> None:
    teacher = models.maskclip(family, _ZERO_SHOT)
    model = MODELS.build(
        ConfigDict(
            type='vlm_dense.MaskCLIPPlus',
            class_names=NAMES,
            data_preprocessor=dict(type='mmseg.SegDataPreProcessor', size=(SIZE, SIZE)),
            backbone=dict(type='mmseg.ResNetV1c', depth=18, base_channels=4, stem_channels=4),
            teacher={key: teacher[key] for key in ('type', 'backbone', 'text_encoder', 'text_prompt')},
            decode_head=dict(decode_module=dict(type='mmseg.FCNHead', in_channels=32, num_convs=1)),
        )
    ).train()
    batch = samples('maskclip', 2)
    for sample in batch:
        sample.gt_sem_seg.data.fill_(-1)  # the teacher labels
    total, _ = model.parse_losses(model.loss(torch.randn(2, 3, SIZE, SIZE), batch))
    total.backward()
    assert total.isfinite()


ROWS: dict[str, Callable[[str], None]] = {
    'zero-shot': _part('ZeroShotPrompt'),
    'CoOp': _part('CoOpPrompt'),
    'CoCoOp': _part('CoCoOpPrompt'),
    'VPT': _part('VPTPrompt'),
    'VP': _part('VPPrompt'),
    'MaPLe': _part('MaPLePrompt'),
    'IVLP': _part('IVLPPrompt'),
    'PromptSRC': _part('PromptSRCPrompt'),
    'UPT': _part('UPTPrompt'),
    'MVLPT': _part('MVLPTPrompt'),
    'CAVPT': _part('CAVPTPrompt'),
    'RePrompt': _part('RePrompt'),
    'PLOT': _part('PLOTPrompt'),
    'DualCoOp': _part('DualCoOpPrompt'),
    'TaI-DPT': _part('TaIDPTPrompt'),
    'CLIP-Adapter': _part('CLIPAdapter'),
    'Tip-Adapter-F': _part('TipAdapterF'),
    'CALIP': _part('CALIP'),
    'VT-CLIP': _part('VTCLIP'),
    'linear probe': _part('LinearProbe'),
    'WiSE-FT': _part('WiSEFTHead'),
    'LoRA': _part('LoRA'),
    'CLIP-LoRA': _part('CLIPLoRAPrompt'),
    'TPT': _test_time(dict(type='vlm_dense.TPT', selection=0.5)),
    'ZERO': _test_time(dict(type='vlm_dense.ZERO')),
    'TDA': _test_time(dict(type='vlm_dense.TDA', selection=0.5)),
    'DenseCLIP': _part('CoOpPrompt', 'denseclip'),
    'DenseCLIP + VPT': _part('VPTPrompt', 'denseclip'),
    'DenseCLIP detection': _part('CoOpPrompt', 'detector'),
    'MaskCLIP': _dense(None),
    'MaskCLIP + VPT': _part('VPTPrompt', 'maskclip'),
    'SCLIP': _dense(dict(type='vlm_dense.SCLIPAttention')),
    'ClearCLIP': _dense(dict(type='vlm_dense.ClearCLIPAttention')),
    'NACLIP': _dense(dict(type='vlm_dense.NACLIPAttention')),
    'SC-CLIP': _dense(dict(type='vlm_dense.SCCLIPAttention', pre=0, post=0, multi=(0, 1))),
    'ResCLIP': _dense(dict(type='vlm_dense.ResCLIPAttention', cross_blocks=(0,), pamr=dict(dilations=(1, 2)))),
    'ProxyCLIP': _dense(dict(type='vlm_dense.ProxyCLIPAttention', proxy=_PROXY)),
    'Trident': _whole_images(
        'vlm_dense.Trident',
        dict(type='vlm_dense.TridentAttention', proxy=_PROXY),
        sam=dict(type='vlm_dense.TowerCorrelation', arch=models.ARCHS['vit'], side=SIZE),
        test_cfg=dict(mode='slide', crop_size=(WINDOW, WINDOW), stride=(WINDOW, WINDOW)),
    ),
    'CorrCLIP': _whole_images(
        'vlm_dense.CorrCLIP',
        dict(type='vlm_dense.CorrCLIPAttention', proxy=_PROXY, middle=1),
        regions=dict(type='vlm_dense.ColourRegions'),
    ),
    'LPOSS': _lposs,
    'MaskCLIP+': _maskclip_plus,
}


def family_of(name: str, patch: pytest.MonkeyPatch) -> str:
    """Make a small tower of a family known to ``matrix.models``, as long as ``patch`` lasts; its name there."""
    config = families.small(name, patch)
    config.update(text_cfg=dict(TEXT, layers=3))
    for key in ('multimodal_cfg', 'custom_text', 'init_logit_bias'):
        config.pop(key, None)
    stages = name in families.MAPS and name != 'gap' or name == 'resnet'
    backbone = dict(type='vlm_dense.CLIPTower')
    if not stages:
        backbone.update(out_indices=[0, 0, 1, 1], pyramid=True)
    if name == 'relpos':  # of one stride
        backbone.update(out_indices=[0, 0, 1, 1])
    key = f'any {name}'
    patch.setitem(models.ARCHS, key, config)
    patch.setitem(models.BACKBONES, key, backbone)
    patch.setitem(models.SCORES, key, 3 if stages else 2)
    patch.setitem(OPTIONS, 'VPTPrompt', dict(depth=2, num_tokens=2))
    patch.setitem(OPTIONS, 'MVLPTPrompt', dict(depth=2))
    return key


def outcome(method: str, family: str) -> str:
    """``'works'``, or the message with which it is refused; anything else is an error."""
    patch = pytest.MonkeyPatch()
    try:
        ROWS[method](family_of(family, patch))
    except UserError as refusal:
        return str(refusal)
    finally:
        patch.undo()
    return 'works'
