"""Deep language prompts equal the official code."""

from __future__ import annotations

from official import Case
from text_prompt_case import check_forward, check_training, classifier, set_parameters


def test_every_official_number_is_reproduced(deep_text_case, tmp_path):
    case = Case(deep_text_case)
    config = case.config
    assert not config['n_ctx_vision'] and not config['depth_vision']
    prompt = dict(
        type='vlm_dense.DeepTextPrompt',
        words=config['ctx_init'] or None,
        num_contexts=config['n_ctx_text'],
        depth=config['depth_text'],
    )
    model = classifier(config, tmp_path, prompt)
    set_parameters(model.text_prompt, config['params'])
    check_forward(case, model)
    check_training(case, model, {'loss_ce': 1.0})
    case.done()
