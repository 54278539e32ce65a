"""Bad inputs of every kind: each ends in one message that names what is wrong, with status 2 and no traceback.

The programs' ``main`` is called in this process, with the command line of a user. The last test counts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pages
import pytest
import torch
from classification.test_image_sets import build, write_coco, write_imagenet, write_split
from engine.toy import write_config, write_data
from faults.hostile import BROKEN, PHOTO, encoded, png_header, write
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image
from safetensors.torch import save_file
from tiny_towers import vit

from vlm_dense.cli import compare, demo, model_info, print_config, pseudo_label, segment, show_dataset, train
from vlm_dense.cli import test as test_tool
from vlm_dense.clip.loading import load_clip
from vlm_dense.datasets import ShapesDataset
from vlm_dense.engine.checkpoints.resume_check import ResumeCheckHook
from vlm_dense.engine.runner.launch import user_errors
from vlm_dense.errors import ClassNamesError, ConfigError, DataError, UserError
from vlm_dense.inference import SegInferencer
from vlm_dense.inference import page as web_page
from vlm_dense.inference.bulk.run import NOTES
from vlm_dense.inference.images import load_image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Images and masks of the toy data set, which no test changes."""
    return write_data(tmp_path_factory.mktemp('data'), train=4, val=2)


@pytest.fixture
def own(tmp_path):
    """Images and masks that a test may damage."""
    return write_data(tmp_path / 'data', train=4, val=2)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """Config of a MaskCLIP that is built in no time."""
    folder = tmp_path_factory.mktemp('tiny')
    arch = vit(text=dict(width=16, heads=1, layers=1), layers=1)
    torch.manual_seed(0)
    weights = str(folder / 'clip.safetensors')
    save_file({k: v.contiguous() for k, v in load_clip(arch).state_dict().items() if k != 'attn_mask'}, weights)
    path = folder / 'maskclip.py'
    path.write_text(
        f"""
clip = dict(arch={arch}, pretrained={weights!r})
model = dict(
    type='vlm_dense.MaskCLIP', class_names=['sky', 'road', 'car'],
    data_preprocessor=dict(type='vlm_dense.MixedSizeSegDataPreProcessor', mean=[127.5] * 3, std=[60.0] * 3),
    backbone=dict(type='vlm_dense.MaskCLIPViT', **clip), text_encoder=dict(type='vlm_dense.TextTower', **clip),
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt'), test_cfg=dict(mode='whole', keep_logits=False))
test_pipeline = [dict(type='vlm_dense.LoadImage'), dict(type='Resize', scale=(96, 64), keep_ratio=True),
                 dict(type='PackSegInputs')]
"""
    )
    return str(path)


