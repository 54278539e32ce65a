"""PromptSRC equals the official code: losses, the official loop, the mean over the epochs, and new class names."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from loop_case import check_ids, check_new_names, official_loop
from official import Case, inputs
from text_prompt_case import by_own_name, check_training, classifier, set_parameters, value_of

from vlm_dense.methods.joint_prompts.promptsrc import PromptAverageHook, gaussian_weights
from vlm_dense.vocabulary.templates import PROMPTSRC_TEMPLATES


def test_every_official_number_is_reproduced(promptsrc_case, tmp_path):
    case = Case(promptsrc_case)
    config = case.config
    images, test = inputs(config['images']), inputs(config['test_images'])
    cfg = dict(
        type='vlm_dense.PromptSRCPrompt',
        templates='promptsrc' if tuple(config['templates']) == PROMPTSRC_TEMPLATES else config['templates'],
        text_weight=config['text_loss_weight'],
        image_weight=config['image_loss_weight'],
        words=config['ctx_init'] if config['ctx_init'] and config['n_ctx_text'] <= 4 else None,
        num_contexts=config['n_ctx_text'],
        depth=config['depth_text'],
        num_tokens=config['n_ctx_vision'],
        visual_depth=config['depth_vision'],
    )
    model = classifier(config, tmp_path, cfg)
    prompt, tower = model.text_prompt, model.text_encoder
    set_parameters(prompt, {k: v for k, v in config['params'].items() if value_of(v) is not None})
    begun = {name: value.clone() for name, value in prompt.state_dict().items()}
    check_ids(case, prompt)
    if 'mid/ctx_init' in case:
        case.check('mid/ctx_init', prompt.ctx)

    def check_parameters(prefix: str, rtol: float = 1e-3) -> None:
        for name in case.keys(prefix):
            if name not in ('logits', 'weights'):
                case.check(f'{prefix}{name}', by_own_name(prompt, name, lambda p: p), rtol=rtol)

    with torch.no_grad():
        features, text = model.text_side.encode(model.backbone, images, ('global',))
        frozen_text = prompt.frozen_text(tower)
        frozen_images = F.normalize(model.backbone.encode(images, ('global',)).global_, dim=-1)
        case.check('mid/text_features', F.normalize(text, dim=-1))
        case.check('mid/image_features', F.normalize(features.global_, dim=-1))
        case.check('mid/fixed_text_features', frozen_text)
        case.check('mid/fixed_image_features', frozen_images)
        case.check('mid/fixed_logits', tower.logit_scale.exp() * frozen_images @ frozen_text.T)
        case.check('logits', model(images))
    own = {'loss_ce': 1.0, **{f'prompt.loss_scl_{part}': 1.0 for part in ('text', 'image', 'logits')}}
    check_training(case, model, own)

    prompt.load_state_dict(begun)
    epochs = config['optim']['epochs']
    hook = PromptAverageHook(config['gpa']['mean'], config['gpa']['std'])
    hook.weights = gaussian_weights(epochs, hook.mean, hook.std)
    case.check('gpa/weights', hook.weights)
    logger = logging.getLogger('test')
    for done in official_loop(case, model, prompt.parameters()):
        check_parameters(f'epoch/{done}/')
        if done == epochs:
            with torch.no_grad():
                case.check('alt/last_epoch/logits', model(test), rtol=1e-3)
        hook.after_train_epoch(SimpleNamespace(model=model, epoch=done - 1, max_epochs=epochs, logger=logger))
    check_parameters('gpa/')
    with torch.no_grad():
        case.check('gpa/logits', model(test), rtol=1e-3)
    check_new_names(case, model, cfg)
    case.done()
