"""VPT equals the three code bases that put it into CLIP, each with its own placement and layout."""

from __future__ import annotations

import torch
from official import Case, inputs
from text_prompt_case import by_own_name, check_training, classifier, set_parameters

PLACES = dict(
    maple=dict(place='end', through_ln_pre=True),
    upt_shallow=dict(place='front', through_ln_pre=True),
    upt_deep=dict(place='front', through_ln_pre=False),
    dpt=dict(place='end', through_ln_pre=False),
)


def placement(variant: str) -> dict:
    return next(options for name, options in PLACES.items() if variant.startswith(name))


def as_released(prompt, name, read):
    """The parameters of all blocks in the one tensor of UPT or DPT."""
    if name == 'visual_ctx':
        return torch.stack([read(p) for p in (prompt.first, *prompt.deep)]).transpose(0, 1).flatten(0, 1)
    if name.endswith('ctx_learner.ctx'):
        return torch.stack([read(p) for p in (prompt.first, *prompt.deep)])
    return by_own_name(prompt, name, read)


def test_every_official_number_is_reproduced(vpt_case, tmp_path):
    case = Case(vpt_case)
    config = case.config
    images = inputs(config['images'])
    text = dict(type='vlm_dense.ZeroShotPrompt', templates=[config.get('template', 'a photo of a {}.')], separators='_')
    for variant, options in config['variants'].items():
        blocks = 1 if variant.endswith('shallow') else options.get('depth', 1000)
        tokens = dict(type='vlm_dense.VPTPrompt', num_tokens=options['n_ctx'], depth=blocks, **placement(variant))
        model = classifier(config, tmp_path, text, image_prompt=tokens)
        set_parameters(model.image_prompt, options['params'])
        with torch.no_grad():
            case.check('mid/text_features', model.text_side.class_embeddings())
            case.check(f'{variant}/logits', model(images))
        check_training(case, model, {'loss_ce': 1.0}, model.image_prompt, f'{variant}/', as_released)
    case.done()
