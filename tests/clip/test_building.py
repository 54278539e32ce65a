"""Every architecture of open_clip is built and loaded, whole or one side of it only."""

from __future__ import annotations

import sys
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer

sys.path.insert(0, str(Path(__file__).parents[1]))
import families

from vlm_dense.clip import building, load_clip, load_text, loading, sources
from vlm_dense.clip.loading import load_visual
from vlm_dense.errors import CheckpointError, ConfigError, MissingLibraryError

KINDS = (ModifiedResNet, TimmModel, VisionTransformer)


def visual_of(arch, pretrained=None, image_size=None):
    return load_visual(arch, pretrained, image_size, KINDS, 'test')


def outputs(tower, images):
    with torch.no_grad():
        found = tower(images)
    return found[0] if isinstance(found, tuple) else found  # CoCa's towers return their tokens as well


@pytest.mark.parametrize('family', families.CUTS)
def test_each_side_of_a_family_loads_as_the_whole_does(family, monkeypatch, tmp_path):
    config = families.small(family, monkeypatch)
    torch.manual_seed(0)
    whole = load_clip(config)
    if family == 'coca':  # open_clip leaves this one without values
        torch.nn.init.zeros_(whole.text_decoder.text_projection)
    torch.save(whole.state_dict(), tmp_path / 'clip.pt')
    again = load_clip(config, tmp_path / 'clip.pt')
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    visual, text = visual_of(config, tmp_path / 'clip.pt'), load_text(config, tmp_path / 'clip.pt')
    side = config['vision_cfg']['image_size']
    images, ids = (
        torch.randn(1, 3, side, side),
        torch.randint(1, 299, (2, config['text_cfg'].get('context_length', 77))),
    )
    assert torch.equal(outputs(visual, images), outputs(whole.visual, images))
    with torch.no_grad():
        expected = whole.encode_text(ids, normalize=False)
    assert torch.equal(outputs(text.text, ids), expected)
    assert torch.equal(text.logit_scale, whole.logit_scale) and (text.logit_bias is None) == (whole.logit_bias is None)
    assert not any(module.training for side in (whole, visual, text) for module in side.modules())


def test_the_keys_of_any_size_trunks_are_those_of_open_clip(monkeypatch):
    for family in ('siglip', 'pe', 'eva02', 'convnext_mlp'):
        config = families.small(family, monkeypatch)
        published = open_clip.model._build_vision_tower(config['embed_dim'], dict(config['vision_cfg']))
        found = building.build_visual(config).state_dict()
        assert {key: value.shape for key, value in found.items()} == {
            key: value.shape for key, value in published.state_dict().items()
        }


def test_an_image_tower_needs_no_text_tower(monkeypatch, tmp_path):
    config = families.small('siglip', monkeypatch)
    weights = {f'visual.{key}': value for key, value in visual_of(config).state_dict().items()}
    torch.save(weights, tmp_path / 'images.pt')
    monkeypatch.setattr(building, '_build_text_tower', None)  # nobody calls it
    config['text_cfg'] = dict(hf_model_name='facebook/nllb-200-distilled-600M')
    visual_of(config, tmp_path / 'images.pt')
    with pytest.raises(CheckpointError, match='2 missing|missing'):
        torch.save({'text.x': torch.zeros(1)}, tmp_path / 'texts.pt')
        visual_of(config, tmp_path / 'texts.pt')


def test_a_text_tower_of_hugging_face_names_its_extra(monkeypatch):
    monkeypatch.setattr(building, 'find_spec', lambda name: None)
    config = dict(embed_dim=8, vision_cfg={}, text_cfg=dict(hf_model_name='roberta-base'))
    for load in (load_text, load_clip):
        with pytest.raises(MissingLibraryError, match=r'roberta-base.*transformers.*\[hf\]'):
            load(config)


def test_a_bundled_file_gives_each_side():
    whole, text = load_clip('tiny-vit', 'bundled'), load_text('tiny-vit', 'bundled')
    assert torch.equal(text.text.token_embedding.weight, whole.token_embedding.weight)
    assert torch.equal(visual_of('tiny-vit', 'bundled').proj, whole.visual.proj)


def test_another_image_size_resizes_the_table_of_a_trunk(monkeypatch):
    config = families.small('siglip', monkeypatch)
    assert visual_of(config).trunk.pos_embed.shape[1] == 16
    assert visual_of(config, image_size=128).trunk.pos_embed.shape[1] == 64


def test_a_pool_that_no_trunk_has_is_refused(monkeypatch):
    config = families.small('convnext', monkeypatch)
    config['vision_cfg']['timm_pool'] = 'abs_attn'
    with pytest.raises(ConfigError, match="timm_pool='abs_attn'.*expected a pool of the trunk itself"):
        visual_of(config)


def test_all_tags_name_their_file(monkeypatch):
    asked = []

    def note(tag_config):
        asked.append(tag_config['hf_hub'])
        raise ConnectionError

    monkeypatch.setattr(open_clip, 'download_pretrained', note)
    monkeypatch.setattr(sources.huggingface_hub, 'get_hf_file_metadata', lambda *args, **kwargs: None)
    monkeypatch.setattr(sources.huggingface_hub, 'try_to_load_from_cache', lambda *args: None)
    tags = open_clip.list_pretrained()
    for arch, tag in tags:
        with pytest.raises(FileNotFoundError, match='of the Hugging Face repository'):
            sources.locate_weights(arch, loading.model_config(arch), tag)
    assert len(asked) == len(tags) >= 190


@pytest.mark.parametrize('arch', ['tiny-rn', 'tiny-vit'])
def test_a_seed_gives_the_same_heads_whichever_side_is_loaded(arch):
    def drawn_after(load):
        torch.manual_seed(3)
        load()
        return torch.rand(3)

    expected = drawn_after(lambda: load_clip(arch, 'bundled'))
    assert torch.equal(drawn_after(lambda: load_text(arch, 'bundled')), expected)
    assert torch.equal(drawn_after(lambda: visual_of(arch, 'bundled')), expected)
