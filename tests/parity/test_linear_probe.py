"""The linear probe equals the official protocol, with scikit-learn as it stops and with exact optima."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from official import Case, array, inputs
from text_prompt_case import classifier, labelled
from torch.utils.data import DataLoader

from vlm_dense.clip.image_tower import ImageFeatures


def features_of(config: dict, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Synthetic features (N, D) and labels (N,) of a split."""
    classes, dim, prefix = config['num_classes'], config['dim'], config['prefix']
    count = classes * config[f'n_{split}']
    labels = torch.arange(count) % classes
    means = array(f'{prefix}/means', (classes, dim), config['mean_scale'])
    return means[labels] + array(f'{prefix}/{split}', (count, dim), config['noise_scale']), labels


def loader(features: torch.Tensor, labels: torch.Tensor) -> DataLoader:
    samples = [
        dict(inputs=dict(global_=x), data_samples=sample)
        for x, sample in zip(features, labelled(labels.tolist()), strict=True)
    ]
    return DataLoader(samples, 64, collate_fn=pseudo_collate)


@pytest.mark.parametrize('solver', ['sklearn', 'exact'])
def test_every_official_number_is_reproduced(linear_probe_case, tmp_path, solver):
    case = Case(linear_probe_case)
    config = dict(case.config, classnames=[f'class {number}' for number in range(case.config['num_classes'])])
    data = {split: features_of(config, split) for split in ('train', 'val', 'test')}
    loaders = dict(support=loader(*data['train']), search=loader(*data['val']))
    test, truth = data['test']
    model = classifier(
        config,
        tmp_path,
        dict(type='vlm_dense.ZeroShotPrompt'),
        head=dict(type='vlm_dense.LinearProbe', solver=solver),
        data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor'),
    )
    if model.backbone.embed_dim != config['dim']:  # features of no tower
        model.backbone.embed_dim = config['dim']

    def probe(**options) -> torch.nn.Module:
        cfg = dict(type='vlm_dense.LinearProbe', solver=solver, strengths=config['search_list'], **options)
        model.head = model.build_part(cfg, model.class_names)
        return model.head

    def percent(weight: torch.Tensor, bias: torch.Tensor) -> float:
        return 100 * ((test.double() @ weight.T + bias).argmax(1) == truth).double().mean().item()

    one = 100 / len(truth)  # a sample on the boundary may fall to either side
    tight = '' if solver == 'sklearn' else 'tight/'
    drawn = {}
    for row, shots in enumerate(config['shots']):
        last = []
        for column, seed in enumerate(range(1, config['num_run'] + 1)):
            head = probe(shots=shots, seed=seed, steps=config['num_step'])
            drawn[shots, seed] = head.draw(data['train'][1], data['val'][1])
            for name, indices in zip(('train', 'val'), drawn[shots, seed], strict=True):
                case.check(f'draw/{name}_idx/shot{shots}/seed{seed}', indices)
            head.prepare(model, loaders)
            place = row, column
            np.testing.assert_allclose(head.grid_accuracy, case[f'{tight}search/grid_val_acc'][place], atol=1e-9)
            left, right, chosen = (np.array(values) for values in zip(*head.bisections, strict=True))
            np.testing.assert_allclose(chosen, case[f'{tight}search/c'][place], rtol=1e-9)
            if solver == 'sklearn':
                np.testing.assert_allclose(100 * left, case['search/val_acc_left'][place], atol=0.0051)
                np.testing.assert_allclose(100 * right, case['search/val_acc_right'][place], atol=0.0051)
            train = [x[drawn[shots, seed][0]] for x in data['train']]
            fits = {c: percent(*head.fit(*train, c)) for c in set(chosen)}
            found = [fits[c] for c in chosen]
            np.testing.assert_allclose(found, case[f'{tight}search/test_acc'][place], atol=0.0051 + one * bool(tight))
            logits = model(ImageFeatures(global_=test))
            assert 100 * (logits.argmax(1) == truth).double().mean().item() == pytest.approx(found[-1], abs=one)
            last.append(found[-1])
        np.testing.assert_allclose(np.mean(last), case[f'{tight}final/mean'][row], atol=0.0051 + one * bool(tight))
        np.testing.assert_allclose(np.std(last), case[f'{tight}final/std'][row], atol=0.0051 + one * bool(tight))

    head, kind = probe(), 'sk' if solver == 'sklearn' else 'tight'
    train = [x[torch.as_tensor(case['draw/train_idx/shot8/seed1'])] for x in data['train']]
    for key in {name.split('/')[0] for name in case.keys(f'{kind}/C')}:
        weight, bias = head.fit(*train, float(key))
        case.check(f'{kind}/C{key}/coef', weight)
        case.check(f'{kind}/C{key}/intercept', bias)
        if solver == 'exact':
            loss = torch.nn.functional.cross_entropy(train[0].double() @ weight.T + bias, train[1], reduction='sum')
            case.check(f'tight/C{key}/objective', 0.5 * (weight * weight).sum() + float(key) * loss)
            case.check(f'tight/C{key}/logits', test.double() @ weight.T + bias)
            if key == '1':
                head.weight.copy_(weight)
                head.bias.copy_(bias)
                head.prepared = True
                case.check('logits', model(ImageFeatures(global_=test)))
    with torch.no_grad():
        case.check('mid/extracted_features', model.image_features(inputs(config['images'])).global_)
    other = ('tight/', 'logits') if solver == 'sklearn' else ('search/', 'final/', 'sk/')
    case.unread = {key for key in case.unread if not key.startswith(other)}
    case.done()
