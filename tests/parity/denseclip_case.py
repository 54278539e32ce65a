"""What the official numbers of DenseCLIP's segmentors and detectors have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from official import TINY, Case, array, fill, tiny_clip


def text_encoder(cfg: dict) -> dict:
    """Our config of an official text encoder config."""
    arch = copy.deepcopy(TINY['vit'])
    arch['embed_dim'] = cfg['embed_dim']
    arch['text_cfg'].update(
        width=cfg['transformer_width'], heads=cfg['transformer_heads'], layers=cfg['transformer_layers']
    )
    return dict(type='vlm_dense.TextTower', arch=arch, context_length=cfg['context_length'])


def text_branch(config: dict) -> dict:
    """Our config of what an official model says about text."""
    official = config['model']
    decoder = official['context_decoder']
    return dict(
        class_names=official['class_names'],
        text_encoder=text_encoder(official['text_encoder']),
        text_prompt=dict(
            type='vlm_dense.DenseCLIPPrompt',
            num_contexts=config['init']['contexts'][1][1],
            name_length=official['context_length'],
        ),
        context_decoder=dict(
            type='vlm_dense.ContextDecoder',
            width=decoder['transformer_width'],
            heads=decoder['transformer_heads'],
            layers=decoder['transformer_layers'],
            dropout=decoder['dropout'],
        ),
        tau=official['tau'],
    )


def segmentor(config: dict, backbone: dict) -> dict:
    """Our config of an official segmentor."""
    official = config['model']
    identity = official['identity_head']
    return dict(
        type='vlm_dense.DenseCLIP',
        backbone=backbone,
        **text_branch(config),
        neck=dict(official['neck'], type='mmseg.FPN'),
        decode_head=dict(official['decode_head'], type='mmseg.FPNHead'),
        identity_head=dict(
            type='vlm_dense.IdentityHead',
            align_corners=identity['align_corners'],
            loss_decode=dict(identity['loss_decode'], type='mmseg.CrossEntropyLoss'),
        ),
        score_concat_index=official['score_concat_index'],
        train_cfg=official['train_cfg'],
        test_cfg=official['test_cfg'],
    )


def clip_resnet(cfg: dict, **extra) -> dict:
    """Our config of an official ``CLIPResNetWithAttention``."""
    arch = copy.deepcopy(TINY['resnet'])
    arch['vision_cfg'].update(layers=cfg['layers'], width=cfg['width'], image_size=cfg['input_resolution'])
    arch['embed_dim'] = cfg['output_dim']
    return dict(type='vlm_dense.CLIPResNet', arch=arch, attnpool=True, **extra)


def own_name(key: str) -> str:
    return 'text_prompt.contexts' if key == 'contexts' else key


def load_official(model: torch.nn.Module, config: dict, clip: dict[str, torch.Tensor]) -> None:
    """Load a checkpoint in the layout of the official release, with the case's numbers.

    Args:
        clip: State dict of the tiny CLIP behind ``backbone.*`` and ``text_encoder.*``.
    """
    if 'attnpool_num_heads' in config:
        for m in model.modules():
            if hasattr(m, 'num_heads') and hasattr(m, 'c_proj'):
                m.num_heads = config['attnpool_num_heads']
    weights, filled = {}, set()
    for own, value in model.state_dict().items():
        key = own.replace('text_prompt.contexts', 'contexts')
        source = key.replace('backbone.', 'visual.').removeprefix('text_encoder.')
        if key in ('contexts', 'gamma'):
            weights[key] = array(*config['init'][key])
        elif key.startswith(('backbone.', 'text_encoder.')) and source in clip:
            weights[key] = clip[source]
        else:
            weights[key] = fill(key, tuple(value.shape))
            filled.add(key)
    weights['text_encoder.positional_embedding'] = clip['positional_embedding'][: config['text_encoder_context_length']]
    assert filled == set(config['filled_keys'])
    missing, unexpected = model.load_state_dict(weights)
    assert not missing and not unexpected


def tiny(config: dict) -> dict[str, torch.Tensor]:
    return tiny_clip(config.get('clip', 'vit'))


def seg_samples(labels: torch.Tensor) -> list[SegDataSample]:
    """(B, 1, H, W) labels as mmseg samples."""
    shape = labels.shape[2:]
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape)
    return [SegDataSample(gt_sem_seg=PixelData(data=x), metainfo=meta) for x in labels]


def every(x: torch.Tensor, n: int) -> torch.Tensor:
    """Every (C/n)-th channel."""
    return x[:, :: max(x.shape[1] // n, 1)]


def train(case: Case, model: torch.nn.Module, losses_of: Callable[[], dict]) -> None:
    """The official SGD steps: losses of each, terms and gradients of the first; leaves the model in eval mode.

    Args:
        losses_of: Computes the losses of the batch under their official names.
    """
    sgd = case.config['sgd']
    backbone = list(model.backbone.parameters())
    others = [p for n, p in model.named_parameters() if not n.startswith(('backbone.', 'text_encoder.'))]
    rate = next(v for k, v in sgd.items() if k.startswith('backbone') and k.endswith('lr'))
    optimizer = torch.optim.SGD([dict(params=backbone, lr=rate), dict(params=others, lr=sgd['lr'])])
    for key in case.keys('gradnorm/text_encoder.'):  # frozen here, learning rate 0 in the official recipe
        model.text_encoder.get_parameter(key).requires_grad_(True)
    model.train()
    for step in range(sgd['steps']):
        losses = losses_of()
        total, _ = model.parse_losses(losses)
        if f'loss_step{step}' in case:
            case.check(f'loss_step{step}', total)
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            case.check('loss', total)
            for name in case.keys('loss/'):
                value = losses[name]
                case.check(f'loss/{name}', sum(value) if isinstance(value, (list, tuple)) else value)
            check_gradients(case, model)
        optimizer.step()
    model.eval()


def check_gradients(case: Case, model: torch.nn.Module) -> None:
    parameters = dict(model.named_parameters())
    for key in case.keys('grad/'):
        case.check_grad(f'grad/{key}', parameters[own_name(key)].grad)
    for key in case.keys('gradnorm/'):
        case.check_grad(f'gradnorm/{key}', parameters[own_name(key)].grad.norm())


def check_weights(case: Case, model: torch.nn.Module, seen: tuple[str, ...]) -> None:
    """Compare every ``after3/*`` that is no activation (those are ``seen``)."""
    state = model.state_dict()
    for key in case.keys('after3/'):
        if key not in seen:
            case.check(f'after3/{key}', state[own_name(key)])
