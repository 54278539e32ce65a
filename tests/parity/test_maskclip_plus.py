"""MaskCLIP+ equals the official code: labels of every iteration, losses, gradients, logits before and after."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from official import TINY, Case, array, fill, integers, tiny_clip
from safetensors.torch import save_file

from vlm_dense.registry import MODELS

OPTIONS = (
    'unlabeled_cats',
    'clip_unlabeled_cats',
    'start_clip_guided',
    'start_self_train',
    'conf_thresh',
    'distill',
    'distill_labeled',
    'distill_weight',
)
TOWERS = dict(vit='vlm_dense.MaskCLIPViT', resnet='vlm_dense.MaskCLIPResNet')
CELL = 16


def _build(config: dict, options: dict, weights: str, **changes) -> torch.nn.Module:
    """The model of a case, in train mode and with the official weights."""
    clip = dict(arch=copy.deepcopy(TINY[config['clip']]), pretrained=weights)
    model = MODELS.build(
        dict(
            type='vlm_dense.MaskCLIPPlus',
            class_names=['background'] * options['cls_bg'] + config['classnames'],
            backbone=dict(type='mmseg.ResNet', depth=18),
            teacher=dict(
                type='vlm_dense.MaskCLIP',
                backbone=dict(type=TOWERS[config['clip']], **clip),
                text_encoder=dict(type='vlm_dense.TextTower', **clip),
                text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates']),
                decode_head=dict(pd_thresh=options['pd_thresh'], ks_thresh=options['ks_thresh']),
            ),
            decode_head=dict(
                decode_module=dict(
                    type='vlm_dense.ASPPHeadV2',
                    in_channels=config['in_channels'],
                    dilations=config['dilations'],
                    norm_cfg=dict(type='BN'),
                ),
                cls_bg=options['cls_bg'],
                norm_feat=options['norm_feat'],
            ),
            **{k: options[k] for k in OPTIONS if k in options},
            **changes,
        )
    )
    features = array(*config['features'])
    model.backbone.forward = lambda images: (features,)
    filled = set()
    state = model.decode_head.state_dict(prefix='decode_head.')
    for key, value in state.items():
        if key.startswith('decode_head.decode_module.'):
            value.copy_(fill(key, tuple(value.shape)))
            filled.add(key)
    assert filled == set(config['filled_keys'])
    if options['cls_bg']:
        state['decode_head.bg_embeddings'].copy_(
            array('decode_head.bg_embeddings', (1, model.decode_head.channels), 0.125)
        )
    return model.train()


def _labels(config: dict, options: dict) -> torch.Tensor:
    """Cells of labels (B, 1, H/16, W/16)."""
    rows, columns = (side // CELL for side in config['img_size'])
    classes = len(config['classnames']) + options['cls_bg']
    cells = integers(f'{config["prefix"]}/labels', config['batch'] * rows * columns, classes + 2)
    cells[cells == classes] = 255
    cells[cells == classes + 1] = -1
    for cat in (*options['unlabeled_cats'], *options['clip_unlabeled_cats']):
        cells[cells == cat] = -1
    return cells.reshape(config['batch'], 1, rows, columns)


def _samples(cells: torch.Tensor) -> list[SegDataSample]:
    labels = cells.repeat_interleave(CELL, dim=2).repeat_interleave(CELL, dim=3)
    return [SegDataSample(gt_sem_seg=PixelData(data=x)) for x in labels]


def _watch_labels(model) -> list[torch.Tensor]:
    """Labels (B, 1, H, W) that reach the loss, one entry an iteration."""
    seen, loss_by_feat = [], model.decode_head.loss_by_feat

    def watched(logits, samples):
        seen.append(torch.stack([s.gt_sem_seg.data for s in samples]))
        return loss_by_feat(logits, samples)

    model.decode_head.loss_by_feat = watched
    return seen


def _check_gradients(case: Case, prefix: str, model) -> None:
    parameters = dict(model.named_parameters())
    for key in case.keys(f'{prefix}grad/'):
        grad = parameters[key].grad
        case.check_grad(f'{prefix}grad/{key}', torch.zeros_like(parameters[key]) if grad is None else grad)
    for key in case.keys(f'{prefix}gradnorm/'):
        case.check_grad(f'{prefix}gradnorm/{key}', parameters[key].grad.norm())


def _check_case(case: Case, name: str, options: dict, weights: str) -> None:
    config = case.config
    images, cells = array(*config['image']), _labels(config, options)
    case.check(f'{name}/gt', cells)
    model = _build(config, options, weights, distill_detach=True)
    optimizer = torch.optim.SGD([p for p in model.decode_head.parameters() if p.requires_grad], lr=config['lr'])
    seen, totals = _watch_labels(model), []
    for step in range(options['steps']):
        losses = model.loss(images, _samples(cells))
        total, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        totals.append(total.item())
        case.check(f'{name}/pseudo_label{step}', seen[step][:, :, ::2, ::2])
        if step == 0:
            case.check(f'{name}/loss', total)
            for part in case.keys(f'{name}/loss/'):
                case.check(f'{name}/loss/{part}', losses[f'decode.{part}'])
            _check_gradients(case, f'{name}/', model)
        optimizer.step()
    case.check(f'{name}/losses', torch.tensor(totals, dtype=torch.float64))
    with torch.no_grad():
        case.check(f'{name}/after{options["steps"]}/logits', model.eval()._forward(images))
    if options.get('distill'):
        model = _build(config, options, weights)
        total, _ = model.parse_losses(model.loss(images, _samples(cells)))
        total.backward()
        case.check(f'{name}/alt_with_gradient/loss', total)
        _check_gradients(case, f'{name}/alt_with_gradient/', model)


@pytest.fixture
def clip_weights(maskclip_plus_case, tmp_path):
    """A file with the weights of the case's CLIP."""
    weights = tiny_clip(Case(maskclip_plus_case).config['clip'])
    path = str(tmp_path / 'clip.safetensors')
    save_file({k: v.contiguous() for k, v in weights.items()}, path)
    return path


def test_every_official_number_is_reproduced(maskclip_plus_case, clip_weights):
    case = Case(maskclip_plus_case)
    config = case.config
    cases = {name: {**config, **own} for name, own in config['cases'].items()}
    model = _build(config, next(iter(cases.values())), clip_weights).eval()
    with torch.no_grad():
        case.check('logits', model._forward(array(*config['image'])))
    case.check('text_embeddings', model.decode_head.text_embeddings)
    for name, options in cases.items():
        _check_case(case, name, options, clip_weights)
    case.done()
