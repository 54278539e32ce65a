"""PseudoLabelHook: the labels of MaskCLIP+ and of the program for masks, in stock segmentors, resumed, in parallel."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from types import SimpleNamespace

import cv2
import mmseg
import numpy as np
import pytest
import torch
from engine.processes import in_processes
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from safetensors.torch import save_file
from tiny_towers import vit

from vlm_dense.clip.loading import load_clip
from vlm_dense.errors import ClassNamesError, ConfigError, DataError
from vlm_dense.inference.pseudo_label import pseudo_label
from vlm_dense.methods.maskclip_plus import PseudoLabelHook
from vlm_dense.registry import HOOKS, MODELS

STOCK = Path(mmseg.__file__).parent / '.mim' / 'configs'
NAMES = ['sky', 'road', 'car', 'tree']
ARCH = vit(text=dict(width=16, heads=1, layers=1), layers=1)
SIZE = 32
COLOURS = dict(type='mmseg.SegDataPreProcessor', mean=[127.5] * 3, std=[60.0] * 3)
SCENE = dict(type='vlm_dense.ShapesDataset', size=SIZE, label='shape', num_scenes=8)
UNLABELLED = [
    dict(type='vlm_dense.DrawScene'),
    dict(type='vlm_dense.SuppressLabels'),
    dict(type='PackSegInputs'),
]


@pytest.fixture(scope='module')
def clip_file(tmp_path_factory):
    torch.manual_seed(0)
    path = str(tmp_path_factory.mktemp('clip') / 'clip.safetensors')
    save_file({k: v.contiguous() for k, v in load_clip(ARCH).state_dict().items() if k != 'attn_mask'}, path)
    return path


def teacher(clip_file, **options) -> dict:
    clip = dict(arch=ARCH, pretrained=clip_file)
    return dict(
        type='vlm_dense.MaskCLIP',
        data_preprocessor=COLOURS,
        backbone=dict(type='vlm_dense.MaskCLIPViT', **clip),
        text_encoder=dict(type='vlm_dense.TextTower', **clip),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
        **options,
    )


class Student(torch.nn.Module):
    """What a hook sees of a model: weights, a preprocessor and predictions."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.data_preprocessor = MODELS.build(COLOURS)
        self.modes = []

    def predict(self, inputs, samples):
        self.modes.append(self.training)
        for image, sample in zip(inputs, samples, strict=True):
            channels = torch.stack([image[0], image[1], image[2], -image[0]])
            sample.seg_logits = PixelData(data=channels)
        return samples


def labelled(hook, images, samples, iteration: int = 1, model=None) -> list[torch.Tensor]:
    """Labels (H, W) that the hook gives the samples in an iteration of a run."""
    init_default_scope('mmseg')
    data = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=NAMES)))
    runner = SimpleNamespace(model=model or Student(), train_dataloader=data, iter=iteration - 1)
    if hook.teacher is None:
        hook.before_train(runner)
    hook.before_train_iter(runner, 0, dict(inputs=images, data_samples=samples))
    return [sample.gt_sem_seg.data[0] for sample in samples]


def raw(number: int = 2, size: tuple[int, int] = (SIZE, SIZE)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for _ in range(number)]


def samples(labels=None, number: int = 2) -> list[SegDataSample]:
    if labels is None:
        return [SegDataSample() for _ in range(number)]
    return [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in labels]


