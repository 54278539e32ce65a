"""Misspelt keys of config files: each is refused with the key that was meant; what a user may name stays."""

from __future__ import annotations

from pathlib import Path

import mmdet
import mmseg
import pytest
from engine.toy import write_config, write_data
from faults.test_bad_inputs import refused

from vlm_dense.cli import train
from vlm_dense.engine.configs.files import load_config
from vlm_dense.engine.configs.names import CONFIGS, list_configs
from vlm_dense.errors import ConfigError

LINES = [
    # those of the list of faults that had no effect, and the others beside them
    ('modle = dict(type="FCN")', 'model'),
    ('optim_wraper = dict(clip_grad=dict(max_norm=1))', 'optim_wrapper'),
    ('default_hoks = dict(logger=dict(interval=1))', 'default_hooks'),
    ('train_dataloder = dict(batch_size=2)', 'train_dataloader'),
    ("default_hooks['loger'] = dict(type='LoggerHook', interval=7)", 'logger'),
    ("optim_wrapper['paramwise_cfg'] = dict(custom_key={'head': dict(lr_mult=10)})", 'custom_keys'),
    ("optim_wrapper['paramwise_cfg'] = dict(custom_keys={'head': dict(lr_mlt=10)})", 'lr_mult'),
    ("env_cfg['cudnn_benchmrk'] = True", 'cudnn_benchmark'),
    ("train_dataloader['dataset']['metainfo'] = dict(clases=('a', 'b'))", 'classes'),
    ("val_evaluator['x'] = 1", None),
    ("model['test_cfg'] = dict(mode='slide', crop_size=(32, 32), strid=(16, 16))", 'stride'),
    ("model['train_cfg'] = dict(num_point=5)", 'num_points'),
    ("val_evaluator['iou_metric'] = ['mIoU']", 'iou_metrics'),
    ("train_dataloader['batchsize'] = 3", 'batch_size'),
    ("train_dataloader['sampler']['shufle'] = False", 'shuffle'),
    ("train_dataloader['dataset']['img_sufix'] = '.png'", 'img_suffix'),
    ("train_cfg['max_iter'] = 3", 'max_iters'),
    ("train_cfg['val_intervall'] = 3", 'val_interval'),
    ("param_scheduler[0]['powr'] = 0.5", 'power'),
    ("optim_wrapper['optimizr'] = dict(type='SGD')", 'optimizer'),
    ("optim_wrapper['acumulative_counts'] = 2", 'accumulative_counts'),
    ("model['backbone']['out_indice'] = (0, 1, 2, 3)", 'out_indices'),
    ("model['decode_head']['num_clases'] = 3", 'num_classes'),
    ("model['decode_head']['loss_decode']['los_weight'] = 2.0", 'loss_weight'),
    ("model['data_preprocessor']['pad_vall'] = 1", 'pad_val'),
    ("default_hooks['checkpoint']['save_bst'] = 'mIoU'", 'save_best'),
    ("custom_hooks = [dict(type='EMAHook', begin_itr=1)]", 'begin_iter'),
    ("test_pipeline[1]['keep_ratoi'] = False", 'keep_ratio'),
    ('randomness = dict(sed=3)', 'seed'),
    # more of them
    ("env_cfg['mp_cfg']['opencv_num_thread'] = 1", 'opencv_num_threads'),
    ("env_cfg['dist_cfg']['backnd'] = 'gloo'", 'backend'),
    ('custom_hook = []', 'custom_hooks'),
    ('param_schedulers = []', 'param_scheduler'),
    ('visualiser = dict(name="x")', 'visualizer'),
    ('randomnes = dict(seed=3)', 'randomness'),
    ('auto_scale_rl = dict(enable=True)', 'auto_scale_lr'),
    ('auto_scale_lr = dict(enabled=True, base_batch_size=4)', 'enable'),
    ('load_form = "a.pth"', 'load_from'),
    ('log_procesor = dict(window_size=5)', 'log_processor'),
    ("val_dataloader['num_worker'] = 0", 'num_workers'),
    ("test_dataloader['persistent_worker'] = False", 'persistent_workers'),
    ("optim_wrapper['paramwise_cfg'] = dict(norm_decay_mul=0.0)", 'norm_decay_mult'),
    ("optim_wrapper['paramwise_cfg'] = dict(bias_lr_mul=2.0)", 'bias_lr_mult'),
    ("default_hooks['tmer'] = dict(type='IterTimerHook')", 'timer'),
    ("default_hooks['checkpoint']['max_keep_ckpt'] = 1", 'max_keep_ckpts'),
    ("train_dataloader['dataset']['metainfo'] = dict(classes=('a', 'b'), pallete=[])", 'palette'),
    ("model['decode_head']['norm_cfg']['requires_grd'] = True", 'requires_grad'),
    ("model['decode_head']['dropout_ration'] = 0.1", 'dropout_ratio'),
    ("val_evaluator['ignore_idx'] = 255", 'ignore_index'),
]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'), train=2, val=2)


