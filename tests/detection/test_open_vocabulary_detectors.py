"""Detectors that classify by text: what is trained, names that are replaced, batches, and checkpoints of releases."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from detection.open_vocabulary_models import ARCHS, NAMES, batch, build, config
from families import small
from mmdet.structures.mask import BitmapMasks
from tiny_towers import resnet

from vlm_dense.errors import ConfigError, DataError
from vlm_dense.methods.open_vocabulary.f_vlm import pad_same
from vlm_dense.registry import MODELS

KINDS = ('f_vlm', 'f_vit')
ALL = (*KINDS, 'retinanet')


pytestmark = pytest.mark.usefixtures('mmdet_scope')


@pytest.fixture(scope='module', params=ALL)
def model(request):
    """One of each kind, in eval mode, its names as they were."""
    built = build(request.param)
    built.kind = request.param
    return built


def found(model, images, samples) -> list[tuple[torch.Tensor, ...]]:
    with torch.no_grad():
        results = model.predict(images, copy.deepcopy(samples))
    return [(r.pred_instances.bboxes, r.pred_instances.scores, r.pred_instances.labels) for r in results]


def equal(a, b, **tolerance) -> None:
    for x, y in zip(a, b, strict=True):
        for u, v in zip(x, y, strict=True):
            torch.testing.assert_close(u, v, **tolerance)


def test_a_step_trains_the_heads_and_leaves_both_towers_as_they_were(model):
    model = copy.deepcopy(model).train()
    frozen = {n: v.clone() for n, v in model.state_dict().items() if n.startswith(('backbone.', 'text_encoder.'))}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    loss, _ = model.parse_losses(model.loss(*batch()))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    optimizer.step()
    for name, value in frozen.items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert not any(n.startswith(('backbone.', 'text_encoder.')) for n, p in model.named_parameters() if p.requires_grad)
    assert model.text_head.regions is None  # no graph is kept


def test_names_a_b_a_give_what_fresh_models_of_these_names_give(model):
    images, samples = batch()
    others = ['hammer', 'circle', 'pink elephant', 'zebra', 'kite']
    first = found(model, images, samples)
    model.set_class_names(others)
    second = found(model, images, samples)
    assert model.novel == [True, False, True, True, True]
    model.set_class_names(NAMES)
    equal(found(model, images, samples), first, rtol=0, atol=0)
    fresh = build(model.kind, seed=1, class_names=others, base_names=NAMES)
    fresh.load_state_dict(model.state_dict())
    equal(found(fresh, images, samples), second)
    assert not torch.equal(first[0][1], second[0][1])


def test_an_image_of_a_batch_is_found_as_it_is_alone(model):
    images, samples = batch(3)
    together = found(model, images, samples)
    alone = [found(model, images[i : i + 1], samples[i : i + 1])[0] for i in range(3)]
    equal(together, alone, rtol=1e-3, atol=1e-3)


def test_names_without_boxes_do_not_matter_for_the_loss(model):
    model = copy.deepcopy(model)
    images, samples = batch(labels=(0, 1))

    def loss(names, base):
        model.base_names = frozenset(base)
        model.set_class_names(names)
        torch.manual_seed(0)
        found = model.loss(images, copy.deepcopy(samples))['loss_cls']
        return sum(found) if isinstance(found, list) else found

    short = loss(['circle', 'square'], ['circle', 'square'])
    wide = loss([*NAMES, 'heart'], ['circle', 'square'])
    torch.testing.assert_close(short, wide)
    assert (loss([*NAMES, 'heart'], [*NAMES, 'heart']) - short).abs() > 1e-4


def test_anchors_have_the_cosines_of_their_embeddings_and_the_opinion_of_clip():
    model = build('retinanet', base_names=NAMES[:2])
    images, samples = batch(1)
    head = model.bbox_head
    with torch.no_grad():
        maps = model.extract_feat(images)
        given = head.regions
        scores, _ = head.forward_single(maps[0])
        embeddings = head.retina_cls(head.cls_convs[0](maps[0])).unflatten(1, (9, -1))[0, 4, :, 1, 2]
        cosines = torch.nn.functional.cosine_similarity(embeddings, given.text[:3])
        torch.testing.assert_close(
            scores.unflatten(1, (9, -1))[0, 4, :, 1, 2], head.temperature * cosines + head.bias, atol=1e-5, rtol=0
        )
        metas = [dict(samples[0].metainfo)]
        both = head(maps)
        fused = head.predict_by_feat(*both, batch_img_metas=metas, with_nms=False)[0]
        scorer, head.scorer = head.scorer, None
        plain = head.predict_by_feat(*both, batch_img_metas=metas, with_nms=False)[0]
        head.scorer = scorer
        rois = torch.cat([torch.zeros(len(plain), 1), plain.bboxes], dim=1)
        clip = head.clip_logits(rois).softmax(1).gather(1, plain.labels[:, None])[:, 0]
    weight = torch.where(plain.labels == 2, head.beta, head.alpha)
    torch.testing.assert_close(fused.scores, plain.scores ** (1 - weight) * clip**weight)


def test_boxes_of_novel_classes_are_refused_in_training():
    model = build('f_vit', base_names=['square'])
    with pytest.raises(DataError, match="'circle', which is none of its 1 base_names"):
        model.loss(*batch(labels=(1, 0)))


@pytest.mark.parametrize(('side', 'before', 'behind'), [(8, 0, 1), (7, 1, 1), (1, 1, 1)])
def test_maps_are_padded_as_tensorflow_does(side, before, behind):
    padded = pad_same(torch.ones(1, 1, side, 4))[0, 0, :, 1]
    assert padded.tolist() == [0] * before + [1] * side + [0] * behind
    assert (side + before + behind - 3) // 2 + 1 == -(-side // 2)


def test_a_single_small_image_is_refused_where_a_norm_cannot_train_on_it():
    with pytest.raises(ConfigError, match='one image of at most 64 px'):
        build('f_vlm').train().loss(*batch(1))


def test_padding_counts_in_the_softmax_and_is_never_found():
    images, samples = batch()
    plain, padded = (build('f_vlm', padding=number) for number in (0, 20))
    scores = [found(m, images, samples) for m in (plain, padded)]
    assert all(labels.max() < len(NAMES) for *_, labels in scores[1])
    assert scores[1][0][1].max() < scores[0][0][1].max()


def test_the_background_may_be_a_learned_vector():
    model = build('f_vit', background=None).train()
    losses = model.loss(*batch())
    losses['loss_cls'].backward()
    assert model.background.grad.abs().max() > 0 and len(model.text_prompt.class_names) == len(NAMES)
    assert len(found(model.eval(), *batch())) == 2


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(class_names=['circle', 'Circle']), 'nothing could tell them'),
        (dict(backbone=dict(type='mmdet.ResNet', depth=18)), 'the backbone must be'),
        (dict(roi_head=dict(type='mmdet.StandardRoIHead')), 'TextRoIHead'),
        (dict(roi_head=dict(alpha=1.5)), 'alpha must be from 0 to 1'),
        (dict(roi_head=dict(bbox_head=dict(embedding='sigmoid'))), 'kinds of embedding'),
        (dict(roi_head=dict(bbox_head=dict(fc_out_channels=8))), 'fc_out_channels=32'),
        (dict(backbone=dict(out_indices=[1, 3])), 'four'),
        (dict(backbone=dict(out_indices=[0, 1, 2, 2])), 'Add 3 to out_indices'),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(change, message):
    cfg = config('f_vit')

    def merge(a, b):
        return {
            **a,
            **{k: merge(a[k], v) if isinstance(v, dict) and k in a and 'depth' not in v else v for k, v in b.items()},
        }

    with pytest.raises(ConfigError, match=message):
        MODELS.build(merge(cfg, change)).eval().predict(*batch())


def test_a_checkpoint_in_the_layout_of_the_release_loads():
    model = build('f_vit')
    released = {}
    for name, value in model.state_dict().items():
        if name.startswith('text_encoder.'):
            continue  # the release holds the image tower only
        name = name.replace('neck.interpolate', 'backbone.interpolate') if 'interpolate' in name else name
        name = f'backbone.visual.{name[9:]}' if name.startswith('backbone.') and 'interpolate' not in name else name
        if name.endswith('.temperature'):
            name, value = 'roi_head.bbox_head.detect_temperature', value.reshape(()) + 1
        released[name] = value + 0.25 if value.is_floating_point() and name.startswith('backbone.') else value
    released['roi_head.bbox_head.fc_cls.weight'] = torch.zeros(4, 32)
    released['roi_head.bbox_head.fc_cls.bias'] = torch.zeros(4)
    released['roi_head.bbox_head.all_embeddings'] = torch.zeros(32, 4)
    other = build('f_vit', seed=1)
    missing, unexpected = other.load_state_dict(released, strict=False)
    assert not unexpected and all(name.startswith('text_encoder.') for name in missing)
    assert other.roi_head.bbox_head.temperature.item() == model.roi_head.bbox_head.temperature.item() + 1
    for name in ('backbone.conv1.weight', 'neck.interpolate1.0.weight'):
        torch.testing.assert_close(other.state_dict()[name], model.state_dict()[name] + 0.25)


def test_a_released_detector_on_eva_loads(monkeypatch):
    """Its tower has EVA-CLIP's names, with tables of rotary positions."""
    arch = small('eva02', monkeypatch)
    cfg = config('f_vit')
    cfg['text_encoder'] = dict(type='vlm_dense.TextTower', arch=resnet(arch['embed_dim']))
    cfg['backbone'] = dict(type='vlm_dense.CLIPTower', arch=arch, out_indices=[0, 0, 1, 1])
    model, other = (MODELS.build(copy.deepcopy(cfg)) for _ in range(2))
    theirs = [('trunk.', ''), ('attn.q_proj.bias', 'attn.q_bias'), ('attn.v_proj.bias', 'attn.v_bias')]
    theirs += [('attn.norm.', 'attn.inner_attn_ln.'), ('mlp.norm.', 'mlp.ffn_ln.'), ('fc1_g', 'w1'), ('fc1_x', 'w2')]
    theirs += [('mlp.fc2', 'mlp.w3')]
    released = {'backbone.visual.rope.freqs_cos': torch.zeros(16, 32)}
    for name, value in model.state_dict().items():
        if name.startswith('backbone.'):
            for ours, their in theirs:
                name = name.replace(ours, their)
            name = f'backbone.visual.{name[9:]}'
        released[name.replace('neck.interpolate', 'backbone.interpolate')] = value
    assert 'backbone.visual.blocks.1.attn.inner_attn_ln.weight' in released and len(released) > 100
    missing, unexpected = other.load_state_dict(released)
    assert not missing and not unexpected
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_the_map_of_the_last_block_is_made_without_attention():
    model = build('f_vit')
    tower, images = model.backbone, batch()[0]
    with torch.no_grad():
        plain = tower.encode(images, ('stages', 'value'))
        own = tower.encode(images, ('stages', 'value'), value_stage=True)
        tokens = own.stages[3].flatten(2).mT
        torch.testing.assert_close(tower.project(tokens), own.value.flatten(2).mT)
    for a, b in zip(plain.stages[:3], own.stages[:3], strict=True):
        assert torch.equal(a, b)
    assert (plain.stages[3] - own.stages[3]).abs().max() > 1e-3
    assert ARCHS['f_vit']['vision_cfg']['layers'] == 4


