"""KgCoOp equals the official code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import Case, inputs
from text_prompt_case import check_training, classifier, set_parameters, words_of


def test_every_official_number_is_reproduced(kgcoop_case, tmp_path):
    case = Case(kgcoop_case)
    config = case.config
    images, words = inputs(config['images']), words_of(config['params']['ctx'])
    size = dict(words=words)
    if words is None:
        size.update(num_contexts=config['n_ctx'], class_specific=config['class_specific'])
    model = classifier(
        config,
        tmp_path,
        dict(type='vlm_dense.KgCoOpPrompt', template=config['template'], weight=config['w'], **size),
    )
    prompt, tower = model.text_prompt, model.text_encoder
    set_parameters(prompt, config['params'])
    with torch.no_grad():
        ids = prompt.token_ids
        case.check('mid/tokenized_prompts', F.pad(ids, (0, 77 - ids.shape[1])))
        case.check('mid/image_features', model.image_features(images).global_)
        case.check('mid/text_features', prompt(tower))
        case.check('mid/text_features_handcrafted_normalised', prompt.reference(tower))
        case.check('logits', model(images))
    check_training(case, model, {'loss_ce': 1.0, 'prompt.loss_kg': config['w']})
    case.done()
