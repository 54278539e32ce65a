from __future__ import annotations

import copy
import datetime
import http.server
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine.processes import in_processes
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from mmengine.runner import BaseLoop, CheckpointLoader
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from safetensors.torch import save_file
from torch import nn

from vlm_dense.engine.checkpoints.fingerprints import fingerprint, same
from vlm_dense.engine.checkpoints.fit import (
    CheckpointFitHook,
    FrozenWeightsHook,
    install_loaders,
    load_from_http,
    load_from_local,
)
from vlm_dense.errors import CheckpointError, ConfigError

PRETRAINED = {'scale': 1.0}


class Tower(nn.Module):
    """A frozen part with "pretrained" weights, a frozen part drawn at random, a trained part."""

    def __init__(self):
        super().__init__()
        self.pretrained = nn.BatchNorm1d(4).requires_grad_(False)
        self.pretrained.weight.data = torch.arange(4.0) * PRETRAINED['scale']
        self.random = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 2)


MODELS.register_module('CheckpointTestTower', module=Tower)
LEFT_OUT = {f'pretrained.{k}' for k in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')}


def make_runner(resume: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        model=Tower(), cfg=Config(dict(model=dict(type='CheckpointTestTower'))), seed=0, _resume=resume
    )


def saved(runner) -> dict:
    """A checkpoint of ``runner`` after FrozenWeightsHook."""
    checkpoint = dict(meta={}, state_dict=runner.model.state_dict())
    FrozenWeightsHook().before_save_checkpoint(runner, checkpoint)
    return copy.deepcopy(checkpoint)


@pytest.fixture
def _installed(monkeypatch):
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())
    install_loaders()


# --- reading --------------------------------------------------------------------------------------------------


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TakesAttribute:
    def __reduce__(self):
        return getattr, (np.ndarray, 'tofile')


@pytest.mark.usefixtures('_installed')
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    path = str(tmp_path / 'evil.pth')
    torch.save(dict(state_dict=RunsCode(tmp_path / 'made')), path)
    with pytest.raises(CheckpointError, match=r'evil.pth is refused.*mkdir'):
        CheckpointLoader.load_checkpoint(path)
    assert not (tmp_path / 'made').exists()


def test_a_pickle_cannot_reach_attributes_through_the_log_history(tmp_path):
    path = str(tmp_path / 'evil.pth')
    torch.save(dict(state_dict=TakesAttribute()), path)
    with pytest.raises(CheckpointError, match='is refused'):
        load_from_local(path)


def test_what_mmengine_keeps_in_checkpoints_is_read(tmp_path):
    hub = MessageHub.get_instance('test_checkpoint')
    hub.update_scalar('loss', 1.5)
    hub.update_info('best', dict(score=np.float64(3), row=np.arange(3.0)))
    meta = dict(palette=np.zeros((2, 3), np.uint8), crop=slice(1, 2))
    path = str(tmp_path / 'a.pth')
    torch.save(dict(meta=meta, state_dict={}, message_hub=hub.state_dict()), path)
    read = load_from_local(path)
    again = MessageHub('test_checkpoint_again')
    again.load_state_dict(read['message_hub'])
    assert again.get_scalar('loss').current() == 1.5
    assert again.get_info('best')['score'] == 3
    assert read['meta']['palette'].shape == (2, 3)


def test_dates_and_paths_that_others_keep_in_meta_are_read(tmp_path):
    meta = dict(time=datetime.datetime(2024, 5, 1), day=datetime.date(2024, 5, 1), config=Path('a.py'))
    torch.save(dict(meta=meta, state_dict={}), tmp_path / 'a.pth')
    assert load_from_local(str(tmp_path / 'a.pth'))['meta'] == meta


def download(rank: int, port: int, folder: str) -> None:
    found = load_from_http(f'http://127.0.0.1:{port}/weights.pth', model_dir=folder)
    assert found['state_dict']['w'].sum() == 3


def test_of_several_processes_one_downloads(tmp_path):
    torch.save(dict(state_dict={'w': torch.ones(3)}), tmp_path / 'weights.pth')
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, message, *args):
            requests.append(message % args)

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        in_processes(2, download, server.server_port, str(tmp_path / 'hub'))
        server.shutdown()
    assert len(requests) == 1


def test_checkpoints_written_with_numpy_1_are_read(tmp_path):
    path = tmp_path / 'old.pth'
    torch.save(dict(a=np.arange(3), b=np.float32(2)), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b'numpy._core.multiarray', b'numpy.core.multiarray'))
    assert load_from_local(str(path))['b'] == 2


