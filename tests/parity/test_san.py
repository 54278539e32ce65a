"""SAN equals the official code: maps, biases, embeddings of masks, scores, matches, losses, gradients."""

from __future__ import annotations

import copy
import re
import zlib
from unittest import mock

import numpy as np
import torch
from dense_case import arch_of
from official import Case, array, fill
from open_case import check_gradients, images_of, labels_of, load_release, probabilities, samples_of
from torch import Tensor, nn

from vlm_dense.registry import MODELS

_KEYS = (
    (r'^backbone\.transformer\.', 'clip_visual_extractor.'),
    (r'^backbone\.(ln_post|proj)', r'clip_rec_head.\1'),
    (r'^backbone\.', 'clip_visual_extractor.'),
    (r'^text_encoder\.', 'ov_classifier.'),
    (r'^void_embedding\.weight$', 'ov_classifier.bg_embed'),
    (r'^decode_head\.patch_embed\.', 'side_adapter_network.vit_model.patch_embed.proj.'),
    (r'^decode_head\.(pos_embed|blocks)', r'side_adapter_network.vit_model.\1'),
    (r'^decode_head\.fusion\.(\d+)\.', r'side_adapter_network.fusion_layers.layer_\1.input_proj.'),
    (r'^decode_head\.(query_embed|query_pos_embed)', r'side_adapter_network.\1'),
    (r'^decode_head\.', 'side_adapter_network.mask_decoder.'),
)


def official_key(name: str, first: int) -> str:
    """The name that a parameter has in the official checkpoint; ``first``: the first block of those that run again."""
    for pattern, theirs in _KEYS:
        name = re.sub(pattern, theirs, name)
    block = re.match(r'clip_visual_extractor\.resblocks\.(\d+)\.', name)
    if block and int(block[1]) >= first:
        name = f'clip_rec_head.resblocks.{int(block[1]) - first}.{name[block.end() :]}'
    return name


def official_weights(model: nn.Module, config: dict) -> dict[str, Tensor]:
    """A state dict in the layout of the release."""
    weights, first = {}, config['options']['feature_last_layer_idx']
    for name, value in model.state_dict().items():
        key, shape = official_key(name, first), tuple(value.shape)
        if key in config['arrays']:
            _, *drawn = config['arrays'][key]
            weights[key] = array(config['arrays'][key][0], *drawn)
        elif name.startswith('backbone.'):
            weights[key] = fill(name.replace('backbone.', 'visual.', 1), shape)
        elif name.startswith('text_encoder.'):
            weights[key] = fill(name.removeprefix('text_encoder.'), shape)
        else:
            weights[key] = fill(key, shape)
    empty = torch.ones(len(config['train_classes']) + 1)
    return {**weights, 'ov_classifier.logit_scale': fill('logit_scale', ()), 'criterion.empty_weight': empty}


def build(config: dict) -> nn.Module:
    """The model of a case, without weights, for its test classes."""
    own, side, arch = config['options'], config['side_vit'], arch_of(config)
    pairs = [tuple(map(int, entry.split('->'))) for entry in own['fusion_map']]
    depth = arch['vision_cfg']['layers'] - own['feature_last_layer_idx']
    assert (own['mlp_num_layers'], own['rescale_attn_bias'], own['downsample']) == (3, True, 'max')
    part = dict(type='vlm_dense.SideAdapterAttention', num_blocks=depth, hidden_states=[clip - 1 for clip, _ in pairs])
    return MODELS.build(
        dict(
            type='vlm_dense.SAN',
            class_names=[[name] for name in config['test_classes']],
            backbone=dict(
                type='vlm_dense.CLIPViT',
                arch=arch,
                head=True,
                pos_mode='bicubic',
                remainder='drop',
                dense_attention=part,
            ),
            text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
            text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates']),
            decode_head=dict(
                fusion=[block for _, block in pairs],
                width=side['embed_dim'],
                depth=side['depth'],
                side_heads=side['num_heads'],
                patch_size=side['patch_size'],
                image_size=side['img_size'],
                num_queries=own['num_queries'],
                supervised=own['deep_supervision_idxs'],
                shared_blocks=own['bias_layers'] == 1,
                shared_heads=own['bias_heads'] == 1,
                embed_channels=own['embed_channels'],
                mlp_channels=own['mlp_channels'],
                num_points=own['num_points'],
            ),
            clip_resolution=own['clip_resolution'],
            pad_multiple=own['size_divisibility'],
            masks_first=own['postprocess_before_inference'],
            test_cfg=dict(mode='whole'),
        )
    )


