"""Settings that papers and their releases have, and that configs once did not."""

from __future__ import annotations

import pytest

from vlm_dense.engine.configs.files import load_config
from vlm_dense.engine.configs.names import CONFIGS, find_config
from vlm_dense.vocabulary.class_names import as_class_names

ONE_NAME = dict(type='vlm_dense.Aliases', keep='first')
BUT_BACKGROUND = dict(ONE_NAME, keep_all=[0])
SETTINGS = [
    ('proxyclip_vit-b16_ade20k', 'test_dataloader.dataset.pipeline.1.scale', (2048, 448)),
    ('proxyclip_vit-b16_voc20', 'test_dataloader.dataset.pipeline.1.scale', (2048, 336)),
    ('proxyclip_vit-b16_voc20', 'model.backbone.pos_mode', 'dino'),
    ('sclip_vit-b16_voc20', 'model.backbone.pos_mode', 'bicubic_scaled'),
    ('clearclip_vit-b16_cityscapes', 'model.test_cfg.crop_size', (224, 224)),
    ('clearclip_vit-l14_cityscapes', 'model.test_cfg.stride', (224, 224)),
    ('clearclip_vit-b16_ade20k', 'model.test_cfg.crop_size', (448, 448)),
    *(
        (f'{method}_vit-{arch}_{name}', 'model.decode_head.refinements', [refinement])
        for method in ('proxyclip', 'lposs')
        for arch in ('b16', 'l14')
        for name, refinement in (('voc20', ONE_NAME), ('voc21', BUT_BACKGROUND), ('coco-object', BUT_BACKGROUND))
    ),
    ('tda_imagenet', 'model.test_time.positive.alpha', 2.0),
    ('tda_imagenet', 'model.test_time.positive.beta', 5.0),
    ('tai_dpt_coco', 'train_dataloader.dataset.dataset.one_an_image', 0),
    ('tai_dpt_coco', 'model.class_names.3', 'motor bike'),
    ('tai_dpt_coco', 'train_dataloader.dataset.names.4', 'aeroplane'),
    ('tai_dpt_voc2007', 'train_dataloader.dataset.dataset.one_an_image', 0),
    ('tai_dpt_voc2007', 'model.class_names.10', 'diningtable'),
    ('tai_dpt_voc2007', 'train_dataloader.dataset.names.15', 'pottedplant'),
    ('tai_dpt_voc2007', 'model.class_names.19', 'tvmonitor'),
    *(
        (name, 'train_cfg.max_epochs', 200)
        for name in ('mvlpt_imagenet', 'mvlpt_coop11', 'mcoop_coop11', 'mvpt_coop11')
    ),
    *((name, 'param_scheduler.1.T_max', 200) for name in ('mvlpt_imagenet', 'mvlpt_coop11')),
    ('mvlpt_imagenet', 'train_dataloader.dataset.shots', 20),
    ('mvlpt_coop11', 'train_dataloader.dataset.datasets.shots', 20),
    ('svl_adapter_ssl_eurosat', 'model.encoder', 'resnet50.tv_in1k'),
    ('svl_adapter_ssl_eurosat', 'train_dataloader.drop_last', None),
    ('svl_adapter_eurosat', 'train_dataloader.dataset.pipeline.1.transforms.0.interpolation', 'bilinear'),
    ('cavpt_imagenet', 'train_cfg.max_epochs', 100),
    ('vcd_imagenet', 'model.text_prompt.by_order', True),
    ('lasp_imagenet', 'param_scheduler.0.warmup_lr', 1e-5),
    ('lasp_imagenet', 'param_scheduler.0.warmup', 3),
    ('denseclip_rn101_ade20k', 'param_scheduler.0.warmup', 1500),
    ('denseclip_rn101_ade20k', 'param_scheduler.0.total', 80000),
]


def at(cfg, path: str):
    """The value at a dotted key; ``None`` where there is none."""
    for key in path.split('.'):
        cfg = cfg[int(key)] if isinstance(cfg, (list, tuple)) else cfg.get(key)
    return cfg


@pytest.mark.parametrize(('name', 'key', 'value'), SETTINGS)
def test_a_config_has_what_is_published(name, key, value):
    found = at(load_config(str(find_config(CONFIGS / f'{name}.py'))), key)
    assert (tuple(found) if isinstance(value, tuple) else found) == value


@pytest.mark.parametrize('name', ['voc21_background', 'coco-object81'])
def test_the_background_keeps_its_names_and_things_have_one(name):
    from vlm_dense.methods.maskclip import Aliases

    classes = as_class_names(name)
    found = Aliases(keep='first', keep_all=[0]).change_names(classes)
    assert found[0] == classes[0] and len(found[0]) > 10
    assert found[1:] == tuple(names[:1] for names in classes[1:]) != classes[1:]
