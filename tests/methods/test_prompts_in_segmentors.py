"""A text prompt written for classification trains in DenseCLIP and in MaskCLIP, by config alone."""

from __future__ import annotations

import pytest
import torch
from mmengine import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from segmentation.small_heads import fpn_head
from tiny_towers import resnet

from vlm_dense.registry import MODELS

NAMES = ['background', 'circle', 'square', 'red star']
ARCH = resnet(embed_dim=32)
PROMPTS = dict(
    CoOpPrompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=4, class_specific=True),
    CoCoOpPrompt=dict(type='vlm_dense.CoCoOpPrompt', reduction=2),
    KgCoOpPrompt=dict(type='vlm_dense.KgCoOpPrompt', words=None, num_contexts=4),
    TaIDPTPrompt=dict(type='vlm_dense.TaIDPTPrompt', num_contexts=4),
    UPLPrompt=dict(type='vlm_dense.UPLPrompt', num_members=2, num_contexts=4),
)
COMMON = dict(
    class_names=NAMES,
    data_preprocessor=dict(type='vlm_dense.MixedSizeSegDataPreProcessor', mean=[0.0] * 3, std=[1.0] * 3),
    text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH, context_length=24),
    test_cfg=dict(mode='whole'),
)


def denseclip(text_prompt: dict) -> torch.nn.Module:
    return MODELS.build(
        ConfigDict(
            type='vlm_dense.DenseCLIP',
            backbone=dict(type='vlm_dense.CLIPResNet', arch=ARCH, attnpool=True),
            text_prompt=text_prompt,
            neck=dict(type='mmseg.FPN', in_channels=[32, 64, 128, 256 + len(NAMES)], out_channels=8, num_outs=4),
            decode_head=fpn_head(len(NAMES), 8),
            identity_head=dict(
                type='vlm_dense.IdentityHead',
                align_corners=False,
                loss_decode=dict(type='mmseg.CrossEntropyLoss', loss_weight=0.4),
            ),
            **COMMON,
        )
    )


def maskclip(text_prompt: dict) -> torch.nn.Module:
    backbone = dict(type='vlm_dense.MaskCLIPResNet', arch=ARCH)
    head = dict(loss_decode=dict(type='mmseg.CrossEntropyLoss'))
    return MODELS.build(
        ConfigDict(
            type='vlm_dense.MaskCLIP',
            backbone=backbone,
            text_prompt=text_prompt,
            decode_head=head,
            train_cfg={},
            **COMMON,
        )
    )


def samples() -> list[SegDataSample]:
    meta = dict(img_shape=(64, 64), ori_shape=(64, 64))
    labels = torch.randint(0, len(NAMES), (2, 1, 64, 64))
    return [SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=x)) for x in labels]


@pytest.mark.parametrize('build', [denseclip, maskclip])
@pytest.mark.parametrize('name', PROMPTS)
def test_a_training_step_moves_the_prompt(name, build):
    torch.manual_seed(0)
    model = build(PROMPTS[name])
    prompt = next(m for n, m in model.named_modules() if n.endswith('text_prompt'))
    images, before = torch.randn(2, 3, 64, 64), {k: v.clone() for k, v in prompt.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    losses = model.loss(images, samples())
    own = [k for k in losses if k.endswith('prompt.loss_kg')]
    assert len(own) == (name == 'KgCoOpPrompt')
    assert all(losses[k] > 0 for k in own)
    model.parse_losses(losses)[0].backward()
    optimizer.step()
    assert all(not torch.equal(v, before[k]) for k, v in prompt.state_dict().items())
    model.eval()
    with torch.no_grad():
        predicted = model.predict(images, samples())
    assert all(p.pred_sem_seg.data.shape == (1, 64, 64) for p in predicted)