def half(label: int) -> torch.Tensor:
    labels = torch.full((2, SIZE, SIZE), -1)
    labels[:, :, : SIZE // 2] = label
    labels[:, 0] = 255
    return labels


REFINED = [dict(type='vlm_dense.PromptDenoising', thresh=0.2)]


@pytest.mark.parametrize('refinements', [[], REFINED], ids=['plain', 'refined'])
@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(clip_unlabeled_cats=['car', 3]),
        dict(clip_unlabeled_cats=[3, 2]),
        dict(clip_unlabeled_cats=['car'], conf_thresh=0.02),
        dict(clip_unlabeled_cats=[2, 3], conf_thresh=0.02),
        dict(clip_unlabeled_cats=[2, 3], conf_thresh=0.02, conf_drops_labeled=False),
    ],
    ids=['all', 'unseen', 'order', 'one', 'sure', 'sure_unlabelled'],
)
def test_labels_are_those_of_maskclip_plus(clip_file, options, refinements):
    own = teacher(clip_file, decode_head=dict(refinements=refinements))
    hook = PseudoLabelHook(own, **options)
    given = half(1) if 'clip_unlabeled_cats' in options else None
    found = torch.stack(labelled(hook, raw(), samples(given)))
    init_default_scope('mmseg')
    model = MODELS.build(
        ConfigDict(
            type='vlm_dense.MaskCLIPPlus',
            class_names=NAMES,
            data_preprocessor=COLOURS,
            backbone=dict(type='mmseg.ResNetV1c', depth=18, base_channels=4, stem_channels=4),
            teacher=own,
            decode_head=dict(decode_module=dict(type='mmseg.FCNHead', in_channels=32, num_convs=1)),
            **options,
        )
    ).train()
    seen, loss_by_feat = [], model.decode_head.loss_by_feat

    def watched(logits, batch):
        seen.extend(s.gt_sem_seg.data[0] for s in batch)
        return loss_by_feat(logits, batch)

    model.decode_head.loss_by_feat = watched
    model.loss(model.data_preprocessor(dict(inputs=raw()))['inputs'], samples(given))
    assert torch.equal(found, torch.stack(seen)) and len(found.unique()) > 1


def test_labels_are_those_of_the_pseudo_label_program(clip_file, tmp_path):
    cfg = Config(
        dict(
            default_scope='mmseg',
            model=teacher(clip_file, class_names=NAMES, test_cfg=dict(mode='whole')),
            test_pipeline=[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')],
        )
    )
    cfg.dump(tmp_path / 'teacher.py')
    (tmp_path / 'images').mkdir()
    for i, image in enumerate(raw()):
        cv2.imwrite(str(tmp_path / 'images' / f'{i}.png'), image.permute(1, 2, 0).numpy())
    config, images, masks = str(tmp_path / 'teacher.py'), tmp_path / 'images', tmp_path / 'masks'
    pseudo_label(config, None, images, masks, NAMES, show_progress=False)
    found = labelled(PseudoLabelHook(config), raw(), samples())
    for i, one in enumerate(found):
        mask = cv2.imread(str(masks / f'{i}.png'), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(one.numpy(), mask)


def test_labels_do_not_depend_on_what_else_is_in_the_batch(clip_file):
    hook = PseudoLabelHook(teacher(clip_file))
    images = [*raw(2), *raw(1, (24, 40))]
    together = labelled(hook, images, samples(number=3))
    for image, one in zip(images, together, strict=True):
        assert torch.equal(labelled(hook, [image], samples(number=1))[0], one)


def test_windows_and_steps_of_a_successor_are_taken(clip_file):
    windows = dict(
        test_cfg=dict(mode='slide', crop_size=(24, 24), stride=(8, 8)),
        postprocess=[dict(type='vlm_dense.Probabilities', scale=40.0)],
    )
    own = teacher(clip_file, **windows)
    found = labelled(PseudoLabelHook(own, conf_thresh=0.1), raw(), samples())
    plain = labelled(PseudoLabelHook(teacher(clip_file)), raw(), samples())
    model = MODELS.build(ConfigDict(copy.deepcopy(own), class_names=NAMES)).eval()
    metas = [SegDataSample(metainfo=dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE))) for _ in range(2)]
    with torch.no_grad():
        wanted = model.predict(model.data_preprocessor(dict(inputs=raw()))['inputs'], metas)
    assert all(torch.equal(a, b.pred_sem_seg.data[0]) for a, b in zip(found, wanted, strict=True))
    assert not torch.equal(torch.stack(found), torch.stack(plain))


