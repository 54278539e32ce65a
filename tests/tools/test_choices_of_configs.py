"""Every config has its choices, and none is left out that a figure depends on."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest

from vlm_dense.comparison.choices import ORDER, choices
from vlm_dense.engine.configs.names import CONFIGS, list_configs
from vlm_dense.engine.runner.launch import read_config
from vlm_dense.methods.open_vocabulary.proposals import TEMPLATES

IN_FILES = {'ImageSetDataset', 'ClassFolderDataset', 'CocoFileDataset', 'MaskFolderDataset'}
IN_FILES |= {'ADE847Dataset', 'PascalContext459Dataset'}
"""Data sets with the names of their classes in files that are not here."""
OF_THEMSELVES = {'ResNetV1c', 'PooledBackbone', 'TorchvisionBackbone'}
"""Image towers that are no CLIP: their size is among the options."""
WITHOUT_TEXT = {'CLIPEncoderDecoder', 'EncoderDecoder', 'MaskCLIPPlus', 'MaskRCNN', 'RetinaNet', 'CLIPSelf', 'DeCLIP'}
"""Models of which some have no text side."""
LEARNED = {'CAVPT', 'CoCoOp', 'CoOp', 'DeepText', 'DenseCLIP', 'DualCoOp', 'IVLP', 'KgCoOp', 'MVLPT', 'MaPLe', 'PLOT'}
LEARNED |= {'ProGrad', 'SoftCPT', 'SubPT', 'TCP', 'TaIDPT', 'UPL', 'UPT', 'VCD', 'Variational'}
"""Prompts without sentences."""
SAMPLE = [
    'cat_seg_vit-b16_ade847',  # names in a file that is not here
    'cupl_imagenet',  # sentences in a file, no templates
    'denseclip_own-masks',  # data of one's own
    'f_vit_vit-b16_ov-coco',  # templates with an article
    'mvlpt_domains_shapes',  # tasks with the same names
    'fc_clip_rn50_ade20k',  # templates of the model
    'denseclip_retinanet_shapes',
    'maskclip_plus_rn50_voc20',
    'svl_adapter_ssl_shapes',  # no test at all
    'trident_vit-l14_voc21',
    'zero_shot_multi-label_shapes',
]


def left_out(name: str) -> list[str]:
    """The choices of a config that are None and should not be."""
    cfg = read_config(Namespace(config=name, cfg_options=None, data_root=None))
    found = choices(cfg)
    assert json.loads(json.dumps(found)) == found and {one.name.partition('.')[0] for one in ORDER} == set(found)
    kind, data, tower = found['method']['model'], found['data']['set'].get('type'), found['tower']
    needed = dict(model=kind)
    if cfg.get('test_dataloader'):
        needed |= dict(data=data)
        if data not in IN_FILES:
            needed |= dict(names=found['names'], classes=found['labels']['classes'])
            needed |= {f'class {i}': one for i, one in enumerate((found['names'] or {}).get('classes', ())) if i}
        needed |= dict(tower=tower['type'])
        if tower['type'] not in OF_THEMSELVES:
            needed |= dict(arch=tower['arch'], activation=tower['activation'])
        if tower['type'] in ('MaskCLIPViT', 'CLIPViT', 'CLIPTimmViT'):
            needed |= found['positions']
        prompt = (found['prompt'].get('type') or '').removesuffix('Prompt')
        if kind not in WITHOUT_TEXT and prompt not in LEARNED:
            needed |= dict(templates=found['templates'])
    if kind == 'MaskCLIP':
        needed |= dict(temperature=found['temperature'], aliases=found['aliases'])
    return [key for key, value in needed.items() if value in (None, '')]


@pytest.mark.slow
@pytest.mark.parametrize('name', SAMPLE)
def test_choices_of_configs_of_every_kind(name):
    assert not left_out(name)


@pytest.mark.long
def test_choices_of_every_config():
    names = [str(path) for path in list_configs(CONFIGS)]
    assert len(names) > 500 and not {name: found for name in names if (found := left_out(name))}


def test_sentences_are_those_that_the_text_tower_gets():
    """What a config leaves out is what the model takes by itself."""
    found = choices(read_config(Namespace(config='fc_clip_rn50_ade20k', cfg_options=None, data_root=None)))
    assert found['templates']['texts'] == list(TEMPLATES) and found['prompt'] == dict(type='ZeroShotPrompt')


def test_sentences_in_a_file_are_told_by_their_content(tmp_path):
    digests = []
    for text in ('{"circle": ["a"]}', '{"circle": ["b"]}'):
        path = tmp_path / 'sentences.json'
        path.write_text(text)
        options = {'model.text_prompt.sentences': str(path)}
        cfg = read_config(Namespace(config='cupl_shapes', cfg_options=options, data_root=None))
        digests.append(choices(cfg)['prompt']['sentences'])
        path.unlink()
    assert digests[0] != digests[1] and all(one.startswith('sentences.json ') for one in digests)
