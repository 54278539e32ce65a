"""CoOp equals the official code in each of its layouts."""

from __future__ import annotations

import torch
from official import Case, inputs
from text_prompt_case import check_training, classifier, set_parameters, words_of

from vlm_dense.registry import MODELS


def _prompt(ctx, num_contexts: int, class_specific: bool, position: str) -> dict:
    words = words_of(ctx)
    cfg = dict(type='vlm_dense.CoOpPrompt', words=words, position=position)
    # the official code makes shared vectors of words, whatever is asked for
    return dict(cfg) if words else dict(cfg, num_contexts=num_contexts, class_specific=class_specific)


def test_every_official_number_is_reproduced(coop_case, tmp_path):
    case = Case(coop_case)
    config = case.config
    images, ctx = inputs(config['images']), config['params']['ctx']
    layout = config['n_ctx'], config['class_specific'], config['class_token_position']
    model = classifier(config, tmp_path, _prompt(ctx, *layout))
    set_parameters(model.text_prompt, config['params'])
    with torch.no_grad():
        ids = model.text_prompt.token_ids
        case.check('mid/tokenized_prompts', torch.nn.functional.pad(ids, (0, 77 - ids.shape[1])))
        case.check('mid/image_features', model.image_features(images).global_)
        case.check('mid/text_features', model.text_prompt(model.text_encoder))
        case.check('logits', model(images))
        for tag, variant in config['variants'].items():
            layout = variant['n_ctx'], variant.get('class_specific', False), variant['position']
            prompt = MODELS.build(
                _prompt(variant['ctx'], *layout),
                default_args=dict(class_names=config['classnames'], text_tower=model.text_encoder),
            )
            set_parameters(prompt, dict(ctx=variant['ctx']))
            case.check(f'variant/{tag}/logits', model.logits(model.image_features(images), prompt(model.text_encoder)))
    check_training(case, model, {'loss_ce': 1.0})
    case.done()
