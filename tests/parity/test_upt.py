"""UPT equals the official code, and with attention that mixes the equations of the paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import Case, inputs
from text_prompt_case import case_labels, check_training, classifier, labelled, set_parameters


def test_every_official_number_is_reproduced(upt_case, tmp_path):
    case = Case(upt_case)
    config = case.config
    assert config['dropout'].startswith('off')
    prompt = dict(
        type='vlm_dense.UPTPrompt',
        num_contexts=config['n_ctx'],
        position=config['class_token_position'],
        dropout=0.0,
    )
    images, labels = inputs(config['images']), labelled(case_labels(case))

    def build(**options):
        model = classifier(config, tmp_path, dict(prompt, **options))
        set_parameters(model.text_prompt, config['params'])
        return model

    mixing, model = build(mixing=True), build()
    with torch.no_grad():
        for prefix, one in (('mixing/', mixing), ('mid/', model)):
            case.check(f'{prefix}text_prompt', one.text_prompt.context())
            case.check(f'{prefix}visual_prompt', one.text_prompt.prompt(images)[1].first)
        case.check('mixing/logits', mixing(images))
        case.check('mixing/loss', mixing(images, labels, mode='loss')['loss_ce'])
        features, text = model.text_side.encode(model.backbone, images, ('global',))
        case.check('mid/text_features', F.normalize(text, dim=-1))
        case.check('mid/image_features', F.normalize(features.global_, dim=-1))
        case.check('logits', model(images))
    check_training(case, model, {'loss_ce': 1.0})
    case.done()
