"""Towers of features only, TIPSv2, DINOv3, RADIO and PE-Spatial, give ProxyCLIP the maps that timm computes."""

from __future__ import annotations

import pytest
import torch
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
