"""Every classification config is whole: its model, its pipelines, its optimiser and its hooks can be built."""

from __future__ import annotations

import pytest
import torch
from classification.small_runs import ROOT
from config_texts import says
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, LOOPS, METRICS, DefaultScope
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from tiny_encoder import TinyEncoder

from vlm_dense.registry import MODELS

NAMES = ('circle', 'star')
TEXT = dict(context_length=77, vocab_size=49408, width=32, heads=2, layers=2)
TINY = {
    'ViT': dict(image_size=32, patch_size=8, width=32, head_width=16, layers=2),
    'RN': dict(image_size=32, layers=[1, 1, 1, 1], width=8, head_width=32),
}
CONFIGS = sorted(
    f'{path.parent.name}/{path.name}'
    for path in (ROOT / 'configs').glob('[!_]*/*.py')
    if says(path, "'vlm_dense.CLIPClassifier'")
)


def shrink(node) -> None:
    """Tiny towers with random weights where a published architecture is named, texts instead of users' files."""
    if isinstance(node, dict):
        arch = node.get('arch')
        if isinstance(arch, str) and not arch.startswith('tiny'):
            kind = next(vision for name, vision in TINY.items() if arch.startswith(name))
            node.update(arch=dict(embed_dim=16, quick_gelu=True, vision_cfg=dict(kind), text_cfg=dict(TEXT)))
            node.update(pretrained=None)
        for texts in ('sentences', 'descriptors'):
            if str(node.get(texts)).endswith('.json'):  # of the users'
                node[texts] = {name: [f'a {name}'] for name in NAMES}
        if str(node.get('type')).startswith('vlm_dense.SVLAdapter'):  # its encoder comes from a first stage
            node.update(encoder=dict(type=TinyEncoder), pretrained=None)
        if node.get('type') == 'vlm_dense.RePrompt':  # which refuses more blocks than there are
            node['depth'] = 2
        if node.get('type') == 'vlm_dense.TCPPrompt':  # likewise
            node['block'] = 1
        if node.get('type') in ('vlm_dense.APE', 'vlm_dense.APET'):  # as of channels
            node['channels'] = 8
        for value in node.values():
            shrink(value)


def pipelines(node):
    """All pipelines in a data loader's config."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'pipeline':
                yield value
            else:
                yield from pipelines(value)


def test_there_are_configs():
    prompts = ('zero_shot', 'coop', 'cocoop', 'kgcoop', 'deep_text', 'vp', 'vpt', 'vpt_deep', 'ivlp', 'maple', 'tpt')
    found = {name.partition('/')[2] for name in CONFIGS}
    assert {f'{name}_{data}.py' for name in prompts for data in ('shapes', 'imagenet')} <= found


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_can_be_built(name):
    config = Config.fromfile(ROOT / 'configs' / name)
    assert config.model.type == 'vlm_dense.CLIPClassifier'
    shrink(config._cfg_dict)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        torch.manual_seed(0)
        count = sum(config.get('tasks', dict(one=2)).values())
        model = MODELS.build(dict(config.model, class_names=[*NAMES, *(f'class {i}' for i in range(count - 2))]))
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            for pipeline in pipelines(config.get(loader)):
                assert [ROOT_TRANSFORMS.build(step) for step in pipeline]
        for hook in config.custom_hooks:
            HOOKS.build(hook)
        METRICS.build(config.test_evaluator)
        assert LOOPS.get(config.test_cfg.type)
        trained = [key for key, p in model.named_parameters() if p.requires_grad]
        if config.get('optim_wrapper'):
            assert trained
            groups = build_optim_wrapper(model, config.optim_wrapper).param_groups
            assert max(group['lr'] for group in groups) == config.optim_wrapper.optimizer.lr
            length = config.train_cfg.get('max_epochs') or config.train_cfg.max_iters
            assert config.train_cfg.val_interval <= length
        elif 'test_time' not in config.model and 'head' not in config.model:
            assert not trained