def refused(capsys, expected: str, main, *argv) -> str:
    """The message of a program that refuses: status 2, no traceback, one kind of error in front."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in argv])
    message = capsys.readouterr().err
    assert left.value.code == 2, message
    assert 'Traceback' not in message
    assert expected in message, message
    return message


def short(case) -> str:
    return case[0] if isinstance(case, tuple) else str(case)


# --- config files ---------------------------------------------------------------------------------------------

FILES = [
    ('syntax error', {'config.py': 'model = dict(type='}, 'config.py, line 1'),
    (
        'syntax error in a base',
        {'config.py': "_base_ = 'b.py'", 'b.py': 'x = = 1'},
        'b.py, line 1: x = = 1 is no Python',
    ),
    ('bad indentation', {'config.py': 'a = 1\n  b = 2'}, 'config.py, line 2'),
    ('no UTF-8', {'config.py': b"name = '\xff\xfe'"}, 'is no'),
    ('null bytes', {'config.py': b'a = 1\0'}, 'config.py'),
    ('builds on itself', {'config.py': "_base_ = 'config.py'"}, 'builds on itself'),
    ('circle of two', {'config.py': "_base_ = ['a.py']", 'a.py': "_base_ = 'config.py'"}, 'builds on itself'),
    (
        'circle of three',
        {'config.py': "_base_ = 'a.py'", 'a.py': "_base_ = 'b.py'", 'b.py': "_base_ = 'a.py'"},
        'a.py -> ',
    ),
    ('missing base', {'config.py': "_base_ = './nowhere.py'"}, 'nowhere.py'),
    (
        'base by name without its folder',
        {'config.py': "_base_ = 'vlm_dense::denseclip_shapes.py'"},
        "Did you mean 'vlm_dense::denseclip/denseclip_shapes.py'?",
    ),
    (
        'misspelt base by name',
        {'config.py': "_base_ = 'vlm_dense::denseclip/denseclip_shaps.py'"},
        "Did you mean 'vlm_dense::denseclip/denseclip_shapes.py'?",
    ),
    ('unknown name', {'config.py': 'model = dct()'}, "NameError: name 'dct' is not defined"),
    ('division by zero', {'config.py': 'a = 1\nb = 1 / 0'}, 'line 2: ZeroDivisionError'),
    ('import that fails', {'config.py': "custom_imports = dict(imports=['no_such_module'])"}, 'no_such_module'),
    (
        'two bases with one key',
        {'config.py': "_base_ = ['a.py', 'b.py']", 'a.py': 'x = 1', 'b.py': 'x = 2'},
        'cannot be read',
    ),
    ('model is a number', {'config.py': 'model = 5'}, 'model must be a dict'),
]


@pytest.mark.parametrize('case', FILES, ids=short)
def test_a_config_that_cannot_be_read_is_named(case, tmp_path, capsys):
    _, files, expected = case
    for name, content in files.items():
        write(tmp_path / name, content)
    refused(capsys, expected, print_config.main, tmp_path / 'config.py')


@pytest.mark.parametrize('main', [train.main, test_tool.main, print_config.main, model_info.main])
@pytest.mark.parametrize('text', ['model = dict(', "_base_ = 'config.py'"])
def test_every_program_that_reads_a_config_says_so(main, text, tmp_path, capsys):
    refused(capsys, 'config.py', main, write(tmp_path / 'config.py', text))


PARTS = [
    ('no model', 'del model', 'no model with a type'),
    ('model without type', "model.pop('type')", 'no model with a type'),
    ('misspelt model', "model['type'] = 'EncoderDecodr'", "Did you mean 'EncoderDecoder'"),
    ('argument of the model', "model['decod_head'] = 1", "Did you mean 'decode_head'"),
    ('argument of the head', "model['decode_head']['num_clases'] = 3", "Did you mean 'num_classes'"),
    ('argument of the backbone', "model['backbone']['depht'] = 18", "Did you mean 'depth'"),
    ('value of the backbone', "model['backbone']['depth'] = 19", 'ResNet cannot be built'),
    ('argument of the loss', "model['decode_head']['loss_decode']['los_weight'] = 1.0", "Did you mean 'loss_weight'"),
    ('argument of the preprocessor', "model['data_preprocessor']['meen'] = [1]", "Did you mean 'mean'"),
    ('misspelt data set', "train_dataloader['dataset']['type'] = 'BaseSegDataSet'", "Did you mean 'BaseSegDataset'"),
    ('argument of the data set', "train_dataloader['dataset']['img_sufix'] = '.png'", "Did you mean 'img_suffix'"),
    ('argument of a transform', "train_pipeline[4]['crop_sise'] = 3", "Did you mean 'crop_size'"),
    ('value of a transform', "train_pipeline[5]['prob'] = 'often'", 'RandomFlip cannot be built'),
    ('misspelt transform', "train_pipeline[5]['type'] = 'RandomFlipp'", "Did you mean 'RandomFlip'"),
    ('argument of the sampler', "train_dataloader['sampler']['shufle'] = True", "Did you mean 'shuffle'"),
    ('argument of the optimiser', "optim_wrapper['optimizer']['momentun'] = 0.9", "Did you mean 'momentum'"),
    ('misspelt optimiser', "optim_wrapper['optimizer']['type'] = 'SDG'", "Did you mean 'SGD'"),
    ('argument of the schedule', "param_scheduler[0]['powr'] = 0.9", "Did you mean 'power'"),
    ('argument of the loop', "train_cfg['max_iter'] = 4", "Did you mean 'max_iters'"),
    ('argument of a hook', "default_hooks['checkpoint']['intervall'] = 4", "Did you mean 'interval'"),
    ('misspelt hook', "custom_hooks = [dict(type='vlm_dense.PrepareHok')]", "Did you mean 'PrepareHook'"),
    (
        'batch of none',
        "train_dataloader['batch_size'] = 0",
        'train_dataloader.batch_size must be',
    ),
    ('negative batch', "train_dataloader['batch_size'] = -2", 'found -2'),
    ('batch in words', "train_dataloader['batch_size'] = 'four'", "found 'four'"),
    ('broken batch', 'val_dataloader = dict(val_dataloader, batch_size=1.5)', 'val_dataloader.batch_size'),
    ('negative workers', "train_dataloader['num_workers'] = -1", 'train_dataloader.num_workers must be'),
    (
        'persistent nobody',
        "train_dataloader['persistent_workers'] = True",
        'num_workers above 0',
    ),
    ('negative rate', "optim_wrapper['optimizer']['lr'] = -1", 'optim_wrapper.optimizer.lr must be a number'),
    ('rate in words', "optim_wrapper['optimizer']['lr'] = 'fast'", "found 'fast'"),
    ('rate of NaN', "optim_wrapper['optimizer']['lr'] = float('nan')", 'found nan'),
    ('negative decay', "optim_wrapper['optimizer']['weight_decay'] = -0.1", 'weight_decay must be a number'),
    ('no steps to add up', "optim_wrapper['accumulative_counts'] = 0", 'accumulative_counts must be'),
    ('negative length', "train_cfg['max_iters'] = -5", 'train_cfg.max_iters must be an integer of at least 1'),
    ('no length', "train_cfg['max_iters'] = 0", 'found 0'),
    ('length in words', "train_cfg['max_iters'] = 'ten'", "found 'ten'"),
    ('validation every 0', "train_cfg['val_interval'] = 0", 'train_cfg.val_interval must be'),
    ('classes of another number', "model['decode_head']['num_classes'] = 19", '3 classes'),
    ('classes are a string', "metainfo['classes'] = 'abc'", 'must be a list'),
    ('a class without name', "metainfo['classes'] = ('sky', '', 'car')", 'Class 1 of 3 has no name'),
    (
        'two classes of one name',
        "metainfo['classes'] = ('sky', 'car', 'car')",
        "'car' is the name of class 1",
    ),
    ('a class of a number', "metainfo['classes'] = ('sky', 7, 'car')", 'The name of class 1 must be a string'),
    (
        'no data',
        "train_dataloader['dataset']['data_root'] = '/nowhere'",
        'MISSING',
    ),
    ('suffix that no image has', "train_dataloader['dataset']['img_suffix'] = '.tif'", 'is empty'),
    ('limit on pixels in words', "train_pipeline[0]['max_pixels'] = 'many'", 'max_pixels must be a positive integer'),
    ('negative limit on pixels', "train_pipeline[0]['max_pixels'] = -1", 'max_pixels must be a positive integer'),
]


@pytest.mark.parametrize('case', PARTS, ids=short)
def test_a_part_of_a_config_that_cannot_work_is_named(case, data, tmp_path, capsys):
    name, change, expected = case
    config = write_config(tmp_path, data, change, name=f'part{len(name)}')
    refused(capsys, expected, train.main, config, '--work-dir', tmp_path / 'work')


SLIDES = [
    ('gaps', dict(mode='slide', crop_size=(32, 32), stride=(48, 32)), 'test_cfg.stride must not be larger'),
    ('no stride', dict(mode='slide', crop_size=(32, 32)), 'test_cfg.stride must be (height, width)'),
    ('a number', dict(mode='slide', crop_size=32, stride=16), 'test_cfg.crop_size must be'),
    ('stride of 0', dict(mode='slide', crop_size=(32, 32), stride=(0, 8)), 'two positive integers'),
    ('mode', dict(mode='slid'), "must be 'whole' or 'slide'"),
    ('misspelt key', dict(mode='whole', keep_logit=True), "Did you mean 'keep_logits'"),
    ('no windows', dict(mode='whole', window_batch_size=0), 'window_batch_size must be'),
]


@pytest.mark.parametrize('case', SLIDES, ids=short)
def test_windows_that_cannot_work_are_refused(case, data, tmp_path, capsys):
    _, test_cfg, expected = case
    change = f"model.update(type='vlm_dense.CLIPEncoderDecoder', test_cfg={test_cfg!r})"
    refused(capsys, expected, train.main, write_config(tmp_path, data, change), '--work-dir', tmp_path / 'work')


# --- options --------------------------------------------------------------------------------------------------

OPTIONS = [
    ('trian_cfg.max_iters=5', "Did you mean 'train_cfg'"),
    ('train_cfg.max_iter=5', "Did you mean 'max_iters'"),
    ('model.test_cfg.mod=slide', "Did you mean 'mode'"),
    ('model.decode_head.num_clases=3', "Did you mean 'num_classes'"),
    ('model.backbon.depth=18', "Did you mean 'backbone'"),
    ('optim_wrapper.optimiser.lr=1', "Did you mean 'optimizer'"),
    ('optim_wrapper.optimizer.lrate=1', 'has no'),
    ('train_dataloader.batchsize=2', "Did you mean 'batch_size'"),
    ('train_dataloader.dataset.img_sufix=.png', "Did you mean 'img_suffix'"),
    ('default_hooks.checkpoint.intervall=3', "Did you mean 'interval'"),
    ('default_hooks.chekpoint.interval=3', "Did you mean 'checkpoint'"),
    ('param_scheduler.0.powr=1', "Did you mean 'power'"),
    ('param_scheduler.7.power=1', 'is a list of 1'),
    ('param_scheduler.x.power=1', 'is a list of 1'),
    ('metainfo=1', 'would have no effect'),
    ('train_pipeline.0.type=LoadImageFromFile', 'would have no effect'),
    ('nothing=1', "has no 'nothing'"),
    ('randomnes.seed=1', "Did you mean 'randomness'"),
    ('work_dirs=x', "Did you mean 'work_dir'"),
    ('train_cfg.max_iters=-5', 'train_cfg.max_iters must be'),
    ('model.decode_head.type=FCNHed', "Did you mean 'FCNHead'"),
]


@pytest.mark.parametrize(('option', 'expected'), OPTIONS)
def test_an_option_that_nothing_would_read_is_refused(option, expected, data, tmp_path, capsys):
    config = write_config(tmp_path, data)
    refused(capsys, expected, train.main, config, '--work-dir', tmp_path / 'work', '--cfg-options', option)


@pytest.mark.parametrize(
    'option',
    [
        'optim_wrapper.accumulative_counts=2',
        'model.decode_head.channels=16',
        'model.decode_head.ignore_index=254',
        'train_dataloader.dataset.indices=3',
        'randomness.seed=3',
        'model.test_cfg.stride=(3,3)',
        'find_unused_parameters=True',
        'custom_hooks=[]',
        'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult=0.1',
        'train_dataloader.dataset.metainfo.palette=[]',
        'default_hooks.early=None',
    ],
)
def test_an_option_that_something_reads_is_taken(option, data, tmp_path, capsys):
    print_config.main([write_config(tmp_path, data), '--cfg-options', option])
    assert option.split('=')[0].rpartition('.')[2] in capsys.readouterr().out


def test_a_variable_of_the_file_is_told_with_the_places_where_it_has_an_effect(data, tmp_path, capsys):
    config = write_config(tmp_path, data, 'max_iters = 12\ntrain_cfg["max_iters"] = max_iters')
    message = refused(capsys, 'would have no effect', print_config.main, config, '--cfg-options', 'max_iters=5')
    assert 'Change train_cfg.max_iters' in message


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['--resume', '--load-from', '/nowhere.pth'], '--load-from /nowhere.pth beside --resume'),
        (['--load-from', '/nowhere.pth'], '/nowhere.pth'),
        (['--resume', '/nowhere.pth'], '/nowhere.pth'),
        (['--amp'], '--amp needs a GPU'),
    ],
)
def test_checkpoints_and_switches_that_cannot_be_used(words, expected, data, tmp_path, capsys):
    if '--amp' in words and torch.cuda.is_available():
        pytest.skip('there is a GPU')
    refused(capsys, expected, train.main, write_config(tmp_path, data), '--work-dir', tmp_path / 'work', *words)


def test_a_work_dir_that_is_a_file_is_named(data, tmp_path, capsys):
    place = write(tmp_path / 'file', '')
    config = write_config(tmp_path, data)
    for path in (place, place / 'below'):
        refused(capsys, f'--work-dir {path} cannot be written', train.main, config, '--work-dir', path)


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """Work dir of three iterations of the toy model."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_config(folder, data, "train_cfg['max_iters'] = 3", name='trained')
    train.main([config, '--work-dir', str(folder / 'work')])
    return folder / 'work'


