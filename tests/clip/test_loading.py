"""Every source of CLIP weights loads exactly, and every file that cannot is refused with its reason."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from copy import deepcopy
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from torch import nn

from vlm_dense.clip import (
    activation,
    architectures,
    check_fit,
    load_clip,
    loading,
    read_state_dict,
    recent_file,
    sources,
)
from vlm_dense.clip import tokenize as clip_tokenize
from vlm_dense.errors import CheckpointError, ConfigError, WeightsNotFoundError

TEXT = dict(context_length=77, vocab_size=300, width=64, heads=1, layers=2)
VIT = dict(embed_dim=16, vision_cfg=dict(image_size=32, layers=2, width=64, patch_size=8), text_cfg=TEXT)
RESNET = dict(embed_dim=16, vision_cfg=dict(image_size=64, layers=[1, 1, 1, 1], width=8), text_cfg=TEXT)
TOWERS = pytest.mark.parametrize('config', [VIT, RESNET], ids=['vit', 'resnet'])


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network, and caches that hold nothing."""

    def refuse(*args, **kwargs):
        raise ConnectionError('no network')

    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(huggingface_hub, 'get_hf_file_metadata', refuse)
    monkeypatch.setattr(open_clip, 'download_pretrained', refuse)


@pytest.fixture
def log(monkeypatch):
    lines = []
    for module in (loading, activation):
        monkeypatch.setattr(module, 'print_log', lambda message, **kwargs: lines.append(message))
    return lines


def clip_of(config, **kwargs):
    torch.manual_seed(1)
    return CLIP(**config, **kwargs).eval()


def weights_of(config):
    return clip_of(config).state_dict()


def small(monkeypatch, arch, config):
    """Give a name of open_clip's a small model."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, arch, deepcopy(config))


def activations(model):
    return {type(module) for module in model.modules() if isinstance(module, (nn.GELU, QuickGELU))}


def assert_loaded(model, expected):
    assert isinstance(model, (CLIP, CustomTextCLIP)) and not model.training
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value.to(found[key].dtype)), key
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def save_torchscript(model, path):
    """An archive in OpenAI's layout: float16 weights, and three numbers among the buffers."""
    del model.context_length, model.vocab_size
    for name, value in zip(activation.OPENAI_ENTRIES, (32, 77, 300), strict=True):
        model.register_buffer(name, torch.tensor(value))
    text = torch.zeros(1, 77, dtype=torch.long)
    torch.jit.trace_module(model, {'encode_text': text}, check_trace=False).half().save(path)


# --- sources ---------------------------------------------------------------------------------------------------------


def _plain(weights, path):
    torch.save(weights, path)


def _legacy(weights, path):
    torch.save(weights, path, _use_new_zipfile_serialization=False)


def _training_checkpoint(weights, path):
    weights = {f'module.{key}': value for key, value in weights.items()}
    torch.save({'epoch': 3, 'name': 'run', 'state_dict': weights, 'optimizer': {'state': {}}}, path)


def _openai_numbers(weights, path):
    torch.save({**weights, 'input_resolution': torch.tensor(32), 'context_length': 77, 'vocab_size': 300}, path)


def _vector_logit_scale(weights, path):
    torch.save({**weights, 'logit_scale': weights['logit_scale'].reshape(1)}, path)


@TOWERS
@pytest.mark.parametrize(
    'save, suffix',
    [
        (_plain, '.pt'),
        (_plain, '.bin'),
        (_legacy, '.pth'),
        (_training_checkpoint, '.pt'),
        (_openai_numbers, '.pt'),
        (_vector_logit_scale, '.pt'),
        (save_file, '.safetensors'),
        (save_file, '.bin'),
    ],
)
def test_a_file_loads_whatever_its_format_and_suffix(config, save, suffix, tmp_path):
    weights = weights_of(config)
    save(weights, tmp_path / f'clip{suffix}')
    assert_loaded(load_clip(config, tmp_path / f'clip{suffix}'), weights)
    assert_loaded(load_clip(config, str(tmp_path / f'clip{suffix}')), weights)


