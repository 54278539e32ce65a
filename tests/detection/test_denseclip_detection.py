"""DenseCLIP as a detector: heads of every kind, the loss of the boxes, what it refuses."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from toy_detector import ARCH, CHANNELS, NAMES, TEXT, build, samples

from vlm_dense.engine.runner.launch import fill_class_names
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.methods.denseclip.detector import box_targets

SIZE = (64, 64)
BOXES = [[[4, 6, 40, 50], [30, 8, 60, 63]], [[10, 12, 52, 44]]]


def step(model, boxes=BOXES, size=SIZE, **kwargs):
    """Loss and its terms of a batch, after the backward pass."""
    torch.manual_seed(1)
    images = torch.randn(len(boxes), 3, *size)
    total, terms = model.parse_losses(model.loss(images, samples(boxes, size, **kwargs)))
    total.backward()
    return total, terms


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('retinanet', 'loss_seg'),
        ('faster-rcnn', 'loss_aux_seg'),
        ('mask-rcnn', 'loss_aux_seg'),
        ('cascade-rcnn', 'loss_aux_seg'),
    ],
)
def test_heads_of_every_kind_train_and_predict(kind, name):
    model = build(kind).train()
    assert not model.text_encoder.training
    total, terms = step(model)
    assert torch.isfinite(total) and terms[name] > 0
    assert model.text_prompt.contexts.grad.abs().sum() > 0 and model.gamma.grad.abs().sum() > 0
    assert model.backbone.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.text_encoder.parameters())
    model.eval()
    with torch.no_grad():
        found = model.predict(torch.randn(2, 3, *SIZE), samples([[], []], SIZE))
    for sample in found:
        boxes = sample.pred_instances.bboxes
        assert boxes.shape[1] == 4 and (boxes >= 0).all() and (boxes <= 64).all()
        assert ('masks' in sample.pred_instances) == (kind == 'mask-rcnn')


@pytest.mark.parametrize('kind', ['retinanet', 'mask-rcnn'])
def test_recomputing_changes_neither_losses_nor_gradients_nor_statistics(kind):
    found = {}
    for with_cp in (False, 'light', True):
        model = build(kind, backbone=dict(TEXT['backbone'], with_cp=with_cp)).train()
        runs = []
        handle = model.backbone.conv1.register_forward_hook(lambda *_: runs.append(1))  # noqa: B023
        total, _ = step(model)
        handle.remove()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found[with_cp] = total, gradients, list(model.backbone.buffers())
        assert len(runs) == (2 if with_cp == 'light' else 1)
    for with_cp in ('light', True):
        for one, other in zip(found[with_cp][1:], found[False][1:], strict=True):
            assert len(one) == len(other) > 0 and all(map(torch.equal, one, other))
        assert torch.equal(found[with_cp][0], found[False][0])


@pytest.mark.parametrize('kind', ['retinanet', 'faster-rcnn'])
def test_nothing_of_a_batch_is_kept_so_that_the_model_can_be_copied(kind):
    model = build(kind).train()
    model.extract_feat(torch.randn(1, 3, *SIZE))  # with a graph, as for a hook or an inspection
    copy.deepcopy(model)
    step(model)
    with pytest.raises(TypeError):
        model.loss(torch.randn(1, 3, *SIZE), None)
    copied = copy.deepcopy(model)
    assert copied._matched is None and model._matched is None


def test_any_prompt_of_the_contract_serves():
    prompt = dict(type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {}.'])
    model = build('retinanet', text_prompt=prompt, text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH))
    total, terms = step(model.train())
    assert torch.isfinite(total) and terms['loss_seg'] > 0 and model.gamma.grad is not None


def test_a_backbone_without_clip_serves():
    body = dict(type='vlm_dense.TorchvisionBackbone', model='resnet18', nodes=['layer1', 'layer2', 'layer3', 'layer4'])
    pooled = dict(
        type='vlm_dense.PooledBackbone', backbone=body, channels=[64, 128, 256, 512], embed_dim=32, input_resolution=64
    )
    neck = dict(type='FPN', in_channels=[64, 128, 256, 512 + 3], out_channels=16, start_level=1, num_outs=5)
    neck['add_extra_convs'] = 'on_input'
    model = build('retinanet', backbone=pooled, neck=neck).train()
    total, _ = step(model)
    assert torch.isfinite(total) and model.backbone.attnpool.c_proj.weight.grad.abs().sum() > 0


def test_the_documented_change_of_an_mmdet_config_trains(tmp_path):
    text = (Path(__file__).parents[2] / 'docs' / 'detection.md').read_text(encoding='utf-8')
    snippet = next(b for b in re.findall(r'```python\n(.*?)```', text, re.S) if '_base_' in b)
    for old, new in (("'RN50'", "'tiny-rn'"), ("'openai'", "'bundled'")):
        assert old in snippet
        snippet = snippet.replace(old, new)
    (tmp_path / 'config.py').write_text(snippet)
    cfg = Config.fromfile(tmp_path / 'config.py')
    init_default_scope('mmdet')
    fill_class_names(cfg)
    assert len(cfg.model.class_names) == 80
    total, terms = step(MODELS.build(cfg.model).train())
    assert torch.isfinite(total) and terms['loss_seg'] > 0 and terms['loss_centerness'] > 0


# --- the loss of the boxes ------------------------------------------------------------------------------------


def by_hand(boxes, labels, num_classes, height, width):
    """The rule of the official code, cell by cell."""
    target, mask = np.zeros((num_classes, height, width)), np.zeros((1, height, width))
    for box, label in zip(boxes, labels, strict=True):
        x1, y1, x2, y2 = (int(v / 4) for v in box)
        x1, x2 = (min(max(x, 0), width - 1) for x in (x1, x2))
        y1, y2 = (min(max(y, 0), height - 1) for y in (y1, y2))
        for y in range(height):
            for x in range(width):
                if y1 <= y < y2 and x1 <= x < x2:
                    target[label, y, x] = mask[0, y, x] = 1
    return target, mask


def test_targets_are_those_of_the_rule_for_boxes_anywhere():
    rng = np.random.RandomState(0)
    corners = rng.uniform(-30, 110, (60, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
    boxes[:5, 2] = boxes[:5, 0]  # no area
    boxes[5:8] += 500  # outside
    labels = rng.randint(0, 4, 60)
    for few in (slice(0, 8), slice(8, 12), slice(0, 60), slice(0, 0)):
        target, mask = box_targets(torch.tensor(boxes[few]), torch.tensor(labels[few]), 4, (16, 24))
        wanted = by_hand(boxes[few], labels[few], 4, 16, 24)
        np.testing.assert_array_equal(target.numpy(), wanted[0])
        np.testing.assert_array_equal(mask.numpy(), wanted[1])
    assert box_targets(torch.tensor(boxes[:8]), torch.tensor(labels[:8]), 4, (16, 24))[0].sum() == 0


def test_the_loss_is_the_mean_over_boxed_cells_and_classes():
    model = build('retinanet').eval()
    score = torch.rand(2, 3, 2, 2) * 2 - 1
    found = model.box_loss(score, samples(BOXES, SIZE), SIZE)
    logits = torch.nn.functional.interpolate(score / 0.07, (16, 16), mode='bilinear')
    terms = []
    for i, sample in enumerate(samples(BOXES, SIZE)):
        target, mask = by_hand(BOXES[i], sample.gt_instances.labels.tolist(), 3, 16, 16)
        for k in range(3):
            for y, x in zip(*np.nonzero(mask[0]), strict=True):
                p = torch.sigmoid(logits[i, k, y, x].double())
                terms.append(-torch.log(p if target[k, y, x] else 1 - p))
    torch.testing.assert_close(found.double(), torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', ['retinanet', 'mask-rcnn'])
def test_a_batch_without_boxes_has_a_finite_loss(kind):
    model = build(kind).train()
    total, terms = step(model, [[], []])
    assert torch.isfinite(total) and terms['loss_seg' if kind == 'retinanet' else 'loss_aux_seg'] == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_loss_of_the_boxes_can_be_left_out():
    _, terms = step(build('retinanet', seg_loss=False).train())
    assert 'loss_seg' not in terms


# --- sizes and names ------------------------------------------------------------------------------------------


def test_an_image_over_the_position_grid_is_explained_and_interpolation_has_no_limit():
    images = torch.randn(1, 3, 64, 96)  # the grid of ARCH is for 64 px
    with pytest.raises(ConfigError, match=r"2 x 2 grid \(images up to 64 px\), found a 2 x 3 map.*'interpolate'"):
        build('retinanet').eval().extract_feat(images)
    backbone = dict(TEXT['backbone'], attnpool_positions='interpolate')
    with torch.no_grad():
        maps = build('retinanet', backbone=backbone).eval().extract_feat(images)
    assert maps[0].shape[2:] == (8, 12)


def test_positions_are_cropped_not_interpolated():
    kwargs = dict(TEXT['backbone'], input_resolution=128)
    models = [build('retinanet', backbone=dict(kwargs, attnpool_positions=p)).eval() for p in ('crop', 'interpolate')]
    models[1].load_state_dict(models[0].state_dict())
    table = models[0].backbone.attnpool.positional_embedding
    grid = table[1:].reshape(4, 4, -1)[:2, :3].reshape(6, -1)
    found = models[0].backbone.pool_tokens(torch.zeros(1, table.shape[1], 2, 3))[0]
    torch.testing.assert_close(found, torch.cat([table[:1], grid]))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        first, second = (m.guide(images)[1] for m in models)
        assert not torch.allclose(first, second, atol=1e-4)
        whole = torch.randn(1, 3, 128, 128)
        first, second = (m.guide(whole)[1] for m in models)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize('kind', ['retinanet', 'mask-rcnn', 'cascade-rcnn'])
def test_names_and_heads_must_agree(kind):
    key = {'retinanet': 'bbox_head', 'mask-rcnn': 'roi_head.bbox_head', 'cascade-rcnn': 'roi_head.bbox_head.0'}[kind]
    with pytest.raises(ClassNamesError, match=f'2 class names for {key}.num_classes=3'):
        build(kind, class_names=NAMES[:2])
    with pytest.raises(ClassNamesError, match='class_names are missing'):
        build(kind, class_names=None)


def test_a_backbone_without_joint_space_is_refused():
    with pytest.raises(ConfigError, match='found ResNet'):
        build('retinanet', backbone=dict(type='mmdet.ResNet', depth=18))


def test_an_official_checkpoint_loads():
    model = build('retinanet')
    official = {k.replace('text_prompt.contexts', 'contexts'): v + 1 for k, v in model.state_dict().items()}
    missing, unexpected = model.load_state_dict(official, strict=False)
    assert not missing and not unexpected
    assert torch.equal(model.text_prompt.contexts.detach(), official['contexts'])
    assert model.neck.lateral_convs[-1].conv.in_channels == CHANNELS[-1]


def test_text_is_encoded_once_at_test_time(monkeypatch):
    model = build('retinanet').eval()
    calls = []
    forward = type(model.text_prompt).forward
    monkeypatch.setattr(type(model.text_prompt), 'forward', lambda *a, **k: calls.append(1) or forward(*a, **k))
    with torch.no_grad():
        for _ in range(3):
            model.predict(torch.randn(1, 3, *SIZE), samples([[]], SIZE))
    assert len(calls) == 1
