"""Mean, deviation, interpolation and resizing are those of the weights; a config with others is refused."""

from __future__ import annotations

from copy import deepcopy

import open_clip
import pytest
from mmengine.config import ConfigDict

from vlm_dense.clip.preprocessing import Preprocessing, colours_of_tag, follow_tag, preprocessing_of
from vlm_dense.engine.configs.files import load_config
from vlm_dense.errors import ConfigError
from vlm_dense.inference.class_inferencer import classifier_config
from vlm_dense.inference.maskclip_models import maskclip_config, method_config

HALF = [127.5] * 3
SIGLIP = dict(type='vlm_dense.CLIPTower', arch='ViT-B-16-SigLIP2', pretrained='webli')


def test_they_belong_to_the_tag():
    """The card's list; two tags of one architecture differ."""
    cases = {
        ('ViT-B-16', 'openai'): ((0.48145466, 0.4578275, 0.40821073), 'bicubic', 'shortest', 224),
        ('ViT-L-14', 'laion2b_s32b_b82k'): ((0.5,) * 3, 'bicubic', 'shortest', 224),
        ('ViT-L-14', 'openai'): ((0.48145466, 0.4578275, 0.40821073), 'bicubic', 'shortest', 224),
        ('ViT-SO400M-14-SigLIP-384', 'webli'): ((0.5,) * 3, 'bicubic', 'squash', 384),
        ('PE-Core-L-14-336', 'meta'): ((0.5,) * 3, 'bilinear', 'squash', 336),
        ('ViT-L-14-CLIPA', 'datacomp1b'): ((0.485, 0.456, 0.406), 'bilinear', 'squash', 224),
        ('MobileCLIP-S1', 'datacompdr'): ((0.0,) * 3, 'bilinear', 'shortest', 256),
        ('MobileCLIP2-S3', 'dfndr2b'): ((0.48145466, 0.4578275, 0.40821073), 'bilinear', 'shortest', 256),
    }
    for (arch, tag), (mean, interpolation, mode, size) in cases.items():
        found = preprocessing_of(arch, tag)
        assert (found.mean, found.interpolation, found.resize_mode, found.size) == (mean, interpolation, mode, size)


def test_all_tags_have_one_and_a_file_has_that_of_all_tags_or_none():
    for arch, tag in open_clip.list_pretrained():
        found = preprocessing_of(arch, tag)
        assert found.resizing()[0]['interpolation'] in ('bicubic', 'bilinear') and min(found.std) > 0
    assert preprocessing_of('ViT-B-16-SigLIP2', 'weights/own.pt').mean == (0.5,) * 3
    assert preprocessing_of('ViT-L-14', 'weights/own.pt') is None  # its tags differ
    assert preprocessing_of(dict(), 'x') is None and preprocessing_of('ViT-B-16', None) is None


def test_a_config_that_says_tag_gets_the_numbers():
    steps = [
        dict(type='Resize', size='tag', interpolation='tag'),
        dict(type='CenterCrop', size='tag'),
    ]
    cfg = ConfigDict(
        model=dict(backbone=SIGLIP, data_preprocessor=dict(mean='tag', std='tag')),
        test_pipeline=[dict(type='vlm_dense.TorchvisionTransforms', transforms=steps)],
    )
    clip = deepcopy(cfg)
    follow_tag(cfg)
    assert cfg.model.data_preprocessor == dict(mean=HALF, std=HALF)
    resize, crop = cfg.test_pipeline[0].transforms
    assert resize == dict(type='Resize', size=[224, 224], interpolation='bicubic') and crop.size == 224
    clip.model.backbone.update(arch='ViT-B-16', pretrained='openai')
    follow_tag(clip)
    assert clip.test_pipeline[0].transforms[0].size == 224
    unknown = ConfigDict(model=dict(backbone=dict(arch={}, pretrained=None), data_preprocessor=dict(mean='tag')))
    with pytest.raises(ConfigError, match=r"model.data_preprocessor.mean='tag'.*nobody says.*Name a tag"):
        follow_tag(unknown)


def test_other_colours_than_those_of_the_weights_are_refused():
    clip = dict(mean=[122.7709383, 116.7460125, 104.09373615], std=[68.5005327, 66.6321579, 70.32316305])
    with pytest.raises(ConfigError, match=r"mean=\[122.77.*contradicts.*SigLIP2.*127.5.*mean='tag'"):
        colours_of_tag(clip, SIGLIP)
    with pytest.raises(ConfigError, match='std=.*contradicts'):
        follow_tag(ConfigDict(model=dict(backbone=SIGLIP), data_preprocessor=dict(clip, mean=HALF)))
    rounded = dict(mean=[122.8, 116.7, 104.1], std=[68.5, 66.6, 70.3])
    for backbone, given in (
        (dict(SIGLIP, arch='ViT-B-16', pretrained='openai'), rounded),
        (dict(SIGLIP, pretrained='own.pt'), clip),  # a file may be anything
        (dict(type='ResNet', depth=50), clip),
        (dict(type='vlm_dense.MaskCLIPViT', arch='ViT-B-16', pretrained='openai'), dict(mean=[123.7, 116.3, 103.5])),
    ):
        assert colours_of_tag(given, backbone) == given
    assert colours_of_tag(dict(mean='tag', std='tag'), SIGLIP) == dict(mean=HALF, std=HALF)


def test_options_of_a_config_choose_another_tower():
    options = {
        **{f'model.{part}.arch': 'ViT-B-16-SigLIP2' for part in ('backbone', 'text_encoder')},
        **{f'model.{part}.pretrained': 'webli' for part in ('backbone', 'text_encoder')},
        'model.backbone.type': 'vlm_dense.CLIPTower',
    }
    path = 'configs/zero_shot/zero_shot_imagenet.py'
    with pytest.raises(ConfigError, match="contradicts.*mean='tag'"):
        load_config(path, options)
    colours = {'model.data_preprocessor.mean': 'tag', 'model.data_preprocessor.std': 'tag'}
    assert load_config(path, {**options, **colours}).model.data_preprocessor.std == HALF


def test_the_inferencers_prepare_images_as_the_weights_want_it():
    cfg = classifier_config('ViT-B-16-SigLIP2', 'webli')
    assert cfg.model.data_preprocessor['mean'] == HALF and len(cfg.test_pipeline[1]['transforms']) == 1
    assert maskclip_config('ViT-B-16-SigLIP2', 'webli').model.data_preprocessor.mean == HALF
    naclip = method_config('naclip', 'PE-Core-B-16', 'meta').model
    assert naclip.data_preprocessor.mean == HALF and naclip.backbone.type == 'vlm_dense.CLIPTower'
    assert 'act' not in naclip.backbone and naclip.backbone.dense_attention.type == 'vlm_dense.NACLIPAttention'
    assert maskclip_config('ViT-B-16', 'openai').model.backbone.type == 'vlm_dense.MaskCLIPViT'
    with pytest.raises(ConfigError, match='convnext_base is a tower of maps, without blocks'):
        method_config('naclip', 'convnext_base', 'laion400m_s13b_b51k')
    assert Preprocessing.of_openai('RN50').size == 224