def test_safetensors_are_read(tmp_path):
    path = str(tmp_path / 'a.safetensors')
    save_file({'w': torch.ones(2)}, path)
    assert load_from_local(path, map_location='cpu')['state_dict']['w'].sum() == 2


@pytest.mark.parametrize(
    'kind', ['empty', 'text', 'cut', 'flipped', 'cut.safetensors', 'torchscript', 'tensor', 'absent']
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, kind):
    path = tmp_path / f'bad.{kind if "." in kind else "pth"}'
    whole = tmp_path / 'whole.pth'
    torch.save(dict(state_dict={'w': torch.ones(1000)}), whole)
    expected = 'cannot be read: it is damaged'
    if kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'text':
        path.write_text('<html>404 not found</html>')
    elif kind == 'cut':
        path.write_bytes(whole.read_bytes()[:2000])
    elif kind == 'flipped':
        content = bytearray(whole.read_bytes())
        content[content.find(torch.ones(100).numpy().tobytes()) + 200] ^= 1
        path.write_bytes(content)
    elif kind == 'cut.safetensors':
        path = tmp_path / 'cut.safetensors'
        path.write_bytes(b'\x08\x00\x00')
    elif kind == 'torchscript':
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
        expected = 'TorchScript'
    elif kind == 'tensor':
        torch.save(torch.ones(3), path)
        expected = 'holds a Tensor'
    else:
        expected = r'does not exist.* whole.pth'
    with pytest.raises(CheckpointError, match=expected) as caught:
        load_from_local(str(path))
    assert path.name in str(caught.value)


# --- fitting --------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_fits_is_taken_with_or_without_what_surrounds_it():
    runner = make_runner()
    weights = {f'module.{k}': v + 1 for k, v in Tower().state_dict().items()}
    for checkpoint in (dict(weights), dict(meta={}, state_dict=dict(weights))):
        CheckpointFitHook().after_load_checkpoint(runner, checkpoint)
        assert set(checkpoint['state_dict']) == set(runner.model.state_dict())


def test_keys_that_do_not_fit_are_named():
    state = Tower().state_dict()
    state.pop('head.bias')
    state['foreign.weight'] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r'1 missing .*: head.bias\n.*1 unknown .*: foreign.weight'):
        CheckpointFitHook().after_load_checkpoint(make_runner(), dict(meta={}, state_dict=state))
    state = Tower().state_dict()
    state['head.weight'] = torch.zeros(3, 4)
    with pytest.raises(CheckpointError, match=r'of another shape: head.weight \(3, 4 in the file, 2, 4 in the model\)'):
        CheckpointFitHook().after_load_checkpoint(make_runner(), dict(meta={}, state_dict=state))


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('head.weight', torch.full((2, 4), float('nan')), '8 of 8 values of head.weight are NaN'),
        ('head.bias', torch.tensor([1, float('-inf')]), '1 of 2 values of head.bias are NaN or infinite'),
        ('head.bias', torch.tensor([1, 2], dtype=torch.int8), r'head.bias holds integer numbers \(torch.int8\)'),
        ('head.bias', torch.tensor([1, 2], dtype=torch.complex64), 'head.bias holds complex numbers'),
    ],
)
def test_values_that_no_training_gives_are_refused(key, value, message):
    state = Tower().state_dict() | {key: value}
    with pytest.raises(CheckpointError, match=message):
        CheckpointFitHook().after_load_checkpoint(make_runner(), dict(meta={}, state_dict=state))


def test_half_precision_and_infinite_masks_pass():
    runner = make_runner()
    runner.model.register_buffer('mask', torch.full((2,), float('-inf')))
    state = {k: v.half() if v.is_floating_point() else v for k, v in runner.model.state_dict().items()}
    CheckpointFitHook().after_load_checkpoint(runner, dict(meta={}, state_dict=state))


def test_keys_that_are_allowed_may_differ():
    state = Tower().state_dict() | {'head.weight': torch.zeros(3, 4), 'head.more': torch.zeros(1)}
    del state['head.bias']
    checkpoint = dict(meta={}, state_dict=state)
    with pytest.raises(CheckpointError, match='head.bias'):
        some = CheckpointFitHook(allow=['head.weight', 'head.more'])
        some.after_load_checkpoint(make_runner(), dict(meta={}, state_dict=dict(state)))
    CheckpointFitHook(allow=['head.*']).after_load_checkpoint(make_runner(), checkpoint)
    assert 'head.weight' not in checkpoint['state_dict'] and 'random.weight' in checkpoint['state_dict']
    with pytest.raises(ConfigError, match='list of patterns'):
        CheckpointFitHook(allow='head.*')