@pytest.mark.parametrize(('kind', 'family'), [('f_vit', 'eva02'), ('f_vit', 'siglip'), ('f_vlm', 'convnext')])
def test_other_towers_take_the_place_of_the_papers(kind, family, monkeypatch):
    arch = small(family, monkeypatch)
    cfg = config(kind)
    cfg['text_encoder'] = dict(type='vlm_dense.TextTower', arch=resnet(arch['embed_dim']))
    cfg['backbone'] = dict(type='vlm_dense.CLIPTower', arch=arch)
    if kind == 'f_vit':
        cfg['backbone']['out_indices'] = [0, 0, 1, 1]
        cfg['roi_head']['bbox_head']['fc_out_channels'] = arch['embed_dim']
    else:
        cfg['roi_head']['scorer'] = dict(type='vlm_dense.DenseMapScorer')
    model = MODELS.build(cfg)
    total, _ = model.train().parse_losses(model.loss(*batch()))
    total.backward()
    assert len(found(model.eval(), *batch())) == 2


@pytest.mark.parametrize('kind', KINDS)
def test_masks_are_found_and_trained_as_mask_rcnn_does(kind):
    cfg = config(kind)
    extractor = copy.deepcopy(cfg['roi_head']['bbox_roi_extractor'])
    if kind == 'f_vit':
        extractor['roi_layer']['output_size'] = 14
    else:
        extractor['output_size'] = 14
    head = dict(type='FCNMaskHead', num_convs=1, in_channels=8, conv_out_channels=8)
    cfg['roi_head'] = dict(cfg['roi_head'], mask_roi_extractor=extractor, mask_head=head)
    cfg['train_cfg']['rcnn']['mask_size'] = 28
    cfg['test_cfg']['rcnn']['mask_thr_binary'] = 0.5
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    images, samples = batch()
    for sample in samples:
        sample.gt_instances.masks = BitmapMasks(np.ones((2, 64, 64), np.uint8), 64, 64)
    losses = model.train().loss(images, copy.deepcopy(samples))
    losses['loss_mask'].backward()
    model.eval().set_class_names(['teapot'])
    with torch.no_grad():
        masks = [r.pred_instances.masks for r in model.predict(images, copy.deepcopy(samples))]
    assert all(m.shape[1:] == (64, 64) and len(m) for m in masks)


def test_a_head_of_another_kind_is_refused_in_one_stage():
    with pytest.raises(ConfigError, match='TextRetinaHead'):
        build('retinanet', bbox_head=dict(type='mmdet.RetinaHead', num_classes=3, in_channels=8))
