"""TPT equals the official code: from words, from CoOp, from CoCoOp; and the operations of AugMix."""

from __future__ import annotations

import numpy as np
import torch
from numpy.random import RandomState
from official import Case, array, inputs
from PIL import Image
from text_prompt_case import classifier, set_parameters

from vlm_dense.methods.test_time.augmix import OPERATIONS, augmix
from vlm_dense.methods.test_time.tpt import TPT, entropy, mean_entropy
from vlm_dense.registry import MODELS

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def adaptation(config: dict, steps: int, kind: str = 'AdamW') -> TPT:
    optimizer = dict(type='AdamW', lr=config['lr']) if kind == 'AdamW' else dict(type='SGD', lr=config['sgd']['lr'])
    return MODELS.build(dict(type='vlm_dense.TPT', selection=config['selection_p'], steps=steps, optimizer=optimizer))


def check_tuned(case: Case, key: str, model, tpt: TPT, views) -> None:
    """Context and logits after the steps of ``tpt``."""
    prompt = model.text_prompt
    features = model.image_features(views)
    with torch.no_grad():
        context = tpt.tune(model, features, prompt.context(features.global_[:1]))
    case.check(f'{key}/ctx', context, rtol=1e-3)
    case.check(f'{key}/logits', tpt.logits(model, views), rtol=1e-3)


def check_run(case: Case, prefix: str, model, views) -> None:
    config, prompt, tower = case.config, model.text_prompt, model.text_encoder
    tpt = adaptation(config, 1)
    features = model.image_features(views)
    case.check(f'{prefix}ctx_init', prompt.ctx)
    context = prompt.ctx.detach().clone().requires_grad_()
    logits = model.logits(features, prompt.encode(tower, context))
    case.check(f'{prefix}logits_before', logits)
    case.check(f'{prefix}logits', logits[:1])
    case.check(f'{prefix}entropy', entropy(logits))
    chosen = tpt.confident(logits)
    assert set(chosen.tolist()) == set(case[f'{prefix}selected'].tolist())
    case.check(f'{prefix}mid/mean_prob', logits[chosen].softmax(1).mean(0))
    loss = mean_entropy(logits[chosen])
    case.check(f'{prefix}loss', loss)
    gradient = torch.autograd.grad(loss, context)[0]
    case.check_grad(f'{prefix}grad/ctx', gradient)
    wanted = torch.from_numpy(case[f'{prefix}grad/ctx'])
    # the first step in closed form, with the official gradient; it is as good as its sign only where that is clear
    with torch.no_grad():
        tuned = tpt.tune(model, features, prompt.ctx)
    closed = prompt.ctx.detach() * (1 - 0.01 * config['lr']) - config['lr'] * wanted / (wanted.abs() + 1e-8)
    clear = wanted.abs() > 0.01 * wanted.abs().max()
    torch.testing.assert_close(tuned[clear], closed[clear], rtol=1e-6, atol=2e-8 + 1e-4 * config['lr'])
    check_tuned(case, f'{prefix}adamw1', model, tpt, views)
    check_tuned(case, f'{prefix}adamw3', model, adaptation(config, 3), views)
    check_tuned(case, f'{prefix}after3', model, adaptation(config, config['sgd']['steps'], 'SGD'), views)


def check_cocoop(case: Case, folder, views, parts: dict) -> None:
    config = case.config
    for unit in (False, True):
        prompt = dict(
            type='vlm_dense.CoCoOpPrompt',
            words=config['cocoop_ctx'],
            unit_features=unit,
            reduction=config['cocoop_params']['meta_net.linear1.weight']['array'][1][1]
            // config['cocoop_params']['meta_net.linear1.weight']['array'][1][0],
        )
        model = classifier(config, folder, prompt, **parts)
        set_parameters(model.text_prompt, config['cocoop_params'])
        with torch.no_grad():
            features = model.image_features(views)
            context = model.text_prompt.context(features.global_[:1])
            if unit:
                case.check('cocoop/ctx_init_normalised_feature', context)
                case.check(
                    'cocoop/logits_plain_cocoop',
                    model.logits(*model.text_side.encode(model.backbone, views[:1], ('global',))),
                )
                continue
            case.check('cocoop/mid/image_features', features.global_)
            case.check('cocoop/ctx_init', context)
            text = model.text_prompt.encode(model.text_encoder, context)
            case.check('cocoop/logits_before', model.logits(features, text))
        check_tuned(case, 'cocoop/adamw1', model, adaptation(config, 1), views)
        check_tuned(case, 'cocoop/adamw3', model, adaptation(config, 3), views)


def check_operations(case: Case) -> None:
    config, source = case.config, config_source(case.config)
    for index, operation in enumerate(OPERATIONS):
        changed = operation(source, config['severity'], RandomState(100 + index))
        case.check(f'augmix/{operation.__name__}', torch.from_numpy(np.asarray(changed)[::16, ::16].copy()))
    mixed = torch.from_numpy(augmix(source, config['severity'], RandomState(7))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    case.check('augmix/mix', ((mixed - mean) / std)[:, ::16, ::16])


def config_source(config: dict) -> Image.Image:
    """14 x 14 random colours, each 16 px wide."""
    prefix = config['coop_ctx'][0].rpartition('/')[0]
    colours = array(f'{prefix}/pil', (14, 14, 3), 60, 120).clamp(0, 255).numpy().astype(np.uint8)
    return Image.fromarray(colours.repeat(16, 0).repeat(16, 1))


def test_every_official_number_is_reproduced(tpt_case, tmp_path):
    case = Case(tpt_case)
    config = case.config
    prefix = config['coop_ctx'][0].rpartition('/')[0]
    count, size = config['n_views'], config['image_size']
    plain = inputs(['image_batch', f'{prefix}/base', 1, size])
    views = plain + 0.6 * inputs(['image_batch', f'{prefix}/views', count, size])
    views[0] = plain
    parts = dict(test_time=dict(type='vlm_dense.TPT'))
    model = classifier(config, tmp_path, dict(type='vlm_dense.CoOpPrompt', words=config['ctx_init']), **parts)
    check_run(case, '', model, views)
    length = config['coop_ctx'][1][0]
    model = classifier(config, tmp_path, dict(type='vlm_dense.CoOpPrompt', num_contexts=length), **parts)
    set_parameters(model.text_prompt, dict(ctx=config['coop_ctx']))
    check_run(case, 'coop/', model, views)
    check_cocoop(case, tmp_path, views, parts)
    check_operations(case)
    case.done()
