"""What the cases of FC-CLIP and its successors have in common: weights, images, targets and random points."""

from __future__ import annotations

import re
import zlib
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense_case import arch_of, image_of
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample
from official import TINY, Case, array, fill, integers
from open_case import cut_convnext
from torch import Tensor, nn

from vlm_dense.registry import MODELS

CLIP = 'backbone.clip_model.'
_LAYER = r'^decode_head\.transformer_decoder\.layers\.(\d+)\.'
_PREDICTOR = 'sem_seg_head.predictor.'
_KEYS = (
    (r'^backbone\.', f'{CLIP}visual.'),
    (r'^teacher\.', 'backbone_t.clip_model.visual.'),
    (r'^cdt\.', 'cdt.cross_atten.'),
    (r'^text_encoder\.', CLIP),
    (r'^mask_adapter\.blocks\.0\.', 'mask_adapter.cnext1.'),
    (r'^mask_adapter\.blocks\.1\.', 'mask_adapter.cnext2.'),
    (r'^mask_adapter\.blocks\.2\.', 'mask_adapter.cnext3.'),
    (r'^(mask_adapter\.cnext\d)\.conv_dw\.', r'\1.dwconv.'),
    (r'^(mask_adapter\.cnext\d)\.mlp\.fc(\d)\.', r'\1.pwconv\2.'),
    (r'^decode_head\.pixel_decoder\.', 'sem_seg_head.pixel_decoder.'),
    (r'pixel_decoder\.input_convs\.(\d)\.conv', r'pixel_decoder.input_proj.\1.0'),
    (r'pixel_decoder\.input_convs\.(\d)\.gn', r'pixel_decoder.input_proj.\1.1'),
    (r'pixel_decoder\.level_encoding\.weight', 'pixel_decoder.transformer.level_embed'),
    (r'(pixel_decoder)\.(encoder\.layers\.\d)\.norms\.0', r'\1.transformer.\2.norm1'),
    (r'(pixel_decoder)\.(encoder\.layers\.\d)\.norms\.1', r'\1.transformer.\2.norm2'),
    (r'(pixel_decoder)\.(encoder\.layers\.\d)\.ffn\.layers\.0\.0', r'\1.transformer.\2.linear1'),
    (r'(pixel_decoder)\.(encoder\.layers\.\d)\.ffn\.layers\.1', r'\1.transformer.\2.linear2'),
    (r'(pixel_decoder)\.(encoder\.layers\.\d)\.self_attn', r'\1.transformer.\2.self_attn'),
    (r'pixel_decoder\.lateral_convs\.0\.conv', 'pixel_decoder.adapter_1'),
    (r'pixel_decoder\.lateral_convs\.0\.gn', 'pixel_decoder.adapter_1.norm'),
    (r'pixel_decoder\.output_convs\.0\.conv', 'pixel_decoder.layer_1'),
    (r'pixel_decoder\.output_convs\.0\.gn', 'pixel_decoder.layer_1.norm'),
    (r'pixel_decoder\.mask_feature\.', 'pixel_decoder.mask_features.'),
    (rf'{_LAYER}cross_attn\.attn', rf'{_PREDICTOR}transformer_cross_attention_layers.\1.multihead_attn'),
    (rf'{_LAYER}norms\.0', rf'{_PREDICTOR}transformer_cross_attention_layers.\1.norm'),
    (rf'{_LAYER}self_attn\.attn', rf'{_PREDICTOR}transformer_self_attention_layers.\1.self_attn'),
    (rf'{_LAYER}norms\.1', rf'{_PREDICTOR}transformer_self_attention_layers.\1.norm'),
    (rf'{_LAYER}ffn\.layers\.0\.0', rf'{_PREDICTOR}transformer_ffn_layers.\1.linear1'),
    (rf'{_LAYER}ffn\.layers\.1', rf'{_PREDICTOR}transformer_ffn_layers.\1.linear2'),
    (rf'{_LAYER}norms\.2', rf'{_PREDICTOR}transformer_ffn_layers.\1.norm'),
    (r'^decode_head\.transformer_decoder\.post_norm', f'{_PREDICTOR}decoder_norm'),
    (r'^decode_head\.(mask|class)_embed\.0\.', rf'{_PREDICTOR}\1_embed.layers.0.'),
    (r'^decode_head\.(mask|class)_embed\.2\.', rf'{_PREDICTOR}\1_embed.layers.1.'),
    (r'^decode_head\.(mask|class)_embed\.4\.', rf'{_PREDICTOR}\1_embed.layers.2.'),
    (r'^decode_head\.decoder_input_projs', f'{_PREDICTOR}input_proj'),
    (r'^decode_head\.mask_pooling_proj', f'{_PREDICTOR}_mask_pooling_proj'),
    (r'^decode_head\.', _PREDICTOR),
)


