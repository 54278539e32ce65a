"""The comparison on toy methods: what is run, what is not run twice, a failing cell, kill -9, tables and image."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine.processes import wait_until
from PIL import Image
from tiny_towers import resnet

from vlm_dense.cli import compare
from vlm_dense.comparison import report
from vlm_dense.comparison.cells import make_cells, plan
from vlm_dense.comparison.origin import code_digest, weights_digest
from vlm_dense.comparison.protocols.base_to_new import harmonic
from vlm_dense.comparison.runs import result_at, result_of, run_cells
from vlm_dense.errors import ConfigError
from vlm_dense.vocabulary.templates import read_templates

ROOT = Path(__file__).parents[2]

TOY = f"""
_base_ = '{ROOT}/configs/_base_/classification_runtime.py'
arch = {resnet(text=dict(layers=1), image_size=32)!r}
model = dict(
    type='vlm_dense.CLIPClassifier',
    data_preprocessor=dict(type='mmengine.ImgDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3, bgr_to_rgb=True),
    backbone=dict(type='vlm_dense.CLIPResNet', arch=arch, attnpool=True),
    text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
    text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=2),
)
scene = dict(
    type='vlm_dense.ShapesDataset', size=32, num_objects=(1, 1), label='colour',
    pipeline=[dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackClsInputs')],
)
loader = dict(batch_size=8, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
train_dataloader = dict(
    **loader, dataset=dict(type='vlm_dense.FewShotDataset', shots=16, dataset=dict(num_scenes=60, **scene))
)
val_dataloader = dict(**loader, dataset=dict(type='vlm_dense.FewShotDataset', shots=16, at_most=4,
                                             dataset=dict(num_scenes=60, split='val', **scene)))
test_dataloader = dict(**loader, dataset=dict(num_scenes=16, split='test', **scene))
val_evaluator = test_evaluator = dict(type='vlm_dense.Accuracy')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
val_cfg, test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
targets = dict(night=dict(domain='night'))
"""
METHODS = dict(
    good='',
    zero='model.update(text_prompt=dict(type="vlm_dense.ZeroShotPrompt"))\ndel train_cfg',
    broken='scene.update(colour="red")\ntrain_dataloader["dataset"]["dataset"].update(size=-1)',
    csc='model["text_prompt"].update(class_specific=True)',
    searched='model.update(text_prompt=dict(type="vlm_dense.ZeroShotPrompt"), head=dict(type="vlm_dense.CALIP", '
    'search_step=(2, 2)))\ndel train_cfg\nsearch = val_dataloader["dataset"]\n'
    'default_hooks = dict(prepare=dict(type="vlm_dense.PrepareHook", data=dict(search=dict(dataset=search))))',
    slow='train_cfg.update(max_epochs=80)\ndefault_hooks = dict(checkpoint=dict(by_epoch=True, interval=5))',
)


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('configs')
    for method, change in METHODS.items():
        (folder / f'{method}_toy.py').write_text(TOY + change)
    return folder


@pytest.fixture(autouse=True)
def _here(configs, monkeypatch):
    monkeypatch.setattr(compare, 'CONFIGS', configs)


def run(out, *methods, protocols=('few-shot', 'base-to-new')):
    arguments = ['--datasets', 'toy', '--seeds', '1', '--out', str(out), '--workers', '2', '--shots', '1']
    return compare.main([*arguments, '--protocols', *protocols, '--methods', *methods])


def files(out, pattern) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in Path(out).glob(pattern)}


@pytest.fixture(scope='module')
def compared(tmp_path_factory, configs):
    out = tmp_path_factory.mktemp('compare')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, 'CONFIGS', configs)
        return out, run(out, 'good', 'zero', 'broken', 'csc')


# --- runs -----------------------------------------------------------------------------------------------------


def test_every_cell_has_its_row_and_a_failed_one_stops_no_other(compared):
    out, status = compared
    assert status == 1
    rows = report.read_csv(out / 'results.csv')
    found = {(r['method'], r['protocol'], r['test']) for r in rows}
    every = {('few-shot', 'test'), ('base-to-new', 'base'), ('base-to-new', 'new')}
    assert found == {
        (method, protocol, test)
        for method in ('good', 'zero', 'csc')
        for protocol, test in every
        if (method, test) != ('csc', 'new')
    }
    assert all(0 <= row['value'] <= 100 and row['metric'] == 'top1' for row in rows)
    text = (out / 'results.md').read_text()
    assert '- broken, toy, few-shot, 1 shots, seed 1: ConfigError: ' in text
    assert '- csc, toy, base-to-new, new: text_prompt.ctx belong to the classes of the training' in text


def test_what_is_prepared_on_some_classes_is_not_tested_on_others(tmp_path):
    for _ in range(2):
        assert run(tmp_path, 'searched', protocols=['base-to-new']) == 0
        rows = report.read_csv(tmp_path / 'results.csv')
        assert [(row['test'], row['selection']) for row in rows] == [('base', 'validation')]
        text = (tmp_path / 'results.md').read_text()
        assert 'new: what it is prepared from (search) are images of other classes' in text
        for path in tmp_path.glob('cells/*/test_new*.json'):
            path.unlink()  # made again, beside the other that is there


def test_cost_and_selection_are_told(compared):
    rows = report.read_csv(compared[0] / 'results.csv')
    trained = {row['method']: row['trained_parameters'] for row in rows}
    assert trained['good'] == 2 * 32 and trained['zero'] == 0 and trained['csc'] in (2 * 32 * 8, 2 * 32 * 4)
    for row in rows:
        assert (row['seconds_per_step'] is None) == (row['method'] == 'zero')
        assert row['peak_memory_mb'] > 50 and row['selection'] == 'none' and row['transductive'] is False


def test_the_image_can_be_opened(compared):
    with Image.open(compared[0] / 'results.png') as image:
        assert image.size[0] > 500 and len(image.convert('RGB').getcolors(1 << 20)) > 10


def test_a_second_call_runs_what_failed_and_nothing_else(compared):
    out, _ = compared
    before = files(out, 'cells/*/test_*.json'), files(out, 'cells/[gzc]*/log.txt'), files(out, 'cells/broken*/log.txt')
    assert run(out, 'good', 'zero', 'broken', 'csc') == 1
    after = files(out, 'cells/*/test_*.json'), files(out, 'cells/[gzc]*/log.txt'), files(out, 'cells/broken*/log.txt')
    assert before[:2] == after[:2]
    assert all(after[2][name] > when for name, when in before[2].items()) and len(before[2]) == 2


def test_what_trains_alike_trains_once(compared):
    out, _ = compared
    logs = files(out, 'cells/good*/log.txt')
    assert run(out, 'good', protocols=['transfer']) == 0
    assert files(out, 'cells/good*/train/*/*.log').keys() and len(files(out, 'cells/good*/train')) == len(logs) == 2
    rows = report.read_csv(out / 'results.csv')
    assert [row['test'] for row in rows] == ['source', 'night']


def test_a_cell_can_be_repeated_by_hand(compared):
    from vlm_dense.cli import test as test_tool

    folder = next(path for path in compared[0].glob('cells/zero*') if list(path.glob('test_new*.json')))
    config = next(folder.glob('test_new*.py'))
    metrics = test_tool.main([str(config), '--work-dir', str(folder / 'again')])
    assert metrics == json.loads(config.with_suffix('.json').read_text())['metrics']


def test_other_weights_at_the_same_path_and_other_code_make_other_cells(configs, tmp_path):
    weights, package = tmp_path / 'weights.safetensors', tmp_path / 'package'
    weights.write_bytes(b'some')
    text = TOY.replace('attnpool=True)', f'attnpool=True, pretrained={str(weights)!r})')
    (tmp_path / 'good_toy.py').write_text(text)

    def folder() -> str:
        return plan(tmp_path, ['good'], ['toy'], ['few-shot'], [1], [1])[0].folder

    first = folder()
    assert folder() == first
    weights.write_bytes(b'other')
    assert folder() != first
    package.mkdir()
    code = package / 'method.py'
    code.write_text('def f(x):\n    """Doubles."""\n    return 2 * x\n')
    before = code_digest(package)
    code.write_text('def f(x):\n    """Says more."""\n    return 2 * x  # and a comment\n')
    (package / 'cli').mkdir()
    (package / 'cli' / 'program.py').write_text('print(1)\n')
    assert code_digest(package) == before
    code.write_text('def f(x):\n    """Says more."""\n    return 3 * x\n')
    assert code_digest(package) != before


def test_other_code_in_a_file_that_the_config_imports_makes_another_cell(configs, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = tmp_path / 'method_of_a_reader.py'
    (tmp_path / 'good_toy.py').write_text(f"{TOY}\ncustom_imports = dict(imports=['{code.stem}'])\n")

    def folder(text: str) -> str:
        code.write_text(text)
        return plan(tmp_path, ['good'], ['toy'], ['few-shot'], [1], [1])[0].folder

    first = folder('def f(x):\n    """Doubles."""\n    return 2 * x\n')
    assert folder('def f(x):\n    """Says more."""\n    return 2 * x  # and a comment\n') == first
    assert folder('def f(x):\n    """Says more."""\n    return 3 * x\n') != first


def test_the_bundled_weights_count_as_well():
    cell = plan(ROOT / 'configs', ['zero_shot'], ['shapes'], ['few-shot'], [1], [1])[0]
    assert cell.origin['weights'] != weights_digest({})


def test_a_damaged_result_is_made_again(compared):
    cell = next(compared[0].glob('cells/zero*'))
    path = next(cell.glob('test_*.json'))
    whole = path.read_text()
    for damage in ('', '{"metrics": ', '[]', '{"metrics": {}}'):
        path.write_text(damage)
        assert result_at(path) is None
    path.write_text(whole)
    assert result_at(path)['metrics']


def started(arguments: list[str], seen) -> subprocess.Popen:
    """The program, as soon as ``seen``."""
    code = 'import pathlib; from vlm_dense.cli import compare\n'
    code += f'compare.CONFIGS = pathlib.Path({str(compare.CONFIGS)!r}); compare.main({arguments!r})'
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.DEVNULL, start_new_session=True)
    wait_until(seen, process)
    return process


def killed(arguments: list[str], seen, folder: Path) -> None:
    """Start the program, wait until ``seen``, and kill it and its cells with SIGKILL."""
    process = started(arguments, seen)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for pid in folder.glob('cells/*/pid'):
        with contextlib.suppress(ProcessLookupError):  # it had finished
            os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_terminated_comparison_leaves_no_cell_running(tmp_path):
    arguments = ['--datasets', 'toy', '--seeds', '1', '--shots', '1', '--out', str(tmp_path), '--workers', '1']
    process = started([*arguments, '--methods', 'slow'], lambda: list(tmp_path.glob('cells/slow*/train/epoch_*.pth')))
    (pid,) = (int(path.read_text()) for path in tmp_path.glob('cells/*/pid'))
    os.kill(pid, 0)
    process.terminate()
    assert process.wait(60) == 2
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_killed_comparison_goes_on_where_it_was(tmp_path):
    arguments = ['--datasets', 'toy', '--seeds', '1', '--shots', '1', '--out', str(tmp_path), '--workers', '1']
    arguments += ['--methods', 'zero', 'slow']
    killed(arguments, lambda: list(tmp_path.glob('cells/slow*/train/epoch_*.pth')), tmp_path)
    done = files(tmp_path, 'cells/*/test_*.json')
    assert len(done) == 1  # zero; slow was in the middle
    reached = (next(tmp_path.glob('cells/slow*')) / 'train/last_checkpoint').read_text().rpartition('_')[2]
    assert compare.main(arguments) == 0
    assert done.items() <= files(tmp_path, 'cells/*/test_*.json').items()
    log = next(tmp_path.glob('cells/slow*/log.txt')).read_text()
    assert f'resumed epoch: {int(reached.removesuffix(".pth"))}' in log
    assert {row['method'] for row in report.read_csv(tmp_path / 'results.csv')} == {'zero', 'slow'}


def test_a_cell_that_dies_is_told(configs, tmp_path, monkeypatch):
    (tmp_path / 'deadly.py').write_text(
        'import os, signal\nfrom vlm_dense.registry import HOOKS\nfrom mmengine.hooks import Hook\n'
        '@HOOKS.register_module()\nclass DeadlyHook(Hook):\n'
        '    def before_train(self, runner): os.kill(os.getpid(), signal.SIGKILL)\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    (configs / 'deadly_toy.py').write_text(
        TOY + 'custom_imports = dict(imports="deadly")\ncustom_hooks = [dict(type="vlm_dense.DeadlyHook")]\n'
    )
    cells = plan(configs, ['deadly', 'zero'], ['toy'], ['few-shot'], [1], [1])
    assert run_cells(cells, tmp_path / 'out', 1, lambda *_: None) == {cells[0]: 'killed by signal 9'}
    assert len(files(tmp_path, 'out/cells/zero*/test_*.json')) == 1


@pytest.mark.parametrize(
    'saved, last, wanted',
    [
        (['epoch_2.pth'], 'epoch_2.pth', 'epoch_2.pth'),
        (['epoch_2.pth', 'best_top1_epoch_1.pth'], 'epoch_2.pth', 'best_top1_epoch_1.pth'),
        (['epoch_2.pth', 'best_top1_epoch_1.pth', 'finished.pth'], 'finished.pth', 'finished.pth'),
    ],
)
def test_the_result_of_a_training_is_its_best_or_what_was_made_of_it(saved, last, wanted, tmp_path):
    for name in saved:
        torch.save(dict(state_dict={}), tmp_path / name)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / last))
    assert result_of(tmp_path) == str(tmp_path / wanted)


# --- plan -----------------------------------------------------------------------------------------------------


def leaf(cfg: dict, loader: str) -> dict:
    dataset = cfg[loader]['dataset']
    return dataset.get('dataset', dataset)


def test_shots_seeds_and_classes_reach_every_data_set(configs):
    cells = plan(configs, ['good'], ['toy'], ['few-shot', 'base-to-new'], [2], [5])
    for cell, classes in zip(cells, (None, 'base'), strict=True):
        assert cell.train['train_dataloader']['dataset']['shots'] == 2
        assert cell.train['train_dataloader']['dataset']['seed'] == cell.train['randomness']['seed'] == 5
        assert leaf(cell.train, 'train_dataloader').get('classes') == classes
        assert cell.train['val_dataloader'] is None and cell.selection == 'none'
    tests = cells[1].tests
    assert {name: leaf(cfg, 'test_dataloader')['classes'] for name, cfg in tests.items()} == dict(
        base='base', new='new'
    )


def config(**changes) -> dict:
    dataset = dict(type='vlm_dense.ImageSetDataset', name='imagenet', data_root='d')
    few = dict(dataset, shots=16, seed=1)
    return dict(
        model=dict(backbone=dict(arch='RN50'), text_prompt=dict(templates=['a photo of a {}.'])),
        train_dataloader=dict(dataset=dict(few, split='train')),
        val_dataloader=dict(dataset=dict(few, split='val')),
        test_dataloader=dict(dataset=dict(dataset, split='test')),
        train_cfg=dict(),
        targets=dict(eurosat=dict(name='eurosat')),
        **changes,
    )


def search(split: str) -> list[dict]:
    return [dict(type='vlm_dense.PrepareHook', data=dict(search=dict(dataset=dict(split=split, shots=16, seed=1))))]


def test_what_is_chosen_on_which_data_is_read_from_the_config():
    def chosen_on(**changes):
        return make_cells(config(**changes), 'm', 'imagenet', 'few-shot', 4, 1)[0].selection

    assert chosen_on() == 'none'
    assert chosen_on(custom_hooks=search('val')) == 'validation'
    assert chosen_on(custom_hooks=search('test')) == 'test'
    best = dict(default_hooks=dict(checkpoint=dict(save_best='top1')))
    assert chosen_on(**best) == 'validation'
    (cell,) = make_cells(config(**best, custom_hooks=search('val')), 'm', 'imagenet', 'few-shot', 4, 2)
    assert cell.train['val_dataloader']['dataset']['shots'] == 4
    assert cell.train['custom_hooks'][0]['data']['search']['dataset'] == dict(split='val', shots=4, seed=2)


def test_a_head_that_keeps_shots_gets_their_number_and_no_seed():
    cfg = config()
    cfg['model']['head'] = dict(type='vlm_dense.TipAdapter', shots=16)
    (cell,) = make_cells(cfg, 'm', 'imagenet', 'few-shot', 4, 2)
    assert cell.train['model']['head'] == dict(type='vlm_dense.TipAdapter', shots=4)


def test_other_sets_bring_their_templates():
    (cell,) = make_cells(config(), 'm', 'imagenet', 'transfer', 16, 1)
    assert set(cell.tests) == {'source', 'eurosat'}
    assert leaf(cell.tests['eurosat'], 'test_dataloader')['name'] == 'eurosat'
    assert cell.tests['eurosat']['model']['text_prompt']['templates'] == ['a centered satellite photo of {}.']
    assert cell.tests['source']['model']['text_prompt']['templates'] == ['a photo of a {}.']


@pytest.mark.parametrize('ensemble', ['imagenet7', list(read_templates('imagenet80'))])
def test_ensembles_of_imagenet_stay_in_its_family(ensemble):
    cfg = config() | dict(targets={name: dict(name=name) for name in ('caltech101', 'imagenet-a')})
    cfg['model']['text_prompt'] = dict(templates=ensemble)
    tests = make_cells(cfg, 'm', 'imagenet', 'transfer', 16, 1)[0].tests
    assert tests['imagenet-a']['model']['text_prompt']['templates'] == ensemble
    assert tests['caltech101']['model']['text_prompt']['templates'] == ['a photo of a {}.']


def test_other_sets_bring_their_sentences():
    cfg = config() | dict(targets={name: dict(name=name) for name in ('dtd', 'imagenet-a')})
    cfg['model']['text_prompt'] = dict(type='vlm_dense.CuPLPrompt', sentences='data/cupl/imagenet.json')
    tests = make_cells(cfg, 'm', 'imagenet', 'transfer', 16, 1)[0].tests
    files = {name: test['model']['text_prompt']['sentences'] for name, test in tests.items()}
    own = 'data/cupl/imagenet.json'
    assert files == {'source': own, 'imagenet-a': own, 'dtd': 'data/cupl/dtd.json'}


def test_a_set_without_config_takes_that_of_imagenet(tmp_path):
    (tmp_path / 'some_imagenet.py').write_text(''.join(f'{k} = {v!r}\n' for k, v in config().items()))
    (cell,) = plan(tmp_path, ['some'], ['eurosat'], ['few-shot'], [1], [1], dict(data_root='elsewhere'))
    assert {leaf(cell.train, name)['name'] for name in ('train_dataloader',)} == {'eurosat'}
    assert cell.train['model']['text_prompt']['templates'] == ['a centered satellite photo of {}.']


def test_unknown_names_get_the_nearest(configs):
    with pytest.raises(ConfigError, match="'god' is not in the methods with a config for toy .* Did you mean 'good'"):
        plan(configs, ['god'], ['toy'], ['few-shot'], [1], [1])
    with pytest.raises(ConfigError, match="'toys' is not in the data sets with a config .* Did you mean 'toy'"):
        plan(configs, ['good'], ['toys'], ['few-shot'], [1], [1])
    with pytest.raises(ConfigError, match="'fewshot' is not in the protocols. Did you mean 'few-shot'"):
        plan(configs, ['good'], ['toy'], ['fewshot'], [1], [1])
    with pytest.raises(ConfigError, match='--shots must be at least 1, found 0'):
        plan(configs, ['good'], ['toy'], ['few-shot'], [0], [1])


# --- report ---------------------------------------------------------------------------------------------------


def row(method='a', value=50.0, **changes) -> dict:
    plain = dict(dataset='toy', protocol='few-shot', test='test', shots=1, seed=1, metric='top1', tower='RN50')
    plain |= dict(selection='none', labels='given', transductive=False, trained_parameters=1000, seconds_per_step=0.5)
    return plain | dict(method=method, value=value, peak_memory_mb=100.0, minutes=1.0) | changes


def test_transductive_methods_have_columns_of_their_own():
    rows = [row(value=40.0), row(value=50.0, seed=2), row(shots=4, value=60.0), row('b', 70.0, transductive=True)]
    text = report.markdown(rows, [], {}, 'command')
    assert '| method | 1 shot | 4 shots | 1 shot, transductive | 4 shots, transductive |' in text
    assert '| a | 45.0 ± 7.1 | 60.0 | - | - |' in text and '| b | - | - | 70.0 | - |' in text
    assert 'transductive' not in report.markdown(rows[:3], [], {}, 'command')


def test_the_harmonic_mean_is_that_of_each_seed():
    pair = [(80.0, 60.0), (70.0, 50.0)]
    rows = [
        row(value=value, seed=seed, test=test, protocol='base-to-new')
        for seed, values in enumerate(pair)
        for test, value in zip(('base', 'new'), values, strict=True)
    ]
    found = [r['value'] for r in report.harmonic_rows(rows)]
    assert found == pytest.approx([2 / (1 / 80 + 1 / 60), 2 / (1 / 70 + 1 / 50)])
    assert '| a | 75.0 ± 7.1 | 55.0 ± 7.1 | 63.5 ± 7.2 |' in report.markdown(rows, [], {}, 'command')
    assert harmonic(0.0, 0.0) == 0.0


def test_the_csv_gives_back_what_was_written(tmp_path):
    rows = [row(), row('b', seconds_per_step=None, transductive=True)]
    report.write_csv(rows, tmp_path / 'r.csv')
    assert report.read_csv(tmp_path / 'r.csv') == rows


def test_methods_are_dots_in_order_of_their_mean_beside_zero_shot():
    from matplotlib.figure import Figure

    rows = [row('b', 70.0), row('b', 50.0, seed=2), row('zero_shot', 65.0), row('c', 90.0, transductive=True)]
    axes = Figure().subplots()
    report._dots(axes, rows)
    assert [label.get_text() for label in axes.get_yticklabels()] == ['b', 'zero_shot', 'c (transductive)']
    lines = [line.get_xdata() for line in axes.get_lines()]
    assert list(lines[0]) == [60.0, 65.0, 90.0] and list(lines[-1]) == [65.0, 65.0]
    report._dots(axes, [row(shots=1, value=10.0), row(shots=4, value=20.0)])
    assert list(axes.get_lines()[-1].get_xdata()) == [20.0]  # of the most images


def test_without_a_result_nothing_is_drawn(tmp_path):
    report.draw([], tmp_path / 'r.png')
    assert not (tmp_path / 'r.png').exists()
    assert '## Cost' not in report.markdown([], [], {}, 'command')