# --- classes --------------------------------------------------------------------------------------------------


class Loop(BaseLoop):
    def __init__(self, *names):
        self.dataloader = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=names)))

    def run(self):
        pass


class OfText(Tower):
    """Has no weights of its own for a class."""

    def __init__(self, class_names, fixed=None):
        super().__init__()
        if fixed is not None and fixed != len(class_names):
            raise ConfigError('another number of classes')


class OfClasses(Tower):
    def __init__(self, class_names):
        super().__init__()
        self.each = nn.Parameter(torch.zeros(len(class_names)))


MODELS.register_module('CheckpointTestOfText', module=OfText)
MODELS.register_module('CheckpointTestOfClasses', module=OfClasses)


def run_on(names, kind='Tower', **options) -> SimpleNamespace:
    """A runner that tests on classes."""
    cfg = dict(type=f'CheckpointTest{kind}', **options)
    runner = SimpleNamespace(model=MODELS.build(cfg), cfg=Config(dict(model=cfg)), seed=0, _resume=False)
    runner._test_loop = Loop(*names)
    return runner


def of_sky_and_road(runner) -> dict:
    return dict(meta=dict(dataset_meta=dict(classes=('sky', 'road'))), state_dict=runner.model.state_dict())


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (('road', 'sky'), "same names in another order, first label 0: 'sky' -> 'road'"),
        (('sky', 'car'), r'1 of the checkpoint only \(road\); 1 of the data only \(car\)'),
        (('sky',), r'2 -> 1 names; 1 of the checkpoint only \(road\)'),
    ],
)
def test_other_classes_than_those_of_the_training_are_refused(names, message):
    runner = run_on(names)
    with pytest.raises(CheckpointError, match=message):
        CheckpointFitHook().after_load_checkpoint(runner, of_sky_and_road(runner))
    CheckpointFitHook(other_classes=True).after_load_checkpoint(runner, of_sky_and_road(runner))
    same = run_on(('sky', 'road'))
    CheckpointFitHook().after_load_checkpoint(same, of_sky_and_road(same))


def test_a_model_with_an_open_vocabulary_is_tested_on_other_classes():
    hook, names = CheckpointFitHook(), ['car', 'tree']
    open_model = run_on(names, 'OfText', class_names=names)
    hook.after_load_checkpoint(open_model, of_sky_and_road(open_model))
    for closed in (
        run_on(names, 'OfClasses', class_names=names),
        run_on(names, 'OfText', class_names=names, fixed=2),
    ):
        with pytest.raises(CheckpointError, match='other classes'):
            hook.after_load_checkpoint(closed, of_sky_and_road(closed))
    open_model._resume, checkpoint = True, of_sky_and_road(open_model)
    checkpoint.update(optimizer=dict(a=1), message_hub=dict(a=1))
    with pytest.raises(CheckpointError, match='other classes'):
        hook.after_load_checkpoint(open_model, checkpoint)


def test_fine_tuning_on_other_classes_names_the_weights_that_may_differ():
    runner = run_on(('car', 'tree'))
    hook = CheckpointFitHook(allow=['head.*'])
    with pytest.raises(CheckpointError, match='other classes'):
        hook.after_load_checkpoint(runner, of_sky_and_road(runner))
    runner._train_loop = Loop('car', 'tree')
    hook.after_load_checkpoint(runner, of_sky_and_road(runner))


def test_weights_alone_are_no_state_to_resume_from():
    with pytest.raises(CheckpointError, match='For its weights alone use --load-from'):
        CheckpointFitHook().after_load_checkpoint(make_runner(resume=True), dict(Tower().state_dict()))


# --- frozen weights -------------------------------------------------------------------------------------------


def test_frozen_weights_that_the_config_yields_are_left_out_and_found_again():
    runner = make_runner()
    checkpoint = saved(runner)
    assert set(runner.model.state_dict()) - set(checkpoint['state_dict']) == LEFT_OUT
    other = make_runner()
    CheckpointFitHook().after_load_checkpoint(other, checkpoint)
    _load_checkpoint_to_model(other.model, checkpoint, strict=True)
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[key]), key


def test_frozen_weights_that_moved_are_saved():
    runner = make_runner()
    runner.model.pretrained.running_mean += 1  # batch norm in train mode
    checkpoint = saved(runner)
    assert 'pretrained.running_mean' in checkpoint['state_dict']