RESUMES = [
    ('optim_wrapper.optimizer.lr=0.1', 'optim_wrapper.optimizer.lr was 0.05, is now 0.1'),
    ('optim_wrapper.optimizer.weight_decay=0.1', 'weight_decay was'),
    ('param_scheduler.0.power=0.5', 'param_scheduler.0.power was 0.9, is now 0.5'),
    ('optim_wrapper.paramwise_cfg.norm_decay_mult=0', 'optim_wrapper.paramwise_cfg'),
]


@pytest.mark.parametrize(('option', 'expected'), RESUMES)
def test_a_setting_that_resuming_would_ignore_is_refused(option, expected, trained, data, tmp_path, capsys):
    config = write_config(tmp_path, data, "train_cfg['max_iters'] = 4", name='resumed')
    checkpoint = trained / 'iter_3.pth'
    words = ['--work-dir', tmp_path / 'work', '--resume', checkpoint, '--cfg-options', option]
    refused(capsys, expected, train.main, config, *words)


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (dict(model=dict(class_names=['sky', 'car'])), "model.class_names.1 was 'road', is now 'car'"),
        (dict(model=dict(class_names=['sky'])), 'model.class_names was'),
        (dict(optim_wrapper=dict(optimizer=dict(lr=0.2))), 'optim_wrapper.optimizer.lr was 0.1, is now 0.2'),
        (dict(classes=('road', 'sky')), "the class names of the training data.0 was 'sky', is now 'road'"),
    ],
)
def test_other_class_names_are_refused_on_resume(change, expected):
    old = dict(model=dict(class_names=['sky', 'road']), optim_wrapper=dict(optimizer=dict(lr=0.1)))
    meta = dict(cfg=Config(old).pretty_text, dataset_meta=dict(classes=('sky', 'road')))
    dataset = SimpleNamespace(metainfo=dict(classes=change.pop('classes', ('sky', 'road'))))
    runner = SimpleNamespace(cfg=Config(dict(old, **change)), train_dataloader=SimpleNamespace(dataset=dataset))
    with pytest.raises(ConfigError) as error:
        ResumeCheckHook().after_load_checkpoint(runner, dict(meta=meta))
    assert expected in str(error.value)


