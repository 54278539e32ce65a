"""CAT-Seg equals the official code: intermediate maps, logits, both ways of evaluation, loss, gradients."""

from __future__ import annotations

import copy

import torch
from dense_case import arch_of
from official import Case, fill, tiny_clip
from open_case import (
    check_gradients,
    every,
    first_names,
    images_of,
    labels_of,
    load_release,
    probabilities,
    samples_of,
)

from vlm_dense.registry import MODELS

CLIP = 'sem_seg_head.predictor.clip_model.'
HEAD = 'sem_seg_head.predictor.transformer.'


def build(config: dict, classes: list[str], **options) -> torch.nn.Module:
    """The model of a case, without weights."""
    own, arch = dict(config['options'], **options), arch_of(config)
    arch['vision_cfg'].pop('image_size', None)
    arch['vision_cfg']['image_size'] = 32
    return MODELS.build(
        dict(
            type='vlm_dense.CATSeg',
            class_names=first_names(classes),
            backbone=dict(
                type='vlm_dense.CLIPViT',
                arch=arch,
                head=True,
                pos_mode='bicubic',
                out_indices=own['guidance_layers'],
                dense_attention=dict(type='vlm_dense.CATSegAttention'),
            ),
            text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
            text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=[config['template']]),
            decode_head=dict(
                type='vlm_dense.CATSegHead',
                hidden_dim=own['hidden_dim'],
                num_layers=own['num_layers'],
                num_heads=own['num_heads'],
                window_size=own['window_size'],
                pad_len=own['pad_len'],
                attention_type=own['attention_type'],
                text_guidance_dim=own['text_guidance_proj_dim'],
                image_guidance_dim=own['appearance_guidance_proj_dim'],
                decoder_dims=own['decoder_dims'],
                decoder_guidance_dims=own['decoder_guidance_proj_dims'],
                pooling=own['train_pooling'],
                test_pooling=own['test_pooling'],
            ),
            clip_resolution=own['clip_resolution'],
            pad_multiple=own['size_divisibility'],
            test_cfg=dict(mode='whole'),
        )
    )


def official_key(name: str) -> str:
    """The name that a parameter has in the official checkpoint."""
    if name.startswith(('decode_head.upsample1', 'decode_head.upsample2')):
        return name.removeprefix('decode_head.')
    if name.startswith('decode_head.'):
        return HEAD + name.removeprefix('decode_head.')
    name = name.replace('backbone.', f'{CLIP}visual.').replace('text_encoder.', CLIP)
    for i, part in enumerate('qkv'):
        name = name.replace(f'parametrizations.in_proj_weight.original{i}', f'{part}_proj_weight')
    return name


def official_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state dict in the layout of the release."""
    clip = tiny_clip('vit')
    weights = {}
    for name, value in model.state_dict().items():
        key = official_key(name)
        if not key.startswith(CLIP):
            weights[key] = fill(key, tuple(value.shape))
    for key, value in clip.items():
        if key.endswith('in_proj_weight'):
            parts = zip('qkv', value.chunk(3), strict=True)
            weights |= {f'{CLIP}{key.removesuffix("in_proj_weight")}{p}_proj_weight': w for p, w in parts}
        else:
            weights[CLIP + key] = value
    buffer = f'{HEAD}layers.0.swin_block.block_2.attn_mask'
    return {**weights, buffer: torch.zeros(4, 16, 16)}


def watch(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Outputs of the parts of the head, filled at the next call."""
    head, seen = model.decode_head, {}
    parts = dict(
        level4=head.upsample1,
        level5=head.upsample2,
        cost_embed=head.conv1,
        guidance=head.guidance_projection,
        text_guidance=head.text_guidance_projection,
        decoder1=head.decoder1,
        decoder2=head.decoder2,
    )
    for i, layer in enumerate(head.layers):
        parts[f'spatial{i}'], parts[f'class{i}'] = layer.swin_block, layer.attention
    for name, part in parts.items():
        part.register_forward_hook(lambda _, args, out, name=name: seen.__setitem__(name, out))
    return seen


def test_every_official_number_is_reproduced(cat_seg_case, tmp_path):
    case = Case(cat_seg_case)
    config = case.config
    options, names = config['options'], config['test_classes']
    model = build(config, names).eval()
    weights = official_weights(model)
    load_release(model, weights, tmp_path)
    image = images_of(config['image'])
    seen = watch(model)
    with torch.no_grad():
        side = model.text_side
        case.check('text_embeddings', side.classifier_weights())
        height, width = image.shape[2:]
        multiple = options['size_divisibility']
        padded = torch.nn.functional.pad(image, (0, -width % multiple, 0, -height % multiple))
        features, cost, text = model.extract_feat(padded)
        case.check('logits', model.decode_head(features, cost, text)[0])
        tokens = features.value[0].flatten(1).T
    case.check('mid/dense_feat', tokens[:, ::2])
    case.check('mid/cost', cost[0, 0])
    case.check('mid/level4', every(seen['level4'][0], 1)[::8, ::2, ::2])
    case.check('mid/level5', seen['level5'][0, ::8, ::4, ::4])
    case.check('mid/cost_embed', seen['cost_embed'][:, ::8])
    case.check('mid/guidance', seen['guidance'][0, ::4])
    case.check('mid/text_guidance', seen['text_guidance'][0])
    for name in case.keys('mid/'):
        if name.startswith(('spatial', 'class')):
            case.check(f'mid/{name}', seen[name].transpose(0, 1)[::8])
    case.check('mid/decoder1', seen['decoder1'][:, ::8, ::2, ::2])
    case.check('mid/decoder2', seen['decoder2'][:, ::8, ::4, ::4])
    sub = config['sub']
    case.check('probs', probabilities(model, image, config['ori_shape'])[:, ::sub, ::sub])
    stride = int(options['kernel'] * (1 - options['overlap']))
    model.test_cfg = dict(
        mode='slide',
        crop_size=[options['kernel']] * 2,
        stride=[stride] * 2,
        resize=options['out_res'],
        overview=True,
    )
    case.check('slide/probs', probabilities(model, image, config['ori_shape'])[:, ::sub, ::sub])
    if 'topk/best' in case:
        model.set_class_names(first_names(config['many_classes']))
        with torch.no_grad():
            features, cost, text = model.extract_feat(padded)
            case.check('topk/best', cost[0].amax(dim=(0, 2, 3)))
            case.check('topk/logits', model.decode_head(features, cost, text)[0, :, ::2, ::2])
    for key in case.keys('alt/logits_'):
        other = build(config, names, attention_type=key).eval()
        other.load_state_dict(copy.copy(weights))
        with torch.no_grad():
            case.check(f'alt/logits_{key}', other._forward(padded)[0, :, ::2, ::2])
    _check_training(case, model)
    case.done()


def _check_training(case: Case, model: torch.nn.Module) -> None:
    config = case.config
    model.set_class_names(first_names(config['train_classes']))
    model.train()
    images = images_of(config['train_images'])
    labels = labels_of(config['train_labels'], len(images), tuple(images.shape[2:]))
    logits = model._forward(images)
    case.check('train/logits', logits[:, :, ::2, ::2])
    losses = model.loss(images, samples_of(labels))
    case.check('losses/loss_sem_seg', losses['decode.loss_sem_seg'])
    losses['decode.loss_sem_seg'].backward()
    found = {official_key(name): p.grad for name, p in model.named_parameters() if p.grad is not None}
    check_gradients(case, found, config['grads'])
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(map(official_key, trained)) == sorted(found)  # else distributed training would wait for ever
