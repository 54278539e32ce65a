"""DenseCLIP on a backbone without CLIP: pool, score map, logits, losses, gradients and three steps are official."""

from __future__ import annotations

import torch
from denseclip_case import check_weights, load_official, seg_samples, segmentor, text_branch, tiny, train
from mmengine.model import BaseModule
from mmengine.model.utils import revert_sync_batchnorm
from official import Case, array, integers

from vlm_dense.registry import MODELS


@MODELS.register_module()
class GivenFeatures(BaseModule):
    """A backbone with given arrays as stages, as in the official run."""

    def __init__(self, features: list):
        super().__init__()
        self.stages = tuple(array(*entry) for entry in features)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert len(images) == len(self.stages[0])
        return self.stages


def _backbone(config: dict) -> dict:
    pool = config['model']['backbone']
    return dict(
        type='vlm_dense.PooledBackbone',
        backbone=dict(type='vlm_dense.GivenFeatures', features=config['features']),
        channels=config['feature_channels'],
        embed_dim=pool['text_dim'],
        input_resolution=32 * config['spacial_dim'],
        heads=config['heads'],
    )


def _check_forward(case: Case, model: torch.nn.Module, images: torch.Tensor) -> None:
    features = model.backbone.encode(images, ('stages', 'global', 'dense'))
    g, z = features.global_, features.dense
    case.check('mid/global_feat', g)
    case.check('mid/visual_embeddings', z)
    case.check('mid/texts', model.text_prompt.token_ids)
    text = model.text_side.class_embeddings(g).expand(len(g), -1, -1)
    delta = model.context_decoder(text, torch.cat([g[:, None], z.flatten(2).transpose(1, 2)], dim=1))
    case.check('mid/text_embeddings_after', text + model.gamma * delta)
    case.check('mid/score_map', model.guide(images)[1])
    for i, x in enumerate(model.extract_feat(images)):
        case.check(f'mid/neck{i}_slice', x[:, ::4])
    case.check('logits', model._forward(images))


def test_every_official_number_is_reproduced(denseclip_any_case):
    case = Case(denseclip_any_case)
    config = case.config
    assert text_branch(config)['class_names'] == config['classnames']
    model = revert_sync_batchnorm(MODELS.build(segmentor(config, _backbone(config)))).eval()
    load_official(model, config, tiny(config))
    images = torch.zeros(config['batch'], 3, *config['size'])
    with torch.no_grad():
        _check_forward(case, model, images)
    kind, *labels = config['gt']
    assert kind == 'integers'
    labels = integers(*labels).reshape(config['batch'], 1, *config['size'])
    labels[labels == len(config['classnames'])] = 255
    train(case, model, lambda: model.loss(images, seg_samples(labels)))
    with torch.no_grad():
        case.check('after3/logits', model._forward(images), rtol=1e-3)
        case.check('after3/score_map', model.guide(images)[1], rtol=1e-3)
    check_weights(case, model, ('logits', 'score_map'))
    case.done()