def official_key(name: str) -> str:
    """The name that a parameter has in the official checkpoint."""
    for pattern, theirs in _KEYS:
        name = re.sub(pattern, theirs, name)
    return name


def official_weights(model: nn.Module, config: dict) -> dict[str, Tensor]:
    """A state dict in the layout of the release."""
    weights = {}
    for name, value in model.state_dict().items():
        key, shape = official_key(name), tuple(value.shape)
        if key in config['arrays']:
            _, *drawn = config['arrays'][key]
            weights[key] = array(*drawn)
        elif key in config['fixed']:
            weights[key] = torch.full(shape, config['fixed'][key])
        else:
            weights[key] = fill(key.removeprefix(CLIP), shape)
    return {**weights, f'{CLIP}logit_scale': fill('logit_scale', ())}


def classes_of(names: list[str]) -> list[list[str]]:
    """The names of each class."""
    return [name.replace(', ', ',').split(',') for name in names]


def clip_arch(config: dict, monkeypatch: pytest.MonkeyPatch) -> dict:
    """open_clip config of the case's CLIP."""
    if config.get('clip') == 'resnet':
        return TINY['resnet']
    own, arch = config['convnext'], arch_of({})
    trunk = cut_convnext(own['depths'], own['dims'], monkeypatch)
    vision = dict(timm_model_name=trunk, timm_pool='', timm_proj=own['proj'], timm_drop=0.0, image_size=64)
    return dict(arch, embed_dim=own['embed_dim'], quick_gelu=False, vision_cfg=vision)


def build(config: dict, arch: dict, **options) -> nn.Module:
    """The model of a case, without weights, for its test classes."""
    own = config['options']
    head = dict(
        width=own['hidden_dim'],
        heads=own['nheads'],
        num_queries=own['num_queries'],
        encoder_layers=own['encoder_layers'],
        encoder_ffn=own['encoder_ffn'],
        decoder_layers=own['decoder_layers'],
        decoder_ffn=own['decoder_ffn'],
        num_points=own.get('num_points', 16),
        enforce_decoder_input_project=own.get('enforce_input_project', False),
    )
    return MODELS.build(
        dict(
            class_names=classes_of(config['test_classes']),
            trained_names=classes_of(config['train_classes']),
            backbone=dict(type='vlm_dense.CLIPTower', arch=arch),
            text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
            decode_head=head,
            test_cfg=dict(mode='whole'),
            **options,
        )
    )


