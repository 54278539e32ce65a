"""Tip-Adapter-F equals the official code: plain steps, the official optimiser, the choice of epoch and the search."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from adapter_case import accuracy, check_steps, tip_adapter
from official import Case, inputs
from text_prompt_case import labelled


def test_every_official_number_is_reproduced(tip_adapter_f_case, tmp_path):
    case = Case(tip_adapter_f_case)
    config = case.config
    model, data = tip_adapter(config, tmp_path, 'vlm_dense.TipAdapterF')
    head, test, val = model.head, inputs(config['images']['test']), inputs(config['images']['val'])
    batch, labels = inputs(config['images'][config['train_batch']]), config['train_labels']
    head.prepare(model, data)
    with torch.no_grad():
        case.check('mid/clip_weights', model.text_side.class_embeddings().T)
        case.check('mid/cache_keys', head.keys.T)
        case.check('mid/cache_values', head.values)
        case.check('mid/val_features', F.normalize(model.image_features(val).global_, dim=-1))
        case.check('mid/test_features', F.normalize(model.image_features(test).global_, dim=-1))
        for key, values in zip(('betas', 'alphas'), head.grid, strict=True):
            case.check(f'search/{key}', torch.tensor(values, dtype=torch.float64))
        case.check('logits', model(test))
        case.check('train_logits', model(batch))
    check_steps(case, model, batch, labels, {'adapter.weight': head.keys})
    with torch.no_grad():
        case.check('after3/logits', model(test))
        case.check('after3/train_logits', model(batch))

    head.prepare(model, data)
    options = dict(config['adamw'])
    steps, schedule = options.pop('steps'), options.pop('schedule')
    assert schedule.startswith('cosine')
    optimizer = torch.optim.AdamW(head.parameters(), **options)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses, rates, accuracies, weights = [], [], [], []
    for _ in range(steps):
        model.train()
        total, _ = model.parse_losses(model(batch, labelled(labels), mode='loss'))
        losses.append(total.item())
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            accuracies.append(accuracy(model.eval()(test), config['labels']).item())
        weights.append(head.keys.detach().clone())
    case.check('adamw3/losses', losses)
    case.check('adamw3/lrs', rates)
    assert (weights[-1] - torch.as_tensor(case['adamw3/adapter.weight'])).abs().max() < 4e-6
    case.check('adamw3/test_acc_per_epoch', accuracies)
    best = accuracies.index(max(accuracies))
    case.check('adamw3/best_epoch', best)
    case.check('adamw3/best_weight', weights[best])
    with torch.no_grad():
        case.check('adamw3/logits', model(test))
        torch.save(weights[best], tmp_path / 'best_F.pt')
        paths = dict(keys='keys.pt', values='values.pt', trained='best_F.pt')
        torch.save(head.keys.detach().T.contiguous(), tmp_path / 'keys.pt')
        torch.save(head.values.half(), tmp_path / 'values.pt')
        released = model.build_part(
            dict(
                type='vlm_dense.TipAdapterF',
                shots=head.shots,
                search_scale=head.search_scale,
                search_step=head.search_step,
                pretrained={name: str(tmp_path / path) for name, path in paths.items()},
            ),
            model.class_names,
        )
        model.head = head = released
        head.finish(model, data)
        case.check('search/adamw3_val_acc', head.search_accuracy)
        case.check('search/adamw3_best_beta', head.beta)
        case.check('search/adamw3_best_alpha', head.alpha)
        case.check('adamw3/logits_best', model(test))
    case.done()
