"""Values of config files that cannot work: each is refused with its key, before or where it shows."""

from __future__ import annotations

import pytest
from engine.toy import write_config, write_data
from faults.test_bad_inputs import refused

from vlm_dense.cli import print_config, train
from vlm_dense.engine.configs.files import load_config
from vlm_dense.errors import ConfigError

HEAD = "model['decode_head']"
DATA = "train_dataloader['dataset']"
VALUES = [
    (f"{HEAD}['in_index'] = 'x'", 'model.decode_head.in_index must be an integer'),
    (f"{HEAD}['in_channels'] = 0", 'model.decode_head.in_channels must be an integer of at least 1'),
    (f"{HEAD}['in_channels'] = 'a'", "found 'a'"),
    (f"{HEAD}['channels'] = 0", 'model.decode_head.channels must be an integer of at least 1'),
    (f"{HEAD}['channels'] = None", 'model.decode_head.channels must be an integer'),
    (f"{HEAD}['ignore_index'] = 'x'", 'model.decode_head.ignore_index must be an integer'),
    (f"{HEAD}['loss_decode']['loss_weight'] = 'x'", 'model.decode_head.loss_decode.loss_weight must be a number'),
    (f"{HEAD}['loss_decode']['class_weight'] = [1.0, 2.0]", 'class_weight has 2 numbers for 3 classes'),
    (f"{HEAD}['loss_decode']['class_weight'] = ['a', 'b', 'c']", 'class_weight must be numbers'),
    (f"{HEAD}['type'] = 5", 'model.decode_head.type must be a name or a class, found 5'),
    ("model['backbone']['init_cfg'] = 5", 'model.backbone.init_cfg must be a dict'),
    ("model['data_preprocessor']['size'] = 'x'", 'model.data_preprocessor.size must be two positive integers'),
    ("model['train_cfg'] = dict(f=lambda x: x)", 'model.train_cfg.f must be no lambda'),
    ("model['test_cfg'] = dict(mode='slid')", "model.test_cfg.mode must be 'whole' or 'slide', found 'slid'"),
    ("model['test_cfg'] = dict(mode='slide', crop_size=(32, 32))", 'model.test_cfg.stride must be (height, width)'),
    (
        "model['test_cfg'] = dict(mode='slide', crop_size=(32, 32), stride=(0, 0))",
        'model.test_cfg.stride must be (height, width), two positive integers',
    ),
    (
        "model['test_cfg'] = dict(mode='slide', crop_size=(32, 32), stride=(48, 48))",
        'model.test_cfg.stride must not be larger',
    ),
    ("train_pipeline[3]['scale'] = 0", 'pipeline.3.scale must be made of positive numbers'),
    ("train_pipeline[3]['scale'] = (0, 0)", 'pipeline.3.scale must be'),
    ("test_pipeline[1]['scale'] = 'big'", "found 'big'"),
    ("train_pipeline[1] = 'x'", 'train_dataloader.dataset.pipeline.1 must be a dict with a type'),
    ("train_pipeline[1].pop('type')", 'train_dataloader.dataset.pipeline.1 must be a dict with a type'),
    (f"{DATA}['pipeline'] = 'x'", 'train_dataloader.dataset.pipeline must be a list'),
    (f'{DATA} = [{DATA}]', 'train_dataloader.dataset must be a dict with a type'),
    (f"{DATA} = 'x'", "train_dataloader.dataset must be a dict with a type, found 'x'"),
    (f"{DATA}.pop('type')", 'train_dataloader.dataset must be a dict with a type'),
    (f"{DATA}['metainfo'] = 5", 'train_dataloader.dataset.metainfo must be a dict'),
    (f"{DATA}['metainfo'] = dict(classes={{'a', 'b'}})", 'metainfo.classes must be a list, in label order'),
    (f"{DATA}['metainfo'] = dict(classes=dict(a=1, b=2))", 'metainfo.classes must be a list, in label order'),
    (f"{DATA}['data_prefix'] = 'images'", 'train_dataloader.dataset.data_prefix must be a dict'),
    (f"{DATA}['data_root'] = 5", 'train_dataloader.dataset.data_root must be a string'),
    (f"{DATA}['ann_file'] = 5", 'train_dataloader.dataset.ann_file must be a string'),
    (f"{DATA}['img_suffix'] = 5", 'train_dataloader.dataset.img_suffix must be a string'),
    ("train_dataloader['sampler'] = 'x'", 'train_dataloader.sampler must be a dict with a type'),
    ("val_evaluator['iou_metrics'] = ['mIou']", 'evaluator.iou_metrics must be a list of some of mIoU'),
    ("val_evaluator['iou_metrics'] = 5", 'evaluator.iou_metrics must be'),
    ('randomness = dict(seed=-1)', 'randomness.seed must be an integer from 0 to 2**32 - 1'),
    ('randomness = dict(seed=2**40)', 'randomness.seed must be'),
    ("randomness = dict(seed='x')", "randomness.seed must be an integer from 0 to 2**32 - 1, or None, found 'x'"),
    ('randomness = dict(seed=1.5)', 'randomness.seed must be'),
    ('randomness = 5', 'randomness must be a dict'),
    ('env_cfg = 5', 'env_cfg must be a dict'),
    ("log_level = 'LOUD'", 'log_level must be one of'),
    ('log_level = 5.5', 'log_level must be one of'),
    ("log_processor = dict(window_size='x')", 'log_processor.window_size must be an integer of at least 1'),
    ("log_processor = 'x'", 'log_processor must be a dict'),
    ("optim_wrapper['clip_grad'] = dict(max_nrm=1)", "optim_wrapper.clip_grad has no 'max_nrm'"),
    ("optim_wrapper['clip_grad'] = dict(max_norm='x')", 'optim_wrapper.clip_grad.max_norm must be a number'),
    ("optim_wrapper['optimizer'].pop('type')", 'optim_wrapper.optimizer must be a dict with a type'),
    ("param_scheduler = 'x'", 'param_scheduler must be a dict or a list of dicts'),
    ("param_scheduler[0]['power'] = 'x'", 'param_scheduler.0.power must be numeric'),
    ("default_hooks['checkpoint']['interval'] = 'two'", 'default_hooks.checkpoint.interval must be an integer'),
    ("default_hooks['checkpoint']['max_keep_ckpts'] = 'x'", 'default_hooks.checkpoint.max_keep_ckpts must be'),
    ("default_hooks['checkpoint'] = 5", 'default_hooks.checkpoint must be a dict with a type'),
    ("optim_wrapper['optimizer']['lr'] = float('inf')", 'optim_wrapper.optimizer.lr must be a number of at least 0'),
    ('custom_hooks = [5]', 'custom_hooks.0 must be a dict with a type'),
    ('load_from = 5', 'load_from must be a string'),
    ('default_scope = 5', 'default_scope must be a string'),
    ("resume = 'a.pth'", 'resume must be True or False; the checkpoint itself is load_from'),
]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'), train=4, val=2)


