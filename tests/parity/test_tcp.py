"""TCP equals the official code: class tokens, losses, the official loop, and new class names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from loop_case import check_ids, check_new_names, official_loop
from official import Case, inputs
from text_prompt_case import check_training, classifier, set_parameters

from vlm_dense.contract import LearnedContext


def test_every_official_number_is_reproduced(tcp_case, tmp_path):
    case = Case(tcp_case)
    config = case.config
    images, ctx = inputs(config['images']), config['params']['ctx']
    cfg = dict(
        type='vlm_dense.TCPPrompt',
        template=config['template'],
        prompt_template=config['prompt_template'],
        words=ctx.get('words') if isinstance(ctx, dict) else None,
        num_contexts=config['n_ctx'],
        num_class_tokens=config['n_class_tokens'],
        block=config['insert_before_block'],
        weight=config['w'],
    )
    model = classifier(config, tmp_path, cfg)
    prompt, tower = model.text_prompt, model.text_encoder
    set_parameters(prompt, config['params'])
    begun = {name: value.clone() for name, value in prompt.state_dict().items()}
    check_ids(case, prompt)
    if 'mid/ctx_init' in case:
        case.check('mid/ctx_init', prompt.ctx)
    with torch.no_grad():
        case.check('mid/teacher_text_features', prompt.reference(tower))
        case.check('mid/class_prompts', prompt.class_tokens(tower))
        case.check('mid/text_features', F.normalize(prompt(tower), dim=-1))
        features = model.image_features(images)
        case.check('mid/image_features', F.normalize(features.global_, dim=-1))
        case.check('logits', model(images))
        plain = LearnedContext.encode(prompt, tower, prompt.ctx)
        case.check('alt/no_class_prompts/logits', model.logits(features, plain))
    check_training(case, model, {'loss_ce': 1.0, 'prompt.loss_kg': config['w']})

    prompt.load_state_dict(begun)
    for _ in official_loop(case, model, prompt.parameters()):
        pass
    for name in case.keys('trained/'):
        if name != 'logits':
            case.check(f'trained/{name}', prompt.get_parameter(name), rtol=1e-3)
    with torch.no_grad():
        case.check('trained/logits', model(inputs(config['test_images'])), rtol=1e-3)
    check_new_names(case, model, cfg)
    case.done()
