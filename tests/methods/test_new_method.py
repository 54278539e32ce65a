"""The method of docs/new_method.md works as the page says, in classifier and segmentor."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from classification.small_runs import ROOT, SMALL, train_tool, weights
from tiny_towers import vit

from vlm_dense.registry import MODELS

PAGE = (ROOT / 'docs' / 'new_method.md').read_text()
METHOD, CONFIG = re.findall(r'```python\n(.*?)```', PAGE, re.S)
ARCH = vit(text=dict(layers=1), layers=1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Both files of the page, written as a reader would; the method can be imported."""
    folder = tmp_path_factory.mktemp('new')
    (folder / 'shift_prompt.py').write_text(METHOD)
    (folder / 'shift_shapes.py').write_text(CONFIG.replace('configs/', f'{ROOT}/configs/'))
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop('shift_prompt', None)
    MODELS.module_dict.pop('ShiftPrompt', None)


def test_the_page_keeps_its_word_of_forty_lines():
    assert len([line for line in METHOD.splitlines() if line.strip()]) <= 40


def test_it_trains_from_its_config(folder):
    work = folder / 'work'
    train_tool.main(
        [str(folder / 'shift_shapes.py'), '--work-dir', str(work), '--cfg-options', *SMALL, 'train_cfg.max_epochs=2']
    )
    learned = weights(work / 'epoch_2.pth')
    assert set(learned) == {'text_prompt.shift'} and learned['text_prompt.shift'].abs().sum() > 0
    log = next(work.glob('*/*.log')).read_text()
    assert 'prompt.loss_shift' in log and 'After training: top1' in log


def test_it_computes_what_it_says(folder):
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
