"""MVLPT equals the official code: prompts of the text tower, of the image tower, of both, and the logits of a task."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import Case, inputs
from text_prompt_case import by_own_name, check_training, classifier, labelled, set_parameters

from vlm_dense.registry import MODELS

WRITTEN = dict(type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {}.'], separators='_')


def parts(options: dict) -> dict:
    """Text and image prompt of a variant."""
    depth = 1000 if options['vpt_deep'] else 1
    text = dict(position=options['class_token_position'], class_specific=options['csc'])
    if not options['n_vpt']:
        return dict(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=options['n_coop'], **text))
    if not options['n_coop']:
        tokens = dict(num_tokens=options['n_vpt'], depth=depth, place='front', through_ln_pre=False, std=None)
        return dict(text_prompt=WRITTEN, image_prompt=dict(type='vlm_dense.VPTPrompt', **tokens))
    width = dict(transformer=options['project_dim'], identity=None)[options['project_method']]
    sizes = dict(num_contexts=options['n_coop'], num_tokens=options['n_vpt'], depth=depth, project_dim=width)
    return dict(text_prompt=dict(type='vlm_dense.MVLPTPrompt', **sizes, **text))


def as_released(prompt, name, read):
    """The tokens of the first block, (1, M, C), and of the others, (L - 1, M, C), in a tensor each."""
    if not name.startswith('vpt_embeddings'):
        return by_own_name(prompt, name, read)
    tokens = getattr(prompt, 'visual', prompt)
    return torch.stack([read(p) for p in (tokens.deep if name.endswith('_deep') else [tokens.first])])


def check_forward(case: Case, model, images, tag: str) -> None:
    """Prompts as they are used, unit features, logits."""
    prompt, visual = model.text_prompt, model.image_prompt or model.text_prompt
    if f'{tag}/mid/ctx' in case:
        case.check(f'{tag}/mid/ctx', prompt.context())
    if f'{tag}/mid/vpt' in case:
        tokens = visual.prompt(images)[1]
        case.check(f'{tag}/mid/vpt', tokens.first[None])
        if f'{tag}/mid/vpt_deep' in case:
            case.check(f'{tag}/mid/vpt_deep', torch.stack(tokens.deep))
    features, text = model.text_side.encode(model.backbone, images, ('global',))
    case.check(f'{tag}/mid/text_features', F.normalize(text, dim=-1))
    case.check(f'{tag}/mid/image_features', F.normalize(features.global_, dim=-1))
    case.check(f'{tag}/logits', model(images))


def check_logits_of_tasks(case: Case, key: str, logits: torch.Tensor, tasks: dict) -> None:
    samples = labelled([0] * len(logits))
    for sample, task in zip(samples, tasks['task'], strict=True):
        sample.task_classes = torch.tensor(tasks['ranges'][task])
    loss = MODELS.build(dict(type='vlm_dense.TaskCrossEntropy', others='zero'))
    case.check(key, loss.restrict(logits, samples, torch.arange(logits.shape[1])), rtol=1e-3)


def test_every_official_number_is_reproduced(mvlpt_case, tmp_path):
    case = Case(mvlpt_case)
    variants = dict(case.config['variants'])
    tasks, images, sgd = variants.pop('pertask', None), inputs(case.config['images']), case.config['sgd']
    for tag, options in variants.items():
        model = classifier(case.config, tmp_path, **parts(options))
        trained = model.image_prompt or model.text_prompt
        set_parameters(trained, options['params'])
        with torch.no_grad():
            check_forward(case, model, images, tag)
        sgd['lr'] = options.get('sgd_lr', 0.01)
        check_training(case, model, {'loss_ce': 1.0}, trained, f'{tag}/', as_released)
        key = f'{tag}/logits_pertask_after3'
        if key in case:
            with torch.no_grad():
                check_logits_of_tasks(case, key, model(images), tasks)
    case.done()
