"""Files of strangers: none of them runs code, writes, or takes more memory than an honest one of its kind."""

from __future__ import annotations

import io
import json
import logging
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_towers
import torch
from engine.toy import write_config, write_data
from faults.test_bad_inputs import refused
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file
from torch import nn

from vlm_dense.cli import train
from vlm_dense.clip.loading import read_state_dict
from vlm_dense.engine.checkpoints.fit import CheckpointFitHook
from vlm_dense.engine.checkpoints.reading import load_from_http, load_from_local, read_checkpoint
from vlm_dense.engine.checkpoints.resume_check import read_assignments
from vlm_dense.errors import CheckpointError
from vlm_dense.inference import SegInferencer, export_file

HUGE = 3 * 10**9  # numbers


class _Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


# --- checkpoints ------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hostile')
    config = write_config(folder, write_data(folder / 'data', train=4, val=2), "train_cfg['max_iters'] = 2")
    train.main([config, '--work-dir', str(folder / 'work')])
    return config, folder / 'work' / 'iter_2.pth'


def changed(checkpoint: Path, path: Path, change) -> Path:
    content = torch.load(checkpoint, weights_only=False)
    change(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize('key', ['cfg', 'config'])
@pytest.mark.parametrize(
    'text', ["__import__('pathlib').Path({!r}).touch()", 'while True: pass', 'import sys; sys.exit(0)']
)
def test_the_config_inside_a_checkpoint_is_not_run(key, text, trained, tmp_path):
    config, checkpoint = trained
    mark = tmp_path / 'ran'
    text = text.format(str(mark))
    evil = changed(checkpoint, tmp_path / 'evil.pth', lambda c: c['meta'].update({key: text}))
    words = ['--work-dir', str(tmp_path / 'work'), '--resume', str(evil), '--cfg-options', 'train_cfg.max_iters=3']
    train.main([config, *words])
    assert not mark.exists()
    assert (tmp_path / 'work' / 'iter_3.pth').is_file()


def test_what_mmengine_prints_of_a_config_is_read_without_running_it():
    cfg = dict(
        a=[dict(b=(1, 2.5, None))], keys={'x.y': dict(lr_mult=0.1)}, kind=nn.Linear, far=float('inf'), words="it's"
    )
    found = read_assignments(Config(cfg).pretty_text)
    assert found['a'] == [dict(b=(1, 2.5, None))] and found['words'] == "it's"
    assert found['keys'] == {'x.y': dict(lr_mult=0.1)}
    assert found['kind'].endswith('Linear') and found['far'] == 'inf'
    for text in (None, 5, 'a = ', '(' * 5000, '-' * 100_000 + '1', 'a = 9 ** 9 ** 9', 'a = [1] * 10 ** 9'):
        assert not read_assignments(text)


def test_a_tensor_that_repeats_one_number_is_refused_before_it_takes_memory(trained, tmp_path):
    _, checkpoint = trained

    def change(content):
        key = next(k for k in content['state_dict'] if k.endswith('weight'))
        content['state_dict'][key] = torch.zeros(1).expand(HUGE)

    evil = changed(checkpoint, tmp_path / 'evil.pth', change)
    weights = torch.load(evil, weights_only=False)['state_dict']
    torch.save(weights, tmp_path / 'weights.pth')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read, path in ((load_from_local, evil), (read_state_dict, tmp_path / 'weights.pth')):
        with pytest.raises(CheckpointError, match='repeats few numbers'):
            read(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def test_shapes_are_compared_before_values_are_looked_at():
    model = nn.Linear(2, 2)
    weights = dict(weight=torch.full((1,), torch.nan).expand(HUGE), bias=torch.zeros(2))
    with pytest.raises(CheckpointError, match='another shape'):
        CheckpointFitHook().after_load_checkpoint(SimpleNamespace(model=model), dict(meta={}, state_dict=weights))


STRUCTURES = [
    ('no weights', lambda c: c.update(state_dict=None), 'state_dict is of type NoneType'),
    ('a list of weights', lambda c: c.update(state_dict=[1]), 'state_dict is of type list'),
    ('numbers as keys', lambda c: c['state_dict'].update({3: torch.zeros(1)}), 'has the key 3'),
    ('meta a list', lambda c: c.update(meta=[1]), 'meta is of type list'),
    ('dataset_meta a list', lambda c: c['meta'].update(dataset_meta=[1]), "meta['dataset_meta'] is of type list"),
    ('sparse', lambda c: c['state_dict'].update(x=torch.eye(3).to_sparse()), 'is torch.sparse_coo'),
    ('without values', lambda c: c['state_dict'].update(x=torch.empty(3, device='meta')), 'x is without values'),
    ('negative iter', lambda c: c['meta'].update(iter=-5), "meta['iter'] is -5"),
    ('iter a string', lambda c: c['meta'].update(iter='two'), "meta['iter'] is 'two'"),
    ('no iter', lambda c: c['meta'].pop('iter'), 'does not fit this run'),
    ('no epoch', lambda c: c['meta'].pop('epoch'), 'does not fit this run'),
    ('another optimiser', lambda c: c.update(optimizer=dict(a=1)), 'does not fit this run'),
    ('no groups', lambda c: c['optimizer'].update(param_groups=[]), 'does not fit this run'),
    ('schedules None', lambda c: c.update(param_schedulers=None), 'holds no param_schedulers'),
    ('log a string', lambda c: c.update(message_hub='x'), 'does not fit this run'),
]


@pytest.mark.parametrize(
    ('change', 'expected'), [case[1:] for case in STRUCTURES], ids=[case[0] for case in STRUCTURES]
)
def test_a_checkpoint_of_another_structure_is_told(change, expected, trained, tmp_path, capsys):
    config, checkpoint = trained
    evil = changed(checkpoint, tmp_path / 'evil.pth', change)
    words = ['--work-dir', tmp_path / 'work', '--resume', evil, '--cfg-options', 'train_cfg.max_iters=3']
    refused(capsys, expected, train.main, config, *words)


def test_weights_of_eight_bits_are_looked_at_as_others():
    model = nn.Linear(2, 2)
    weights = dict(weight=torch.ones(2, 2).to(torch.float8_e4m3fn), bias=torch.zeros(2))
    CheckpointFitHook().after_load_checkpoint(SimpleNamespace(model=model), dict(meta={}, state_dict=weights))
    assert torch.equal(model.weight, torch.ones(2, 2))


@pytest.mark.parametrize('scheme', ['s3', 'petrel', 'pavi', 'a:s3', 'gopher'])
def test_checkpoints_of_other_storages_are_refused(scheme):
    for read in (read_checkpoint, CheckpointLoader.load_checkpoint):
        with pytest.raises(CheckpointError, match='cannot be read'):
            read(f'{scheme}://bucket/a.pth')


@pytest.mark.parametrize('scheme', ['torchvision', 'modelzoo', 'open-mmlab', 'openmmlab', 'mmcls'])
def test_a_published_checkpoint_is_found_by_name_and_read_as_others(scheme, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    mark = tmp_path / 'ran'
    monkeypatch.setattr(
        torch.hub, 'download_url_to_file', lambda url, path, digest: Path(path).write_bytes(pickle.dumps(_Evil(mark)))
    )
    names = {'open-mmlab': 'vgg16_caffe', 'openmmlab': 'vgg16_caffe', 'mmcls': 'vgg11'}
    with pytest.raises(CheckpointError):
        CheckpointLoader.load_checkpoint(f'{scheme}://{names.get(scheme, "resnet18")}')
    assert not mark.exists()
    with pytest.raises(CheckpointError, match='Did you mean'):
        CheckpointLoader.load_checkpoint(f'{scheme}://{names.get(scheme, "resnet18")}x')


def test_two_urls_with_one_file_name_are_two_files(tmp_path, monkeypatch):
    def download(url, path, digest):
        torch.save(dict(state_dict=dict(x=torch.tensor(float(len(url))))), path)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    urls = ['https://a.org/model.pth', 'https://other.org/model.pth']
    for url in urls * 2:
        assert load_from_http(url, model_dir=str(tmp_path))['state_dict']['x'] == len(url)


# --- exported files ---------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A small .pt2 that is run."""
    folder = tmp_path_factory.mktemp('exported')
    logger = logging.getLogger('torch.__trace')
    before, logger.disabled = logger.disabled, True
    arch = tiny_towers.vit()
    prepare = dict(type='vlm_dense.MixedSizeSegDataPreProcessor', mean=[0.0] * 3, std=[1.0] * 3)
    model = dict(
        type='vlm_dense.MaskCLIP',
        data_preprocessor=prepare,
        backbone=dict(type='vlm_dense.CLIPViT', arch=arch, head=True),
        text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['a {}.']),
        class_names=['circle', 'star'],
        test_cfg=dict(mode='whole', keep_logits=False),
    )
    cfg = Config(dict(model=model, test_pipeline=[dict(type='PackSegInputs')]))
    init_default_scope('mmseg')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), folder / 'weights.pth')
    export_file(cfg, str(folder / 'weights.pth'), folder / 'model.pt2')
    logger.disabled = before
    return folder / 'model.pt2'