def check_maps(case: Case, model: nn.Module, image: Tensor) -> None:
    """mid/*: what passes the parts, of one image."""
    head, own, seen = model.decode_head, case.config['options'], {}
    fuse, propose = head.fuse, head.forward

    def fused(x, grid, index, maps):
        seen[f'side{index - 1}'], seen[f'fuse_layer_{index}'] = x, fuse(x, grid, index, maps)
        return seen[f'fuse_layer_{index}']

    def proposed(images, maps):
        seen['maps'], seen['found'] = maps, propose(images, maps)
        return seen['found']

    head.query_mlp.register_forward_hook(lambda _, args, out: seen.update(query=out))
    part = model.backbone.dense_attention
    part.register_forward_pre_hook(lambda _, args: seen.update(cls=args[0].tokens[:, 0]))
    with torch.no_grad(), mock.patch.object(head, 'fuse', fused), mock.patch.object(head, 'forward', proposed):
        masks, embeddings, text = model.embed_masks(model.padded(image))
        logits = model.classify(embeddings, text, model.text_encoder.logit_scale)
    for entry, one in zip(own['fusion_map'], seen['maps'], strict=True):
        case.check(f'mid/clip{entry.split("->")[0]}', one[0, ::8])
    case.check('mid/clip_cls', seen['cls'][0])
    for i in range(case.config['side_vit']['depth']):
        case.check(f'mid/side{i}', seen[f'side{i}'][0, ::3, ::4])
    for key in case.keys('mid/fuse_layer_'):
        case.check(f'mid/fuse_layer_{key}', seen[f'fuse_layer_{key}'][0, own['num_queries'] :][::2, ::4])
    case.check('mid/query', seen['query'][0])
    case.check('mid/mask_pred', masks[-1][0])
    biases = seen['found'][1]
    for key in case.keys('mid/attn_bias'):
        case.check(f'mid/attn_bias{key}', biases[int(key) % len(biases)][0, :, :, ::2, ::2])
    case.check('mid/mask_emb', torch.nn.functional.normalize(embeddings, dim=-1)[0])
    case.check('mid/class_logits', logits[0])


def official_points(config: dict, outputs: int, images: int):
    """Random points of the official run, in the order in which mmdet draws them."""
    names = []
    for layer in [*(f'aux{i}' for i in range(outputs - 1)), 'last']:
        names += [f'{layer}/match{i}' for i in range(images)] + [f'{layer}/sample', f'{layer}/random']
    waiting = iter(names)

    def rand(*shape, device=None) -> Tensor:
        shape = shape[0] if isinstance(shape[0], (tuple, list)) else shape
        stream = np.random.RandomState(zlib.crc32(f'{config["points_prefix"]}/{next(waiting)}'.encode()))
        return torch.from_numpy(stream.random_sample(tuple(shape)).astype(np.float32))

    return mock.patch('torch.rand', rand)


def check_training(case: Case, model: nn.Module) -> None:
    """match/*, losses/*, grad/*."""
    config = case.config
    images = images_of(config['train_images'])
    labels = labels_of(config['train_labels'], len(images), images.shape[2:])
    model.set_class_names([[name] for name in config['train_classes']])
    model.train()
    matched, assign = [], model.decode_head.assigner.assign

    def watched(*args, **kwargs):
        found = assign(*args, **kwargs)
        matched.append(found.gt_inds)
        return found

    outputs = len(config['options']['deep_supervision_idxs'])
    with (
        mock.patch.object(model.decode_head.assigner, 'assign', watched),
        official_points(config, outputs, len(images)),
    ):
        losses = model.loss(images, samples_of(labels))
    found = iter(matched)
    for layer in [*(f'aux{i}' for i in range(outputs - 1)), 'last']:
        for i in range(len(images)):
            gt = next(found)
            rows = gt.nonzero()[:, 0]
            case.check(f'match/{layer}/{i}', torch.stack([rows, gt[rows] - 1]))
    for name, value in losses.items():
        layer, _, kind = name.removeprefix('decode.').rpartition('.')
        case.check(f'losses/{kind.replace("loss_cls", "loss_ce")}' + (f'_{layer[1:]}' if layer else ''), value)
    sum(value.sum() for value in losses.values()).backward()
    first = config['options']['feature_last_layer_idx']
    gradients = {official_key(name, first): p.grad for name, p in model.named_parameters()}
    check_gradients(case, gradients, config['grads'])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}
    assert {n for n in trained if not n.startswith('decode_head.')} == {
        'backbone.positional_embedding',
        'void_embedding.weight',
    }


def test_every_official_number_is_reproduced(san_case, tmp_path):
    case = Case(san_case)
    config = case.config
    model = build(config).eval()
    load_release(model, official_weights(model, config), tmp_path)
    void = torch.nn.functional.normalize(model.void_embedding.weight, dim=-1)
    case.check('text_embeddings', torch.cat([model.text_side.classifier_weights(), void]))
    image = images_of(config['image'])
    check_maps(case, model, image)
    found = probabilities(model, image, config['ori_shape'])
    case.check('sem_seg', found[:, :: config['sub'], :: config['sub']])
    check_training(case, copy.deepcopy(model))
    case.done()
