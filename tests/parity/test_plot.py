"""PLOT equals the official code: prompts, cosines of regions, plan, number of iterations, logits, three steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import Case, array, inputs
from text_prompt_case import check_training, classifier, set_parameters

from vlm_dense.methods.text_prompts.plot import transport_plan


def check_transport(case: Case, sinkhorn: dict) -> None:
    """The plan of a case without images, in which a uniform one is wrong."""
    test = case.config['sinkhorn_test']
    assert test['similarity'] == 'tanh(array)'
    similarity = torch.tanh(array(*test['array']))
    case.check('sinkhorn/similarity', similarity)
    plan, iterations = transport_plan(similarity, **sinkhorn)
    case.check('sinkhorn/T', plan)
    case.check('sinkhorn/iterations', iterations)


def test_every_official_number_is_reproduced(plot_case, tmp_path):
    case = Case(plot_case)
    config = case.config
    assert config['class_token_position'] == 'end' and not config['class_specific']
    given = config['sinkhorn']
    sinkhorn = dict(epsilon=given['eps'], max_iterations=given['max_iter'], threshold=given['threshold'])
    prompt = dict(
        type='vlm_dense.PLOTPrompt', num_prompts=config['n_prompts'], num_contexts=config['n_ctx'], **sinkhorn
    )
    check_transport(case, sinkhorn)
    has_global, images = config['add_global_logits'], inputs(config['images'])
    for with_global in (not has_global, has_global):
        model = classifier(config, tmp_path, dict(prompt, global_term=with_global))
        set_parameters(model.text_prompt, config['params'])
        other = 'variant/logits_with_global' if with_global else 'variant/logits_without_global'
        with torch.no_grad():
            case.check('logits' if with_global == has_global else other, model(images))
    with torch.no_grad():
        features, text = model.text_side.encode(model.backbone, images, ('global', 'dense'))
        text = text[: config['n_prompts']]
        tokens = torch.cat([features.global_[None], features.dense.flatten(2).permute(2, 0, 1)])
        case.check('mid/image_tokens', tokens)
        case.check('mid/text_features', text)
        regions = F.normalize(tokens[1:], dim=-1)
        similarity = torch.einsum('mbd,nkd->bkmn', regions, F.normalize(text, dim=-1))
        case.check('mid/similarity', similarity)
        plan, iterations = transport_plan(similarity, **sinkhorn)
        case.check('mid/T', plan)
        case.check('mid/sinkhorn_iterations', iterations)
    check_training(case, model, {'loss_ce': 1.0})
    case.done()
