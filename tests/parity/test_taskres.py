"""TaskRes equals the official code, with the plain and the enhanced base."""

from __future__ import annotations

import pytest
import torch
from adapter_case import check_steps
from official import Case, array, inputs
from text_prompt_case import classifier


def test_every_official_number_is_reproduced(taskres_case, tmp_path):
    case = Case(taskres_case)
    config = case.config
    images, inits = inputs(config['images']), config['inits']
    residual = array(*inits['text_feature_residuals'])
    prompt = dict(type='vlm_dense.TaskRes', templates=config['templates'], scale=config['residual_scale'])
    torch.save(dict(state_dict=dict(weight=array(*inits['enhanced.weight']))), tmp_path / 'enhanced.pth')
    for prefix, base in (('', {}), ('enhanced/', dict(enhanced=str(tmp_path / 'enhanced.pth')))):
        model = classifier(config, tmp_path, dict(prompt, **base))
        learned = model.text_prompt
        with torch.no_grad():
            case.check(f'{prefix}mid/base_text_features', learned.base(model.text_encoder))
            case.check(f'{prefix}logits_zero_residual', model(images))
            if f'{prefix}mid/image_features' in case:
                case.check(f'{prefix}mid/image_features', model.image_features(images).global_)
            released = dict(
                text_feature_residuals=residual,
                base_text_features=torch.as_tensor(case[f'{prefix}mid/base_text_features']),
            )
            torch.save(dict(state_dict=released), tmp_path / 'released.pth')
            loaded = model.build_part(dict(prompt, pretrained=str(tmp_path / 'released.pth')), model.class_names)
            case.check(f'{prefix}mid/text_features', loaded(model.text_encoder))
            learned.text_feature_residuals.copy_(residual)
            model.train().eval()  # forgets the class embeddings
            case.check(f'{prefix}mid/text_features', learned(model.text_encoder))
            case.check(f'{prefix}logits', model(images))
        named = dict(text_feature_residuals=learned.text_feature_residuals)
        check_steps(case, model, images, config['labels'], named, prefix)
        with torch.no_grad():
            case.check(f'{prefix}after3/logits', model(images))
    case.done()


def test_the_text_tower_is_not_run_again_in_training(taskres_case, tmp_path, monkeypatch):
    case = Case(taskres_case)
    torch.save(dict(weight=array(*case.config['inits']['enhanced.weight'])), tmp_path / 'e.pth')
    model = classifier(case.config, tmp_path, dict(type='vlm_dense.TaskRes', enhanced=str(tmp_path / 'e.pth')))
    first = model.text_prompt.base(model.text_encoder)
    monkeypatch.setattr(type(model.text_encoder), 'encode', lambda *args, **kwargs: pytest.fail('ran again'))
    assert torch.equal(model.train().text_prompt.base(model.text_encoder), first)