def test_resuming_with_nothing_changed_goes_on(trained, data, tmp_path):
    config = write_config(tmp_path, data, "train_cfg['max_iters'] = 4", name='unchanged')
    train.main([config, '--work-dir', str(tmp_path / 'work'), '--resume', str(trained / 'iter_3.pth')])
    assert (tmp_path / 'work' / 'iter_4.pth').is_file()


def test_ctrl_c_tells_what_is_saved_and_how_to_go_on(data, tmp_path, capsys):
    hook = (
        '\nfrom mmengine.hooks import Hook\nclass Stop(Hook):\n'
        '    def after_train_iter(self, runner, *args, **kwargs):\n'
        '        if runner.iter == 4: raise KeyboardInterrupt\n'
        'custom_hooks = [dict(type=Stop)]\ndel Hook\n'
    )
    config = write_config(tmp_path, data, hook, name='stopped')
    message = refused(capsys, 'Interrupted. Saved: ', train.main, config, '--work-dir', tmp_path / 'work')
    assert 'iter_3.pth' in message and '--resume' in message


def test_a_full_disk_is_named():
    with pytest.raises(SystemExit) as left, user_errors():
        raise OSError(28, 'No space left on device', '/data/x.pth')
    assert left.value.code == 2


def test_an_error_of_a_developer_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), user_errors():
        1 / 0  # noqa: B018


# --- tests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        ([], 'name a checkpoint'),
        (['/nowhere.pth'], '/nowhere.pth'),
        (['CKPT', '--cfg-options', 'test_dataloader.batch_size=0'], 'test_dataloader.batch_size must be'),
        (['CKPT', '--cfg-options', 'test_evaluator.iou_metric=mIoU'], "Did you mean 'iou_metrics'"),
        (['CKPT', '--out', 'labels.txt/x.pk', '--cfg-options', 'test_evaluator.type=vlm_dense.Accuracy'], '--out'),
    ],
)
def test_a_test_that_cannot_be_made_says_why(words, expected, trained, data, tmp_path, capsys):
    config = write_config(tmp_path, data)
    words = [str(trained / 'iter_3.pth') if word == 'CKPT' else word for word in words]
    refused(capsys, expected, test_tool.main, config, *words, '--work-dir', tmp_path / 'work')


@pytest.mark.parametrize('content', [b'', b'no checkpoint', PHOTO])
def test_a_file_that_is_no_checkpoint_is_named(content, data, tmp_path, capsys):
    path = write(tmp_path / 'bad.pth', content)
    refused(capsys, 'bad.pth', test_tool.main, write_config(tmp_path, data), path, '--work-dir', tmp_path / 'work')


LABELS = [
    ('out of range', np.full((40, 48), 7, np.uint8), 'holds the label 7'),
    ('16 bits', np.full((40, 48), 256, np.uint16), 'holds the label 256'),
    ('labels of another set', np.full((40, 48), 17, np.uint8), 'holds the label 17'),
]


@pytest.mark.parametrize('words', [[], ['--tta']])
@pytest.mark.parametrize('case', LABELS, ids=short)
def test_a_test_checks_masks_with_and_without_augmentation(case, words, trained, own, tmp_path, capsys):
    _, labels, expected = case
    write(own / 'masks' / 'val' / '1.png', encoded(labels))
    write(own / 'images' / 'val' / '1.png', PHOTO)
    config = write_config(tmp_path, own, name='masked')
    refused(capsys, expected, test_tool.main, config, trained / 'iter_3.pth', *words, '--work-dir', tmp_path / 'work')


