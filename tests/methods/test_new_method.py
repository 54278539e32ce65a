"""The methods of docs/new_method.md work as the page says: two files each, the method and its config."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from classification.small_runs import ROOT, SMALL, train_tool, weights
from tiny_towers import vit

from vlm_dense.cli import test as test_tool
from vlm_dense.registry import MODELS

PAGE = (ROOT / 'docs' / 'new_method.md').read_text()
FILES = dict(re.findall(r'`(\w+\.py)`[^`]*?:\n\n```python\n(.*?)```', PAGE, re.S))
ARCH = vit(text=dict(layers=1), layers=1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """The files of the page, written as a reader would; the methods can be imported."""
    folder = tmp_path_factory.mktemp('new')
    for name, text in FILES.items():
        (folder / name).write_text(text.replace("'configs/", f"'{ROOT}/configs/"))
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for module, name in (
        ('shift_prompt', 'ShiftPrompt'),
        ('scaled_context', 'ScaledContext'),
        ('misspelt_context', 'MisspeltContext'),
        ('key_attention', 'KeyAttention'),
    ):
        sys.modules.pop(module, None)
        MODELS.module_dict.pop(name, None)


def test_a_method_is_two_files_of_forty_lines_at_most():
    assert list(FILES) == [
        *('shift_prompt.py', 'shift_shapes.py', 'scaled_context.py'),
        'key_attention.py',
        'key_shapes.py',
    ]
    assert all(len([line for line in text.splitlines() if line.strip()]) <= 40 for text in FILES.values())


def test_every_role_of_the_contract_is_on_the_page():
    import vlm_dense.contract as contract

    bases = ('TextPrompt', 'LearnedContext', 'ImagePrompt', 'Head', 'DenseAttention', 'Loss', 'TestTimeAdaptation')
    table = PAGE.partition('## ')[0]
    for name in (*bases, 'StreamAdaptation', 'Step', 'PrepareHook', 'OptimWrapper', 'Hook'):
        assert f'`{name}' in table or f' {name}`' in table or f'.{name}`' in table, name
    assert set(bases) <= set(contract.__all__)
    files = {path.name for path in (ROOT / 'vlm_dense').rglob('*.py')}
    assert set(re.findall(r'`(\w+\.py)`', table)) <= files


def test_the_prompt_trains_from_its_config(folder):
    work = folder / 'work'
    train_tool.main(
        [str(folder / 'shift_shapes.py'), '--work-dir', str(work), '--cfg-options', *SMALL, 'train_cfg.max_epochs=2']
    )
    learned = weights(work / 'epoch_2.pth')
    assert set(learned) == {'text_prompt.shift'} and learned['text_prompt.shift'].abs().sum() > 0
    log = next(work.glob('*/*.log')).read_text()
    assert 'prompt.loss_shift' in log and 'After training: top1' in log


def test_a_learned_context_trains_and_a_misspelt_name_is_told(folder):
    method = FILES['scaled_context.py']
    (folder / 'misspelt_context.py').write_text(
        method.replace('ScaledContext', 'MisspeltContext').replace('def context', 'def contexts')
    )
    for module, name, untouched in (
        ('scaled_context', 'ScaledContext', False),
        ('misspelt_context', 'MisspeltContext', True),
    ):
        config = FILES['shift_shapes.py'].replace('shift_prompt', module).replace('ShiftPrompt', name)
        config = config.replace("'configs/", f"'{ROOT}/configs/").replace('weight=0.1', 'num_contexts=2')
        (folder / f'{module}_shapes.py').write_text(config)
        work = folder / module
        options = [*SMALL, 'train_cfg.max_epochs=1', 'default_hooks.checkpoint.interval=1']
        train_tool.main([str(folder / f'{module}_shapes.py'), '--work-dir', str(work), '--cfg-options', *options])
        learned = weights(work / 'epoch_1.pth')
        assert learned['text_prompt.ctx'].shape == (2, 128)
        told = (
            'WARNING - 1 trained parameters have no gradient after the first iteration'
            in next(work.glob('*/*.log')).read_text()
        )
        assert told is untouched and (learned['text_prompt.scale'] == 1).item() is untouched


def test_the_prompt_computes_what_it_says(folder):
    import shift_prompt  # noqa: F401

    model = MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True),
            text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
            text_prompt=dict(type='vlm_dense.ShiftPrompt', weight=3.0),
            class_names=['circle', 'tiger_shark'],
        )
    ).train()
    shift = torch.randn(16)
    model.text_prompt.shift.data.copy_(shift)
    tower, images = model.text_encoder, torch.randn(2, 3, 32, 32)
    losses = model(images, _labelled(0, 1), mode='loss')
    with torch.no_grad():
        text = tower.encode_tokens(tower.tokenize(['a photo of a circle.', 'a photo of a tiger shark.']))
        text = F.normalize(F.normalize(text, dim=-1) + shift, dim=-1)
        image = F.normalize(model.backbone.encode(images, ('global',)).global_, dim=-1)
        wanted = F.cross_entropy(tower.logit_scale.exp() * image @ text.T, torch.tensor([0, 1]))
    torch.testing.assert_close(losses['loss_ce'].detach(), wanted)
    torch.testing.assert_close(losses['prompt.loss_shift'].detach(), 3 * shift.square().sum())


def _labelled(*labels) -> list:
    from vlm_dense.classification import ClsDataSample

    return [ClsDataSample().set_label(label) for label in labels]


def test_the_attention_is_tested_from_its_config(folder):
    work = folder / 'dense'
    small = ['test_dataloader.dataset.num_scenes=2', 'test_dataloader.num_workers=0']
    test_tool.main([str(folder / 'key_shapes.py'), '--work-dir', str(work), '--cfg-options', *small])
    log = next(work.glob('*/*.log')).read_text()
    assert re.search(r'mIoU: +\d', log) and 'KeyAttention' in log


def test_the_attention_computes_what_it_says(folder):
    import key_attention  # noqa: F401

    torch.manual_seed(0)
    part = dict(type='vlm_dense.KeyAttention', sharpness=2.0)
    tower = MODELS.build(dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True, dense_attention=part)).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = tower.encode(images, ('value',)).value
        block, seen = tower.transformer.resblocks[-1], []
        handle = block.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        tower.encode(images, ('value',))
        handle.remove()
        x = block.ln_1(seen[0])
        q, k, v = F.linear(x, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
        split = [t.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for t in (k, v)]
        mixed = F.scaled_dot_product_attention(2 * split[0], *split)
        mixed = block.attn.out_proj(mixed.transpose(1, 2).flatten(2))
        wanted = tower.ln_post(mixed[:, 1:]) @ tower.proj
    size = found.shape[-1]
    torch.testing.assert_close(found, wanted.transpose(1, 2).unflatten(-1, (size, size)), rtol=1e-4, atol=1e-5)