def rewritten(source: Path, target: Path, change) -> Path:
    """The archive with its entries changed: ``change`` is given name -> bytes, with names from the top."""
    with zipfile.ZipFile(source) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    change(entries)
    with zipfile.ZipFile(target, 'w') as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return target


def in_graph(change):
    def apply(entries):
        program = json.loads(entries['archive/models/model.json'])
        change(program)
        entries['archive/models/model.json'] = json.dumps(program).encode()

    return apply


def _first_node(program, **values):
    program['graph_module']['graph']['nodes'][1].update(values)


def _symbol(program):
    values = program['graph_module']['graph']['sym_int_values'].values()
    return next(v['as_expr'] for v in values if 'as_expr' in v)


CODE = "__import__('pathlib').Path('MARK').touch()"


def _escaped_key(entries):
    text = entries['archive/models/model.json'].decode()
    start = text.index('"expr_str": "')
    entries['archive/models/model.json'] = (
        text[:start] + f'"\\u0065xpr_str": "{CODE}"' + text[text.index('"', start + len('"expr_str": "')) + 1 :]
    ).encode()


def _from_file(program):
    arguments = [
        dict(name='filename', arg=dict(as_string='MARK'), kind=1),
        dict(name='shared', arg=dict(as_bool=True), kind=1),
        dict(name='size', arg=dict(as_int=8), kind=1),
    ]
    _first_node(program, target='torch.ops.aten.from_file.default', inputs=arguments)