@pytest.mark.parametrize(('line', 'meant'), LINES, ids=[line for line, _ in LINES])
def test_a_misspelt_key_of_a_file_is_refused_with_the_one_that_was_meant(line, meant, data, tmp_path):
    path = write_config(tmp_path, data, line)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert (f"Did you mean '{meant}'" if meant else "has no 'x'") in str(error.value)


ALLOWED = [
    'models = ["a"]\nfor_later = [one for one in models]',
    'model_ = dict(type="FCN")\nmodel_2 = 5',
    'train_pipelines = [train_pipeline]\nused = train_pipelines',
    "default_hooks['logger2'] = dict(type='LoggerHook', interval=7)",
    "train_dataloader['dataset']['metainfo'] = dict(classes=('a', 'b', 'c'), source='mine')",
    "optim_wrapper['paramwise_cfg'] = dict(custom_keys={'head': dict(lr_mult=10), 'absent': dict(lr_mult=2)})",
]


@pytest.mark.parametrize('line', ALLOWED)
def test_names_of_the_users_own_stay_possible(line, data, tmp_path):
    load_config(write_config(tmp_path, data, line))


def test_a_custom_key_that_is_almost_a_part_of_the_model_is_refused(data, tmp_path, capsys):
    line = "optim_wrapper['paramwise_cfg'] = dict(custom_keys={'backbon.layer': dict(lr_mult=10)})"
    path = write_config(tmp_path, data, f"{line}\ntrain_cfg['max_iters'] = 1")
    refused(capsys, "Did you mean 'backbone'", train.main, path, '--work-dir', tmp_path / 'work')


def test_every_config_of_the_package_passes():
    configs = list_configs(CONFIGS)
    assert len(configs) > 300
    for path in configs[::6]:
        load_config(str(path))


MISSPELT = ['bisenetv2_fcn_4xb4-ohem-160k_cityscapes-1024x1024.py', 'faster-rcnn_r50_fpn_1x_voc0712-cocofmt.py']
"""The first has ``models`` where ``model`` is meant, so its OHEM has no effect; the second cannot build its metric."""


@pytest.mark.long
def test_all_configs_of_the_package_and_those_of_mmseg_and_mmdet_pass():
    stock = [Path(package.__file__).parent / '.mim' / 'configs' for package in (mmseg, mmdet)]
    configs = [path for folder in stock for path in sorted(folder.glob('[!_]*/*.py'))]
    found = {}
    for path in [*list_configs(CONFIGS), *configs]:
        try:
            load_config(str(path))
        except ConfigError as error:
            found[path.name] = str(error)
    # mmpretrain is not installed, and some bases are not in mmdet's package
    unavailable = [name for name, why in found.items() if 'mmpretrain' in why or 'does not exist' in why]
    assert len(configs) - len(unavailable) > 700
    assert sorted(found.keys() - set(unavailable)) == MISSPELT