@pytest.mark.parametrize(('line', 'expected'), VALUES, ids=[line for line, _ in VALUES])
def test_a_value_that_cannot_work_is_refused_with_its_key(line, expected, data, tmp_path):
    with pytest.raises(ConfigError) as error:
        load_config(write_config(tmp_path, data, line))
    assert expected in str(error.value)


RUNS = [
    ('del optim_wrapper', 'has no optim_wrapper. Training needs train_dataloader, train_cfg, optim_wrapper'),
    ('train_cfg = None', 'has no train_cfg'),
    ('del train_dataloader', 'has no train_dataloader'),
    ('del val_evaluator', 'has no val_evaluator. Validation needs'),
    ('del val_cfg, val_dataloader', 'has no val_dataloader and no val_cfg'),
    ("optim_wrapper.pop('optimizer')", 'optim_wrapper has no optimizer'),
    ("model['data_preprocessor'] = None", 'model has no data_preprocessor'),
    ("model.pop('test_cfg')", "model has no test_cfg, which a segmentor needs. Give it one, as test_cfg=dict(mode='wh"),
    (
        "visualizer = dict(name='w', vis_backends=[dict(type='WandbVisBackend')])",
        'MissingLibraryError: Please run "pip install wandb"',
    ),
    (
        "visualizer = dict(name='t', vis_backends=[dict(type='TensorboardVisBackend')])",
        'MissingLibraryError: Please run "pip install future tensorboard"',
    ),
    # what shows in the first batch
    (f"{HEAD}['in_index'] = 7", 'in_index=7 of FCNHead: there are 4 feature maps, 0 to 3'),
    (f"{HEAD}['in_channels'] = 33", 'in_channels=33 of FCNHead: the feature maps of in_index=3 have 32 channels'),
    ("train_pipeline[4]['crop_size'] = (500, 500)", 'crop_size=(32, 32)'),
    ('train_pipeline.pop(0)', "CheckSeg needs 'ori_shape', which no step before it gives"),
    ('train_pipeline.pop(1)', "CheckSeg needs 'gt_seg_map', which no step before it gives"),
    ('train_pipeline.pop()', "The samples of a data set have no 'inputs', found"),
    (f"{DATA}['pipeline'] = []", "The samples of a data set have no 'inputs', found img_path"),
    (
        "train_pipeline.pop(0)\ntrain_dataloader['num_workers'] = 1",
        "CheckSeg needs 'ori_shape', which no step before it gives",
    ),
]