def _rename(program):
    """A name that torch would write into source code."""
    text = json.dumps(program)
    [name] = {v['as_tensor']['name'] for v in program['graph_module']['graph']['inputs'][-1:]}
    found = json.loads(text.replace(f'"name": "{name}"', f'"name": "x=({CODE})"'))
    program.clear()
    program.update(found)


def _weight(**values):
    def apply(entries):
        name = 'archive/data/weights/model_weights_config.json'
        config = json.loads(entries[name])
        first = next(iter(config['config'].values()))
        for key, value in values.items():
            (first if key in first else first['tensor_meta'])[key] = value
        entries[name] = json.dumps(config).encode()

    return apply


def _evil_pickle(protocol):
    return lambda entries: entries.update(
        {'archive/data/sample_inputs/model.pt': pickle.dumps(_Evil('MARK'), protocol)}
    )


def _evil_weight(entries):
    _weight(use_pickle=True)(entries)
    file = io.BytesIO()
    torch.save(_Evil('MARK'), file)
    entries['archive/data/weights/weight_0'] = file.getvalue()


PT2 = {
    **{f'example inputs as a pickle of protocol {n}': _evil_pickle(n) for n in range(6)},
    'an escaped key': _escaped_key,
    'a graph of another name': lambda e: e.update({'archive/models/model.jsox': e.pop('archive/models/model.json')}),
    'a second graph': lambda e: e.update({'archive/models/other.json': e['archive/models/model.json']}),
    'a library': lambda e: e.update({'archive/data/aotinductor/model/a.so': b'\x7fELF', 'archive/data/x': b''}),
    'a file as a tensor': in_graph(_from_file),
    'a function of Python': in_graph(lambda p: _first_node(p, target='os.system')),
    'a function of a module': in_graph(lambda p: _first_node(p, target='torch.ops.aten.os.system')),
    'a random operator': in_graph(lambda p: _first_node(p, target='torch.ops.aten.rand.default')),
    'a formula with code': in_graph(lambda p: _symbol(p).update(expr_str=CODE)),
    'a formula with an attribute': in_graph(lambda p: _symbol(p).update(expr_str='Symbol.mro()')),
    'a formula without end': in_graph(lambda p: _symbol(p).update(expr_str='9**9**9**9')),
    'a power of powers': in_graph(lambda p: _symbol(p).update(expr_str='Pow(Pow(Integer(9), Integer(4)), Integer(4))')),
    'a great exponent': in_graph(lambda p: _symbol(p).update(expr_str='Pow(Integer(9), Integer(999999999))')),
    'a name with code': in_graph(_rename),
    'an object': in_graph(lambda p: _first_node(p, inputs=[dict(name='x', arg=dict(as_custom_obj=dict(name='a')))])),
    'a subgraph': in_graph(lambda p: _first_node(p, inputs=[dict(name='x', arg=dict(as_graph=dict(name='a')))])),
    'another device': _weight(device=dict(type='meta', index=None)),
    'a pickled weight': _evil_weight,
    'a weight of a path': _weight(path_name='../../../../etc/passwd'),
    'a weight without end': _weight(sizes=[dict(as_int=10**12)], strides=[dict(as_int=0)]),
    'a legacy weight': lambda e: e.update({'archive/data/weights/model.pt': pickle.dumps(_Evil('MARK'))}),
    'an old archive': lambda e: e.update({'archive/serialized_exported_program.json': b'{}'}),
    'deeply nested': lambda e: e.update({'archive/models/model.json': b'[' * 100_000}),
    'no graph': lambda e: e.pop('archive/models/model.json'),
}