def padded_images(config: dict) -> tuple[Tensor, list[tuple[int, int]]]:
    """The images in one batch, padded to a multiple of 32, and their own sizes."""
    images = [image_of(entry)[0] for entry in config['images']]
    sizes = [tuple(image.shape[1:]) for image in images]
    height, width = (-(-max(sides) // 32) * 32 for sides in zip(*sizes, strict=True))
    padded = [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images]
    return torch.stack(padded), sizes


def targets_of(config: dict, sizes: list[tuple[int, int]], batch: Tensor) -> list[SegDataSample]:
    """Samples with the masks and labels of each image, padded."""
    samples = []
    for entry, (height, width) in zip(config['targets'], sizes, strict=True):
        rows, columns, number = entry['rows'], entry['cols'], len(entry['labels'])
        cells = integers(entry['map'], rows * columns, number + 1).view(rows, columns)
        labels = cells.repeat_interleave(entry['cell'], 0).repeat_interleave(entry['cell'], 1)[:height, :width]
        masks = torch.zeros(number, *batch.shape[2:], dtype=torch.bool)
        masks[:, : labels.shape[0], : labels.shape[1]] = labels == torch.arange(number)[:, None, None]
        found = InstanceData(labels=torch.tensor(entry['labels']), masks=masks)
        samples.append(SegDataSample(metainfo=dict(img_shape=(height, width)), gt_instances=found))
    return samples


@contextmanager
def official_points(config: dict, predictions: int, images: int):
    """Random points of the official run, in the order in which mmdet draws them."""
    names = []
    for layer in range(predictions):
        names += [f'match/{layer}/{image}' for image in range(images)] + [f'sampled/{layer}', f'extra/{layer}']
    waiting = iter(names)

    def rand(*shape, device=None) -> Tensor:
        shape = shape[0] if isinstance(shape[0], (tuple, list)) else shape
        seed = zlib.crc32(f'{config["rand"]}/{next(waiting)}'.encode())
        return torch.from_numpy(np.random.RandomState(seed).random_sample(tuple(shape)).astype(np.float32))

    with mock.patch('torch.rand', rand):
        yield
    assert next(waiting, None) is None


def check_losses(case: Case, losses: dict[str, Tensor], predictions: int) -> Tensor:
    """losses/*: their names are the release's; gives the total."""
    total = torch.zeros(())
    for name, value in losses.items():
        name = name.removeprefix('decode.')
        layer, _, name = name.rpartition('.')
        name = dict(loss_ranking='ranking_loss', loss_rc='rc_loss').get(name, name)
        name = name.replace('loss_cls', 'loss_ce') + (f'_{layer[1:]}' if layer else '')
        total = total + value.sum()
        if f'losses/{name}' in case:
            case.check(f'losses/{name}', value.sum())
    assert len(losses) >= 3 * predictions
    case.check('losses/total', total)
    return total


def check_gradients(case: Case, model: nn.Module, prefix: str = '') -> None:
    """grad/KEY: of the total, with a stride along each axis."""
    gradients = {official_key(name): p.grad for name, p in model.named_parameters()}
    for key in case.keys(f'{prefix}grad/'):
        steps = case.config['grads'][key]
        case.check_grad(f'{prefix}grad/{key}', gradients[key][tuple(slice(None, None, s) for s in steps)])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}


def check_semantic(case: Case, model: nn.Module, scores: Tensor, masks: Tensor, sizes, batch: Tensor) -> list[Tensor]:
    """logits{i}; gives the masks of each image, cut, at its original size if ``postprocess_before``."""
    config, sub, found = case.config, case.config['sub'], []
    wide = F.interpolate(masks, batch.shape[2:], mode='bilinear', align_corners=False)
    for i, ((height, width), size) in enumerate(zip(sizes, config['ori_shapes'], strict=True)):
        own = wide[i : i + 1, :, :height, :width]
        if config['options'].get('postprocess_before', config['options'].get('panoptic')):
            own = F.interpolate(own, tuple(size), mode='bilinear', align_corners=False)
            maps = model.semantic(scores[i : i + 1], own)
        else:
            maps = model.semantic(scores[i : i + 1], own)
            maps = F.interpolate(maps, tuple(size), mode='bilinear', align_corners=False)
        case.check(f'logits{i}', maps[0, :, ::sub, ::sub])
        found.append(own[0])
    return found


def check_panoptic(case: Case, model: nn.Module, i: int, scores: Tensor, masks: Tensor) -> None:
    """panoptic{i}, its segments and areas; ids of the release count segments in the order of the queries."""
    options, things = case.config['options'], case.config['test_things']
    limits = dict(object_mask_thr=options['object_mask_threshold'], iou_thr=options['overlap_threshold'])
    found = model.panoptic(scores, masks, things, **limits)
    ids, objects = torch.zeros_like(found), 0
    rows = torch.as_tensor(case[f'panoptic{i}_segments']).view(-1, 3).tolist()
    for number, label, thing in rows:
        objects += bool(thing)
        ids[found == (label + 1000 * objects if thing else label)] = number
        assert (label in things) == bool(thing)
    assert ((ids == 0) == (found == model.num_classes)).all()
    sub = case.config['sub']
    case.check(f'panoptic{i}', ids[::sub, ::sub])
    case.check(f'panoptic{i}_areas', torch.tensor([(ids == number).sum() for number, *_ in rows]))


def check_instances(case: Case, model: nn.Module, i: int, scores: Tensor, masks: Tensor) -> None:
    """instance{i}_scores, labels, areas, by falling score."""
    found = model.instances(scores, masks, case.config['test_things'], case.config['options']['topk'])
    order = found.scores.argsort(descending=True)[: len(case[f'instance{i}_scores'])]
    case.check(f'instance{i}_scores', found.scores[order])
    case.check(f'instance{i}_labels', found.labels[order])
    case.check(f'instance{i}_areas', found.masks[order].flatten(1).sum(1))
