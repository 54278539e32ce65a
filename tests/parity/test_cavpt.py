"""DPT with CAVPT equals the official code: likely classes, class-aware tokens, all logits and losses, three steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import Case, inputs
from text_prompt_case import by_own_name, case_labels, check_training, classifier, labelled, set_parameters

from vlm_dense.contract.roles import Step
from vlm_dense.registry import MODELS


def as_released(prompt, name, read):
    """E of all blocks in one tensor."""
    if name.endswith('extractor.ctx'):
        return torch.stack([read(block.memory) for block in prompt.upper])
    return by_own_name(prompt, name, read)


@torch.no_grad()
def check_forward(case: Case, model, images) -> None:
    features, text = model.text_side.encode(model.backbone, images, ('global',))
    tokens = features.prompts
    case.check('mid/selected_classes', tokens.selected)
    case.check('mid/layer_logits', torch.stack(tokens.class_logits, dim=1))
    case.check('mid/zeroshot_text_features', tokens.written)
    case.check('mid/text_features', text)
    case.check('mid/image_features', F.normalize(features.global_, dim=-1))
    case.check('logits', model(images))
    step = Step(images, features, text, None, model.text_encoder.logit_scale.exp(), [], model.class_names)
    text_only, image_only = model.loss_function.towers_alone(step, tokens)
    case.check('logits_text_only', text_only)
    case.check('logits_image_only', image_only)


def test_every_official_number_is_reproduced(cavpt_case, tmp_path):
    case = Case(cavpt_case)
    config = case.config
    prompt = dict(
        type='vlm_dense.CAVPTPrompt',
        num_contexts=config['n_ctx'],
        position=config['class_token_position'],
        class_specific=config['csc'],
        template=config['template'],
        num_tokens=config['n_vpt'],
        lower_blocks=config['bottom_limit'] - 1,
        likely=config['cpn'],
    )
    loss = dict(type='vlm_dense.CAVPTLoss', alpha=config['alpha'])
    model = classifier(config, tmp_path, prompt, loss=dict(loss, guided_epochs=0))
    set_parameters(model.text_prompt, config['params'])
    images = inputs(config['images'])
    check_forward(case, model, images)
    model.loss_function = MODELS.build(dict(loss, guided_epochs=10**9))
    with torch.no_grad():
        total, _ = model.parse_losses(model(images, labelled(case_labels(case)), mode='loss'))
    case.check('loss/general_knowledge_epoch', total)
    model.loss_function = MODELS.build(dict(loss, guided_epochs=0))
    weights = {'loss_ce': 1.0, 'loss_class_aware': config['alpha']}
    check_training(case, model, weights, official=as_released)
    case.done()