def test_each_labels_in_its_own_window_and_nobody_in_between(clip_file):
    options = dict(clip_unlabeled_cats=[2, 3], start_clip_guided=(1, 1), start_self_train=(3, 3))
    hook, student = PseudoLabelHook(teacher(clip_file), **options), Student().train()
    first, second, third, fourth = (
        torch.stack(labelled(hook, raw(), samples(half(1)), i, student)) for i in (1, 2, 3, 4)
    )
    right = (slice(None), slice(1, None), slice(SIZE // 2, None))
    assert set(first[right].unique().tolist()) <= {2, 3}
    assert (second[right] == 255).all() and (fourth[right] == 255).all()
    images = student.data_preprocessor(dict(inputs=raw()))['inputs']
    wanted = torch.stack([images[:, 2], -images[:, 0]], dim=1).argmax(1) + 2
    assert torch.equal(third[right], wanted[right])
    assert student.modes == [False] and student.training
    assert all((labels[:, 1:, : SIZE // 2] == 1).all() for labels in (first, second, third, fourth))


@pytest.mark.parametrize(
    ('options', 'error', 'told'),
    [
        (dict(clip_unlabeled_cats=['boat']), ClassNamesError, 'boat'),
        (dict(start_clip_guided=(1, 5), start_self_train=(5, 9)), ConfigError, 'PseudoLabelHook: .* overlap'),
        (dict(clip_unlabeled_cats=[]), ConfigError, 'is empty'),
        (dict(class_names=['sky', 'sky']), ClassNamesError, 'sky'),
        (dict(teacher=dict(type='mmseg.FCNHead', in_channels=1, channels=1, num_classes=2)), ConfigError, ''),
    ],
)
def test_refusals(clip_file, options, error, told):
    with pytest.raises((error, TypeError), match=told):
        labelled(PseudoLabelHook(**{'teacher': teacher(clip_file), **options}), raw(), samples())


def test_a_detector_is_refused(clip_file):
    with pytest.raises(ConfigError, match='labels the pixels of SegDataSample.*found DetDataSample'):
        labelled(PseudoLabelHook(teacher(clip_file)), raw(1), [DetDataSample()])


def test_a_label_that_is_to_be_learned_without_is_named_with_its_file(clip_file):
    bad = samples(half(2))
    bad[0].set_metainfo(dict(seg_map_path='masks/7.png'))
    with pytest.raises(DataError, match=r'masks/7\.png holds the label 2 \(car\).*SuppressLabels.*\[2, 3\]'):
        labelled(PseudoLabelHook(teacher(clip_file), clip_unlabeled_cats=[2, 3]), raw(), bad)


# --- runs -----------------------------------------------------------------------------------------------------


def student(path: str) -> ConfigDict:
    """A small model of a config in mmseg's wheel."""
    model = Config.fromfile(STOCK / path).model
    model.pretrained = model.backbone.init_cfg = None
    model.data_preprocessor.size = (SIZE, SIZE)
    if 'segformer' in path:
        model.backbone.update(embed_dims=8, num_layers=[1, 1, 1, 1])
        model.decode_head.update(in_channels=[8, 16, 40, 64])
    else:
        model.backbone.update(depth=18, base_channels=4, stem_channels=4, norm_cfg=dict(type='BN'))
    if 'point_rend' in path:
        model.neck.in_channels = [4, 8, 16, 32]
        model.decode_head[0].update(num_classes=8, norm_cfg=dict(type='BN'))
        model.decode_head[1].num_classes = 8
        return model
    if 'mask2former' in path:
        model.backbone.deep_stem = True
        model.decode_head.update(in_channels=[4, 8, 16, 32], num_classes=8, num_queries=8)
        model.decode_head.loss_cls.class_weight = [1.0] * 8 + [0.1]
        return model
    if 'knet' in path:
        model.decode_head.kernel_generate_head.update(
            in_channels=32, channels=16, num_classes=8, norm_cfg=dict(type='BN')
        )
        for head in model.decode_head.kernel_update_head:
            head.update(num_classes=8, feedforward_channels=16, in_channels=16, out_channels=16, num_heads=2)
            head.kernel_updator_cfg.update(in_channels=16, feat_channels=16, out_channels=16)
        model.auxiliary_head.update(in_channels=16, channels=4, num_classes=8, norm_cfg=dict(type='BN'))
        return model
    if 'segformer' not in path:
        model.decode_head.in_channels = [4, 8, 16, 32] if 'upernet' in path else 32
        model.auxiliary_head.update(in_channels=16, channels=4, num_classes=8, norm_cfg=dict(type='BN'))
    model.decode_head.update(channels=8, num_classes=8, norm_cfg=dict(type='BN'))
    return model


def run(clip_file, folder, iterations: int, path: str, resume: bool = False) -> Runner:
    cfg = Config(
        dict(
            default_scope='mmseg',
            model=student(path),
            work_dir=str(folder),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='InfiniteSampler', shuffle=True),
                dataset=dict(pipeline=UNLABELLED, **SCENE),
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
            custom_hooks=[
                dict(type='vlm_dense.SeedIterationHook'),
                dict(type='vlm_dense.PseudoLabelHook', teacher=teacher(clip_file), start_clip_guided=(1, 3),
                     start_self_train=(4, -1)),
            ],
            randomness=dict(seed=0),
            log_level='ERROR',
            experiment_name=f'{folder.name}-{iterations}-{resume}',
            resume=resume,
        )
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


MODELS_OF_MMSEG = {
    'segformer': 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'upernet': 'upernet/upernet_r50_4xb4-80k_ade20k-512x512.py',
    'pspnet': 'pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'knet': 'knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py',
    'mask2former': 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
    'point_rend': 'point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py',
}


@pytest.mark.parametrize('name', MODELS_OF_MMSEG)
def test_a_stock_segmentor_learns_from_it_and_its_checkpoint_has_no_teacher(clip_file, tmp_path, name):
    runner = run(clip_file, tmp_path, 4, MODELS_OF_MMSEG[name])  # the last by its own labels
    before = MODELS.build(student(MODELS_OF_MMSEG[name])).state_dict()
    saved = torch.load(tmp_path / 'iter_4.pth', weights_only=False)['state_dict']
    assert set(saved) == set(before)
    assert runner.iter == 4


def test_a_run_that_is_resumed_has_the_weights_of_one_that_was_not(clip_file, tmp_path):
    path = MODELS_OF_MMSEG['segformer']
    whole = run(clip_file, tmp_path / 'whole', 6, path).model.state_dict()
    run(clip_file, tmp_path / 'cut', 4, path)
    resumed = run(clip_file, tmp_path / 'cut', 6, path, resume=True).model.state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def label_half(rank: int, clip_file: str, folder: str) -> None:
    images = raw(4)[2 * rank : 2 * rank + 2]
    torch.save(labelled(PseudoLabelHook(teacher(clip_file)), images, samples()), f'{folder}/{rank}.pt')


@pytest.mark.slow
def test_two_processes_give_the_labels_of_one(clip_file, tmp_path):
    in_processes(2, label_half, clip_file, str(tmp_path))
    halves = [one for rank in range(2) for one in torch.load(tmp_path / f'{rank}.pt', weights_only=True)]
    together = labelled(PseudoLabelHook(teacher(clip_file)), raw(4), samples(number=4))
    assert all(torch.equal(a, b) for a, b in zip(halves, together, strict=True))


def test_the_hook_is_registered():
    assert HOOKS.get('PseudoLabelHook') is PseudoLabelHook
