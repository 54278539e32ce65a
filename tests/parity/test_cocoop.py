"""CoCoOp equals the official code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import Case, inputs
from text_prompt_case import check_training, classifier, set_parameters, words_of


def test_every_official_number_is_reproduced(cocoop_case, tmp_path):
    case = Case(cocoop_case)
    config = case.config
    images, words = inputs(config['images']), words_of(config['params']['ctx'])
    size = dict(words=words) if words else dict(words=None, num_contexts=config['n_ctx'])
    model = classifier(config, tmp_path, dict(type='vlm_dense.CoCoOpPrompt', **size))
    prompt, tower = model.text_prompt, model.text_encoder
    assert prompt.meta_net.linear1.out_features == config['meta_net_hidden']
    set_parameters(prompt, config['params'])
    with torch.no_grad():
        ids = prompt.token_ids
        case.check('mid/tokenized_prompts', F.pad(ids, (0, 77 - ids.shape[1])))
        features = model.image_features(images).global_
        case.check('mid/image_features', features)
        shift = prompt.meta_net(F.normalize(features, dim=-1))
        case.check('mid/bias', shift)
        embeddings = tower.embed(F.pad(ids, (0, 77 - ids.shape[1])))[0]
        embeddings[1 : 1 + prompt.num_contexts] = prompt.ctx + shift[0]
        rows = len(case['mid/prompts_image0_class0'])
        case.check('mid/prompts_image0_class0', embeddings[:rows])
        case.check('mid/text_features_image0', prompt(tower, features)[0])
        case.check('logits', model(images))
    check_training(case, model, {'loss_ce': 1.0})
    case.done()
