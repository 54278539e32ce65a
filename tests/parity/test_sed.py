"""SED equals the official code: intermediate maps, logits, early rejection, losses, gradients."""

from __future__ import annotations

import copy

import torch
from dense_case import arch_of
from official import Case, fill
from open_case import (
    check_gradients,
    cut_convnext,
    every,
    images_of,
    labels_of,
    load_release,
    probabilities,
    samples_of,
)

from vlm_dense.registry import MODELS

CLIP = 'sem_seg_head.predictor.clip_model.'
HEAD = 'sem_seg_head.predictor.transformer.'


def classes_of(names: list[str]) -> list[list[str]]:
    return [name.split(', ') for name in names]


def build(config: dict, trunk: str, classes: list[str], **head) -> torch.nn.Module:
    """The model of a case, without weights."""
    own = config['options']
    arch = arch_of({k: v for k, v in config.items() if k != 'vision'})
    arch['quick_gelu'] = False
    arch['vision_cfg'] = dict(
        timm_model_name=trunk, timm_pool='', timm_proj=config['vision']['proj'], timm_drop=0.0, image_size=128
    )
    return MODELS.build(
        dict(
            type='vlm_dense.SED',
            class_names=classes_of(classes),
            backbone=dict(type='vlm_dense.CLIPTower', arch=arch),
            text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
            text_prompt=dict(type='vlm_dense.TemplateVariantsPrompt', templates=config['templates']),
            decode_head=dict(
                hidden_dim=own['hidden_dim'],
                decoder_dims=own['decoder_dims'],
                image_dims=own['decoder_guidance_proj_dims'],
                cost_dims=own['decoder_guidance_proj_dims'],
                num_heads=own['num_heads'],
                kernel_size=own['kernel_size'],
                attention_type=own['attention_type'],
                pooling=own['train_pooling'],
                test_pooling=own['test_pooling'],
                **head,
            ),
            clip_resolution=own['clip_resolution'],
            test_cfg=dict(mode='whole'),
        )
    )


def official_key(name: str) -> str:
    """The name that a parameter has in the official checkpoint."""
    if name.startswith('decode_head.'):
        return HEAD + name.removeprefix('decode_head.')
    return name.replace('backbone.', f'{CLIP}visual.').replace('text_encoder.', CLIP)


def official_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state dict in the layout of the release."""
    keys = {official_key(name): tuple(value.shape) for name, value in model.state_dict().items()}
    return {key: fill(key.removeprefix(CLIP), shape) for key, shape in keys.items()}


def watch(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Outputs of the parts of the head, filled at the next call."""
    head, seen = model.decode_head, {}
    parts = dict(cost_embed=head.conv1)
    for i, step in enumerate(head.steps):
        parts[f'cost_guidance{i}'] = head.decoder_corr_guidance_projection[i]
        parts[f'guidance{i}'] = head.decoder_guidance_projection[i]
        parts[f'conv{i}'], parts[f'class{i}'], parts[f'up{i}'] = step.cnext, step.attention, step
    for name, part in parts.items():
        part.register_forward_hook(lambda _, args, out, name=name: seen.__setitem__(name, out))
    return seen


def _check_maps(case: Case, features, cost, seen: dict) -> None:
    for i, stage in enumerate(features.stages, start=2):
        rows, columns = (max(1, side // 8) for side in stage.shape[2:])
        case.check(f'mid/res{i}', stage[0, ::4, ::rows, ::columns])
    case.check('mid/dense_feat', features.value[0])
    case.check('mid/cost', cost[0])
    case.check('mid/cost_embed', seen['cost_embed'][:, ::4])
    for j in range(3):
        step = 2**j
        case.check(f'mid/cost_guidance{j}', every(seen[f'cost_guidance{j}'], 1, step))
        case.check(f'mid/guidance{j}', every(seen[f'guidance{j}'][0], 1, step))
        case.check(f'mid/conv{j}', every(seen[f'conv{j}'], 8, step))
        case.check(f'mid/class{j}', every(seen[f'class{j}'], 8, step).transpose(0, 1))
        case.check(f'mid/up{j}', every(seen[f'up{j}'], 8, 2 * step))


def test_every_official_number_is_reproduced(sed_case, monkeypatch, tmp_path):
    case = Case(sed_case)
    config = case.config
    trunk = cut_convnext(config['vision']['depths'], config['vision']['dims'], monkeypatch)
    guided = config['options'].get('text_guidance_dim', 0) > 0
    model = build(config, trunk, config['test_classes'], text_guidance=guided).eval()
    load_release(model, official_weights(model), tmp_path)
    image, sub, size = images_of(config['image']), config['sub'], config['ori_shape']
    case.check('text_embeddings', model.text_side.class_embeddings())
    seen = watch(model)
    with torch.no_grad():
        features, cost, text = model.extract_feat(image)
        logits, *early = model.decode_head.all_logits(features, cost, text)
    _check_maps(case, features, cost, seen)
    case.check('logits', logits[0])
    for i, one in enumerate(early):
        case.check(f'aux_logits{i}', one[0])
    case.check('probs', probabilities(model, image, size)[:, ::sub, ::sub])
    if 'alt/logits_text_guidance' in case:
        other = build(config, trunk, config['test_classes'], text_guidance=not guided).eval()
        other.load_state_dict(official_weights(other))
        with torch.no_grad():
            case.check('alt/logits_text_guidance', other._forward(image)[0], rtol=1e-5)
    model.set_class_names(classes_of(config['fast_classes']))
    counts = []
    for step in model.decode_head.steps:
        step.cnext.register_forward_hook(lambda _, args, out: counts.append(len(out)))
    for k in config['fast_topk']:
        counts.clear()
        model.decode_head.top_k = k
        case.check(f'fast{k}/probs', probabilities(model, image, size)[:, ::sub, ::sub])
        case.check(f'fast{k}/kept', torch.tensor(counts))
    _check_training(case, model)
    case.done()


def _check_training(case: Case, model: torch.nn.Module) -> None:
    config = case.config
    model.set_class_names(classes_of(config['train_classes']))
    model.train()
    images = images_of(config['train_images'])
    labels = labels_of(config['train_labels'], len(images), tuple(images.shape[2:]))
    losses = model.loss(images, samples_of(labels))
    for name in case.keys('losses/'):
        case.check(f'losses/{name}', losses[f'decode.{name}'])
    total, _ = model.parse_losses(copy.copy(losses))
    total.backward()
    found = {official_key(name): p.grad for name, p in model.named_parameters() if p.grad is not None}
    check_gradients(case, found, config['grads'])
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