@pytest.mark.parametrize(('line', 'expected'), RUNS, ids=[line for line, _ in RUNS])
def test_a_run_that_cannot_be_made_says_which_part_of_the_config_it_is(line, expected, data, tmp_path, capsys):
    config = write_config(tmp_path, data, f'train_cfg.update(max_iters=1)\n{line}', name=f'run{len(line)}')
    refused(capsys, expected, train.main, config, '--work-dir', tmp_path / 'work')


OPTIONS = [
    ('model.type=5', 'model.type must be a name or a class'),
    ('model.data_preprocessor.std.2.x=1', 'on the way to it stands the value 127.5'),
    ('train_dataloader.dataset.metainfo.palette.2.0=null', 'in a list, only dicts can be changed one by one'),
    ('model.data_preprocessor.std.2=None', 'in a list, only dicts can be changed one by one'),
    ('log_level.x=1', "on the way to it stands the value 'INFO'"),
    ('default_hooks.sampler_seed.type=', "default_hooks.sampler_seed.type must be a name or a class, found ''"),
    ('model=5', 'model must be a dict'),
    ('model.decode_head.channels=[1,(2', 'Imbalanced brackets'),
    ('train_dataloader=None', 'has no train_dataloader'),
    ('train_dataloader.dataset=5', 'train_dataloader.dataset must be a dict with a type'),
    ('train_cfg=x', 'train_cfg must be a dict'),
    ('train_cfg.type=5', 'train_cfg.type must be a name'),
    ('default_hooks=5', 'default_hooks must be a dict'),
    ('visualizer=x', 'visualizer must be a dict with a type'),
]


@pytest.mark.parametrize(('option', 'expected'), OPTIONS)
def test_an_option_that_cannot_work_is_refused(option, expected, data, tmp_path, capsys):
    config = write_config(tmp_path, data)
    refused(capsys, expected, train.main, config, '--work-dir', tmp_path / 'work', '--cfg-options', option)


def test_an_error_in_the_middle_of_a_step_keeps_its_traceback(data, tmp_path):
    lines = (
        'from mmcv.transforms import BaseTransform\nclass Wrong(BaseTransform):\n'
        "    def transform(self, results): return dict(results, a=dict()['of_my_own'])\n"
        'train_pipeline.insert(3, dict(type=Wrong))\ndel BaseTransform\n'
    )
    with pytest.raises(KeyError, match='of_my_own'):
        train.main([write_config(tmp_path, data, lines, name='wrong'), '--work-dir', str(tmp_path / 'work')])


@pytest.mark.parametrize('variable', ['LOCAL_RANK', 'RANK', 'MASTER_ADDR'])
def test_an_environment_that_no_launcher_made_is_named(variable, data, tmp_path, capsys, monkeypatch):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.setenv(name, '0')
    monkeypatch.setenv(variable, 'no machine')
    words = [] if variable == 'LOCAL_RANK' else ['--launcher', 'pytorch']
    refused(capsys, variable, train.main, write_config(tmp_path, data), '--work-dir', tmp_path / 'work', *words)


def test_what_stock_configs_hold_is_no_error(data, tmp_path):
    lines = [
        'log_level = 20',
        'randomness = dict(seed=None, deterministic=True)',
        "val_evaluator['iou_metrics'] = 'mIoU'",
        "train_pipeline[3]['scale'] = [(48, 40), (32, 32)]",
        "optim_wrapper['clip_grad'] = dict(max_norm=1, norm_type=2, error_if_nonfinite=False)",
        f"{HEAD}['num_classes'] = None",
        'custom_hooks = None',
    ]
    print_config.main([write_config(tmp_path, data, '\n'.join(lines))])
