"""DenseCLIP as a segmentor: what it refuses, what it encodes once, how it tests batches."""

from __future__ import annotations

import pytest
import torch
from mmengine import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from segmentation.small_heads import fpn_head
from tiny_towers import resnet

from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import MODELS

NAMES = ['background', 'circle', 'square', 'red star']
ARCH = resnet(embed_dim=32)


def config(**kwargs) -> ConfigDict:
    cfg = dict(
        type='vlm_dense.DenseCLIP',
        class_names=NAMES,
        data_preprocessor=dict(type='vlm_dense.MixedSizeSegDataPreProcessor', mean=[0.0] * 3, std=[1.0] * 3),
        backbone=dict(type='vlm_dense.CLIPResNet', arch=ARCH, attnpool=True),
        text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH, context_length=16),
        text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=4),
        context_decoder=dict(type='vlm_dense.ContextDecoder', width=16, heads=2, layers=1),
        neck=dict(type='mmseg.FPN', in_channels=None, out_channels=16, num_outs=4),
        decode_head=fpn_head(len(NAMES), 16),
        identity_head=dict(
            type='vlm_dense.IdentityHead',
            align_corners=False,
            loss_decode=dict(type='mmseg.CrossEntropyLoss', loss_weight=0.4),
        ),
        test_cfg=dict(mode='whole'),
    )
    cfg.update(kwargs)
    return ConfigDict(cfg)


def build(**kwargs):
    torch.manual_seed(0)
    return MODELS.build(config(**kwargs))


def samples(sizes, labels=True):
    out = []
    for h, w in sizes:
        sample = SegDataSample(metainfo=dict(img_shape=(h, w), ori_shape=(h, w)))
        if labels:
            sample.gt_sem_seg = PixelData(data=torch.randint(0, len(NAMES), (1, h, w)))
        out.append(sample)
    return out


def test_class_names_must_be_given():
    with pytest.raises(ClassNamesError, match=r'vlm-dense train'):
        build(class_names=None)


def test_class_count_must_match_the_head():
    with pytest.raises(ClassNamesError, match='3 class names for decode_head.num_classes=4'):
        build(class_names=NAMES[:3])


def test_name_longer_than_the_context_is_named():
    with pytest.raises(ClassNamesError, match='a very long name of a class'):
        build(class_names=[*NAMES[:3], 'a very long name of a class'])


def test_contexts_beyond_the_positions_are_explained():
    with pytest.raises(ClassNamesError, match='12 . 5 tokens.*context_length of 16'):
        build(text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=12))


def test_foreign_backbone_is_refused():
    with pytest.raises(ConfigError, match='CLIPViT.*found ResNet'):
        build(backbone=dict(type='mmseg.ResNet', depth=18))


def test_towers_of_different_spaces_are_refused():
    other = dict(ARCH, embed_dim=48)
    with pytest.raises(ConfigError, match='32 and 48 dimensions'):
        build(text_encoder=dict(type='vlm_dense.TextTower', arch=other, context_length=16))


def test_score_map_of_another_stride_is_explained():
    model = build(score_concat_index=2).eval()
    with pytest.raises(ConfigError, match='score_concat_index'):
        model.extract_feat(torch.randn(1, 3, 64, 64))


def test_text_is_encoded_once_for_all_windows_and_again_after_training(monkeypatch):
    model = build(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(32, 32), window_batch_size=2)).eval()
    calls = []
    forward = type(model.text_prompt).forward
    monkeypatch.setattr(type(model.text_prompt), 'forward', lambda *a, **k: calls.append(1) or forward(*a, **k))
    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        first = model.predict(images, samples([(96, 128)] * 2))
        model.predict(images, samples([(96, 128)] * 2))
        assert len(calls) == 1
        model.train()
        model.text_prompt.contexts.mul_(-1)
        model.gamma.fill_(1.0)
        model.eval()
        second = model.predict(images, samples([(96, 128)] * 2))
    assert len(calls) == 2
    assert not torch.allclose(first[0].seg_logits.data, second[0].seg_logits.data)


@pytest.mark.parametrize('mode', ['whole', 'slide'])
@torch.no_grad()
def test_a_batch_of_different_sizes_equals_its_images_one_by_one(mode):
    test_cfg = dict(mode=mode, crop_size=(64, 64), stride=(40, 40), window_batch_size=3)
    model = build(test_cfg=test_cfg).eval()
    sizes = [(64, 96), (100, 64), (64, 96), (48, 40)]
    images = [torch.randint(0, 255, (3, *s), dtype=torch.uint8) for s in sizes]
    together = model.test_step(dict(inputs=images, data_samples=samples(sizes)))
    for image, size, found in zip(images, sizes, together, strict=True):
        alone = model.test_step(dict(inputs=[image], data_samples=samples([size])))[0]
        assert found.pred_sem_seg.data.shape == (1, *size)
        torch.testing.assert_close(found.seg_logits.data, alone.seg_logits.data, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_slide_equals_mmsegs_slide():
    from mmseg.models import EncoderDecoder

    model = build(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(40, 40), window_batch_size=4)).eval()
    images = torch.randn(2, 3, 100, 130)
    wanted = EncoderDecoder.slide_inference(model, images, [dict() for _ in range(2)])
    torch.testing.assert_close(model.inference(images, [{}, {}]), wanted, rtol=1e-4, atol=1e-5)


def test_any_prompt_of_the_contract_serves():
    model = build(text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {}.', 'a {}.']))
    losses = model.loss(torch.randn(2, 3, 64, 64), samples([(64, 64)] * 2))
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total) and model.gamma.grad is not None


def test_training_moves_prompts_and_leaves_the_text_tower_alone():
    model = build().train()
    assert not model.text_encoder.training
    total, logs = model.parse_losses(model.loss(torch.randn(2, 3, 64, 64), samples([(64, 64)] * 2)))
    total.backward()
    assert {'decode.loss_ce', 'aux_identity.loss_ce'} <= set(logs)
    assert model.text_prompt.contexts.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.text_encoder.parameters())


def test_batch_of_one_trains_with_batch_norm():
    model = build().train()
    total, _ = model.parse_losses(model.loss(torch.randn(1, 3, 64, 64), samples([(64, 64)])))
    assert torch.isfinite(total)


def test_without_decoder_and_auxiliary_loss_it_is_plain_matching():
    model = build(context_decoder=None, identity_head=None).eval()
    images = torch.randn(1, 3, 64, 64)
    features = model.backbone.encode(images, ('global', 'dense'))
    text = model.text_side.class_embeddings(features.global_)
    score = model.guide(images)[1]
    pixel = features.dense[0, :, 1, 0]
    wanted = torch.stack([torch.cosine_similarity(pixel, t, dim=0) for t in text])
    torch.testing.assert_close(score[0, :, 1, 0], wanted)
    assert list(model.loss(images, samples([(64, 64)]))) == ['decode.loss_ce', 'decode.acc_seg']


def test_unknown_component_suggests_the_nearest_name():
    with pytest.raises(ConfigError, match="'DenseCLIPPrompt'"):
        build(text_prompt=dict(type='vlm_dense.DenseClipPromt'))
