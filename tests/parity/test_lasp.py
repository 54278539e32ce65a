"""LASP equals the official code: virtual classes, noise, and the layer norms of the image tower."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import Case, array, inputs
from text_prompt_case import classifier, labelled, set_parameters, words_of


def _build(case: Case, folder) -> torch.nn.Module:
    config = case.config
    names, everything, words = config['classnames'], config['all_classnames'], words_of(config['params']['ctx'])
    if config['include_all_classes']:
        names = [*names, *(name for name in everything if name not in names)]
    assert list(case['mid/order_of_classes']) == names
    prompt = dict(
        type='vlm_dense.LASPPrompt',
        all_names=everything,
        templates=config['templates'],
        weight=config['lasp_weight'],
        noise=config['noise']['std'],
        words=words,
    )
    if words is None:
        prompt.update(num_contexts=config['n_ctx'])
    trainable = ['ln_[12]'] if config['clip'] == 'vit' else []
    model = classifier(dict(config, classnames=names), folder, prompt, trainable=trainable)
    set_parameters(model.text_prompt, config['params'])
    return model


def _named(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Official name -> what is trained."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return {n.replace('text_prompt.', '').replace('backbone.', 'visual.'): p for n, p in trained}


def test_every_official_number_is_reproduced(lasp_case, tmp_path):
    case = Case(lasp_case)
    config, sgd = case.config, case.config['sgd']
    model, images = _build(case, tmp_path), inputs(config['images'])
    prompt, tower = model.text_prompt, model.text_encoder
    with torch.no_grad():
        ids = prompt.token_ids[: len(model.class_names)]
        case.check('mid/tokenized_prompts', F.pad(ids, (0, 77 - ids.shape[1])))
        case.check('mid/image_features', model.image_features(images).global_)
        case.check('mid/text_features_before_w', prompt(tower) - prompt.w)
        case.check('mid/class_text_features', prompt.references(tower))
        case.check('logits', model(images))

    model.train()
    noise = config['noise']['std'] * array(*config['noise']['array'])

    def losses(with_noise: bool):
        prompt.draw_noise = lambda references: noise if with_noise else None
        return model.parse_losses(model(images, labelled(config['labels']), mode='loss'))

    with torch.no_grad():
        for with_noise, name in ((False, 'no_noise'), (True, 'noise')):
            total, values = losses(with_noise)
            case.check(f'loss_{name}', total)
            text = values['prompt.loss_text_to_text'] / config['lasp_weight']
            case.check(f'loss/text_to_text_{name}', text)

    named = _named(model)
    rates = [
        dict(params=[p for n, p in named.items() if n.startswith('visual.')], lr=sgd['lr_visual_layernorms']),
        dict(params=[p for n, p in named.items() if not n.startswith('visual.')], lr=sgd['lr']),
    ]
    optimizer = torch.optim.SGD([group for group in rates if group['params']])
    assert {'ctx', 'w'} <= set(case.keys('grad/')) <= set(named)
    for step in range(sgd['steps']):
        total, values = losses(config['noise']['applied'])
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            case.check('loss', total)
            case.check('loss/ce', values['loss_ce'])
            case.check('loss/text_to_text', values['prompt.loss_text_to_text'] / config['lasp_weight'])
            for name in case.keys('grad/'):
                case.check_grad(f'grad/{name}', named[name].grad)
        if sgd.get('gradient_clipping'):
            torch.nn.utils.clip_grad_norm_(named.values(), sgd['gradient_clipping'])
        optimizer.step()
    with torch.no_grad():
        case.check('after3/loss', losses(config['noise']['applied'])[0], rtol=1e-3)
        for name in case.keys('after3/'):
            if name not in ('loss', 'logits'):
                case.check(f'after3/{name}', named[name], rtol=1e-3)
        case.check('after3/logits', model.eval()(images), rtol=1e-3)
    case.unread.discard('mid/logits_fp16_rounded_weights')  # what half-precision weights would give; information only
    case.done()
