"""Towers of features only, TIPSv2, DINOv3, RADIO and PE-Spatial, give ProxyCLIP the maps that timm computes."""

from __future__ import annotations

import pytest
import torch
from mmengine import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from tiny_towers import vit

from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

SMALL = dict(depth=1, embed_dim=32, num_heads=2)
NAMES = dict(  # name -> prefix tokens, mean of the red channel
    vit_base_patch14_reg1_tipsv2=(2, 0.0),
    vit_small_patch16_dinov3=(5, 0.485),
    vit_base_patch16_radio_v3=(8, 0.48145466),
    vit_pe_spatial_tiny_patch16_512=(1, 0.5),
)


@pytest.mark.parametrize('name', NAMES)
@torch.no_grad()
def test_the_map_is_that_of_timm_without_class_token_and_registers(name):
    torch.manual_seed(0)
    cfg = dict(type='vlm_dense.ProxyViT', model=name, pretrained=False, **SMALL)
    proxy = MODELS.build(dict(cfg, positions='timm')).eval()
    prefix, red = NAMES[name]
    p, images = proxy.patch_size, torch.randn(2, 3, 71, 100)
    height, width = 71 // p, 100 // p
    expected = proxy.model.forward_features(images[:, :, : height * p, : width * p])
    assert proxy.model.num_prefix_tokens == prefix and expected.shape[1] == prefix + height * width
    assert torch.equal(proxy(images), expected[:, prefix:].mT.unflatten(2, (height, width)))
    assert proxy.mean[0] == pytest.approx(red)
    with pytest.raises(ConfigError, match="Use positions='timm'"):
        MODELS.build(cfg)


@torch.no_grad()
def test_proxyclip_gives_a_proxy_images_in_its_own_colours():
    proxy = dict(type='vlm_dense.ProxyViT', model='vit_base_patch14_reg1_tipsv2', pretrained=False, positions='timm')
    part = dict(type='vlm_dense.ProxyCLIPAttention', proxy=dict(proxy, **SMALL), mean='own', std='own')
    tower = MODELS.build(dict(type='vlm_dense.CLIPViT', arch=vit(), head=True, dense_attention=part)).eval()
    seen = []
    tower.dense_attention.proxy.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    colours = torch.rand(1, 3, 56, 70)
    mean, std = (torch.tensor(t)[:, None, None] for t in (tower.preprocessing.mean, tower.preprocessing.std))
    assert tower.encode((colours - mean) / std, ('value',)).value.shape[2:] == (4, 5)
    torch.testing.assert_close(seen[0], colours, rtol=0, atol=1e-5)
    tower.dense_attention.take_colours((0.5,) * 3, (0.5,) * 3)  # those of a SigLIP
    tower.encode(2 * colours - 1, ('value',))
    torch.testing.assert_close(seen[1], colours, rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_it_is_a_backbone_of_text_guidance(name):
    """DenseCLIP on a tower without texts: stages of four blocks, a new pool, the texts of a CLIP."""
    body = dict(
        type='mmseg.TIMMBackbone',
        model_name=name,
        pretrained=False,
        out_indices=(0, 1, 2, 3),
        img_size=112,
        dynamic_img_size=True,
        depth=4,
        embed_dim=32,
        num_heads=2,
    )
    model = MODELS.build(
        ConfigDict(
            type='vlm_dense.DenseCLIP',
            class_names=['tree', 'sky', 'road'],
            data_preprocessor=dict(type='mmseg.SegDataPreProcessor'),
            backbone=dict(type='vlm_dense.PooledBackbone', backbone=body, channels=[32] * 4, embed_dim=16, heads=2),
            text_encoder=dict(type='vlm_dense.TextTower', arch=vit()),
            text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=2),
            context_decoder=dict(type='vlm_dense.ContextDecoder', width=16, heads=2, layers=1),
            neck=dict(type='mmseg.FPN', in_channels=None, out_channels=16, num_outs=4),
            decode_head=dict(
                type='mmseg.FPNHead',
                in_channels=[16] * 4,
                in_index=[0, 1, 2, 3],
                feature_strides=[16] * 4,
                channels=8,
                num_classes=3,
                align_corners=False,
            ),
        )
    ).train()
    images = torch.randn(2, 3, 112, 112)  # of whole patches
    batch = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 3, (1, 112, 112)))) for _ in range(2)]
    total, _ = model.parse_losses(model.loss(images, batch))
    total.backward()
    assert total.isfinite()
    for part in (model.backbone.attnpool.v_proj.weight, next(model.backbone.body.parameters())):
        assert part.grad is not None and part.grad.abs().max() > 0
