"""MaskCLIP+: who labels what and when, what is trained and saved, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine import ConfigDict
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.models import FCNHead
from mmseg.structures import SegDataSample
from safetensors.torch import save_file
from tiny_towers import vit

from vlm_dense.clip.loading import load_clip
from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError, DataError
from vlm_dense.registry import MODELS
from vlm_dense.segmentation import strips

CONFIGS = Path(__file__).parents[2] / 'configs' / 'maskclip_plus'
NAMES = ['sky', 'road', 'car', 'tree']
ARCH = vit(text=dict(width=16, heads=1, layers=1), layers=1)
ASPP = dict(type='vlm_dense.ASPPHeadV2', in_channels=32, dilations=(1, 2), norm_cfg=dict(type='BN'))
SIZE = 32


class Bare(FCNHead):
    """A head without classifier."""

    def __init__(self, **kwargs):
        super().__init__(in_channels=32, **kwargs)
        del self.conv_seg


@pytest.fixture(scope='module')
def clip_file(tmp_path_factory):
    torch.manual_seed(0)
    path = str(tmp_path_factory.mktemp('clip') / 'clip.safetensors')
    save_file({k: v.contiguous() for k, v in load_clip(ARCH).state_dict().items() if k != 'attn_mask'}, path)
    return path


def config(clip_file, head=None, teacher=None, **options) -> dict:
    clip = dict(arch=ARCH, pretrained=clip_file)
    own = dict(
        type='vlm_dense.MaskCLIPPlus',
        class_names=NAMES,
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[60.0] * 3, size=(SIZE, SIZE)),
        backbone=dict(type='mmseg.ResNetV1c', depth=18, base_channels=4, stem_channels=4, norm_cfg=dict(type='BN')),
        teacher={
            **dict(
                type='vlm_dense.MaskCLIP',
                backbone=dict(type='vlm_dense.MaskCLIPViT', **clip),
                text_encoder=dict(type='vlm_dense.TextTower', **clip),
                text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
            ),
            **(teacher or {}),
        },
        decode_head={**dict(decode_module=dict(ASPP)), **(head or {})},
        test_cfg=dict(mode='whole'),
    )
    return {**own, **options}


@pytest.fixture
def build(clip_file):
    def function(*args, **kwargs):
        init_default_scope('mmseg')
        torch.manual_seed(0)
        return MODELS.build(ConfigDict(config(clip_file, *args, **kwargs)))

    return function


def images(number: int = 2) -> torch.Tensor:
    return torch.randn(number, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def samples(labels: torch.Tensor, **meta) -> list[SegDataSample]:
    return [SegDataSample(gt_sem_seg=PixelData(data=one[None]), metainfo=meta) for one in labels]


def half(label: int) -> torch.Tensor:
    """Labels (2, H, W): the left half ``label``, the right half unlabelled."""
    labels = torch.full((2, SIZE, SIZE), -1)
    labels[:, :, : SIZE // 2] = label
    return labels


def labels_of(model, batch) -> torch.Tensor:
    """Labels (B, H, W) that the head was trained on in one step."""
    seen, loss_by_feat = [], model.decode_head.loss_by_feat

    def watched(logits, batch):
        seen.extend(s.gt_sem_seg.data[0] for s in batch)
        return loss_by_feat(logits, batch)

    model.decode_head.loss_by_feat = watched
    model.loss(images(), batch)
    model.decode_head.loss_by_feat = loss_by_feat
    return torch.stack(seen)


def teacher_labels(model) -> torch.Tensor:
    with torch.no_grad():
        logits = model.teacher.encode_decode(images(), [dict(img_shape=torch.Size((SIZE, SIZE)))] * 2)
    return logits.argmax(dim=1)


# --- labels ---------------------------------------------------------------------------------------------------


def test_without_any_label_the_teacher_labels_every_pixel(build):
    model = build().train()
    batch = [SegDataSample(metainfo=dict(img_shape=(SIZE, SIZE))) for _ in range(2)]
    found = labels_of(model, batch)
    assert torch.equal(found, teacher_labels(model)) and len(found.unique()) > 1


def test_what_is_padded_to_an_image_is_ignored(build):
    batch = [SegDataSample(metainfo=dict(img_shape=size)) for size in ((20, SIZE), (SIZE, 24))]
    found = labels_of(build().train(), batch)
    assert (found[0, 20:] == 255).all() and (found[1, :, 24:] == 255).all()
    assert (found[0, :20] < 4).all() and (found[1, :, :24] < 4).all()


def test_labels_of_seen_classes_are_kept_and_unlabelled_pixels_get_unseen_classes_only(build):
    model = build(clip_unlabeled_cats=['car', 3]).train()
    labels = half(1)
    labels[:, 0] = 255
    found = labels_of(model, samples(labels))
    assert (found[:, 0] == 255).all() and (found[:, 1:, : SIZE // 2] == 1).all()
    assert set(found[:, 1:, SIZE // 2 :].unique().tolist()) <= {2, 3}


def test_each_labels_in_its_own_window_and_nobody_in_between(build):
    cats = [2, 3]
    model = build(clip_unlabeled_cats=cats, start_clip_guided=(1, 1), start_self_train=(3, 3)).train()
    calls, teach = [], model.teacher.extract_feat
    model.teacher.extract_feat = lambda x: calls.append(1) or teach(x)
    first, second, third, fourth = (labels_of(model, samples(half(1))) for _ in range(4))
    assert len(calls) == 1
    right = slice(SIZE // 2, None)
    assert (first[..., right] < 4).all() and (third[..., right] < 4).all()
    assert (second[..., right] == 255).all() and (fourth[..., right] == 255).all()
    with torch.no_grad():
        own = F.interpolate(model.train()._forward(images()), (SIZE, SIZE), mode='bilinear')[:, cats].argmax(1) + 2
    assert torch.equal(third[..., right], own[..., right])


def test_evaluation_does_not_advance_the_windows(build):
    model = build().train()
    model.loss(images(), samples(half(-1)))
    model.eval()
    with torch.no_grad():
        model._forward(images())
    assert int(model._iter_counter) == 1


def test_unsure_pixels_are_ignored_labelled_ones_only_as_in_the_official_code(build):
    batch, options = samples(half(1)), dict(clip_unlabeled_cats=[2, 3], conf_thresh=2.0)
    assert (labels_of(build(**options).train(), batch) == 255).all()
    found = labels_of(build(conf_drops_labeled=False, **options).train(), batch)
    assert (found[..., : SIZE // 2] == 1).all() and (found[..., SIZE // 2 :] == 255).all()


def test_a_threshold_has_no_effect_on_a_batch_that_is_fully_labelled(build):
    model = build(clip_unlabeled_cats=[2], conf_thresh=2.0).train()
    labels = torch.ones(2, SIZE, SIZE, dtype=torch.long)
    assert torch.equal(labels_of(model, samples(labels)), labels)


def test_a_background_is_learned_from_its_labels(build):
    model = build(head=dict(cls_bg=True), class_names=['background', *NAMES]).train()
    assert model.num_classes == 5
    assert model.labeller.clip_unlabeled_cats == [1, 2, 3, 4]  # the teacher cannot find it
    losses, _ = model.parse_losses(model.loss(images(), samples(half(0))))
    assert model.decode_head.text_embeddings.shape == (4, 16)
    losses.backward()
    assert model.decode_head.bg_embeddings.grad.abs().max() > 0


def test_refinement_weighs_unlabelled_classes_only(build):
    plain, denoised = (
        build(clip_unlabeled_cats=[2, 3], teacher=dict(decode_head=h)) for h in ({}, dict(pd_thresh=0.4))
    )
    maps = plain.teacher_maps(images())
    p = (100 * maps).softmax(dim=1).amax(dim=(2, 3))
    assert maps.shape[1] == 2 and torch.equal((denoised.teacher_maps(images()) == -100).all(dim=(2, 3)), p < 0.4)


def test_a_class_with_several_names_is_their_mean_direction(build):
    model = build(class_names=[['sky', 'clouds'], 'road', 'car', 'tree']).eval()
    with torch.no_grad():
        model._forward(images())
    names = build(class_names=['sky', 'clouds', 'road', 'car', 'tree'])
    rows = names._text()
    wanted = torch.stack([F.normalize(rows[0] + rows[1], dim=0), *rows[2:]])
    torch.testing.assert_close(model.decode_head.text_embeddings, wanted)


def test_distillation_trains_unless_told_to_follow_the_official_code(build):
    def gradient(**options):
        model = build(distill=True, **options).train()
        total, _ = model.parse_losses(model.loss(images(), samples(half(-1))))
        total.backward()
        return next(model.decode_head.decode_module.parameters()).grad.abs().max()

    assert gradient() > 0
    assert gradient(distill_detach=True) == 0


@pytest.mark.parametrize('labelled', [True, False])
def test_features_are_compared_by_strips_as_at_full_size(build, labelled, monkeypatch):
    monkeypatch.setitem(strips._ELEMENTS, 'cpu', 16 * SIZE * 3)
    model = build(distill=True, distill_labeled=labelled)
    features = torch.randn(2, 16, 5, 7, requires_grad=True)
    labels = half(1)
    labels[:, :9] = 255
    found = model._distance(features, images(), labels)
    teacher = F.normalize(model.teacher.extract_feat(images()).value, dim=1)
    mine, wanted = (F.interpolate(x, labels.shape[1:], mode='bilinear') for x in (features, teacher))
    where = labels != 255 if labelled else labels == -1
    expected = ((mine - wanted).abs().mean(dim=1) * where).sum() / where.sum()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    (grad,), (wanted_grad,) = (torch.autograd.grad(x, features) for x in (found, expected))
    torch.testing.assert_close(grad, wanted_grad, rtol=1e-4, atol=1e-7)


def test_every_batch_has_the_distillation_loss_so_that_processes_agree(build):
    model = build(distill=True).train()
    ignored = torch.full((2, SIZE, SIZE), 255)
    some, none = (model.loss(images(), samples(labels))['decode.loss_distill'] for labels in (half(-1), ignored))
    assert some > 0 and none == 0


def test_the_shapes_configs_never_give_a_suppressed_label_to_the_model():
    init_default_scope('mmseg')
    for name, unseen in (('maskclip_plus_shapes', None), ('maskclip_plus_zero-shot_shapes', {7, 8})):
        cfg = Config.fromfile(CONFIGS / f'{name}.py')
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        found = [dataset[i]['data_samples'] for i in range(20)]
        if unseen is None:
            assert not any('gt_sem_seg' in sample for sample in found)
            continue
        labels = {int(v) for sample in found for v in sample.gt_sem_seg.data.unique()}
        assert labels == set(range(-1, 7))


# --- the network ----------------------------------------------------------------------------------------------


def test_the_head_takes_any_mmseg_head_as_module(build):
    plus = dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=32,
        in_index=3,
        dilations=(1, 12),
        c1_in_channels=4,
        c1_channels=3,
        norm_cfg=dict(type='BN'),
    )
    model = build(head=dict(decode_module=plus)).train()
    total, _ = model.parse_losses(model.loss(images(), samples(half(-1))))
    total.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad)
    assert model.eval()._forward(images()).shape == (2, 4, 8, 8)


def test_features_are_classified_by_direction_only_if_normalised(build):
    features = torch.rand(1, 16, 2, 2)
    for norm in (False, True):
        model = build(head=dict(norm_feat=norm))
        model.decode_head.set_text(F.normalize(torch.randn(4, 16), dim=1))
        once, twice = model.decode_head.classify(features), model.decode_head.classify(2 * features)
        torch.testing.assert_close(twice, once if norm else 2 * once)


def test_the_teacher_is_compared_on_the_same_images(build):
    model = build(compare_teacher=True).eval()
    with torch.no_grad():
        found = model.predict(
            images(), [SegDataSample(metainfo=dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE))) for _ in range(2)]
        )
    assert torch.equal(torch.stack([s.pred_teacher.data[0] for s in found]), teacher_labels(model))
    assert not torch.equal(found[0].pred_sem_seg.data, found[0].pred_teacher.data)


# --- frozen teacher, checkpoints --------------------------------------------------------------------------------


def test_the_teacher_is_frozen_and_stays_in_eval_mode(build):
    model = build(teacher=dict(backbone=dict(type='vlm_dense.MaskCLIPResNet', arch=_resnet()), text_encoder=_text()))
    model.train()
    assert model.training and model.decode_head.training and not any(m.training for m in model.teacher.modules())
    before = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.1)
    total, _ = model.parse_losses(model.loss(images(), samples(half(-1))))
    total.backward()
    optimizer.step()
    assert not any(p.grad is not None for p in model.teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.teacher.state_dict().items())


def _resnet() -> dict:
    return dict(ARCH, vision_cfg=dict(image_size=64, layers=[1, 1, 1, 1], width=8, head_width=16))


def _text() -> dict:
    return dict(type='vlm_dense.TextTower', arch=ARCH)


def _run(folder, clip_file, iterations: int, resume: bool = False) -> Runner:
    scene = dict(type='vlm_dense.ShapesDataset', size=SIZE, label='shape', num_scenes=4)
    cfg = Config(
        dict(
            default_scope='mmseg',
            model=config(clip_file, start_clip_guided=(1, 2), start_self_train=(3, -1)),
            work_dir=str(folder),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='InfiniteSampler', shuffle=True),
                dataset=dict(
                    pipeline=[
                        dict(type='vlm_dense.DrawScene'),
                        dict(type='vlm_dense.SuppressLabels'),
                        dict(type='PackSegInputs'),
                    ],
                    **scene,
                ),
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
            custom_hooks=[dict(type='vlm_dense.CheckpointFitHook'), dict(type='vlm_dense.FrozenWeightsHook')],
            randomness=dict(seed=0),
            log_level='ERROR',
            experiment_name=f'{folder.name}-{iterations}-{resume}',
            resume=resume,
        )
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def test_checkpoints_leave_the_teacher_out_and_the_counter_survives_resume(clip_file, tmp_path):
    _run(tmp_path, clip_file, 2)
    saved = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    assert not any(k.startswith('teacher.') for k in saved['state_dict'])
    assert int(saved['state_dict']['_iter_counter']) == 2
    assert 'decode_head.text_embeddings' not in saved['state_dict']  # follows from the class names
    resumed = _run(tmp_path, clip_file, 4, resume=True)
    assert resumed.iter == 4 and int(resumed.model._iter_counter) == 4


def test_another_teacher_is_noticed_on_resume(clip_file, tmp_path):
    _run(tmp_path, clip_file, 2)
    other = str(tmp_path / 'other.safetensors')
    torch.manual_seed(5)
    save_file({k: v.contiguous() for k, v in load_clip(ARCH).state_dict().items() if k != 'attn_mask'}, other)
    with pytest.raises(CheckpointError, match='teacher'):
        _run(tmp_path, other, 4, resume=True)


def test_weights_taken_over_start_a_new_count_if_asked(build, tmp_path):
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', 0)
    old = build()
    old._iter_counter.fill_(8000)
    for reset, count in ((False, 8001), (True, 1)):
        model = build(reset_counter=reset).train()
        model.load_state_dict(old.state_dict() | {'decode_head.text_embeddings': torch.randn(4, 16)})
        model.loss(images(), samples(half(-1)))
        assert int(model._iter_counter) == count


def test_text_is_that_of_the_names_of_the_model_whatever_the_checkpoint_was_trained_for(build):
    old, new = build().eval(), build(class_names=['boat', 'lamp', 'cat', 'door']).eval()
    with torch.no_grad():
        old._forward(images())
        wanted = new._forward(images())
        release = {'decode_head.text_embeddings': old.decode_head.text_embeddings}
        new.load_state_dict(new.state_dict() | release)
        torch.testing.assert_close(new._forward(images()), wanted)
    assert not torch.allclose(old.decode_head.text_embeddings, new.decode_head.text_embeddings, atol=1e-3)


def test_checkpoints_of_the_official_release_load(build):
    model = build(head=dict(cls_bg=True), class_names=['background', *NAMES])
    official = {k: torch.randn(v.shape) for k, v in model.state_dict().items() if k.startswith(('backbone.', 'decode'))}
    official['decode_head.text_embeddings'] = torch.randn(4, 16)
    official['decode_head._iter_counter'] = torch.tensor(2000)
    official['decode_head.clip.cls_token'] = torch.randn(1, 1, 32)
    official['decode_head.proj.weight'] = torch.randn(16, 32, 1, 1)
    teacher = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    model.load_state_dict(official)
    assert int(model._iter_counter) == 2000
    assert torch.equal(model.decode_head.bg_embeddings, official['decode_head.bg_embeddings'])
    assert all(torch.equal(v, teacher[k]) for k, v in model.teacher.state_dict().items())


# --- refusals -------------------------------------------------------------------------------------------------


def test_a_label_of_an_unseen_class_is_named_with_its_file(build):
    model = build(clip_unlabeled_cats=['car', 'tree']).train()
    labels = half(1)
    labels[1, 5, 7] = 3
    with pytest.raises(DataError, match=r'masks/7\.png holds the label 3 \(tree\).*SuppressLabels.*\[2, 3\]'):
        model.loss(images(), samples(labels, seg_map_path='masks/7.png', img_path='images/7.jpg'))


@pytest.mark.parametrize('windows', [((1, 10), (10, -1)), ((1, -1), (5, 6)), ((1, -1), (1, -1)), ((4, 9), (2, 5))])
def test_windows_that_overlap_are_refused(build, windows):
    with pytest.raises(ConfigError, match='overlap at iteration'):
        build(start_clip_guided=windows[0], start_self_train=windows[1])


@pytest.mark.parametrize('window', [(0, 5), (5, 4), (1, 2, 3)])
def test_windows_that_are_none_are_refused(build, window):
    with pytest.raises(ConfigError, match='counted from 1'):
        build(start_clip_guided=window)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(clip_unlabeled_cats=['cat']), ClassNamesError, "'cat' is not in the class names.*'car'"),
        (dict(unlabeled_cats=[4]), ClassNamesError, 'label 4, but there are 4 classes'),
        (dict(clip_unlabeled_cats=[]), ConfigError, 'clip_unlabeled_cats is empty'),
        (dict(class_names=None), ClassNamesError, 'class_names are missing'),
        (dict(head=dict(num_classes=3)), ClassNamesError, '4 class names for decode_head.num_classes=3'),
        (dict(head=dict(decode_module=dict(ASPP, channels=8))), ConfigError, '16 dimensions'),
        (dict(head=dict(decode_module=dict(type=Bare))), ConfigError, 'no classifier'),
        (dict(teacher=dict(decode_head=dict(background=dict(thresh=0.5)))), ConfigError, 'cls_bg=True'),
    ],
)
def test_a_config_that_cannot_work_is_refused(build, options, error, message):
    with pytest.raises(error, match=message):
        build(**options)


def test_the_metric_tells_seen_from_unseen_classes():
    from vlm_dense.segmentation import SeenUnseenIoUMetric

    metric = SeenUnseenIoUMetric(unseen=[2], iou_metrics=['mIoU'])
    metric.dataset_meta = dict(classes=('a', 'b', 'c'))
    truth, found = torch.tensor([[0, 0, 1, 1, 2, 2]]), torch.tensor([[0, 0, 1, 1, 1, 2]])
    sample = dict(pred_sem_seg=dict(data=found), gt_sem_seg=dict(data=truth))
    metric.process({}, [sample])
    result = metric.evaluate(1)
    assert result['seen_mIoU'] == pytest.approx(np.mean([100, 200 / 3]), abs=0.01)
    assert result['unseen_mIoU'] == 50 and result['hIoU'] == pytest.approx(62.5, abs=0.01)
    with pytest.raises(ConfigError, match='must list labels'):
        SeenUnseenIoUMetric(unseen=[])


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('maskclip_plus_*.py')), ids=lambda path: path.stem)
def test_configs_read_no_label_that_is_to_be_learned_without(path):
    cfg = Config.fromfile(path)
    dataset = cfg.train_dataloader.dataset
    steps = {step['type'].rpartition('.')[2]: step for step in dataset.pipeline}
    if 'clip_unlabeled_cats' in cfg.model:
        assert steps['SuppressLabels'].classes == cfg.model.clip_unlabeled_cats == cfg.model.unlabeled_cats
        assert cfg.test_evaluator.unseen == cfg.model.clip_unlabeled_cats
        own, clip = cfg.model.start_self_train, cfg.model.start_clip_guided
        assert own[0] in (clip[1] + 1, -1)
    else:
        assert 'LoadAnnotations' not in steps and 'seg_map_path' not in dataset.get('data_prefix', {})
    assert cfg.train_cfg.max_iters >= cfg.train_cfg.val_interval
