"""``tower=NAME`` puts another CLIP into a config: both sides, colours, crops, what depends on strides."""

from __future__ import annotations

import copy

import open_clip
import pytest
import torch
from mmengine.config import Config
from mmseg.structures import SegDataSample
from timm.models import _registry
from tiny_texts import WordTokenizer

from vlm_dense.clip import architectures
from vlm_dense.clip.preprocessing import preprocessing_of
from vlm_dense.engine.configs.files import load_config
from vlm_dense.engine.configs.tower_names import TOWERS
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

PUBLISHED = [name for name in TOWERS if not name.startswith('tiny-')]
SMALL = dict(
    vision_transformer=dict(depth=4, embed_dim=32, num_heads=2),
    eva=dict(depth=4, embed_dim=32, num_heads=2),
    convnext=dict(depths=(1,) * 4, dims=(8, 16, 24, 32)),
    fastvit=dict(layers=(1,) * 4, embed_dims=(8, 16, 32, 64)),
    vision_transformer_hybrid=dict(depth=2),  # behind a stem of the published width
)


@pytest.fixture
def small(monkeypatch):
    """Towers of these names with four narrow blocks, and texts of few words."""
    known, entries = open_clip.get_model_config, dict(_registry._model_entrypoints)

    def config_of(name):
        config = copy.deepcopy(known(name))
        vision, trunk = config['vision_cfg'], config['vision_cfg'].get('timm_model_name')
        if trunk:
            cut = dict(SMALL[_registry._model_to_module[trunk]])
            if 'pe_core' in trunk:
                cut.update(attn_pool_num_heads=2)
            entry = entries[trunk]
            monkeypatch.setitem(_registry._model_entrypoints, trunk, lambda **given: entry(**{**cut, **given}))
        else:
            vision.update(layers=4, width=32, head_width=16)
        config['embed_dim'] = 32
        config['text_cfg'].update(layers=2, width=32, heads=2, vocab_size=64)
        return config

    monkeypatch.setattr(architectures.open_clip, 'get_model_config', config_of)


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_weights_have_a_tag_and_colours(name):
    arch, tag = TOWERS[name]
    assert (arch, tag) in open_clip.list_pretrained() and preprocessing_of(arch, tag) is not None


def built(cfg: Config) -> torch.nn.Module:
    model = cfg.model
    for part in (model.backbone, model.text_encoder):
        part['pretrained'] = None
    model.text_encoder['tokenizer'] = WordTokenizer()
    if str(model.get('text_prompt', {}).get('type')).endswith('ZeroShotPrompt'):
        model.text_prompt['templates'] = ['a {}']
    model['class_names'] = ['tree', 'sky', 'road']
    return MODELS.build(model)


MAPS = ('convnext-b', 'convnext-l', 'mobileclip2-s0')


@pytest.mark.parametrize(
    'name', ['siglip2-so400m14', 'pe-core-l14', 'eva02-b16', 'mobileclip2-b', 'dfn-h14', 'convnext-l']
)
def test_naclip_runs_on_towers_of_blocks_and_is_refused_elsewhere(name, small):
    cfg = load_config('naclip_vit-b16_voc21', dict(tower=name))
    assert cfg.model.backbone.arch == cfg.model.text_encoder.arch == TOWERS[name][0] and 'tower' not in cfg
    if name in MAPS:
        with pytest.raises(ConfigError, match='has no blocks for dense_attention'):
            built(cfg)
        return
    found = preprocessing_of(*TOWERS[name])
    assert list(cfg.model.data_preprocessor.mean) == pytest.approx([255 * x for x in found.mean])
    cfg.model.update(postprocess=[], test_cfg=dict(mode='whole'), decode_head={})
    model = built(cfg).eval()
    image = torch.randn(1, 3, 97, 161)
    with torch.no_grad():
        [sample] = model.predict(image, [SegDataSample(metainfo=dict(ori_shape=(97, 161), img_shape=(97, 161)))])
    assert sample.pred_sem_seg.data.shape == (1, 97, 161) and not any(
        p.requires_grad for p in model.backbone.parameters()
    )


