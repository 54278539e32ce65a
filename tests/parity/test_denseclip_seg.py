"""DenseCLIP equals the official code: features, text, score map, logits, losses, gradients, three steps."""

from __future__ import annotations

import copy

import torch
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from official import TINY, Case, array, fill, inputs, integers, tiny_clip

from vlm_dense.registry import MODELS


def _backbone(cfg: dict) -> dict:
    """Our config of an official backbone config."""
    cfg = dict(cfg)
    kind = cfg['type']
    if kind == 'CLIPResNetWithAttention':
        arch = copy.deepcopy(TINY['resnet'])
        arch['vision_cfg'].update(layers=cfg['layers'], width=cfg['width'])
        extra = dict(type='vlm_dense.CLIPResNet', attnpool=True)
    else:
        assert kind == 'CLIPVisionTransformer', kind
        arch = copy.deepcopy(TINY['vit'])
        arch['vision_cfg'].update(
            patch_size=cfg['patch_size'],
            width=cfg['width'],
            layers=cfg['layers'],
            head_width=cfg['width'] // cfg['heads'],
        )
        extra = dict(
            type='vlm_dense.CLIPViT',
            head=True,
            pyramid=True,
            double_class_embedding=True,
            out_indices=cfg['out_indices'],
        )
    arch['vision_cfg']['image_size'] = cfg['input_resolution']
    arch['embed_dim'] = cfg['output_dim']
    return dict(arch=arch, **extra)


def _text_encoder(cfg: dict) -> dict:
    arch = copy.deepcopy(TINY['vit'])
    arch['embed_dim'] = cfg['embed_dim']
    arch['text_cfg'].update(
        width=cfg['transformer_width'], heads=cfg['transformer_heads'], layers=cfg['transformer_layers']
    )
    return dict(type='vlm_dense.TextTower', arch=arch, context_length=cfg['context_length'])


def _build(config: dict) -> torch.nn.Module:
    official = config['model']
    decoder = official['context_decoder']
    head = dict(official['decode_head'], type='mmseg.FPNHead')
    identity = official['identity_head']
    model = MODELS.build(
        dict(
            type='vlm_dense.DenseCLIP',
            class_names=official['class_names'],
            backbone=_backbone(official['backbone']),
            text_encoder=_text_encoder(official['text_encoder']),
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
            neck=dict(official['neck'], type='mmseg.FPN'),
            decode_head=head,
            identity_head=dict(
                type='vlm_dense.IdentityHead',
                align_corners=identity['align_corners'],
                loss_decode=dict(identity['loss_decode'], type='mmseg.CrossEntropyLoss'),
            ),
            score_concat_index=official['score_concat_index'],
            tau=official['tau'],
            train_cfg=official['train_cfg'],
            test_cfg=official['test_cfg'],
        )
    )
    model = revert_sync_batchnorm(model)
    for m in model.modules():
        if hasattr(m, 'num_heads') and hasattr(m, 'c_proj'):
            m.num_heads = config.get('attnpool_num_heads', m.num_heads)
    weights = _official_weights(model, config)
    missing, unexpected = model.load_state_dict(weights)
    assert not missing and not unexpected
    return model


def _official_name(key: str) -> str:
    return key.replace('text_prompt.contexts', 'contexts')


def _own_name(key: str) -> str:
    return 'text_prompt.contexts' if key == 'contexts' else key


def _official_weights(model: torch.nn.Module, config: dict) -> dict[str, torch.Tensor]:
    """A checkpoint in the layout of the official release, with the case's numbers."""
    clip = tiny_clip(config['clip'])
    weights, filled = {}, set()
    for own, value in model.state_dict().items():
        key = _official_name(own)
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
    return weights


def _samples(labels: torch.Tensor) -> list[SegDataSample]:
    """(B, 1, H, W) labels as mmseg samples."""
    shape = labels.shape[2:]
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape)
    return [SegDataSample(gt_sem_seg=PixelData(data=x), metainfo=meta) for x in labels]


