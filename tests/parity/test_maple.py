"""MaPLe equals the official code."""

from __future__ import annotations

import torch
from official import Case, inputs
from text_prompt_case import check_forward, check_training, classifier, set_parameters

from vlm_dense.clip.image_tower import PromptTokens


def half(vectors):
    """Rounded as the official code does it even in float32 models."""
    return vectors.half().float()


def test_every_official_number_is_reproduced(maple_case, tmp_path):
    case = Case(maple_case)
    config = case.config
    prompt = dict(
        type='vlm_dense.MaPLePrompt',
        words=config['ctx_init'] or None,
        num_contexts=config['n_ctx'],
        depth=config['depth'],
    )
    model = classifier(config, tmp_path, prompt)
    prompt, tower = model.text_prompt, model.text_encoder
    set_parameters(prompt, config['params'])
    images = inputs(config['images'])
    check_forward(case, model)
    with torch.no_grad():
        tokens = prompt.prompt(images)[1]
        case.check('mid/shared_ctx', tokens.first)
        for index, later in enumerate(tokens.deep):
            case.check(f'mid/visual_prompt_{index}', later)
        deep = torch.stack([half(vectors) for vectors in prompt.deep]) if len(prompt.deep) else None
        rounded = PromptTokens(half(tokens.first), [half(later) for later in tokens.deep])
        features = model.backbone.encode(images, ('global',), rounded)
        logits = model.logits(features, prompt.encode(tower, prompt.ctx, deep=deep))
        wanted = torch.from_numpy(case['mid/logits_half_prompts'])
        assert (logits - wanted).abs().max() < 2e-4
    check_training(case, model, {'loss_ce': 1.0})
    case.done()