@TOWERS
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_a_torchscript_archive_of_openai_loads_with_quickgelu(config, tmp_path):
    weights = {key: value.half() if value.is_floating_point() else value for key, value in weights_of(config).items()}
    save_torchscript(clip_of(config), tmp_path / 'clip.pt')
    model, original = load_clip(config, tmp_path / 'clip.pt'), clip_of(config, quick_gelu=True)
    assert_loaded(model, weights)
    original.load_state_dict(weights)
    image, text = torch.randn(2, 3, *[config['vision_cfg']['image_size']] * 2), torch.randint(300, (2, 77))
    for found, expected in zip(model(image, text), original(image, text), strict=True):
        assert torch.equal(found, expected)


class Parts(nn.Module):
    """A module with all that an archive can hold beside parameters."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 3, bias=i > 0) for i in range(2))
        self.norm = nn.BatchNorm1d(3)
        self.plain = torch.arange(3.0)
        self.shift = nn.Parameter(torch.randn(6).as_strided((2, 2), (1, 3)))
        self.register_buffer('mask', torch.tensor([True, False, True]))
        self.register_buffer('halved', torch.randn(5).half())
        self.register_buffer('empty', torch.zeros(0, 3))
        self.numbers: list[int] = [1, 2]
        self.names: dict[str, float] = {'a': 0.5}

    def forward(self, x):
        for layer in self.layers:
            x = self.norm(layer(x)) + self.plain + self.mask
            x = torch.cat([x, x[:, :1]], 1)
        return x


@pytest.mark.parametrize('make', [torch.jit.script, lambda m: torch.jit.trace(m, torch.randn(2, 4))])
@pytest.mark.filterwarnings('ignore')
def test_the_tensors_of_an_archive_are_those_that_torch_finds(make, tmp_path):
    make(Parts().eval()).save(str(tmp_path / 'parts.pt'))
    found, expected = read_state_dict(tmp_path / 'parts.pt'), torch.jit.load(tmp_path / 'parts.pt').state_dict()
    assert found.keys() == expected.keys() and 'mask' in found and 'plain' not in found
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


class Hostile(nn.Module):
    """Writes a file when torch loads it: its __setstate__ is TorchScript."""

    def __init__(self, proof: str):
        super().__init__()
        self.proof, self.weight = proof, nn.Parameter(torch.zeros(2))

    @torch.jit.export
    def __getstate__(self):
        return self.proof, self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, torch.Tensor, bool]):
        self.proof, self.weight, self.training = state
        torch.save(self.weight, self.proof)

    def forward(self, x):
        return x + self.weight


@pytest.mark.filterwarnings('ignore')
def test_nothing_in_an_archive_is_run(tmp_path):
    proof, path = tmp_path / 'the code ran', tmp_path / 'clip.pt'
    torch.jit.script(Hostile(str(proof))).save(str(path))
    proof.unlink(missing_ok=True)
    with pytest.raises(CheckpointError):
        load_clip(VIT, path)
    assert not proof.exists()
    torch.jit.load(path)  # the trap is a real one
    assert proof.exists()


def test_a_pickle_with_code_in_an_archive_is_refused(tmp_path):
    proof, path = tmp_path / 'the code ran', tmp_path / 'clip.pt'
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / 'good.pt'))
    with zipfile.ZipFile(tmp_path / 'good.pt') as good, zipfile.ZipFile(path, 'w') as bad:
        for name in good.namelist():
            trap = name.endswith('/data.pkl')
            bad.writestr(name, pickle.dumps(Touch(proof)) if trap else good.read(name))
    with pytest.raises(CheckpointError, match=r'clip.pt.*code.*nothing in it was run'):
        load_clip(VIT, path)
    assert not proof.exists()


def test_an_archive_with_parts_that_disagree_is_refused_as_damaged(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / 'good.pt'))
    with zipfile.ZipFile(tmp_path / 'good.pt') as good, zipfile.ZipFile(tmp_path / 'clip.pt', 'w') as bad:
        for name in good.namelist():
            bad.writestr(name, good.read(name)[:-4] if '/data/' in name else good.read(name))
    with pytest.raises(CheckpointError, match='TorchScript file.*the storage 0 has 3 values, expected 4'):
        load_clip(VIT, tmp_path / 'clip.pt')


# --- one file for two towers -----------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """Files that were read; the store is empty before and after."""
    paths = []

    def read(path):
        paths.append(path)
        return read_state_dict(path)

    recent_file._recent._forget()
    monkeypatch.setattr(recent_file, 'read_state_dict', read)
    yield paths
    recent_file._recent._forget()


def test_a_file_is_read_once_for_both_towers_and_then_forgotten(reads, tmp_path):
    path = tmp_path / 'clip.pt'
    torch.save(weights_of(VIT), path)
    first, second = load_clip(VIT, path), load_clip(VIT, path)
    assert len(reads) == 1 and recent_file._recent._state_dict is None
    assert_loaded(first, weights_of(VIT))
    assert_loaded(second, weights_of(VIT))
    assert not {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in second.parameters()}
    load_clip(VIT, path)
    assert len(reads) == 2


def test_a_file_that_changed_or_another_one_is_read_again(reads, tmp_path):
    path = tmp_path / 'clip.pt'
    torch.save(weights_of(VIT), path)
    load_clip(VIT, path)
    changed = {**weights_of(VIT), 'logit_scale': torch.tensor(1.5)}
    torch.save(changed, path)
    os.utime(path, ns=(1, 1))
    assert_loaded(load_clip(VIT, path), changed)
    torch.save(weights_of(VIT), tmp_path / 'other.pt')
    load_clip(VIT, tmp_path / 'other.pt')
    load_clip(VIT, path)
    assert len(reads) == 4


def test_a_file_that_only_one_tower_needs_is_forgotten_after_a_while(reads, monkeypatch, tmp_path):
    monkeypatch.setattr(recent_file, 'KEEP_SECONDS', 0.05)
    torch.save(weights_of(VIT), tmp_path / 'clip.pt')
    load_clip(VIT, tmp_path / 'clip.pt')
    timer = recent_file._recent._timer
    if timer is not None:
        timer.join()
    assert recent_file._recent._state_dict is None


def test_weights_of_an_older_clip_load_into_a_custom_text_clip(tmp_path):
    torch.save(weights_of(VIT), tmp_path / 'clip.pt')
    model = load_clip({**VIT, 'custom_text': True}, tmp_path / 'clip.pt')
    assert isinstance(model, CustomTextCLIP)
    assert torch.equal(model.text.ln_final.weight, weights_of(VIT)['ln_final.weight'])
    torch.save(model.state_dict(), tmp_path / 'custom.pt')
    assert_loaded(load_clip({**VIT, 'custom_text': True}, tmp_path / 'custom.pt'), model.state_dict())


def test_without_pretrained_the_weights_are_random_and_the_config_is_left_alone():
    config = deepcopy(VIT)
    model = load_clip(config, image_size=48)
    assert config == VIT
    assert model.visual.image_size == (48, 48) and not model.training


def test_openai_names_with_a_slash_are_known(monkeypatch):
    small(monkeypatch, 'ViT-B-16', VIT)
    assert load_clip('ViT-B/16').visual.patch_size == (8, 8)


def test_a_tag_is_taken_from_the_cache_without_asking_the_network(monkeypatch, tmp_path):
    small(monkeypatch, 'ViT-B-16', VIT)
    path = tmp_path / 'home/.cache/clip/ViT-B-16.pt'
    path.parent.mkdir(parents=True)
    torch.save(weights_of(VIT), path)
    assert_loaded(load_clip('ViT-B-16', 'openai'), weights_of(VIT))


def test_a_tag_is_taken_from_the_cache_of_the_hub(monkeypatch, tmp_path):
    small(monkeypatch, 'ViT-B-16', VIT)
    repository = tmp_path / 'hub/models--laion--CLIP-ViT-B-16-laion2B-s34B-b88K'
    snapshot = repository / 'snapshots/0123456789012345678901234567890123456789'
    snapshot.mkdir(parents=True)
    (repository / 'refs').mkdir()
    (repository / 'refs/main').write_text(snapshot.name)
    save_file(weights_of(VIT), snapshot / 'open_clip_model.safetensors')
    assert_loaded(load_clip('ViT-B-16', 'laion2b_s34b_b88k'), weights_of(VIT))


def test_a_tag_that_is_not_cached_is_downloaded_by_open_clip(monkeypatch, tmp_path):
    small(monkeypatch, 'ViT-B-16', VIT)
    torch.save(weights_of(VIT), tmp_path / 'downloaded.bin')
    monkeypatch.setattr(huggingface_hub, 'get_hf_file_metadata', lambda url, timeout: None)
    monkeypatch.setattr(open_clip, 'download_pretrained', lambda tag_config: str(tmp_path / 'downloaded.bin'))
    assert_loaded(load_clip('ViT-B-16', 'datacomp_xl_s13b_b90k'), weights_of(VIT))


# --- bundled models --------------------------------------------------------------------------------------------------


def bundle(folder, name, config, ids, rows):
    folder.mkdir(exist_ok=True)
    (folder / f'{name}.json').write_text(json.dumps(config))
    weights = {key: value.half() if value.is_floating_point() else value for key, value in weights_of(config).items()}
    del weights['token_embedding.weight']
    weights |= {'token_embedding.ids': torch.tensor(ids, dtype=torch.int32), 'token_embedding.rows': rows.half()}
    save_file(weights, folder / f'{name}.safetensors')


@TOWERS
def test_a_bundled_file_expands_to_the_whole_token_table(config, monkeypatch, tmp_path):
    monkeypatch.setattr(architectures, 'BUNDLED_DIR', tmp_path / 'bundled')
    rows = torch.arange(128.0).reshape(2, 64)
    bundle(tmp_path / 'bundled', 'tiny', config, [3, 299], rows)
    model = load_clip('tiny', 'bundled')
    drawn = (np.random.RandomState(0).standard_normal((300, 64)) * 0.02).astype(np.float32)
    drawn[[3, 299]] = rows
    assert np.array_equal(model.token_embedding.weight.detach().numpy(), drawn)
    assert torch.equal(model.ln_final.weight, weights_of(config)['ln_final.weight'])
    assert_loaded(load_clip('tiny', tmp_path / 'bundled/tiny.safetensors'), model.state_dict())


def test_bundled_ids_outside_the_vocabulary_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(architectures, 'BUNDLED_DIR', tmp_path / 'bundled')
    bundle(tmp_path / 'bundled', 'tiny', VIT, [3, 300], torch.zeros(2, 64))
    with pytest.raises(CheckpointError, match='ids below 300, found 2 rows and 2 ids up to 300'):
        load_clip('tiny', 'bundled')


@pytest.mark.parametrize('arch', ['RN50', VIT], ids=['name', 'dict'])
def test_bundled_weights_need_a_bundled_architecture(arch):
    with pytest.raises(ConfigError, match="'bundled' needs one of the bundled architectures.*found (an )?arch"):
        load_clip(arch, 'bundled')


@pytest.mark.parametrize('name', sorted(path.stem for path in architectures.BUNDLED_DIR.glob('*.safetensors')))
def test_the_bundled_models_load(name):
    model = load_clip(name, 'bundled')
    size = model.visual.image_size
    image, text, *_ = model(torch.zeros(1, 3, *(size if isinstance(size, tuple) else (size, size))), model_text(model))
    assert image.isfinite().all() and text.isfinite().all()


def model_text(model):
    return clip_tokenize(None, ['a red circle'], model.context_length)


# --- QuickGELU -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'arch, tag, quick',
    [
        ('ViT-B-16', 'openai', True),
        ('ViT-B-16-quickgelu', 'openai', True),
        ('ViT-B-16', 'metaclip_400m', True),
        ('ViT-B-16', 'laion2b_s34b_b88k', False),
        ('RN50', 'openai', True),
        ('RN50', 'cc12m', True),
    ],
)
def test_a_tag_gets_the_activation_it_was_trained_with(arch, tag, quick, monkeypatch, tmp_path, log):
    config = deepcopy(RESNET if arch.startswith('RN') else VIT)
    small(monkeypatch, arch, {**config, 'quick_gelu': True} if arch.endswith('quickgelu') else config)
    torch.save(weights_of(config), tmp_path / 'clip.pt')
    monkeypatch.setattr(sources, '_download', lambda *args: tmp_path / 'clip.pt')
    assert activations(load_clip(arch, tag)) == {QuickGELU if quick else nn.GELU}
    assert len(log) == 1 and f'with {"QuickGELU" if quick else "GELU"}:' in log[0]


@pytest.mark.parametrize('number', activation.OPENAI_ENTRIES)
def test_a_state_dict_with_a_number_of_openais_gets_quickgelu(number, tmp_path, log):
    torch.save({**weights_of(VIT), number: torch.tensor(77)}, tmp_path / 'any.pt')
    assert activations(load_clip(VIT, tmp_path / 'any.pt')) == {QuickGELU}
    assert 'release of OpenAI' in log[0]


@pytest.mark.parametrize(
    'name, dtype, quick',
    [
        ('ViT-B-16.pt', torch.float16, True),
        ('ViT-B-16.pt', torch.float32, False),
        ('mine.pt', torch.float16, False),
    ],
)
def test_a_half_precision_file_named_as_openais_gets_quickgelu(name, dtype, quick, monkeypatch, tmp_path, log):
    small(monkeypatch, 'ViT-B-16', VIT)
    torch.save({key: value.to(dtype) for key, value in weights_of(VIT).items()}, tmp_path / name)
    assert activations(load_clip('ViT-B-16', tmp_path / name)) == {QuickGELU if quick else nn.GELU}
    assert quick or "use arch='ViT-B-16-quickgelu'" in log[0]


@pytest.mark.parametrize('pretrained', [None, 'mine.pt'])
def test_an_architecture_published_only_with_quickgelu_gets_it(pretrained, monkeypatch, tmp_path):
    small(monkeypatch, 'RN50', RESNET)
    torch.save(weights_of(RESNET), tmp_path / 'mine.pt')
    assert activations(load_clip('RN50', pretrained and tmp_path / pretrained)) == {QuickGELU}


def test_the_config_and_then_the_argument_have_the_last_word(tmp_path):
    _openai_numbers(weights_of(VIT), tmp_path / 'clip.pt')
    assert activations(load_clip({**VIT, 'quick_gelu': False}, tmp_path / 'clip.pt')) == {nn.GELU}
    assert activations(load_clip({**VIT, 'quick_gelu': False}, quick_gelu=True)) == {QuickGELU}
    assert activations(load_clip(VIT, tmp_path / 'clip.pt', quick_gelu=False)) == {nn.GELU}


def test_openais_rn50_loads_at_its_real_size(tmp_path):
    with torch.device('meta'):
        shapes = CLIP(**open_clip.get_model_config('RN50')).state_dict()
    weights = {key: torch.ones(value.shape, dtype=torch.float16) for key, value in shapes.items()}
    path = tmp_path / 'home/.cache/clip/RN50.pt'
    path.parent.mkdir(parents=True)
    torch.save(weights, path)
    model = load_clip('RN50', 'openai')
    path.unlink()  # 200 MB that pytest would keep
    assert_loaded(model, weights)
    assert activations(model) == {QuickGELU}


# --- position grids --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'config, key, size, old, new',
    [
        (VIT, 'visual.positional_embedding', 48, 4, 6),
        (RESNET, 'visual.attnpool.positional_embedding', 128, 2, 4),
    ],
    ids=['vit', 'resnet'],
)
def test_another_image_size_resizes_the_grid_bilinearly_and_nothing_else(config, key, size, old, new, tmp_path):
    weights = weights_of(config)
    torch.save(weights, tmp_path / 'clip.pt')
    model = load_clip(config, tmp_path / 'clip.pt', image_size=size)
    grid = weights[key][1:].T.reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(new, new), mode='bilinear', align_corners=False)[0].flatten(1).T
    assert_loaded(model, {**weights, key: torch.cat([weights[key][:1], grid])})


@TOWERS
def test_a_file_for_another_image_size_is_refused_unless_a_size_is_given(config, tmp_path):
    larger = deepcopy(config)
    larger['vision_cfg']['image_size'] *= 2
    torch.save(weights_of(larger), tmp_path / 'clip.pt')
    with pytest.raises(CheckpointError, match=r'Pass image_size='):
        load_clip(config, tmp_path / 'clip.pt')
    size = config['vision_cfg']['image_size']
    assert load_clip(config, tmp_path / 'clip.pt', image_size=size).visual.conv1.weight.isfinite().all()


# --- bad input: names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('arch, nearest', [('ViT-B-61', "'ViT-B-16'"), ('rn-50', "'RN50'"), ('tiny_rn', "'tiny-rn'")])
def test_an_unknown_architecture_suggests_the_nearest(arch, nearest):
    with pytest.raises(ConfigError, match=f'Did you mean .*{nearest}'):
        load_clip(arch, 'openai')


def test_an_unknown_tag_lists_the_tags_of_the_architecture():
    with pytest.raises(ConfigError, match="'opena' is neither a file nor a tag .* arch='RN50'.*openai, yfcc15m, cc12m"):
        load_clip('RN50', 'opena')
    with pytest.raises(ConfigError, match='an arch given as a dict. It has no tags'):
        load_clip(VIT, 'openai')


@pytest.mark.parametrize(
    'arch, complaint',
    [
        ({'embed_dim': 16}, 'vision_cfg, text_cfg missing, found embed_dim'),
        ({**VIT, 'vision_cfg': {'widht': 64}}, "unexpected keyword argument 'widht'"),
    ],
)
def test_a_config_that_makes_no_clip_is_refused(arch, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load_clip(arch)


# --- bad input: absent weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'arch, tag, expected',
    [
        (
            'RN50',
            'openai',
            [
                'open_clip_model.safetensors',
                'timm/resnet50_clip.openai',
                '{tmp}/hub',
                '{tmp}/home/.cache/clip/RN50.pt',
                "pass arch='RN50-quickgelu', pretrained='/path/to/",
                "arch='tiny-rn', pretrained='bundled'",
            ],
        ),
        (
            'ViT-B-16',
            'laion2b_s34b_b88k',
            [
                'open_clip_model.safetensors',
                'laion/CLIP-ViT-B-16-laion2B-s34B-b88K',
                '{tmp}/hub',
                "pass arch='ViT-B-16', pretrained='/path/to/",
                "arch='tiny-vit', pretrained='bundled'",
            ],
        ),
    ],
)
def test_absent_weights_say_which_where_how_and_what_works_without(arch, tag, expected, tmp_path):
    with pytest.raises(WeightsNotFoundError) as error:
        load_clip(arch, tag)
    for part in expected:
        assert part.format(tmp=tmp_path) in str(error.value)
    assert '://' not in str(error.value)


def test_without_a_connection_one_try_is_enough(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError('the download, with its many tries, was started')

    monkeypatch.setattr(open_clip, 'download_pretrained', never)
    with pytest.raises(WeightsNotFoundError, match=r'could not be downloaded \(ConnectionError\)'):
        load_clip('RN50', 'openai')


@pytest.mark.parametrize('pretrained', ['no/such/file', 'absent.pt', '.'])
def test_a_path_without_a_file_names_the_path_and_a_bundled_model(pretrained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsNotFoundError) as error:
        load_clip(VIT, Path(pretrained))
    assert str(Path(pretrained).absolute()) in str(error.value)
    assert "arch='tiny-vit', pretrained='bundled'" in str(error.value)
    with pytest.raises(WeightsNotFoundError, match='Expected a weight file'):
        read_state_dict(pretrained)


# --- bad input: files ------------------------------------------------------------------------------------------------


class Touch:
    """A pickle of this creates a file when it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _bare(content, path):
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize(
    'save, careless', [(_plain, torch.load), (_legacy, torch.load), (_bare, pickle.load)], ids=['zip', 'legacy', 'bare']
)
def test_a_pickle_with_code_is_refused_and_the_code_does_not_run(save, careless, tmp_path):
    proof, path = tmp_path / 'the code ran', tmp_path / 'clip.pt'
    save({**weights_of(VIT), 'extra': Touch(proof)}, path)
    with pytest.raises(CheckpointError, match=r'clip.pt.*code.*(nothing in it was run|it was not run)'):
        load_clip(VIT, path)
    assert not proof.exists()
    with path.open('rb') as file:  # the trap is a real one
        careless(file, **({'weights_only': False} if careless is torch.load else {}))
    assert proof.exists()


