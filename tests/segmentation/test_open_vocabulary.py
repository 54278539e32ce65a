"""Trained open-vocabulary segmentors: names replaced, classes in parts, what is trained, checkpoints, refusals."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.runner.base_loop import BaseLoop
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from segmentation.open_models import (
    ARCH,
    BUILD,
    NAMES,
    OTHER,
    PLAIN,
    cat_seg,
    fc_clip,
    images,
    maft_plus,
    samples,
    san,
    sed,
)
from tiny_towers import resnet, vit

from vlm_dense.engine.checkpoints.fit import CheckpointFitHook, read_checkpoint
from vlm_dense.engine.models import view_of
from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError, DataError
from vlm_dense.methods.open_vocabulary import proposals
from vlm_dense.methods.open_vocabulary.cost_volume import ClassAttention
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.naming import ClassNamesHook
from vlm_dense.segmentation.strips import strip_binary_cross_entropy

CHUNKED = ('cat_seg', 'sed')


@pytest.fixture(scope='module')
def models():
    return {name: build().eval() for name, build in BUILD.items()}


@pytest.fixture(scope='module')
def model(models):
    return models['cat_seg']


@torch.no_grad()
def logits(model, x=None) -> torch.Tensor:
    return model._forward(images() if x is None else x)


@pytest.mark.parametrize('name', BUILD)
def test_names_replaced_and_put_back_give_the_maps_of_a_model_built_for_them(name, models):
    model = models[name]
    before = logits(model)
    view = view_of(model)
    view.set_class_names(OTHER)
    built = BUILD[name](OTHER).eval()
    built.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(view), logits(built), rtol=0, atol=0)
    assert view.num_classes == view.decode_head.num_classes == 4
    view.set_class_names(NAMES)
    torch.testing.assert_close(logits(view), before, rtol=0, atol=0)


@pytest.mark.parametrize('name', BUILD)
def test_classes_do_not_depend_on_their_order_nor_images_on_their_batch(name, models):
    model = models[name]
    view = view_of(model)
    view.set_class_names(NAMES[::-1])
    torch.testing.assert_close(logits(view).flip(1), logits(model))
    torch.testing.assert_close(logits(model)[1:], logits(model, images()[1:]))


@pytest.mark.parametrize('name', CHUNKED)
def test_a_few_classes_at_a_time_give_the_same_logits(name, models):
    view = view_of(models[name])
    view.set_class_names([f'thing {i}' for i in range(7)])
    whole, seen = logits(view), []
    view.decode_head.chunk_size = 4
    attend = ClassAttention._attend
    with mock.patch.object(ClassAttention, '_attend', lambda *args: seen.append(args[1].shape) or attend(*args)):
        torch.testing.assert_close(logits(view), whole, rtol=1e-5, atol=1e-6)
    assert all(shape[3] == 7 for shape in seen)  # all classes, of some positions at a time
    assert len(seen) > sum(isinstance(part, ClassAttention) for part in view.modules())


def test_of_many_classes_those_with_the_largest_cosine_go_on_in_each_image():
    model = cat_seg([f'thing {i}' for i in range(6)], head=dict(pad_len=4)).eval()
    found = logits(model)
    features, cost, text = model.extract_feat(images())
    assert ((found == -100).flatten(2).all(2).sum(1) == 2).all()
    for i in range(2):
        kept = (found[i] != -100).flatten(1).any(1).nonzero()[:, 0]
        best = cost[i].amax(dim=(0, 2, 3))
        assert set(kept.tolist()) == set(best.topk(4).indices.tolist())
        view = view_of(model)
        view.set_class_names([model.class_names[k] for k in kept])
        torch.testing.assert_close(logits(view, images()[i : i + 1])[0], found[i, kept], rtol=1e-5, atol=1e-5)


def test_classes_rejected_early_change_nothing_but_their_own_maps_where_all_could_go_on(models):
    view = view_of(models['sed'])
    view.set_class_names([f'thing {i}' for i in range(6)])
    every = logits(view)
    view.decode_head.top_k = 6
    torch.testing.assert_close(logits(view), every, rtol=1e-5, atol=1e-6)
    view.decode_head.top_k = 1
    few = logits(view)
    gone = (few == -1e4).flatten(2).all(2)
    assert gone.any() and not gone.all(1).any()
    torch.testing.assert_close(few[1:], logits(view, images()[1:]), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        probabilities = view.predict(images()[:1], samples(1))[0].seg_logits.data
    assert not probabilities[gone[0]].any() and probabilities[~gone[0]].flatten(1).any(1).all()


def test_synonyms_are_averaged_in_each_template(models):
    view, alone = view_of(models['sed']), view_of(models['sed'])
    view.set_class_names([['house', 'building'], 'dog'])
    both = view.text_side.class_embeddings()
    alone.set_class_names(['house', 'building', 'dog'])
    found = alone.text_side.class_embeddings()
    wanted = torch.stack([F.normalize(found[:, 0] + found[:, 1], dim=-1), found[:, 2]], dim=1)
    assert both.shape == (2, 2, 16)
    torch.testing.assert_close(both, wanted)


@pytest.mark.parametrize('attention', ['linear', 'full'])
def test_classes_that_fill_up_are_as_if_they_were_there(attention):
    torch.manual_seed(0)
    layer = ClassAttention(8, 4, 2, attention, pad_len=5)
    torch.nn.init.normal_(layer.padding_tokens)
    torch.nn.init.normal_(layer.padding_guidance)
    rows, guidance = torch.randn(1, 2, 2, 3, 8), torch.randn(1, 3, 4)
    wanted_layer = copy.deepcopy(layer)
    wanted_layer.pad_len = 0
    filled = torch.cat([rows, layer.padding_tokens.expand(1, 2, 2, 2, 8)], dim=3)
    more = torch.cat([guidance, layer.padding_guidance.expand(1, 2, 4)], dim=1)
    torch.testing.assert_close(layer._attend(rows, guidance), wanted_layer._attend(filled, more)[:, :, :, :3])


def test_the_loss_is_that_of_whole_maps_with_ignored_pixels_of_no_class():
    maps = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.stack([s.gt_sem_seg.data[0] for s in samples(size=(20, 24))])
    total, hits = strip_binary_cross_entropy(maps, labels)
    enlarged = F.interpolate(maps, (20, 24), mode='bilinear', align_corners=False)
    target = torch.stack([labels == k for k in range(3)], dim=1).double()
    wanted = F.binary_cross_entropy_with_logits(enlarged, target, reduction='sum')
    torch.testing.assert_close(total, wanted)
    assert hits == (enlarged.argmax(1) == labels).sum()
    (found,), (expected,) = (torch.autograd.grad(x, maps, retain_graph=True) for x in (total, wanted))
    torch.testing.assert_close(found, expected)
    with pytest.raises(DataError, match='holds the label 7'):
        strip_binary_cross_entropy(maps, torch.full((2, 4, 4), 7))


def test_a_step_moves_queries_and_values_of_both_towers_and_nothing_else_of_clip():
    model = cat_seg().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.1)
    sum(v for k, v in model.loss(images(), samples()).items() if 'loss' in k).backward()
    assert all(p.grad is not None for p in weights)
    optimizer.step()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    towers = {k for k in moved if not k.startswith('decode_head.')}
    part = 'transformer.resblocks.{}.attn.parametrizations.in_proj_weight.original{}'
    wanted = {f'text_encoder.{part.format(b, i)}' for b in range(2) for i in (0, 2)}
    wanted |= {f'backbone.{part.format(b, i)}' for b in range(3) for i in (0, 2)} - {f'backbone.{part.format(2, 0)}'}
    assert towers == wanted
    assert {k for k in before if k.startswith('decode_head.')} <= moved


def test_embeddings_follow_the_weights_of_a_tower_that_is_trained():
    model = cat_seg().eval()
    before = logits(model)
    with torch.no_grad():
        model.text_encoder.transformer.resblocks[0].attn.parametrizations.in_proj_weight.original2.mul_(2)
    assert not torch.allclose(logits(model), before)


PROMPTS = {
    'learned': dict(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=2)),
    'two variants': dict(text_prompt=dict(type='vlm_dense.DualCoOpPrompt', num_contexts=2)),
    'of the image': dict(text_prompt=dict(type='vlm_dense.CoCoOpPrompt', num_contexts=2, reduction=4)),
    'both towers': dict(text_prompt=dict(type='vlm_dense.MaPLePrompt', depth=2)),
    'image': dict(text_prompt=PLAIN, image_prompt=dict(type='vlm_dense.VPTPrompt', num_tokens=2)),
}


OF_A_RESNET = [name for name in PROMPTS if name not in ('both towers', 'image')]
CASES = [
    *((kind, name) for kind in ('cat_seg', 'san') for name in PROMPTS),
    *((kind, x) for kind in ('sed', 'fc_clip', 'maft_plus', 'mask_adapter') for x in OF_A_RESNET),
]


@pytest.mark.parametrize(('kind', 'name'), CASES)
def test_any_prompt_trains_and_treats_each_image_by_itself(kind, name):
    model, size = BUILD[kind](**PROMPTS[name]).train(), (128, 128) if kind == 'maft_plus' else (32, 32)
    losses = model.loss(images(2, size), samples(2, size))
    sum(v.sum() for k, v in losses.items() if 'loss' in k).backward()
    learned = [p for n, p in model.named_parameters() if 'prompt' in n]
    assert learned and any(p.grad is not None and p.grad.any() for p in learned)
    model.eval()
    torch.testing.assert_close(logits(model)[1:], logits(model, images()[1:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('overview', [True, False])
def test_windows_of_the_resized_image_and_the_whole_of_it_decide_alike_with_and_without_kept_logits(model, overview):
    view = view_of(model)
    view.test_cfg = dict(mode='slide', crop_size=(32, 32), stride=(24, 24), resize=(56, 56), overview=overview)
    image = images(1, (40, 50))
    with torch.no_grad():
        [kept] = view.predict(image, samples(1, (40, 50)))
        small = F.interpolate(image, (56, 56), mode='bilinear', align_corners=False)
        total = torch.zeros(3, 56, 56)
        for y in (0, 24):
            for x in (0, 24):
                one = F.interpolate(logits(view, small[:, :, y : y + 32, x : x + 32]), (32, 32), mode='bilinear')
                total[:, y : y + 32, x : x + 32] += one[0].sigmoid()
        counts = torch.zeros(56, 56)
        for y in (0, 24):
            for x in (0, 24):
                counts[y : y + 32, x : x + 32] += 1
        wanted = total / counts
        if overview:
            one = logits(view, F.interpolate(image, (32, 32), mode='bilinear', align_corners=False))
            one = F.interpolate(one, (32, 32), mode='bilinear').sigmoid()
            wanted = (wanted + F.interpolate(one, (56, 56), mode='bilinear')[0]) / 2
        wanted = F.interpolate(wanted[None], (40, 50), mode='bilinear')[0]
        torch.testing.assert_close(kept.seg_logits.data, wanted, rtol=1e-4, atol=1e-5)
        view.test_cfg['keep_logits'] = False
        [labels] = view.predict(image, samples(1, (40, 50)))
    assert (labels.pred_sem_seg.data == kept.pred_sem_seg.data).float().mean() > 0.999


def test_names_of_validation_go_back_to_those_of_the_training():
    model = cat_seg()

    class Loop(BaseLoop):
        def __init__(self):
            pass

        def run(self):
            raise AssertionError

    def loader(names):
        return SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=names)))

    loaders = dict(train_dataloader=loader(NAMES), val_dataloader=loader(OTHER))
    runner = SimpleNamespace(model=model, _train_loop=Loop(), **loaders)
    hook = ClassNamesHook()
    hook.before_val(runner)
    assert model.num_classes == 4
    hook.after_val(runner)
    assert model.num_classes == 3 and model.class_names == (('sky',), ('road',), ('red car',))


def test_a_checkpoint_of_detectron2_is_read_with_arrays_too(model, tmp_path):
    state = model.state_dict()
    part = 'parametrizations.in_proj_weight.original'
    official = {}
    for key, value in state.items():
        for i, letter in enumerate('qkv'):
            key = key.replace(f'{part}{i}', f'{letter}_proj_weight')
        key = key.replace('backbone.', 'sem_seg_head.predictor.clip_model.visual.')
        key = key.replace('text_encoder.', 'sem_seg_head.predictor.clip_model.')
        if key.startswith('decode_head.upsample'):
            key = key.removeprefix('decode_head.')
        official[key.replace('decode_head.', 'sem_seg_head.predictor.transformer.')] = value + 1
    arrays = {k: v.numpy() if i % 2 else v for i, (k, v) in enumerate(official.items())}
    torch.save(dict(model=arrays, iteration=np.int64(7)), tmp_path / 'model_final.pth')
    loaded = cat_seg()
    checkpoint = read_checkpoint(str(tmp_path / 'model_final.pth'))
    CheckpointFitHook().after_load_checkpoint(SimpleNamespace(model=loaded), checkpoint)
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, state[key] + 1, rtol=0, atol=0)


@pytest.mark.parametrize('name', BUILD)
def test_a_checkpoint_of_a_wider_tower_is_refused(name, models):
    state = dict(models[name].state_dict())
    key = next(key for key, value in state.items() if key.startswith('backbone.') and value.dim() == 4)
    state[key] = torch.cat([state[key]] * 2)
    with pytest.raises(CheckpointError, match=f'another shape: {key}'):
        CheckpointFitHook().after_load_checkpoint(SimpleNamespace(model=models[name]), dict(state_dict=state))


BAD = {
    'windows that do not fit the grid': (dict(head=dict(window_size=3)), 'does not consist of windows of 3 x 3'),
    'one map of the tower': (dict(backbone=dict(out_indices=[1])), 'joins two maps of the tower, found 1'),
    'another attention': (dict(head=dict(attention_type='none')), "must be one of \\['linear', 'full'\\]"),
    'another projection': (dict(finetune='qx'), "found \\['x'\\]"),
    'heads': (dict(head=dict(num_heads=3)), 'must divide hidden_dim=16'),
    'pooling': (dict(head=dict(pooling=5)), 'exceeds the grid of \\(4, 4\\)'),
    'another tower': (dict(text_encoder=dict(type='vlm_dense.TextTower', arch=vit(embed_dim=8))), '16 and 8 dimen'),
    'a ResNet': (
        dict(backbone=dict(type='vlm_dense.CLIPResNet', arch=resnet(embed_dim=16), attnpool=True, out_indices=[0, 1])),
        "Use 'vlm_dense.CLIPViT'",
    ),
}


def test_sed_refuses_a_tower_without_four_strides_and_a_rejection_of_all():
    tower = dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True)
    text = dict(type='vlm_dense.TextTower', arch=ARCH)
    with pytest.raises(ConfigError, match='strides 4, 8, 16 and 32, found 3 maps'):
        sed(backbone=tower, text_encoder=text)
    with pytest.raises(ConfigError, match='top_k must be at least 1'):
        sed(head=dict(top_k=0))
    with pytest.raises(ConfigError, match='joins a map of'):
        logits(sed(clip_resolution=(64, 72)))


@pytest.mark.parametrize('name', BAD)
def test_what_cannot_work_is_refused_with_what_to_do(name):
    options, message = copy.deepcopy(BAD[name])
    if 'backbone' in options and 'type' not in options['backbone']:
        own = dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True)
        options['backbone'] = dict(own, dense_attention=dict(type='vlm_dense.CATSegAttention'), **options['backbone'])
    with pytest.raises(ConfigError, match=message):
        cat_seg(**options).train().loss(images(), samples())


def test_targets_of_label_maps_objects_and_both():
    head = fc_clip().decode_head
    labels = torch.tensor([[[0, 0, 2], [1, 255, 2]]])
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
    found = head.targets_of(sample, torch.device('cpu'))
    assert found.labels.tolist() == [0, 1, 2] and found.masks.sum((1, 2)).tolist() == [2, 1, 2]
    sample.gt_instances = InstanceData(labels=torch.tensor([0, 0]), masks=torch.ones(2, 2, 3))
    assert head.targets_of(sample, torch.device('cpu')).labels.tolist() == [0, 0]
    head.num_things = 1
    assert head.targets_of(sample, torch.device('cpu')).labels.tolist() == [0, 0, 1, 2]


def test_an_image_without_targets_trains():
    model = fc_clip().train()
    nothing = samples()
    nothing[1].gt_sem_seg.data[:] = 255
    losses = model.loss(images(), nothing)
    assert all(torch.isfinite(v).all() for v in losses.values())


def test_maft_plus_moves_the_trunk_and_neither_pool_nor_copy_and_is_its_copy_at_the_start():
    model = maft_plus().train()
    large = images(2, (128, 128))
    losses = model.loss(large, samples(2, (128, 128)))
    assert losses['loss_rc'] == 0 and losses['loss_ranking'] > 0
    sum(v.sum() for k, v in losses.items() if 'loss' in k).backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}
    towers = {name.split('.')[1] for name in trained if name.startswith(('backbone.', 'teacher.'))}
    assert towers == {
        *(f'{kind}{i}' for kind in ('conv', 'bn') for i in (1, 2, 3)),
        *(f'layer{i}' for i in range(1, 5)),
    }
    assert not any(name.startswith(('teacher.', 'text_encoder.')) for name in trained)
    assert not any(module.training for module in (*model.backbone.modules(), *model.teacher.modules()))
    nothing = samples(2, (128, 128))
    for sample in nothing:
        sample.gt_sem_seg.data[:] = 255
    assert model.loss(large, nothing)['loss_ranking'] == 0
    with pytest.raises(ConfigError, match='at least 128 px'):
        model.loss(images(2, (64, 64)), samples(2, (64, 64)))


def test_of_several_names_of_a_class_the_best_counts_and_names_of_the_training_are_known(models):
    model = view_of(models['fc_clip'])
    model.set_class_names(['sky', ['house', 'road'], 'tree'])
    assert model.overlaps == [True, True, False]
    x = torch.randn(1, 5, 16)
    both = model.classify(x, model.text_side.class_embeddings(), torch.tensor(1.0))
    model.set_class_names(['sky', 'house', 'road', 'tree'])
    each = model.classify(x, model.text_side.class_embeddings(), torch.tensor(1.0))
    torch.testing.assert_close(both[..., 1], each[..., 1:3].amax(-1))
    torch.testing.assert_close(both[..., [0, 2, 3]], each[..., [0, 3, 4]])


def test_panoptic_segments_and_objects_come_with_the_labels():
    model = fc_clip(panoptic=dict(things=[2, 0], iou_thr=0.0)).eval()
    with torch.no_grad():
        [sample] = model.predict(images(1), samples(1))
    segments = sample.pred_panoptic_seg.sem_seg[0]
    assert segments.shape == (32, 32) and set((segments % 1000).unique().tolist()) <= {0, 1, 2, 3}
    assert set((segments[segments >= 1000] % 1000).tolist()) <= {0, 2}
    assert set(sample.pred_instances.labels.tolist()) <= {0, 2}
    with pytest.raises(ConfigError, match='names class 5, but there are 3'), torch.no_grad():
        fc_clip(panoptic=dict(things=[5])).eval().predict(images(1), samples(1))


def test_masks_go_to_the_original_size_before_their_sum_where_asked():
    model = fc_clip().eval()
    sample = samples(1)
    sample[0].set_metainfo(dict(img_shape=(32, 32), ori_shape=(45, 38)))
    with torch.no_grad():
        after = model.predict(images(1), copy.deepcopy(sample))[0].seg_logits.data
        model.masks_first = True
        before = model.predict(images(1), copy.deepcopy(sample))[0].seg_logits.data
        masks, scores = model.masks_and_scores(images(1))
        wide = F.interpolate(masks, (45, 38), mode='bilinear')
    assert before.shape == after.shape == (3, 45, 38)
    torch.testing.assert_close(before, model.semantic(scores, wide)[0])
    torch.testing.assert_close(after, F.interpolate(model.semantic(scores, masks), (45, 38), mode='bilinear')[0])


def test_fc_clip_refuses_what_cannot_work():
    with pytest.raises(ConfigError, match='alpha must be from 0 to 1, found 2'):
        fc_clip(alpha=2)
    with pytest.raises(ConfigError, match='width must be a multiple of 32'):
        fc_clip(head=dict(width=20))
    tower, text = (dict(type=f'vlm_dense.{kind}', arch=ARCH) for kind in ('CLIPTower', 'TextTower'))
    with pytest.raises(ConfigError, match='last map of a convolutional tower, found CLIPViT'):
        fc_clip(backbone=tower, text_encoder=text)


@pytest.mark.parametrize('name', BUILD)
def test_names_that_cannot_be_used_are_refused_and_the_old_ones_stay(name, models):
    view = view_of(models[name])
    before = logits(view)
    for names, message in (
        ([], 'at least one class name'),
        (['dog', 'Dog'], 'nothing could tell them'),
        ([' '.join(['long'] * 90)], 'context takes 77'),
    ):
        with pytest.raises(ClassNamesError, match=message):
            view.set_class_names(names)
        assert view.num_classes == 3
    torch.testing.assert_close(logits(view), before, rtol=0, atol=0)


@pytest.mark.parametrize('first', [False, True])
@pytest.mark.parametrize('name', BUILD)
def test_a_single_class_is_where_its_score_exceeds_a_half(name, first, models):
    view = view_of(models[name])
    view.set_class_names(['dog'])
    view.masks_first = first  # of those that propose masks
    with torch.no_grad():
        [found] = view.predict(images(1), samples(1))
    assert found.pred_sem_seg.data.shape == (1, 32, 32)
    assert torch.equal(found.pred_sem_seg.data[0].bool(), found.seg_logits.data[0] > 0.5)


@pytest.mark.parametrize('name', ['fc_clip', 'san'])
def test_labels_of_masks_are_decided_by_strips_where_scores_are_not_kept(name, models, monkeypatch):
    view, found = view_of(models[name]), []
    view.masks_first = True
    monkeypatch.setattr(proposals, 'STRIP', 3 * 32 * 5)
    for keep in (True, False):
        view.test_cfg = dict(mode='whole', keep_logits=keep)
        with torch.no_grad():
            found += view.predict(images(1), samples(1))
    assert torch.equal(found[0].pred_sem_seg.data, found[1].pred_sem_seg.data) and 'seg_logits' not in found[1]


BAD_SAN = {
    'no part': (dict(backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True)), 'found CLIPViT with ValueAtt'),
    'maps and blocks': (dict(head=dict(fusion=[0])), 'for each of the 2 maps .* found \\[0\\]'),
    'the last output without loss': (dict(head=dict(supervised=[1])), 'outputs from 1 to depth=2, .* found \\[1\\]'),
    'heads': (dict(head=dict(side_heads=5)), 'must divide width=24'),
    'no image': (dict(clip_resolution=0), 'positive factor, found 0'),
}


@pytest.mark.parametrize('name', BAD_SAN)
def test_san_refuses_what_cannot_work(name):
    options, message = BAD_SAN[name]
    with pytest.raises(ConfigError, match=message):
        san(**copy.deepcopy(options))


def test_the_part_of_san_needs_proposals_and_leaves_other_features_alone():
    tower = san().backbone.eval()
    plain = MODELS.build(dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True)).eval()
    plain.load_state_dict(tower.state_dict())
    wanted = plain.encode(images(), ('global', 'dense'))
    with pytest.raises(ConfigError, match="Use it in type='vlm_dense.SAN'"):
        tower.encode(images(), ('value',))
    biases = [torch.randn(2, 1, 3, 8, 8)]
    found = tower.encode(images(), ('value', 'global', 'dense'), propose=lambda maps: biases)
    assert found.value.shape == (2, 16, 1, 3)
    torch.testing.assert_close((found.global_, found.dense), (wanted.global_, wanted.dense))


def test_each_block_and_head_may_have_its_own_bias_and_a_copy_without_bias_sees_all_patches_alike():
    model = san(head=dict(shared_blocks=False, shared_heads=False)).eval()
    _, biases = model.decode_head(images(), [torch.randn(2, 32, 4, 4)] * 2)
    assert len(biases) == 2 and biases[0].shape == (2, model.backbone.blocks[0].num_heads, 4, 4, 4)
    with pytest.raises(ConfigError, match='3 biases of attention for 2 blocks'):
        model.backbone.encode(images(), ('value',), propose=lambda maps: [biases[0]] * 3)
    far, near = torch.zeros(2, 1, 1, 4, 4), torch.full((2, 1, 1, 4, 4), -1e4)
    near[..., 1, 2] = 0
    seen = [model.backbone.encode(images(), ('value',), propose=lambda maps, b=b: [b]).value for b in (far, near)]
    assert not torch.allclose(*seen)
    shifted = model.backbone.encode(images(), ('value',), propose=lambda maps: [torch.cat([far, near], dim=2)]).value
    torch.testing.assert_close(shifted, torch.cat(seen, dim=3))


def test_targets_of_san_are_padded_with_the_images():
    model = san().train()
    losses = model.loss(images(2, (20, 28)), samples(2, (20, 28)))
    assert all(torch.isfinite(v).all() for v in losses.values()) and len(losses) == 6
    sample = samples(1, (20, 28))[0]
    seen = []
    model.decode_head.loss_by_feat = lambda logits, masks, targets, metas: seen.append(targets[0].masks) or {}
    model.decode_head.losses([torch.zeros(1, 4, 4)], [], [sample], (32, 32))
    own = model.decode_head.targets_of(sample, torch.device('cpu')).masks
    assert seen[0].shape[1:] == (32, 32) and torch.equal(seen[0][:, :20, :28], own) and seen[0].sum() == own.sum()


@pytest.mark.parametrize('first', [True, False])
@pytest.mark.parametrize('name', ['fc_clip', 'san'])
def test_a_single_class_is_told_from_nothing_by_the_threshold(name, first, models):
    view = view_of(models[name])
    view.set_class_names(['dog'])
    view.masks_first = first
    with torch.no_grad():
        middle = view.predict(images(1), samples(1))[0].seg_logits.data.median()
        view.decode_head.threshold = middle.item()
        [found] = view.predict(images(1), samples(1))
    assert torch.equal(found.pred_sem_seg.data, (found.seg_logits.data > middle).to(found.seg_logits.data))
    assert found.pred_sem_seg.data.unique().tolist() == [0, 1]
