"""TIPSv2 equals the official code: both towers, out of files as its release has them, whole images and windows."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample
from official import Case, array, fill, inputs, integers
from timm.models import _registry
from tiny_texts import WordTokenizer

from vlm_dense.clip.tips import ARCHITECTURES
from vlm_dense.registry import MODELS


def arch_of(config: dict, patch: pytest.MonkeyPatch) -> dict:
    """The architecture of a case, with timm's trunk of its size."""
    vision, text = config['vision'], config['text']
    arch = copy.deepcopy(ARCHITECTURES['TIPSv2-g-14' if vision['ffn_layer'] == 'swiglu' else 'TIPSv2-B-14'])
    width, ratio = vision['embed_dim'], vision['mlp_ratio']
    if vision['ffn_layer'] == 'swiglu':  # two thirds, a multiple of eight, both halves in one linear map
        ratio = 2 * ((int(ratio * width * 2 / 3) + 7) // 8 * 8) / width
    size = {key: vision[key] for key in ('img_size', 'patch_size', 'embed_dim', 'depth', 'num_heads')}
    name, options = arch['vision_cfg']['timm_model_name'], dict(size, mlp_ratio=ratio)
    entry = _registry._model_entrypoints[name]
    patch.setitem(_registry._model_entrypoints, name, lambda **given: entry(**{**options, **given}))
    arch.update(embed_dim=width)
    arch['vision_cfg'].update(image_size=vision['img_size'])
    arch['text_cfg'].update(
        width=text['hidden_size'],
        mlp=text['mlp_dim'],
        heads=text['num_heads'],
        layers=text['num_layers'],
        vocab_size=text['vocab_size'],
    )
    return arch


def drawn(part: dict, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The release's file of a tower; ``shapes`` of what is not written down in the case."""
    found = {key: inputs(entry) for key, entry in part.get('arrays', {}).items()}
    for key, shape in shapes.items():
        name = part['prefix'] + key
        found[key] = array(name, shape, 0.1, 1.0) if key.endswith('gamma') else fill(name, shape)
    return {key: value.numpy() for key, value in found.items()}


def files(config: dict, arch: dict, folder) -> tuple[str, str]:
    """The two files of a release."""
    with torch.device('meta'):
        image = MODELS.build(dict(type='vlm_dense.CLIPTower', arch=arch)).state_dict()
        text = MODELS.build(dict(type='vlm_dense.TextTower', arch=arch)).state_dict()
    shapes = {}
    for key, value in image.items():
        key = key.removeprefix('trunk.')
        if config['vision']['ffn_layer'] == 'swiglu':
            key = key.replace('.mlp.fc1.', '.mlp.w12.').replace('.mlp.fc2.', '.mlp.w3.')
        if key not in ('cls_token', 'reg_token', 'pos_embed'):
            shapes[key] = tuple(value.shape)
    paths = []
    texts = {key.replace('transformer.ln_final', 'ln_final'): tuple(value.shape) for key, value in text.items()}
    for name, arrays in (
        ('image', drawn(config['vision'], shapes)),
        ('text', drawn(config['text'], texts) | dict(temperature=np.float32(0.01))),
    ):
        paths.append(str(folder / f'{name}.npz'))
        np.savez(paths[-1], **arrays)
    return paths[0], paths[1]


def image_of(entry: dict) -> torch.Tensor:
    """(1, 3, H, W)."""
    noise, block = inputs(entry['noise']), entry['block']
    base = inputs(entry['base']).repeat_interleave(block, 1).repeat_interleave(block, 2)
    return (base[:, : noise.shape[1], : noise.shape[2]] + noise)[None]


@torch.no_grad()
def test_every_official_number_is_reproduced(tipsv2_case, tmp_path, monkeypatch):
    case = Case(tipsv2_case)
    config, sub = case.config, case.config['sub']
    arch = arch_of(config, monkeypatch)
    of_images, of_texts = files(config, arch, tmp_path)
    model = MODELS.build(
        dict(
            type='vlm_dense.MaskCLIP',
            class_names=[f'class {k}' for k in range(len(config['classes']))],
            backbone=dict(type='vlm_dense.CLIPTower', arch=arch, pretrained=of_images, frozen=True),
            text_encoder=dict(
                type='vlm_dense.TextTower',
                arch=arch,
                pretrained=of_texts,
                tokenizer=WordTokenizer(start=(), end=()),
            ),
            text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['{}']),
            test_cfg=dict(mode='whole'),
        )
    ).eval()
    tower, texts = model.backbone, model.decode_head.text_encoder
    assert float(texts.logit_scale.exp()) == pytest.approx(100, rel=1e-5)

    classes = []
    for k, counts in enumerate(config['classes']):
        ids = torch.zeros(len(counts), max(counts), dtype=torch.long)
        for j, count in enumerate(counts):
            ids[j, :count] = integers(f'{config["ids"]}/{k}/{j}', count, config['text']['vocab_size'])
        lengths = torch.tensor(counts)
        raw = texts.encode(texts.embed(ids), lengths - 1)  # an own token may have the id of padding
        if k == 0:
            case.check('text/raw', raw)
        classes.append(F.normalize(F.normalize(raw, dim=-1).mean(0), dim=-1))
    classes = torch.stack(classes)
    case.check('text/classes', classes)
    model.decode_head.embed_classes = lambda *_: classes

    image = image_of(config['image'])
    tokens, grid, options, _ = tower._tokens(image)
    case.check('mid/tokens', tokens[0, :, ::4])
    found = tower.encode(image, ('global', 'dense', 'value'))
    case.check('plain/cls', found.global_[0])
    case.check('plain/patches', found.dense[0].flatten(1).T[:, ::2])
    for i in range(len(tower.blocks)):
        tokens = tower._block(i, tokens, **options)
    case.check('plain/register', tower.project(tokens)[0, 1])
    case.check('mid/value', found.value[0].permute(1, 2, 0)[..., ::2])

    case.check('whole/cosine', model.window_map(image)[0])
    target = SegDataSample(metainfo=dict(ori_shape=tuple(config['target']), img_shape=tuple(image.shape[2:])))
    model.postprocess = type(model.postprocess)([MODELS.build(dict(type='vlm_dense.OriginalSize', at_once=True))])
    [whole] = model.predict(image, [target])
    case.check('whole/logits', whole.seg_logits.data[:, ::sub, ::sub])
    side, stride = config['slide']['side'], config['slide']['stride']
    model.test_cfg = dict(mode='slide', crop_size=(side, side), stride=(stride, stride), window_softmax=True)
    [(_, maps)] = list(model.window_maps([image[0]]))
    case.check('slide/probs_image', maps.merged()[:, ::sub, ::sub])
    [slid] = model.predict(image, [target.clone()])
    case.check('slide/probs', slid.seg_logits.data[:, ::sub, ::sub])
    case.check('slide/pred', slid.pred_sem_seg.data[0, ::sub, ::sub])
    model.test_cfg['keep_logits'] = False  # the labels alone, a few rows at a time
    [rows] = model.predict(image, [target.clone()])
    assert torch.equal(rows.pred_sem_seg.data, slid.pred_sem_seg.data)
    case.done()