@pytest.mark.parametrize('save', [_plain, _legacy, save_file], ids=['zip', 'legacy', 'safetensors'])
@pytest.mark.parametrize('part', [0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused_with_its_path_and_size(save, part, tmp_path):
    save(weights_of(VIT), tmp_path / 'whole')
    content = (tmp_path / 'whole').read_bytes()
    content = content[: int(len(content) * part)]
    (tmp_path / 'clip.pt').write_bytes(content)
    with pytest.raises(CheckpointError, match=f'clip.pt: expected a whole .* found {len(content)} bytes'):
        load_clip(VIT, tmp_path / 'clip.pt')


def test_a_flipped_byte_in_the_weights_is_noticed(tmp_path):
    torch.save(weights_of(VIT), tmp_path / 'clip.pt')
    content = bytearray((tmp_path / 'clip.pt').read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / 'clip.pt').write_bytes(content)
    with pytest.raises(CheckpointError, match='checksum'):
        load_clip(VIT, tmp_path / 'clip.pt')


@pytest.mark.parametrize(
    'content, found',
    [
        (b'', 'an empty file'),
        (b'\x89PNG\r\n\x1a\n' + bytes(100), 'a PNG image'),
        (b'\xff\xd8\xff\xe0' + bytes(100), 'a JPEG image'),
        (b'\n<!DOCTYPE html><html>Sign in</html>', 'an HTML or XML page'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n', 'a Git LFS pointer'),
        (b'hello, I am no model at all', "something that starts with b'hello, I am '"),
    ],
)
def test_a_foreign_file_is_refused_by_what_it_is(content, found, tmp_path):
    (tmp_path / 'clip.pt').write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_clip(VIT, tmp_path / 'clip.pt')
    assert str(error.value).startswith(f'{tmp_path}/clip.pt: expected weights (safetensors, a torch.save file, ')
    assert f', found {found}' in str(error.value)


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / 'clip.zip', 'w') as archive:
        archive.writestr('readme.txt', 'no weights')
    with pytest.raises(CheckpointError, match='found a zip archive that torch did not write'):
        load_clip(VIT, tmp_path / 'clip.zip')


@pytest.mark.parametrize(
    'content, found',
    [
        ([torch.zeros(1)], 'an object of type list'),
        (torch.zeros(3), 'an object of type Tensor'),
        ({}, 'an empty dict'),
        ({'model': {'weight': torch.zeros(1)}}, "'model' of type dict"),
    ],
)
def test_a_checkpoint_that_is_no_state_dict_is_refused(content, found, tmp_path):
    torch.save(content, tmp_path / 'clip.pt')
    with pytest.raises(CheckpointError, match=f'expected a state dict .*found {found}'):
        load_clip(VIT, tmp_path / 'clip.pt')


def test_weights_of_another_architecture_are_refused_by_their_first_keys(tmp_path):
    torch.save(weights_of(RESNET), tmp_path / 'clip.pt')
    with pytest.raises(CheckpointError) as error:
        load_clip(VIT, tmp_path / 'clip.pt')
    message = str(error.value)
    assert f'{tmp_path}/clip.pt does not fit' in message
    assert 'missing: visual.class_embedding, visual.positional_embedding, visual.proj, ...' in message
    assert 'unexpected: visual.bn1.weight, ' in message
    assert '1 of another shape: visual.conv1.weight (expected (64, 3, 8, 8), found (4, 3, 3, 3))' in message


def _nan(weights):
    weights['visual.proj'][0, 0] = float('nan')


def _infinite(weights):
    weights['visual.proj'][0, 0] = float('-inf')


def _integers(weights):
    weights['visual.proj'] = weights['visual.proj'].long()


def _booleans(weights):
    weights['visual.proj'] = weights['visual.proj'] > 0


def _complex(weights):
    weights['visual.proj'] = weights['visual.proj'].to(torch.complex64)


@pytest.mark.parametrize(
    'spoil, complaint',
    [
        (_nan, 'with NaN or infinite values: visual.proj'),
        (_infinite, 'with NaN or infinite values: visual.proj'),
        (_integers, r'expected floating-point numbers: visual.proj \(torch.int64\)'),
        (_booleans, r'expected floating-point numbers: visual.proj \(torch.bool\)'),
        (_complex, 'complex, expected real numbers: visual.proj'),
    ],
)
def test_weights_of_another_kind_or_without_a_value_are_refused_by_their_first_key(spoil, complaint, tmp_path):
    weights = weights_of(VIT)
    spoil(weights)
    weights['ln_final.bias'] = (
        weights['ln_final.bias'] + float('nan') if 'NaN' in complaint else weights['ln_final.bias']
    )
    torch.save(weights, tmp_path / 'clip.pt')
    with pytest.raises(CheckpointError, match=f'clip.pt holds no usable weights(.|\n)*{complaint}'):
        load_clip(VIT, tmp_path / 'clip.pt')


def test_check_fit_counts_all_and_names_three_of_each_kind():
    reference = {f'expected{i}': (2,) for i in range(5)} | {f'both{i}': (3, 4) for i in range(4)} | {'good': ()}
    found = {f'found{i}': torch.zeros(1) for i in range(2)} | {f'both{i}': torch.zeros(4, 3) for i in range(4)}
    with pytest.raises(CheckpointError) as error:
        check_fit({**found, 'good': torch.zeros(())}, reference, 'the file')
    assert str(error.value).splitlines()[:4] == [
        'the file does not fit: of the 10 keys expected and the 7 found,',
        '  5 missing: expected0, expected1, expected2, ...',
        '  2 unexpected: found0, found1',
        '  4 of another shape: both0 (expected (3, 4), found (4, 3)), both1 (expected (3, 4), found (4, 3)), '
        'both2 (expected (3, 4), found (4, 3)), ...',
    ]
    check_fit({'good': torch.zeros(())}, {'good': ()}, 'the file')