# --- images and masks ---------------------------------------------------------------------------------------

MASKS = {
    **BROKEN,
    'float': encoded(np.full((40, 48), 0.6, np.float32), 'TIFF'),
    'nan': encoded(np.full((40, 48), np.nan, np.float32), 'TIFF'),
    'colours': encoded(np.zeros((40, 48, 3), np.uint8)),
    'another size': encoded(np.zeros((30, 48), np.uint8)),
    'one pixel': encoded(np.zeros((1, 1), np.uint8)),
    'one line': encoded(np.zeros((1, 48), np.uint8)),
    'out of range': encoded(np.full((40, 48), 9, np.uint8)),
    'a bomb': png_header(30_000, 30_000),
}


@pytest.mark.parametrize('kind', MASKS)
def test_a_mask_that_cannot_be_right_is_named_in_training(kind, own, tmp_path, capsys):
    for i in range(4):
        write(own / 'images' / 'train' / f'{i}.png', PHOTO)
        write(own / 'masks' / 'train' / f'{i}.png', MASKS[kind])
    config = write_config(tmp_path, own, name='mask')
    message = refused(capsys, 'DataError: Mask ', train.main, config, '--work-dir', tmp_path / 'work')
    assert 'masks/train/' in message


@pytest.mark.parametrize('kind', [*BROKEN, 'a bomb'])
def test_an_image_that_cannot_be_read_is_named_in_training(kind, own, tmp_path, capsys):
    for i in range(4):
        write(own / 'images' / 'train' / f'{i}.png', BROKEN.get(kind, png_header(30_000, 30_000)))
    config = write_config(tmp_path, own, name='image')
    message = refused(capsys, 'DataError: Image ', train.main, config, '--work-dir', tmp_path / 'work')
    assert 'images/train/' in message


def test_missing_masks_and_images_of_another_suffix_are_named(own, tmp_path, capsys):
    (own / 'images' / 'train' / '0.png').rename(own / 'images' / 'train' / '0.PNG')
    config = write_config(tmp_path, own)
    refused(capsys, 'end in another case than', train.main, config, '--work-dir', tmp_path / 'work')
    (own / 'images' / 'train' / '0.PNG').rename(own / 'images' / 'train' / '0.png')
    (own / 'masks' / 'train' / '2.png').unlink()
    refused(capsys, 'masks are missing', train.main, config, '--work-dir', tmp_path / 'work')


def test_camvid_reads_jpg_in_capitals_too(tmp_path):
    init_default_scope('mmseg')
    for name in ('a.jpg', 'b.JPG', 'c.jpg'):
        write(tmp_path / 'images' / name, encoded(np.zeros((8, 8, 3), np.uint8), 'JPEG'))
        write(tmp_path / 'masks' / f'{name[0]}.png', encoded(np.zeros((8, 8), np.uint8)))
    data = DATASETS.build(
        dict(
            type='vlm_dense.CamVidDataset',
            data_root=str(tmp_path),
            data_prefix=dict(img_path='images', seg_map_path='masks'),
            pipeline=[dict(type='vlm_dense.LoadImage'), dict(type='vlm_dense.LoadMask')],
        )
    )
    assert [Path(item['img_path']).name for item in data] == ['a.jpg', 'b.JPG', 'c.jpg']
    assert all(item['gt_seg_map'].shape == (8, 8) for item in data)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['WEBP', 'PNG', 'JPEG'])
