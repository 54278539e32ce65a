"""IVLP equals the official code."""

from __future__ import annotations

from official import Case
from text_prompt_case import check_forward, check_training, classifier, set_parameters


def test_every_official_number_is_reproduced(ivlp_case, tmp_path):
    case = Case(ivlp_case)
    config = case.config
    prompt = dict(
        type='vlm_dense.IVLPPrompt',
        words=config['ctx_init'] or None,
        num_contexts=config['n_ctx_text'],
        depth=config['depth_text'],
        num_tokens=config['n_ctx_vision'],
        visual_depth=config['depth_vision'],
    )
    model = classifier(config, tmp_path, prompt)
    set_parameters(model.text_prompt, config['params'])
    check_forward(case, model)
    check_training(case, model, {'loss_ce': 1.0})
    case.done()
