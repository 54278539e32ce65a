"""PixelTextHead: DenseCLIP's loss on the same map, names replaced and put back, prompts that learn, refusals."""

from __future__ import annotations

import warnings
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from tiny_towers import vit

from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.methods.denseclip import IdentityHead
from vlm_dense.registry import MODELS
from vlm_dense.segmentation import set_class_names

STOCK = Path(mmseg.__file__).parent / '.mim' / 'configs'
ARCH = vit(embed_dim=16, text=dict(width=16, heads=1, layers=1), layers=1)
NAMES = ['sky', 'road', 'red car']
OTHER = ['tree', 'house', 'water', 'dog']


def head(**options):
    init_default_scope('mmseg')
    torch.manual_seed(0)
    own = dict(in_channels=16, class_names=NAMES, text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH))
    return MODELS.build(dict(own, type='vlm_dense.PixelTextHead', **options))


def maps(channels: int = 16, **options) -> torch.Tensor:
    return torch.randn(2, channels, 5, 6, generator=torch.Generator().manual_seed(1), **options)


def samples(classes: int = 3) -> list[SegDataSample]:
    labels = torch.randint(classes, (2, 1, 20, 24), generator=torch.Generator().manual_seed(2))
    labels[:, :, :3] = 255
    return [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in labels]


@pytest.mark.parametrize(
    'losses', [None, [dict(type='mmseg.CrossEntropyLoss'), dict(type='mmseg.DiceLoss', loss_name='loss_dice')]]
)
def test_loss_and_gradient_are_those_of_denseclips_identity_head_on_the_same_map(losses):
    kwargs = {} if losses is None else dict(loss_decode=losses)
    ours, theirs = head(project=False, **kwargs), IdentityHead(num_classes=len(NAMES), **kwargs)
    mine, reference = maps().requires_grad_(), maps().requires_grad_()
    side = ours.text_side
    expected = theirs.loss(side.scores(reference, side.class_embeddings()) / 0.07, samples(), {})
    found = ours.loss((mine,), samples(), {})
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)
    for losses_, x in ((found, mine), (expected, reference)):
        sum(v for k, v in losses_.items() if 'loss' in k).backward()
        assert x.grad.abs().max() > 0
    torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-5, atol=1e-8)


def test_names_a_b_a_give_the_same_logits():
    ours = head(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=4)).eval()
    with torch.no_grad():
        first = ours((maps(),))
        ours.set_class_names(OTHER)
        other = ours((maps(),))
        ours.set_class_names(NAMES)
        again = ours((maps(),))
    assert other.shape[1] == 4 and torch.equal(first, again)
    direct = head(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=4), class_names=OTHER).eval()
    assert direct.load_state_dict(ours.state_dict()) and torch.equal(direct((maps(),)), other)


def test_a_prompt_with_vectors_of_its_own_for_each_class_keeps_its_names():
    ours = head(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=4, class_specific=True))
    with pytest.raises(ClassNamesError, match='learned something for each of its 3 classes'):
        ours.set_class_names(OTHER)
    assert ours.class_names == NAMES and ours((maps(),)).shape[1] == 3


def test_prompt_projection_and_temperature_learn_and_the_tower_does_not():
    ours = head(in_channels=8, learn_tau=True, text_prompt=dict(type='vlm_dense.KgCoOpPrompt', num_contexts=4))
    losses = ours.loss((maps(8),), samples(), {})
    assert any(name.startswith('prompt.') for name in losses)
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    learning = {name for name, p in ours.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert learning == {'logit_scale', 'projection.weight', 'projection.bias', 'text_prompt.ctx'}
    assert {n for n, p in ours.named_parameters() if p.requires_grad} == learning
    torch.testing.assert_close(ours.logit_scale.exp().item(), 1 / 0.07)


def test_variants_of_a_prompt_are_combined():
    ours = head(text_prompt=dict(type='vlm_dense.PLOTPrompt', num_prompts=2, num_contexts=4))
    assert ours((maps(),)).shape == (2, 3, 5, 6)


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        (dict(in_channels=8, project=False), 'without project of 16 channels'),
        (dict(in_channels=[8, 8], in_index=[0, 1], input_transform='multiple_select'), 'takes one map'),
        (dict(num_classes=5), '3 class names for num_classes=5'),
        (dict(class_names=None), 'class_names are missing'),
        (dict(text_encoder=None), 'needs text_encoder'),
        (dict(tau=0), 'tau must be above 0'),
        (dict(text_prompt=dict(type='vlm_dense.CoCoOpPrompt', num_contexts=4)), 'reads or changes the image'),
        (dict(text_prompt=dict(type='vlm_dense.MaPLePrompt')), 'image'),
    ],
)
def test_refusals(options, told):
    with pytest.raises(ConfigError, match=told):
        head(**options)