def test_other_frozen_weights_are_refused(monkeypatch):
    checkpoint = saved(make_runner())
    monkeypatch.setitem(PRETRAINED, 'scale', 1.1)
    with pytest.raises(CheckpointError, match=r'5 frozen tensors .* has others: pretrained.weight differ'):
        CheckpointFitHook().after_load_checkpoint(make_runner(), checkpoint)


def test_rounding_of_resized_frozen_weights_is_no_other_model(monkeypatch):
    checkpoint = saved(make_runner())
    monkeypatch.setitem(PRETRAINED, 'scale', 1 + 1e-7)
    CheckpointFitHook().after_load_checkpoint(make_runner(), checkpoint)


def test_building_the_second_model_does_not_touch_the_random_state():
    runner = make_runner()
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    saved(runner)
    assert (torch.rand(1), np.random.rand()) == expected


def test_building_the_second_model_leaves_gpus_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: pytest.fail('GPUs were looked at'))
    monkeypatch.setattr(torch.cuda, 'manual_seed_all', lambda seed: pytest.fail('GPUs were seeded'))
    assert set(saved(make_runner())['meta']['frozen_weights']) == LEFT_OUT


def test_a_checkpoint_saved_before_training_leaves_out_the_same_weights():
    hook, runner = FrozenWeightsHook(), make_runner()
    for _ in range(2):
        checkpoint = dict(meta={}, state_dict=runner.model.state_dict())
        hook.before_save_checkpoint(runner, checkpoint)
        assert set(checkpoint['meta']['frozen_weights']) == LEFT_OUT
        hook.before_train(runner)


@pytest.mark.parametrize('shape', [(5,), (6000, 64), (3, 700001)])
def test_frozen_weights_with_permuted_rows_or_values_are_others(shape):
    weights = torch.randn(shape)
    mark = fingerprint(weights)
    assert same(mark, fingerprint(weights * (1 + 1e-7))) and same(mark[:2], mark)
    swapped = weights.clone()
    swapped[[1, 2]] = swapped[[2, 1]]
    assert not same(mark, fingerprint(swapped))
    for first, second in ((0, 1), (3, -1)):
        swapped = weights.clone().flatten()
        swapped[[first, second]] = swapped[[second, first]]
        assert not same(mark, fingerprint(swapped))


def test_fingerprints_are_those_of_earlier_checkpoints():
    values = torch.sin(torch.arange(200_000, dtype=torch.float64)).float()
    earlier = [0.03806821229591, 127323.902395225, 316.227798177, 193.416481164862, 153.303096141219, 219.141648966024]
    assert fingerprint(values.reshape(2, -1)) == pytest.approx(earlier, rel=1e-9)


def test_permuted_frozen_weights_are_refused():
    checkpoint = saved(make_runner())
    runner = make_runner()
    runner.model.pretrained.weight.data = runner.model.pretrained.weight.data.flip(0)
    with pytest.raises(CheckpointError, match='has others: pretrained.weight differ'):
        CheckpointFitHook().after_load_checkpoint(runner, checkpoint)


def test_a_moving_average_of_the_weights_resumes_without_the_frozen_ones():
    runner = make_runner(resume=True)
    ema, frozen = EMAHook(), FrozenWeightsHook()
    ema.before_run(runner)
    runner.iter = 0
    runner.model.head.weight.data += 1
    ema.after_train_iter(runner, 0)
    checkpoint = dict(
        meta=dict(iter=1), optimizer=dict(a=1), message_hub=dict(a=1), state_dict=runner.model.state_dict()
    )
    for hook in (ema, frozen):
        hook.before_save_checkpoint(runner, checkpoint)
    assert not LEFT_OUT & set(checkpoint['state_dict'])
    assert not {f'module.{k}' for k in LEFT_OUT} & set(checkpoint['ema_state_dict'])
    checkpoint = copy.deepcopy(checkpoint)
    other = make_runner(resume=True)
    again = EMAHook(strict_load=True)
    again.before_run(other)
    for hook in (CheckpointFitHook(), again):
        hook.after_load_checkpoint(other, checkpoint)
    _load_checkpoint_to_model(other.model, checkpoint, strict=True)
    assert torch.equal(other.model.head.weight, runner.model.head.weight)
    for key, value in ema.ema_model.state_dict().items():
        assert torch.equal(value, again.ema_model.state_dict()[key]), key
