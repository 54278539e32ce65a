"""WiSE-FT equals the official code: fine-tuning, both optimisers, mixtures with and without Fisher information."""

from __future__ import annotations

import math

import torch
from mmengine.registry import OPTIM_WRAPPERS, PARAM_SCHEDULERS
from official import Case, array, inputs
from text_prompt_case import case_labels, classifier, labelled

from vlm_dense.methods.fine_tuning.wise_ft import from_release, interpolate


def schedule(optimizer: torch.optim.Optimizer, warmup: int, total: int) -> list:
    """The recipe's rates: linear warm-up, then a cosine to 0, as configs write it."""
    cosine = dict(type='CosineAnnealingLR', by_epoch=False, begin=warmup, T_max=total - warmup)
    linear = dict(type='LinearLR', by_epoch=False, start_factor=1 / warmup, begin=0, end=warmup)
    return [PARAM_SCHEDULERS.build(dict(cfg, optimizer=optimizer)) for cfg in (linear, cosine)]


def released_name(name: str) -> str:
    """Our name of an entry in the official state dict."""
    for ours, official in (('backbone.', 'image_encoder.model.visual.'), ('head.', 'classification_head.')):
        if name.startswith(ours):
            return official + name.removeprefix(ours)
    return 'image_encoder.model.' + name.removeprefix('text_encoder.')


def test_every_official_number_is_reproduced(wise_ft_case, tmp_path):
    case = Case(wise_ft_case)
    config = case.config
    images, test = inputs(config['images']), inputs(config['test_images'])
    labels = case_labels(case)
    case.check('labels', torch.tensor(labels))
    model = classifier(
        config,
        tmp_path,
        dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates']),
        head=dict(type='vlm_dense.WiSEFTHead'),
        loss=dict(type='vlm_dense.CrossEntropy', label_smoothing=config['ls']),
        frozen_backbone=config['freeze_encoder'],
    )
    model.head.prepare(model, {})
    with torch.no_grad():
        case.check('mid/head_weight', model.head.weight)
        case.check('logits_zeroshot', model(test))
    zero_shot = {k: v.clone() for k, v in model.state_dict().items() if k.startswith(('backbone.', 'head.'))}
    # the official model also keeps what is around the blocks of its text tower, and the temperature
    around = [k for k in model.state_dict() if k.startswith('text_encoder.') and '.transformer.' not in k]
    names = sorted([*(released_name(k) for k in (*zero_shot, *around)), 'image_encoder.model.logit_scale'])
    assert names == sorted(config['state_dict_keys'])
    case.check('mid/num_state_keys', len(names))
    given = {name: array(f'{config["prefix"]}/x', (1,)) for name in config['state_dict_keys']}
    assert set(from_release(given)) == set(zero_shot)
    fishers = [
        from_release(
            {
                released_name(key): array(f'{config["prefix"]}/fisher{i}/{released_name(key)}', value.shape).abs()
                for key, value in zero_shot.items()
                if value.is_floating_point() and value.numel() < 70000
            }
        )
        for i in (0, 1)
    ]

    def train(prefix: str, optimizer: torch.optim.Optimizer, clip: float | None, schedulers: list) -> None:
        model.load_state_dict(zero_shot, strict=False)
        parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        wrapper = OPTIM_WRAPPERS.build(
            dict(type='OptimWrapper', optimizer=optimizer, clip_grad=dict(max_norm=clip) if clip else None)
        )
        model.train()
        for step in range(3):
            total, losses = model.parse_losses(model(images, labelled(labels), mode='loss'))
            if step == 0 and not prefix:
                case.check('loss', total)
                case.check('loss/ce', losses['loss_ce'])
                total.backward()
                grads = {released_name(name): p.grad for name, p in parameters.items() if p.grad is not None}
                for name in case.keys('grad/'):
                    case.check_grad(f'grad/{name}', grads[name])
                for name in case.keys('gradnorm/'):
                    case.check(f'gradnorm/{name}', grads[name].norm(), rtol=1e-3)
                norm = torch.stack([g.norm() for g in grads.values()]).norm()
                case.check('mid/grad_total_norm', norm, rtol=1e-3)
                wrapper.step()
                wrapper.zero_grad()
            else:
                wrapper.update_params(total)
            for scheduler in schedulers:
                scheduler.step()
        model.eval()

    def check_mixtures(prefix: str, tuned: dict, alphas: list[float], kind: str = 'wise', **options) -> None:
        for alpha in alphas:
            key = f'{prefix}{kind}/alpha{alpha:.3f}'
            mixed = interpolate(zero_shot, tuned, alpha, **options)
            model.load_state_dict(mixed, strict=False)
            compare(f'{key}/logits', model(test), prefix)
            if f'{key}/classification_head.weight' in case:
                compare(f'{key}/classification_head.weight', model.head.weight, prefix)

    def compare(key: str, value: torch.Tensor, prefix: str) -> None:
        if prefix and key.endswith('logits'):  # near-zero gradients make the sign of an update sensitive
            assert (value - torch.as_tensor(case[key])).abs().max() < 1e-3, key
        else:
            case.check(key, value, rtol=1e-3 if prefix else 1e-4)

    trained = [p for p in model.parameters() if p.requires_grad]
    assert (len(trained) == 2) == config['freeze_encoder']
    for prefix in ('', 'adamw/'):
        if prefix:
            optimizer = torch.optim.AdamW(trained, lr=config['adamw_lr'], weight_decay=config['wd'])
            train(prefix, optimizer, 1.0, schedule(optimizer, config['warmup'], config['total_steps']))
        else:
            train(prefix, torch.optim.SGD(trained, lr=config['sgd_lr']), None, [])
        tuned = {k: v.clone() for k, v in model.state_dict().items() if k in zero_shot}
        with torch.no_grad():
            compare(f'{prefix}after3/logits', model(test), prefix)
            compare(f'{prefix}after3/classification_head.weight', model.head.weight, prefix)
            compare(f'{prefix}after3/classification_head.bias', model.head.bias, prefix)
            check_mixtures(prefix, tuned, config['alphas'])
            if not prefix:
                model.load_state_dict(interpolate(zero_shot, tuned, 0.5), strict=False)
                case.check('logits', model(test))
                known = [float(key.split('/')[0]) for key in case.keys('fisher/alpha') if key.endswith('logits')]
                check_mixtures('', tuned, known, 'fisher', fishers=fishers, floor=config['fisher_floor'])

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-5)
    schedulers, rates = schedule(optimizer, 5, 20), []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    case.check('schedule/lr', torch.tensor(rates, dtype=torch.float64)[[0, 3, 4, 5, 10, 19]])
    assert math.isclose(rates[0], 3e-5 / 5)
    case.done()