@pytest.mark.parametrize('kind', PT2)
def test_a_pt2_of_a_stranger_is_refused_before_torch_reads_it(kind, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = rewritten(exported, tmp_path / 'evil.pt2', PT2[kind])
    monkeypatch.setattr(torch.export, 'load', lambda *args, **kwargs: pytest.fail('torch reads it'))
    with pytest.raises(CheckpointError, match='refused|damaged'):
        SegInferencer(evil)
    assert not (tmp_path / 'MARK').exists()


def test_code_that_is_only_for_debuggers_is_not_passed_on(exported, tmp_path):
    def change(program):
        program['guards_code'] = [CODE]
        for node in program['graph_module']['graph']['nodes']:
            node['metadata'] = dict(stack_trace=CODE, torch_fn=CODE, nn_module_stack=CODE)

    changed_file = rewritten(exported, tmp_path / 'changed.pt2', in_graph(change))
    image = np.zeros((40, 48, 3), np.uint8)
    results = [SegInferencer(p, device='cpu', show_progress=False)(image) for p in (exported, changed_file)]
    assert np.array_equal(*(r['predictions'] for r in results))


# --- memory -----------------------------------------------------------------------------------------------------

READ = """
import resource, sys
import torch
from vlm_dense.engine.checkpoints.reading import load_from_local
from vlm_dense.errors import CheckpointError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_from_local(sys.argv[1])
except CheckpointError as error:
    print(error)
print('KB', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_reading_takes_at_most_twice_what_is_read(tmp_path):
    weights = {f'w{i}': torch.zeros(5_000_000) for i in range(5)}  # 100 MB
    torch.save(dict(state_dict=weights, meta={}), tmp_path / 'honest.pth')
    save_file(weights, tmp_path / 'honest.safetensors')
    for path in (tmp_path / 'honest.pth', tmp_path / 'honest.safetensors'):
        done = subprocess.run([sys.executable, '-c', READ, path], capture_output=True, text=True, check=True)
        assert int(done.stdout.split()[-1]) < 2 * path.stat().st_size / 1000, done.stdout