def test_every_format_is_turned_as_its_exif_says(kind, orientation, tmp_path):
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :24] = 255  # the upper left corner is white
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f'a.{kind.lower()}'
    Image.fromarray(image).save(path, kind, exif=exif)
    shown = load_image(str(path))
    corner = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    assert shown.shape[:2] == ((32, 48) if orientation < 5 else (48, 32))
    quarters = shown.mean(axis=2).reshape(2, shown.shape[0] // 2, 2, shown.shape[1] // 2).mean(axis=(1, 3))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == corner


def test_a_limit_on_pixels_is_one_before_memory_is_taken(tmp_path):
    bomb = write(tmp_path / 'bomb.png', png_header(30_000, 30_000))
    with pytest.raises(DataError, match='900,000,000 pixels; at most 100,000,000'):
        load_image(str(bomb))
    photo = str(write(tmp_path / 'a.png', PHOTO))
    assert load_image(photo, 40 * 48).shape == (40, 48, 3)
    for source in (photo, np.zeros((40, 48, 3), np.uint8)):
        with pytest.raises(DataError, match='1,920 pixels; at most 1,919'):
            load_image(source, 40 * 48 - 1)


# --- segment.py -----------------------------------------------------------------------------------------------

NAMES = [
    (['sky', 'sky'], "'sky' is the name of class 0 and of class 1"),
    (['sky', 'Sky', 'SKY'], "CLIP reads 'Sky' as 'sky'"),
    (['sky', ' sky '], "'sky' is the name"),
    (['traffic-light', 'traffic - light'], 'nothing could tell them apart'),
    (['sky,', ','], 'would be everywhere'),
    (['sky'], 'would be everywhere'),
    (['sky', 'road\udcff'], 'is no text in UTF-8'),
    (['sky', ' '.join(['word'] * 100)], 'tokens'),
]


@pytest.mark.parametrize(('names', 'expected'), NAMES)
def test_names_that_cannot_be_told_apart_are_refused(names, expected, tiny, tmp_path, capsys):
    photo = write(tmp_path / 'a.png', PHOTO)
    refused(capsys, expected, segment.main, photo, '--model', tiny, '--out', tmp_path / 'out', '--classes', *names)


@pytest.mark.parametrize('kind', [*BROKEN, 'a bomb', 'absent', 'empty folder'])
def test_segment_names_what_it_cannot_read(kind, tiny, tmp_path, capsys):
    path = tmp_path / 'a.png'
    if kind == 'empty folder':
        path.mkdir()
    elif kind != 'absent':
        write(path, BROKEN.get(kind, png_header(30_000, 30_000)))
    refused(capsys, 'a.png', segment.main, path, '--model', tiny, '--out', tmp_path / 'out')


WORDS = [
    (['--device', 'cuda:77'], "device 'cuda:77' cannot be used"),
    (['--device', 'gpu'], "device 'gpu' cannot be used"),
    (['--model', 'maskclip_vitb16'], "Did you mean 'maskclip_vit-b16'"),
    (['--model', 'nowhere.py'], 'does not exist'),
    (['--arch', 'ViT-B-16'], 'together, found --arch'),
    (['--max-pixels', '100'], 'at most 100 are read'),
    (['--max-pixels', '-5'], 'max_pixels must be a positive integer'),
    (['--weights', '/nowhere.pth'], '/nowhere.pth'),
]


@pytest.mark.parametrize(('words', 'expected'), WORDS)
def test_options_of_segment_that_cannot_be_used(words, expected, tiny, tmp_path, capsys):
    photo = write(tmp_path / 'a.png', PHOTO)
    model = [] if '--model' in words or '--arch' in words else ['--model', tiny]
    refused(capsys, expected, segment.main, photo, *model, *words, '--out', tmp_path / 'out')


@pytest.mark.parametrize('kind', ['itself', 'a link', 'a hard link'])
def test_segment_never_writes_over_what_it_reads(kind, tiny, tmp_path, capsys):
    photo = write(tmp_path / 'out' / 'vis' / 'a.png', PHOTO)
    source = tmp_path / 'a.png'
    if kind == 'itself':
        source = photo
    elif kind == 'a link':
        source.symlink_to(photo)
    else:
        os.link(photo, source)
    refused(capsys, 'which it is made from', segment.main, source, '--model', tiny, '--out', tmp_path / 'out')
    assert photo.read_bytes() == PHOTO and not (tmp_path / 'out' / 'pred').exists()


def test_a_place_that_cannot_be_written_is_named(tiny, tmp_path, capsys):
    photo, place = write(tmp_path / 'a.png', PHOTO), write(tmp_path / 'file', '')
    refused(capsys, 'cannot be written', segment.main, photo, '--model', tiny, '--out', place)


@pytest.mark.parametrize(
    ('kwargs', 'error', 'expected'),
    [
        (dict(batch_size=0), ConfigError, 'batch_size'),
        (dict(batch_size='two'), ConfigError, 'batch_size'),
        (dict(opacity=2), ConfigError, 'opacity'),
        (dict(classes='sky road'), ClassNamesError, 'sky road'),
        (dict(classes=[['sky'], 5]), ClassNamesError, 'Class 1 must be a name'),
        (dict(classes=[[], 'sky']), ClassNamesError, 'Class 0 of 2 has no name'),
    ],
)
def test_arguments_of_the_inferencer_that_cannot_work(kwargs, error, expected, tiny):
    inferencer = SegInferencer(tiny, device='cpu', show_progress=False)
    with pytest.raises(error, match=expected):
        inferencer(np.zeros((40, 48, 3), np.uint8), **kwargs)


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (['a'] * 9, "'a' is the name of class 0"),
        ([''] * 9, 'has no name'),
        ('abcdefghi', 'is not in the lists of class names'),
        (['circle', 'Circle', *'abcdefg'], "CLIP reads 'Circle' as 'circle'"),
    ],
)
def test_denseclip_refuses_names_that_no_text_tower_can_tell_apart(names, expected):
    init_default_scope('mmseg')
    config = Config.fromfile(ROOT / 'configs' / 'denseclip_shapes.py')
    with pytest.raises(ClassNamesError, match=expected):
        MODELS.build(dict(config.model, class_names=names))


def test_a_list_of_names_that_is_no_text_is_named(tiny, tmp_path):
    path = write(tmp_path / 'names.txt', b'sky\n\xff\xfe\n')
    inferencer = SegInferencer(tiny, device='cpu', show_progress=False)
    with pytest.raises(ClassNamesError, match='names.txt is no text in UTF-8'):
        inferencer(np.zeros((40, 48, 3), np.uint8), classes=str(path))


# --- pseudo_label.py ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['--thresh', '1.5'], 'thresh is a probability'),
        (['--batch-size', '0'], 'batch_size must be'),
        (['--processes', '-1'], 'processes must be at least 1'),
        (['--device', 'cuda:77'], 'cannot be used'),
        (['--max-pixels', '-1'], 'max_pixels must be'),
        (['--classes', 'sky', 'SKY'], 'nothing could tell them apart'),
    ],
)
def test_options_of_pseudo_label_that_cannot_be_used(words, expected, tiny, data, tmp_path, capsys):
    refused(capsys, expected, pseudo_label.main, tiny, data / 'images' / 'val', tmp_path / 'out', *words)


@pytest.mark.parametrize('content', ['{"model": ', '[]', ''])
def test_a_damaged_note_is_named(content, tiny, data, tmp_path, capsys):
    write(tmp_path / 'out' / NOTES / 'run.json', content)
    refused(capsys, 'run.json is damaged', pseudo_label.main, tiny, data / 'images' / 'val', tmp_path / 'out')


