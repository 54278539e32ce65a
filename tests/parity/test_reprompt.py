"""RePrompt equals its equations: database, retrieval, prompts, logits, loss, three steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from adapter_case import loader
from official import Case, inputs, integers
from text_prompt_case import classifier, labelled, value_of

from vlm_dense.contract import CosineHead


def known(labels: list[int], rows: list[int]) -> list:
    """Samples of images with the paths of these rows of the database."""
    samples = labelled(labels)
    for sample, row in zip(samples, rows, strict=True):
        sample.set_metainfo(dict(img_path=f'{row}.png'))
    return samples


def test_every_official_number_is_reproduced(reprompt_case, tmp_path):
    case = Case(reprompt_case)
    config = case.config
    shots, count = config['shots'], len(config['classnames'])
    database, images = inputs(config['db']), inputs(config['images_eval'])
    every = [row // shots for row in range(shots * count)]
    rows = config['train_idx']
    rows = integers(*rows[1:]).tolist() if rows[0] == 'integers' else rows
    labels = [every[row] for row in rows]
    model = classifier(
        config,
        tmp_path,
        dict(type='vlm_dense.ZeroShotPrompt', templates=[config['template']], separators='_'),
        data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor'),
        image_prompt=dict(
            type='vlm_dense.RePrompt',
            shots=shots,
            num_tokens=config['n_prompts'],
            depth=config['depth'],
            num_neighbours=config['k'],
            tau=config['tau'],
            gamma=config['gamma'],
            least=config['p_min'],
            alpha=config['alpha'],
            beta=config['beta'],
        ),
    )
    part = model.image_prompt
    assert model.role(CosineHead) is part
    named = {
        'prompts': part.prompts,
        'proj.weight': part.proj.weight,
        'proj.bias': part.proj.bias,
        'adapter_keys': part.keys,
    }
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in named.values()}
    for name, entry in config['params'].items():
        value = value_of(entry)
        if value is not None:
            named[name].data.copy_(value)
    support = loader(database, every, 7)
    support.collate_fn = Numbered(support.collate_fn)
    part.prepare(model, dict(support=support))

    with torch.no_grad():
        case.check('mid/keys', part.database)
        plain = model.backbone.encode(images, ('global',)).global_
        neighbours, retrieved, knn = part.retrieve(plain)
        case.check('mid/neighbours', neighbours)
        case.check('mid/retrieved', retrieved)
        case.check('mid/p_knn', knn)
        features, text = model.text_side.encode(model.backbone, images, ('global',))
        case.check('mid/image_features', F.normalize(features.global_, dim=-1))
        scale = model.text_encoder.logit_scale.exp()
        case.check('mid/clip_logits', CosineHead.logits(part, features, text, scale))
        case.check('mid/adapter_logits', part.retrieved(part.affinity(features.global_), part.beta))
        case.check('logits', model(images))
        part.mix = config['lambda_knn']
        case.check('logits_interpolated_prob', model(images).exp())
        part.mix = 0.0

    batch, samples = database[rows], known(labels, rows)
    optimizer = torch.optim.SGD(named.values(), lr=config['sgd']['lr'])
    model.train()
    for step in range(config['sgd']['steps']):
        total, _ = model.parse_losses(model(batch, samples, mode='loss'))
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            case.check('loss', total)
            case.check('mid/p_knn_train', part._knn)
            right = part._knn[torch.arange(len(labels)), labels].clamp(min=part.least)
            case.check('loss/mean_weight', (1 - part.gamma * right.log()).mean())
            part.gamma, gamma = 0.0, part.gamma
            with torch.no_grad():
                case.check('loss/ce', model.parse_losses(model(batch, samples, mode='loss'))[0])
            part.gamma = gamma
            for name in case.keys('grad/'):
                case.check_grad(f'grad/{name}', named[name].grad)
            for name in case.keys('gradnorm/'):
                case.check(f'gradnorm/{name}', named[name].grad.norm(), rtol=1e-3)
        optimizer.step()
    with torch.no_grad():
        case.check('after3/loss', model.parse_losses(model(batch, samples, mode='loss'))[0], rtol=1e-3)
        model.eval()
        case.check('after3/logits', model(images), rtol=1e-3)
        for name in set(case.keys('after3/')) - {'loss', 'logits'}:
            case.check(f'after3/{name}', named[name], rtol=1e-3)
        for name in case.keys('after3norm/'):
            case.check(f'after3norm/{name}', named[name].norm(), rtol=1e-3)
    case.done()


class Numbered:
    """Gives the samples of an ordered loader the paths of their rows."""

    def __init__(self, collate):
        self.collate, self.row = collate, 0

    def __call__(self, rows: list):
        batch = self.collate(rows)
        for sample in batch['data_samples']:
            sample.set_metainfo(dict(img_path=f'{self.row}.png'))
            self.row += 1
        return batch
