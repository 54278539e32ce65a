"""DualCoOp equals the official code: regions, both prompts, the asymmetric loss on some labels and classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import TINY, Case, inputs, tiny_clip
from text_prompt_case import by_own_name, set_parameters

from vlm_dense.classification import ClsDataSample
from vlm_dense.registry import MODELS


class Chosen(MODELS.get('vlm_dense.AsymmetricLoss')):
    """Draws the given classes."""

    chosen: list[int]

    def classes(self, data_samples):
        return torch.tensor(self.chosen)


def samples(labels: list[list[int]]) -> list:
    return [ClsDataSample(gt_labels=torch.tensor(row)) for row in labels]


def test_every_official_number_is_reproduced(dualcoop_case, tmp_path):
    case = Case(dualcoop_case)
    config = case.config
    torch.save(tiny_clip(config['clip']), tmp_path / 'clip.pt')
    clip = dict(arch=TINY[config['clip']], pretrained=str(tmp_path / 'clip.pt'))
    words = [config.get('init_pos'), config.get('init_neg')]
    asymmetric = dict(gamma_pos=config['gamma_pos'], gamma_neg=config['gamma_neg'], **config['asl'])
    model = MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            backbone=dict(type='vlm_dense.CLIPResNet', attnpool=True, attnpool_positions='bicubic', **clip),
            text_encoder=dict(type='vlm_dense.TextTower', **clip),
            text_prompt=dict(
                type='vlm_dense.DualCoOpPrompt',
                num_contexts=[config['n_ctx_pos'], config['n_ctx_neg']],
                words=words if all(words) else None,
                class_specific=config['csc'],
            ),
            loss=dict(type='vlm_dense.AsymmetricLoss', weight=config['loss_w'], **asymmetric),
            class_names=config['classnames'],
        )
    ).eval()
    prompt, images = model.text_prompt, inputs(config['images'])
    set_parameters(prompt, config['params'])

    def scores() -> torch.Tensor:
        features, text = model.text_side.encode(model.backbone, images, prompt.features)
        return prompt.logits(features, prompt.classifier_weights(text)[None], torch.tensor(1.0))

    with torch.no_grad():
        features, text = model.text_side.encode(model.backbone, images, prompt.features)
        regions, text = F.normalize(features.regions, dim=-1), prompt.classifier_weights(text).flatten(0, 1)
        case.check('mid/text_features', text)
        case.check('mid/region_features', regions.transpose(1, 2))
        case.check('mid/similarity', torch.einsum('bid,kd->bki', regions, text))
        official = case['mid/attnpool_positional_embedding']
        if official.size:
            side, tower = config['size'] // 32, model.backbone
            positions = tower.pool_tokens(torch.zeros(1, tower.width, side, side))[0]
            case.check('mid/attnpool_positional_embedding', positions)
        case.check('logits', scores())
        case.check('mid/prob_pos', model(images).sigmoid())

    def loss_of(labels, weight=1.0, cls_id=None) -> torch.Tensor:
        cfg = dict(type='vlm_dense.AsymmetricLoss', weight=weight, **asymmetric)
        model.loss_function = MODELS.build(dict(cfg, type=Chosen) if cls_id else cfg)
        model.loss_function.chosen = cls_id
        return model.parse_losses(model(images, samples(labels), mode='loss'))[0]

    with torch.no_grad():
        case.check('loss/full_labels', loss_of(config['labels_full']))
        case.check('loss/partial_labels', loss_of(config['labels']))
        case.check('loss/subset', loss_of(config['labels_full'], cls_id=config['cls_id']))
        features, text = model.text_side.encode(model.backbone, images, prompt.features, torch.tensor(config['cls_id']))
        case.check(
            'mid/logits_subset', prompt.logits(features, prompt.classifier_weights(text)[None], torch.tensor(1.0))
        )

    trained = {'ctx_pos': prompt.positive.ctx, 'ctx_neg': prompt.negative.ctx}
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in trained.values()}
    optimizer = torch.optim.SGD(trained.values(), lr=config['sgd']['lr'])
    model.train()
    for step in range(config['sgd']['steps']):
        total = loss_of(config['labels'], config['loss_w'])
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            case.check('loss', total)
            for name in trained:
                if f'gradnorm/{name}' in case:
                    case.check(f'gradnorm/{name}', trained[name].grad.norm(), rtol=1e-3)
                if f'grad/{name}' in case:
                    case.check_grad(f'grad/{name}', by_own_name(prompt, name, lambda p: p.grad))
        optimizer.step()
    with torch.no_grad():
        case.check('after3/loss', loss_of(config['labels'], config['loss_w']), rtol=1e-3)
        model.eval()
        case.check('after3/logits', scores(), rtol=1e-3)
        for name, parameter in trained.items():
            if f'after3/{name}' in case:
                case.check(f'after3/{name}', parameter, rtol=1e-3)
            if f'after3norm/{name}' in case:
                case.check(f'after3norm/{name}', parameter.norm(), rtol=1e-3)
    case.done()
