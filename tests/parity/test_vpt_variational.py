"""Variational prompts equal the official code, with a posterior of their own and with one of the image."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from official import Case, array, inputs
from text_prompt_case import case_labels, check_training, classifier, labelled, set_parameters, words_of


def _check(case: Case, folder, prefix: str, conditional: bool) -> None:
    config, images = case.config, inputs(case.config['images'])
    cfg = dict(
        type='vlm_dense.VariationalPrompt',
        num_samples=config['L'],
        conditional=conditional,
        kl_weight=config['kl_weight'],
        words=words_of(config['params']['ctx']),
    )
    if cfg['words'] is None:
        cfg['num_contexts'] = config['n_ctx']
    model = classifier(config, folder, cfg)
    prompt, tower = model.text_prompt, model.text_encoder
    set_parameters(prompt, config['params'])
    drawn = array(*config['eps'])[:, 0]
    prompt.draw = lambda: drawn
    with torch.no_grad():
        if f'{prefix}mid/tokenized_prompts' in case:
            ids = prompt.token_ids
            case.check(f'{prefix}mid/tokenized_prompts', F.pad(ids, (0, 77 - ids.shape[1])))
        features, text = model.text_side.encode(model.backbone, images, ('global',))
        mean, log_variance = prompt.posterior(features.global_)
        case.check(f'{prefix}mid/image_features_normalised', F.normalize(features.global_, dim=-1))
        case.check(f'{prefix}mid/mu', mean)
        case.check(f'{prefix}mid/logvar', log_variance)
        case.check(f'{prefix}mid/text_features', text[0] if conditional else text)
        every = text if conditional else text[None]
        logits = model.head.logits(features, prompt.classifier_weights(every), tower.logit_scale.exp())
        case.check(f'{prefix}mid/logits_per_sample', logits.transpose(0, 1))
        case.check(f'{prefix}logits', model(images))
        model.train()
        total, values = model.parse_losses(model(images, labelled(case_labels(case)), mode='loss'))
        case.check(f'{prefix}loss', total, rtol=1e-5)
        case.check(f'{prefix}loss/task', values['loss_ce'])
        case.check(f'{prefix}loss/kl_mean_over_dims', values['prompt.loss_kl'] / config['kl_weight'])
    check_training(case, model, {}, prefix=prefix)


def test_every_official_number_is_reproduced(vpt_variational_case, tmp_path):
    case = Case(vpt_variational_case)
    whole = case.config
    for prefix, kind in (('', 'unconditional'), ('cond/', 'conditional')):
        if kind in whole:
            case.config = {**copy.deepcopy(whole), **whole[kind]}
            _check(case, tmp_path, prefix, kind == 'conditional')
    case.unread.discard('cond/mid/logits_fp16_rounded_weights')  # information only
    case.done()
