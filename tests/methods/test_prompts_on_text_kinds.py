"""Every registered text prompt on a text tower of every kind: it learns, sub-lists and reloading change nothing."""

from __future__ import annotations

import pytest
import torch
from matrix.test_matrix import OPTIONS, parts_of
from tiny_texts import DIM, make_clip, make_tower
from tiny_towers import vit

from vlm_dense.contract import TextPrompt
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS, build_part

NAMES = ['background', 'circle', 'red star']
CHOSEN = ('mt5', 'mobileclip', 'siglip', 'coca', 'masked')  # the matrix of methods has CLIP's
EXTRA = dict(
    UPLPrompt=dict(num_members=2, num_contexts=3),
    VariationalPrompt=dict(num_contexts=3),
    CoCoOpPrompt=dict(reduction=4, num_contexts=3),
    LASPPrompt=dict(templates=['a photo of a {}.', '{}.']),
    SubPTPrompt=dict(num_contexts=3, novel_names=['ring']),
    CLIPLoRAPrompt=dict(rank=1),
)


@pytest.fixture(scope='module', params=CHOSEN)
def towers(request):
    torch.manual_seed(0)
    image = MODELS.build(dict(type='vlm_dense.CLIPViT', arch=vit(embed_dim=DIM, layers=3), head=True))
    return make_tower(request.param, make_clip(request.param).float()), image


def build(name: str, towers):
    torch.manual_seed(1)
    own = {**OPTIONS.get(name, {}), **EXTRA.get(name, {})}
    if name in ('CoOpPrompt', 'PLOTPrompt', 'DualCoOpPrompt', 'TaIDPTPrompt', 'SoftCPTPrompt', 'MVLPTPrompt'):
        own['num_contexts'] = 3  # the contexts here are short
    cfg = dict(type=f'vlm_dense.{name}', **own)
    return build_part(cfg, class_names=NAMES, text_tower=towers[0], image_tower=towers[1])


def embeddings(prompt, tower, **options):
    torch.manual_seed(2)
    images = torch.randn(2, tower.embed_dim) if prompt.image_conditioned else None
    return prompt(tower, images, **options)


@pytest.mark.parametrize('name', parts_of(TextPrompt))
def test_it_learns_or_is_refused_with_the_reason(name, towers):
    try:
        prompt = build(name, towers)
    except ConfigError as refusal:
        assert (name, towers[0].kind.reads) == ('CLIPLoRAPrompt', 'pooler'), refusal
        assert len(str(refusal)) > 60
        return
    found = embeddings(prompt.train(), towers[0])
    assert found.shape[-2:] == (len(NAMES), towers[0].embed_dim)
    assert found.isfinite().all()
    learned = {key: p for key, p in prompt.named_parameters() if p.requires_grad}
    total = (found.float() * torch.randn(found.shape)).sum()
    total = total + sum(value.sum() for value in prompt.losses(found).values())
    if found.requires_grad:
        total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in learned.values())
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in learned.values())
    else:
        assert not any(key.startswith('ctx') for key in learned)
    prompt.eval()
    with torch.no_grad():
        whole = embeddings(prompt, towers[0])
        some = embeddings(prompt, towers[0], classes=torch.tensor([2, 0]))
    torch.testing.assert_close(some, whole[..., [2, 0], :], rtol=1e-4, atol=1e-4)