def test_pseudo_label_names_the_place_that_it_cannot_write(tiny, data, tmp_path, capsys):
    place = write(tmp_path / 'file', '')
    refused(capsys, 'cannot be written', pseudo_label.main, tiny, data / 'images' / 'val', place / 'out')


# --- the other programs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['--methods', 'coop', '--workers', '-1'], '--workers must be at least 1'),
        (['--methods', 'coop', '--workers', '0'], '--workers must be at least 1'),
        (['--methods', 'coopp'], "Did you mean 'coop'"),
        (['--methods', 'coop', '--datasets', 'shape'], "Did you mean 'shapes'"),
        (['--methods', 'coop', '--protocols', 'few-shots'], "Did you mean 'few-shot'"),
        (['--methods', 'coop', '--shots', '0'], '--shots must be at least 1'),
        (['--methods', 'coop', '--cfg-options', 'trian_cfg.max_epochs=1'], "Did you mean 'train_cfg'"),
    ],
)
def test_comparisons_that_cannot_be_made(words, expected, tmp_path, capsys):
    refused(capsys, expected, compare.main, *words, '--out', tmp_path / 'out')


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['--shape', '0', '0'], 'argument --shape: expected an integer of at least 1'),
        (['--shape', '-3', '64'], 'argument --shape: expected an integer of at least 1'),
        (['--shape', '1', '1'], 'takes no image of 1 x 1 px'),
        (['--cfg-options', 'model.backbone.dpth=3'], "Did you mean 'depth'"),
    ],
)
def test_model_info_says_what_it_cannot_count(words, expected, data, tmp_path, capsys):
    change = "model['backbone']['style'] = 'pytorch'" + ("\nmodel['decode_head']['num_classes'] = 3" if words else '')
    if '1' in words:
        change = "model['backbone'] = dict(type='vlm_dense.CLIPViT', arch='tiny-vit', remainder='drop')"
    refused(capsys, expected, model_info.main, write_config(tmp_path, data, change), *words)


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['--label', 'shapes'], 'shapes'),
        (['--classes', 'nobody'], 'nobody'),
        (['--domain', 'mars'], 'mars'),
        (['--split', 'tst'], 'tst'),
        (['--scenes', '0'], 'must be at least 1'),
        (['--zoom', '0'], 'must be at least 1'),
        (['--size', '-8'], 'must be at least 1'),
        (['--objects', '5', '1'], 'num_objects'),
        (['--out', 'sheet.xyz'], 'no format of images'),
        (['--out', 'sheet'], 'no format of images'),
        (['--out', '/proc/nowhere/sheet.png'], 'cannot be written'),
    ],
)
def test_show_dataset_says_what_it_cannot_draw(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refused(capsys, expected, show_dataset.main, '--scenes', 1, *words)


def test_show_dataset_writes_jpg_as_well(tmp_path):
    show_dataset.main(['--scenes', '1', '--domain', 'source', '--out', str(tmp_path / 'sheet.jpg')])
    assert load_image(str(tmp_path / 'sheet.jpg')).ndim == 3


def test_the_page_of_methods_needs_a_comparison(tmp_path, capsys):
    refused(capsys, 'does not exist', pages.main, '--comparison', tmp_path)
    write(tmp_path / 'results.md', 'nothing')
    refused(capsys, 'no finished comparison', pages.main, '--comparison', tmp_path)
    write(tmp_path / 'results.md', '`command`')
    write(tmp_path / 'results.csv', 'method,shots,seed\na,many,1\n')
    refused(capsys, 'results.csv, line 2', pages.main, '--comparison', tmp_path)


# --- data of classification and detection -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        ('', 'is no split file'),
        ('{"train": [', 'is no split file'),
        ('[]', 'is no split file'),
        ('{"train": [], "val": [], "test": []}', 'lists no image'),
        ('{"train": [["a.jpg", 0]], "val": [], "test": []}', 'is no split file'),
        ('{"train": [["a.jpg", "x", "cat"]], "val": [], "test": []}', 'is no split file'),
        ('{"train": [["a.jpg", 3, "cat"]], "val": [], "test": []}', 'labels must be 0 to 0'),
        ('{"train": [["a.jpg", 0, "cat"], ["b.jpg", 0, "dog"]], "val": [], "test": []}', "both 'cat' and 'dog'"),
        (b'\xff\xfe{}', 'no text in UTF-8'),
    ],
)
def test_a_damaged_split_file_is_named(content, expected, tmp_path):
    write_split(tmp_path, 'eurosat', draw=False)
    path = tmp_path / 'eurosat/split_zhou_EuroSAT.json'
    write(path, content)
    with pytest.raises(DataError, match=expected) as error:
        len(build('eurosat', tmp_path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (lambda content: content.clear(), 'cannot be read as boxes of COCO'),
        (
            lambda content: content.update(annotations=[dict(image_id=3, category_id=999)]),
            'category_id 999',
        ),
        (lambda content: content.update(annotations=[dict(image_id=999, category_id=1)]), 'image_id 999'),
        (lambda content: content.update(annotations=[{}]), 'cannot be read as boxes of COCO'),
        (lambda content: content.update(images=[dict(id=3)]), 'cannot be read as boxes of COCO'),
        (lambda content: content.update(categories=content['categories'][1:]), '79 categories'),
        (None, 'cannot be read as boxes of COCO'),
    ],
)
def test_damaged_boxes_of_coco_are_named(change, expected, tmp_path):
    write_coco(tmp_path)
    path = tmp_path / 'coco/annotations/instances_val2014.json'
    if change is None:
        path.write_bytes(path.read_bytes()[:100])
    else:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=expected) as error:
        len(build('coco2014', tmp_path, 'test'))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ('name', 'content', 'expected'),
    [
        ('Annotations/000001.xml', '<annotation><object>', '000001.xml is no XML'),
        ('Annotations/000001.xml', '', '000001.xml is no XML'),
        ('Annotations/000001.xml', '<a><object><name>unicorn</name></object></a>', "an object 'unicorn'"),
    ],
)
def test_damaged_objects_of_voc_are_named(name, content, expected, tmp_path):
    root = tmp_path / 'VOCdevkit/VOC2007'
    write(root / 'JPEGImages/000001.jpg', PHOTO)
    for part in ('trainval', 'test'):
        write(root / f'ImageSets/Main/{part}.txt', '000001\n')
    write(root / name, content)
    with pytest.raises(DataError, match=expected):
        len(build('voc2007', tmp_path, 'test'))


