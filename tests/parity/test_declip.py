"""DeCLIP equals the official code: map and context of each mode, both losses, gradients, and the EVA tower."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from dense_case import image_of
from distillation_case import build, check_gradients, check_trained, eva_tower, samples_of
from official import Case, array
from test_proxyclip import load_proxy, proxy_of

from vlm_dense.methods.dense.affinity import IMAGENET_MEAN, IMAGENET_STD, cosines
from vlm_dense.methods.distillation.clipself import box_features


def _model(case: Case, mode: str):
    config = case.config
    model = build(
        config,
        type='vlm_dense.DeCLIP',
        backbone=dict(dense_attention=dict(type='vlm_dense.DeCLIPAttention', mode=mode)),
        proxy=proxy_of(config['vfm']),
        content_weight=config['loss_content_weight'],
        context_weight=config['loss_context_weight'],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    load_proxy(model.proxy.model, config['vfm'])
    model.proxy_input.come_from(IMAGENET_MEAN, IMAGENET_STD)  # as the drawn images of the proxy are
    return model.train()


def _check_mode(case: Case, mode: str, prefix: str = '') -> torch.nn.Module:
    model = _model(case, mode)
    images, samples = samples_of(case)
    proxies = image_of(case.config['proxy_image'])
    for sample, proxy in zip(samples, proxies, strict=True):
        sample.set_field(proxy, 'proxy')
    found = model.student_features(images)
    dense, grid = found.value, tuple(found.value.shape[2:])
    case.check(f'{prefix}mid/dense', dense[:, ::4])
    roi = box_features(dense, [sample.boxes for sample in samples], tuple(images.shape[2:]))
    case.check(f'{prefix}mid/student_roi', F.normalize(roi, dim=-1))
    case.check(f'{prefix}mid/student_similarity', cosines(found.key)[:, ::9])
    if not prefix:
        context = found.key.unflatten(2, (model.backbone.blocks[-1].num_heads, -1)).transpose(1, 2).flatten(0, 1)
        case.check('mid/context', context[:, ::5, ::8])
        crops = torch.cat([sample.crops for sample in samples])
        case.check('mid/teacher_crop', F.normalize(model.teacher_embeddings(crops), dim=-1))
        case.check('mid/teacher_similarity', model.proxy_similarities(proxies, grid)[:, ::9])
    losses = model.loss(images, samples)
    for name, value in losses.items():
        case.check(f'{prefix}losses/{name}', value)
    sum(losses.values()).backward()
    return model


@torch.no_grad()
def _check_eva(case: Case) -> None:
    config = case.config['eva']
    images, boxes = array(*config['image']), torch.from_numpy(case['normed_boxes'])[0]
    boxes = boxes[boxes[:, 4] > 0.5, :4] * images.shape[3]
    dense = {}
    for mode, step in (('qq', 4), ('csa', 8)):
        tower = eva_tower(config, dense_attention=dict(type='vlm_dense.DeCLIPAttention', mode=mode, scaled=False))
        found = tower.encode(images, ('value',))
        dense[mode] = found.value
        case.check('eva/dense' if mode == 'qq' else 'eva/dense_csa', found.value[:, ::step])
        if mode == 'qq':
            context = found.key.unflatten(2, (config['num_heads'], -1)).transpose(1, 2).flatten(0, 1)
            case.check('eva/context', context[:, ::3, ::8])
    roi = box_features(dense['qq'], [boxes] * len(images), tuple(images.shape[2:]))
    case.check('eva/roi', F.normalize(roi, dim=-1))


def test_every_official_number_is_reproduced(declip_case):
    case = Case(declip_case)
    mode = case.config['mode'].removesuffix('_vfm_distill')
    model = _check_mode(case, mode)
    check_trained(case, model.backbone)
    check_gradients(case, model.backbone)
    _check_mode(case, dict(qq='kk', kk='qq')[mode], 'alt/')
    with torch.no_grad():
        dense = _model(case, 'csa').student_features(image_of(case.config['image'])).value
    case.check('alt/dense_csa', dense[:, ::4])
    _check_eva(case)
    case.done()