def test_class_names_of_a_data_set_or_a_list():
    assert head(class_names='ADE20KDataset').class_names[:2] == ['wall', 'building']
    assert head(class_names='mmseg.CityscapesDataset').num_classes == 19
    assert head(class_names='voc20').class_names[0] == 'aeroplane'
    with pytest.raises(ClassNamesError, match='ADE20KDatasets'):
        head(class_names='ADE20KDatasets')


SMALL = dict(arch=vit(embed_dim=16, text=dict(layers=1), layers=4))
DECODERS = {  # stock model -> channels of the last stage
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py': 256,
    'pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py': 2048,
}


@pytest.mark.parametrize('path', DECODERS)
@pytest.mark.parametrize('place', ['decode_head', 'auxiliary_head'])
def test_in_a_stock_model(path, place):
    """The head in a config of mmseg's wheel, built by mmseg: a step, a prediction, other names."""
    init_default_scope('mmseg')
    model = Config.fromfile(STOCK / path).model
    model.pretrained = model.backbone.init_cfg = None
    model.data_preprocessor.size = (64, 64)
    if model.backbone.type == 'ResNetV1c':
        model.backbone.update(depth=18, base_channels=16, norm_cfg=dict(type='BN'))
        channels = 128
        model.decode_head.update(in_channels=128, channels=16, norm_cfg=dict(type='BN'))
        model.auxiliary_head = None
    else:
        model.backbone.update(embed_dims=8, num_layers=[1, 1, 1, 1])
        channels = 64
        model.decode_head.update(in_channels=[8, 16, 40, 64], channels=16, norm_cfg=dict(type='BN'))
    model[place] = dict(
        type='vlm_dense.PixelTextHead',
        in_channels=channels,
        in_index=3,
        class_names='ADE20KDataset',
        text_encoder=dict(type='vlm_dense.TextTower', **SMALL),
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        built = MMSEG_MODELS.build(model)
    built.init_weights()
    batch = dict(inputs=[torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2, data_samples=[])
    for _ in range(2):
        batch['data_samples'].append(SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 64, 64).long())))
    data = built.data_preprocessor(batch, True)
    loss, _ = built.parse_losses(built(**data, mode='loss'))
    loss.backward()
    head_ = getattr(built, place)
    assert head_.projection.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in head_.text_encoder.parameters())
    if place == 'decode_head':
        built.eval()
        set_class_names(built, OTHER)
        with torch.no_grad():
            [sample, _] = built.test_step(
                dict(
                    batch,
                    data_samples=[
                        SegDataSample(metainfo=dict(ori_shape=(64, 64), img_shape=(64, 64))) for _ in range(2)
                    ],
                )
            )
        assert sample.seg_logits.data.shape == (4, 64, 64) and built.out_channels == 4


def test_a_model_without_names_is_refused():
    with pytest.raises(ConfigError, match='no head with a classifier of class names'):
        set_class_names(torch.nn.Linear(1, 1), OTHER)


def test_the_hook_gives_the_names_of_the_runners_data(tmp_path):
    """A head that is built with names of any kind is trained and tested with those of the data sets of the run."""
    init_default_scope('mmseg')
    scene = dict(type='vlm_dense.ShapesDataset', size=32, num_objects=(1, 2), num_scenes=4, split='train')
    pipeline = [dict(type='vlm_dense.DrawScene'), dict(type='PackSegInputs')]
    loader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
    runner = Runner(
        model=dict(
            type='mmseg.EncoderDecoder',
            data_preprocessor=dict(type='mmseg.SegDataPreProcessor', mean=[127.0] * 3, std=[60.0] * 3, size=(32, 32)),
            backbone=dict(type='mmseg.ResNetV1c', depth=18, base_channels=4, stem_channels=4),
            decode_head=dict(
                type='vlm_dense.PixelTextHead',
                in_channels=32,
                in_index=3,
                class_names=NAMES,
                text_encoder=dict(type='vlm_dense.TextTower', **SMALL),
                text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=4),
            ),
            test_cfg=ConfigDict(mode='slide', crop_size=(16, 16), stride=(16, 16)),
        ),
        work_dir=str(tmp_path),
        train_dataloader=dict(loader, dataset=dict(scene, pipeline=pipeline)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        test_dataloader=dict(loader, dataset=dict(scene, pipeline=pipeline, label='colour')),
        test_cfg=dict(),
        test_evaluator=dict(type='mmseg.IoUMetric'),
        custom_hooks=[dict(type='vlm_dense.ClassNamesHook')],
        default_scope='mmseg',
        experiment_name='names',
    )
    before = runner.model.decode_head.text_prompt.ctx.detach().clone()
    runner.train()
    assert not torch.equal(before, runner.model.decode_head.text_prompt.ctx)  # the optimiser's own
    assert runner.model.decode_head.class_names == list(runner.train_dataloader.dataset.metainfo['classes'])
    runner.test()
    assert runner.model.decode_head.class_names == list(runner.test_dataloader.dataset.metainfo['classes'])
    assert runner.model.decode_head.class_names[0] == 'red' and runner.model.out_channels == 8