def test_classes_that_imagenet_lacks_are_named(tmp_path):
    import shutil

    write_imagenet(tmp_path)
    gone = sorted((tmp_path / 'imagenet/images/val').iterdir())[1]
    shutil.rmtree(gone)
    with pytest.raises(DataError, match=f'lacks 1 of the 5 classes .*{gone.name}'):
        build('imagenet', tmp_path, 'test')


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (lambda c: c['annotations'][0].update(image_id=999), 'image_id 999'),
        (lambda c: c['annotations'][0].update(category_id=999), 'category_id 999'),
        (lambda c: c['annotations'][0].update(bbox=[1, 2]), 'has the bbox'),
        (lambda c: c['annotations'][0].update(bbox=[1, 2, float('nan'), 4]), 'has the bbox'),
        (lambda c: c['annotations'][0].update(bbox='all'), 'has the bbox'),
        (lambda c: c['annotations'][0].pop('bbox'), 'has the bbox None'),
        (lambda c: c['images'][0].pop('height'), 'has height None'),
        (lambda c: c['images'][0].update(file_name=5), 'has file_name 5'),
        (lambda c: c.update(images=[]), 'lists no'),
        (lambda c: c.pop('categories'), 'annotations.json'),
        (lambda c: c.update(annotations=5), 'cannot be read as COCO'),
        (None, 'cannot be read as COCO'),
    ],
)
def test_damaged_annotations_of_a_detector_are_named(change, expected, tmp_path):
    pytest.importorskip('mmdet')
    init_default_scope('mmdet')
    scenes = ShapesDataset(2, 'val', size=32, num_objects=(2, 3))
    scenes.write_coco(tmp_path)
    path = tmp_path / 'annotations.json'
    if change is None:
        path.write_bytes(path.read_bytes()[:200])
    else:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=expected) as error:
        DATASETS.build(
            dict(
                type='vlm_dense.CocoDataset',
                ann_file=str(path),
                data_prefix=dict(img=str(tmp_path / 'images')),
                metainfo=dict(classes=scenes.metainfo['classes']),
                pipeline=[],
            )
        )
    assert 'annotations.json' in str(error.value)


# --- the page -------------------------------------------------------------------------------------------------


class NoModel:
    """Stands for an inferencer that must not be reached."""

    def __call__(self, *args, **kwargs):
        raise AssertionError('the model was asked')


@pytest.mark.parametrize('place', ['outside', 'above', 'a link', 'a fifo', 'absent', 'a folder', 'a url', 'a file url'])
def test_the_page_reads_uploads_only(place, tmp_path):
    folder = tmp_path / 'uploads'
    folder.mkdir()
    outside = write(tmp_path / 'secret.png', PHOTO)
    path = {
        'outside': outside,
        'above': folder / '..' / 'secret.png',
        'absent': tmp_path / 'absent.png',
        'a folder': folder,
        'a url': 'http://127.0.0.1:1/a.png',
        'a file url': f'file://{outside}',
    }.get(place, folder / 'x.png')
    if place == 'a link':
        path.symlink_to(outside)
    if place == 'a fifo':
        os.mkfifo(path)
    with pytest.raises(DataError) as error:
        web_page.uploaded(str(path), str(folder))
    assert str(error.value) == 'Only images that are uploaded to this page are read.'  # the same of all places


def test_the_page_takes_its_own_uploads(tmp_path):
    path = write(tmp_path / 'uploads' / 'a.png', PHOTO)
    assert web_page.uploaded(str(path), str(tmp_path / 'uploads')) == str(path.resolve())
    assert web_page.uploaded(None, str(tmp_path)) is None


@pytest.mark.parametrize('names', ['a, ' * 200, 'a' * 6000, ','.join(map(str, range(101)))])
def test_the_page_refuses_floods_of_names(names, tmp_path):
    with pytest.raises(ClassNamesError, match='at most'):
        web_page.segment(NoModel(), str(write(tmp_path / 'a.png', PHOTO)), names)


@pytest.mark.parametrize('words', [('--concurrency', '0'), ('--waiting', '-1')])
def test_options_of_the_page_that_cannot_be_used(words, capsys):
    pytest.importorskip('gradio')
    refused(capsys, f'{words[0]} must be at least 1', demo.main, *words)


# --- how many -------------------------------------------------------------------------------------------------


def test_there_are_enough_cases(request):
    if request.config.option.keyword or any('::' in arg for arg in request.config.args):
        pytest.skip('a part of the file was asked for')
    here = [item for item in request.session.items if item.path == Path(__file__)]
    good = ('turned', 'taken', 'goes_on', 'reads_jpg', 'writes_jpg', 'takes_its_own', 'keeps_its_traceback', 'enough')
    bad = [item for item in here if not any(word in item.name for word in good)]
    assert len(bad) >= 250, len(bad)