def _every(x: torch.Tensor, n: int) -> torch.Tensor:
    return x[:, :: max(x.shape[1] // n, 1)]


def _check_forward(case: Case, model: torch.nn.Module, images: torch.Tensor) -> None:
    features = model.backbone.encode(images, ('stages', 'global', 'dense'))
    for i, stage in enumerate(features.stages):
        case.check(f'mid/stage{i}_slice', _every(stage, 4))
        case.check(f'mid/stage{i}_l2', stage.norm())
    g, z = features.global_, features.dense
    case.check('mid/global_feat', g)
    case.check('mid/visual_embeddings', z)
    case.check('mid/texts', model.text_prompt.token_ids)
    text = model.class_embeddings(g)
    case.check('mid/text_embeddings', text[None])
    batch = text.expand(len(g), -1, -1)
    delta = model.context_decoder(batch, torch.cat([g[:, None], z.flatten(2).transpose(1, 2)], dim=1))
    case.check('mid/text_diff', delta, rtol=1e-5)
    case.check('mid/text_embeddings_after', batch + model.gamma * delta)
    stages, score, _ = model.guide(images)
    case.check('mid/score_map', score)
    case.check('mid/concat_channels', [s.shape[1] for s in stages])
    for i, x in enumerate(model.extract_feat(images)):
        case.check(f'mid/neck{i}_slice', x[:, :2])
    case.check('logits', model._forward(images))
    full = model.encode_decode(images, [dict(img_shape=images.shape[2:])] * len(images))
    case.check('logits_full_sub', full[:, :, ::8, ::8])


def _check_slide(case: Case, model: torch.nn.Module) -> None:
    image = array(*case.config['slide_image'])
    for windows in (1, 8):
        model.test_cfg['window_batch_size'] = windows
        logits = model.inference(image, [{}])
        case.check('slide/logits_sub', logits[:, :, ::8, ::8])
        case.check('slide/pred_sub', logits.argmax(1)[:, ::4, ::4])


def _check_training(case: Case, model: torch.nn.Module, images: torch.Tensor) -> None:
    config = case.config
    labels = integers(*config['gt'][1:]).reshape(len(images), 1, *images.shape[2:])
    labels[labels == len(config['classnames'])] = 255
    counted = (labels != 255).float().mean()
    backbone = list(model.backbone.parameters())
    others = [p for n, p in model.named_parameters() if not n.startswith(('backbone.', 'text_encoder.'))]
    optimizer = torch.optim.SGD(
        [dict(params=backbone, lr=config['sgd']['backbone lr']), dict(params=others, lr=config['sgd']['lr'])]
    )
    for key in case.keys('gradnorm/text_encoder.'):  # frozen here, learning rate 0 in the official recipe
        model.text_encoder.get_parameter(key).requires_grad_(True)
    model.train()
    for step in range(config['sgd']['steps']):
        losses = model.loss(images, _samples(labels))
        total, _ = model.parse_losses(losses)
        case.check(f'loss_step{step}', total)
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            case.check('loss', total)
            for name in case.keys('loss/'):
                value = losses[name]
                if name.endswith('acc_seg'):
                    value = value * counted  # the official accuracy counts ignored pixels as wrong
                case.check(f'loss/{name}', value)
            _check_gradients(case, model)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        case.check('after3/logits', model._forward(images), rtol=1e-3)
    state = model.state_dict()
    for key in case.keys('after3/'):
        if key != 'logits':
            case.check(f'after3/{key}', state[_own_name(key)])


def _check_gradients(case: Case, model: torch.nn.Module) -> None:
    parameters = dict(model.named_parameters())
    for key in case.keys('grad/'):
        case.check_grad(f'grad/{key}', parameters[_own_name(key)].grad)
    for key in case.keys('gradnorm/'):
        case.check_grad(f'gradnorm/{key}', parameters[_own_name(key)].grad.norm())


def _check_vit16(case: Case) -> None:
    config = case.config['vit16']
    clip = tiny_clip('vit')
    for double, prefix in ((True, 'vit16/'), (False, 'vit16/alt_single_class_embedding/')):
        backbone = MODELS.build(dict(_backbone(config['backbone']), double_class_embedding=double)).eval()
        weights = {}
        for key, value in backbone.state_dict().items():
            filled = f'vit16.{key}' in config['filled']
            weights[key] = fill(f'vit16.{key}', tuple(value.shape)) if filled else clip[f'visual.{key}']
        backbone.load_state_dict(weights)
        with torch.no_grad():
            features = backbone.encode(inputs(config['image']), ('stages', 'global', 'dense'))
        case.check(f'{prefix}global_feat', features.global_)
        case.check(f'{prefix}visual_embeddings', features.dense)
        if double:
            for i, stage in enumerate(features.stages):
                case.check(f'vit16/stage{i}_slice', stage[:, ::32])


def test_every_official_number_is_reproduced(denseclip_seg_case):
    case = Case(denseclip_seg_case)
    model = _build(case.config).eval()
    images = inputs(case.config['images'])
    with torch.no_grad():
        _check_forward(case, model, images)
        _check_slide(case, model)
        if 'vit16' in case.config:
            _check_vit16(case)
    _check_training(case, model, images)
    case.done()