@pytest.mark.parametrize(
    ('name', 'strides', 'index'),
    [('siglip2-b16', (4, 8, 16, 32), 2), ('metaclip2-h14', (3.5, 7, 14, 28), 2), ('mobileclip2-s0', (4, 8, 16, 32), 3)],
)
def test_denseclip_gets_four_scales_and_scores_at_the_stride(name, strides, index, small):
    cfg = load_config('denseclip_vit-b16_ade20k', dict(tower=name))
    assert cfg.model.score_concat_index == index
    assert ('context_length' in cfg.model.text_encoder) == (name == 'metaclip2-h14')  # the others read all of it
    for norm in (cfg.model.backbone, cfg.model.decode_head):
        norm.pop('norm_cfg', None)
    cfg.model.decode_head.update(num_classes=3)
    cfg.model.context_decoder = cfg.model.context_decoder or None
    model = built(cfg).train()
    maps = model.backbone(torch.randn(1, 3, 224, 224))
    assert [round(224 / m.shape[-1], 1) for m in maps] == list(strides)
    assert [m.shape[1] for m in maps] == list(model.backbone.out_channels)


@pytest.mark.parametrize(
    ('name', 'steps'),
    [
        ('siglip2-b16', [dict(size=[224, 224], interpolation='bicubic'), dict(size=224)]),
        ('pe-core-l14', [dict(size=[336, 336], interpolation='bilinear'), dict(size=336)]),
        ('convnext-b', [dict(size=256, interpolation='bicubic'), dict(size=256)]),
    ],
)
def test_crops_of_classification_are_those_of_the_tag(name, steps):
    cfg = load_config('coop_imagenet', dict(tower=name))
    transforms = cfg.test_dataloader.dataset.pipeline[1].transforms
    assert [{k: v for k, v in step.items() if k != 'type'} for step in transforms] == steps
    assert cfg.train_dataloader.dataset.pipeline[1].transforms[0]['size'] == steps[1]['size']
    assert cfg.model.backbone.head and cfg.model.backbone.type == 'vlm_dense.CLIPTower'


def test_sentences_are_cut_where_the_context_is_short():
    for name, cut in (('pe-core-b16', True), ('siglip2-b16', True), ('eva02-l14', False)):
        cfg = load_config('zero_shot_imagenet', dict(tower=name))
        assert cfg.model.text_prompt.get('truncate', False) == cut


def test_published_settings_of_other_weights_are_left_out():
    cfg = load_config('maskclip_vit-b16_voc20', dict(tower='vit-l14'))
    assert cfg.model.backbone.type == 'vlm_dense.MaskCLIPViT' and cfg.model.backbone.act is None
    cfg = load_config('maskclip_vit-b16_voc20', dict(tower='convnext-b'))
    assert cfg.model.backbone == dict(
        type='vlm_dense.CLIPTower', arch='convnext_base_w', pretrained='laion2b_s13b_b82k_augreg', frozen=True
    )


def test_maskclip_leaves_variants_out_that_need_the_keys_of_a_convnext():
    cfg = load_config('maskclip_tiny-vit_shapes', dict(tower='tiny-convnext'))
    names = ['background', 'circle']
    model = MODELS.build(dict(cfg.model, class_names=names, decode_head=dict(cfg.model.decode_head, num_classes=2)))
    assert set(cfg.model.variants) - set(model.variants) == {'smoothed', 'denoised_smoothed'}


def test_a_file_can_name_the_tower_and_options_come_after_it(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = 'vlm_dense::naclip/naclip_vit-b16_voc21.py'\ntower = 'eva02-b16'\n")
    cfg = load_config(str(path), {'model.backbone.remainder': 'pad'})
    assert cfg.model.backbone.arch == 'EVA02-B-16' and cfg.model.backbone.remainder == 'pad'
    own = dict(arch='PE-Core-B-16', pretrained='meta')
    assert load_config(str(path), dict(tower=own)).model.text_encoder.arch == 'PE-Core-B-16'


def test_what_has_no_two_towers_is_refused():
    with pytest.raises(ConfigError, match="'siglip-b16' is not in the towers.*siglip2-b16"):
        load_config('naclip_vit-b16_voc21', dict(tower='siglip-b16'))
    with pytest.raises(ConfigError, match='expected arch and pretrained'):
        load_config('naclip_vit-b16_voc21', dict(tower=dict(arch='RN50')))
    with pytest.raises(
        ConfigError, match='the model of this config is RetinaNet|DenseCLIPRetinaNet|changes the towers'
    ):
        load_config('denseclip_retinanet_r50_coco', dict(tower='convnext-b'))
