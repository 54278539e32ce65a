"""Models of repositories in open_clip's format: a folder, or the cache of the Hugging Face hub."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import pytest
import torch

import vlm_dense
from vlm_dense.cli import classify, segment
from vlm_dense.clip import load_clip
from vlm_dense.clip.architectures import BUNDLED_DIR, model_config
from vlm_dense.clip.preprocessing import preprocessing_of
from vlm_dense.errors import ConfigError, WeightsNotFoundError
from vlm_dense.inference import ClassInferencer

PREPARED = dict(mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.1], interpolation='bilinear', resize_mode='squash')


def fill(folder, **more):
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(model_cfg=json.loads((BUNDLED_DIR / 'tiny-vit.json').read_text()), **more)
    (folder / 'open_clip_config.json').write_text(json.dumps(config))
    shutil.copy(BUNDLED_DIR / 'tiny-vit.safetensors', folder / 'open_clip_model.safetensors')
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache with one repository, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    place = tmp_path / 'hub' / 'models--org--tiny'
    fill(place / 'snapshots' / 'abc', preprocess_cfg=PREPARED)
    (place / 'refs').mkdir()
    (place / 'refs' / 'main').write_text('abc')

    def refuse(*args, **kwargs):
        raise OSError('no network')

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', refuse)
    lookup = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(
        huggingface_hub, 'try_to_load_from_cache', lambda *args: lookup(*args, cache_dir=str(tmp_path / 'hub'))
    )
    return 'hf-hub:org/tiny'


def test_a_folder_is_a_model(tmp_path):
    name = f'local-dir:{fill(tmp_path / "model")}'
    assert model_config(name) == model_config('tiny-vit')
    image = torch.randn(1, 3, 64, 64)
    expected = load_clip('tiny-vit', 'bundled').encode_image(image)
    torch.testing.assert_close(load_clip(name, name).encode_image(image), expected)
    assert preprocessing_of(name, name) is None  # the folder does not say


def test_a_cached_repository_is_a_model(hub):
    model = vlm_dense.get_model(hub, class_names=['circle', 'star', 'background'])
    expected = vlm_dense.get_model('maskclip_tiny-vit', class_names=['circle', 'star', 'background'])
    expected.backbone.load_state_dict(model.backbone.state_dict())
    with torch.no_grad():
        text = model.decode_head.embed_classes()
        torch.testing.assert_close(text, expected.decode_head.embed_classes())
        assert model(torch.randn(1, 3, 64, 64)).shape[1] == 3
    found = preprocessing_of(hub, hub)
    assert (found.mean, found.interpolation, found.resize_mode) == ((0.5, 0.4, 0.3), 'bilinear', 'squash')


def test_a_repository_classifies_and_programs_take_its_name(hub):
    model = ClassInferencer(hub, device='cpu', show_progress=False)
    assert model.cfg.model.data_preprocessor.mean == [255 * x for x in PREPARED['mean']]
    (found,) = model(torch.zeros(3, 64, 64), classes=['circle', 'star'])['predictions']
    assert found['name'] in ('circle', 'star')
    for program in (segment, classify):
        assert program.parser().parse_args(['photo.jpg', '--model', hub]).model == hub


def test_what_is_missing_is_told(hub, tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r'hf download org/none'):
        model_config('hf-hub:org/none')
    with pytest.raises(WeightsNotFoundError, match='in the folder'):
        load_clip('tiny-vit', f'local-dir:{tmp_path}')
    (tmp_path / 'open_clip_config.json').write_text('{"model_cfg": {"a": 1}}')
    with pytest.raises(ConfigError, match='no model config of open_clip'):
        model_config(f'local-dir:{tmp_path}')
