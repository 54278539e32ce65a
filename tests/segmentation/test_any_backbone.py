"""A new attention pool on any backbone: layouts, the pool itself, learning rates, what is refused, a run on ADE20K."""

from __future__ import annotations

import pytest
import torch
import torchvision
from engine.published import ROOT, SMALL_ADE20K, trained, write_ade20k
from mmengine.optim import build_optim_wrapper
from open_clip.modified_resnet import AttentionPool2d
from torch import nn

from vlm_dense.engine.runner.launch import load_config
from vlm_dense.errors import CheckpointError, ConfigError, WeightsNotFoundError
from vlm_dense.registry import MODELS

LAYERS = ['layer1', 'layer2', 'layer3', 'layer4']
RESNET = dict(type='vlm_dense.TorchvisionBackbone', model='resnet18', nodes=LAYERS)


@MODELS.register_module()
class Maps(nn.Module):
    """A backbone that gives what it was told, in either layout."""

    def __init__(self, shapes, last=False):
        super().__init__()
        self.maps = [torch.randn(2, *s) for s in shapes]
        self.last = last

    def forward(self, images):
        return [x.permute(0, 2, 3, 1) for x in self.maps] if self.last else self.maps


def pooled(backbone=RESNET, channels=(64, 128, 256, 512), **kwargs):
    torch.manual_seed(0)
    cfg = dict(embed_dim=32, input_resolution=64, heads=8)
    return MODELS.build(
        dict(type='vlm_dense.PooledBackbone', backbone=backbone, channels=channels, **{**cfg, **kwargs})
    )


def test_token_0_is_what_open_clips_pool_gives():
    backbone = dict(type='vlm_dense.Maps', shapes=[(16, 4, 4), (64, 2, 2)])
    model = pooled(backbone, (16, 64))
    features = model.encode(torch.zeros(2, 3, 64, 64), ('stages', 'global', 'dense'))
    reference = AttentionPool2d(2, 64, 8, 32)
    reference.load_state_dict(model.attnpool.state_dict())
    torch.testing.assert_close(features.global_, reference(model.body.maps[-1]), rtol=1e-4, atol=1e-5)
    assert features.dense.shape == (2, 32, 2, 2)
    alone = model.encode(torch.zeros(2, 3, 64, 64), ('global',))
    torch.testing.assert_close(alone.global_, features.global_)
    assert alone.dense is None and alone.stages is None


def test_both_layouts_give_the_same():
    shapes = [(16, 16, 16), (64, 3, 2)]  # the first is square: its layout follows from the second
    results = [
        pooled(dict(type='vlm_dense.Maps', shapes=shapes, last=last), (16, 64)).encode(
            torch.zeros(2, 3, 64, 64), ('stages', 'dense')
        )
        for last in (False, True)
    ]
    for a, b in zip(results[0].stages, results[1].stages, strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(results[0].dense, results[1].dense)


@pytest.mark.parametrize(
    ('backbone', 'channels'),
    [
        (RESNET, (64, 128, 256, 512)),
        (dict(RESNET, model='swin_t', nodes=[f'features.{i}' for i in (1, 3, 5, 7)]), (96, 192, 384, 768)),
        (
            dict(type='mmseg.TIMMBackbone', model_name='resnet18', pretrained=False, out_indices=(1, 2, 3, 4)),
            (64, 128, 256, 512),
        ),
        (dict(type='mmseg.ResNet', depth=18, num_stages=4, out_indices=(0, 1, 2, 3)), (64, 128, 256, 512)),
    ],
    ids=['torchvision', 'swin', 'timm', 'mm'],
)
def test_backbones_of_every_library_learn_at_any_size(backbone, channels):
    model = pooled(backbone, channels)
    features = model.encode(torch.randn(2, 3, 64, 96), ('stages', 'global', 'dense'))
    assert [tuple(x.shape[1:]) for x in features.stages] == [
        (c, 16 // 2**i, 24 // 2**i) for i, c in enumerate(channels)
    ]
    assert features.dense.shape == (2, 32, 2, 3)
    features.dense.square().sum().backward()
    first = next(p for p in model.body.parameters())
    assert first.grad.abs().sum() > 0 and model.attnpool.positional_embedding.grad.abs().sum() > 0


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match='divide the 512 channels of the last stage, found 7'):
        pooled(heads=7)
    with pytest.raises(ConfigError, match=r'channels=\[64, 128, 256, 500\]'):
        pooled(channels=(64, 128, 256, 500), heads=10).encode(torch.zeros(1, 3, 64, 64), ('stages',))
    with pytest.raises(ConfigError, match=r"no \['value'\]"):
        pooled().encode(torch.zeros(1, 3, 64, 64), ('value',))


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (dict(model='resnet_18'), ConfigError, "Did you mean 'resnet18'"),
        (dict(nodes=['layer1', 'layer_4']), ConfigError, "'layer4'"),
        (dict(weights='IMAGENET1K_V9'), ConfigError, 'IMAGENET1K_V1'),
        (dict(weights='/nowhere/r18.pth'), WeightsNotFoundError, '/nowhere/r18.pth'),
    ],
)
def test_a_model_or_weights_that_do_not_exist_are_messages(change, error, message):
    with pytest.raises(error, match=message):
        MODELS.build({**RESNET, **change})


def test_weights_of_torchvision_load_and_others_do_not(tmp_path):
    weights = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(weights, tmp_path / 'r18.pth')
    own = MODELS.build(dict(RESNET, weights=str(tmp_path / 'r18.pth'))).state_dict()
    assert all(torch.equal(own[f'net.{k}'], v) for k, v in weights.items() if not k.startswith('fc'))
    weights.pop('conv1.weight')
    torch.save(weights, tmp_path / 'r18.pth')
    with pytest.raises(CheckpointError, match='1 missing: conv1.weight'):
        MODELS.build(dict(RESNET, weights=str(tmp_path / 'r18.pth')))


def test_the_new_pool_learns_at_full_rate_and_the_backbone_at_a_tenth():
    cfg = load_config(str(ROOT / 'configs' / 'denseclip' / 'denseclip_any_r18_ade20k.py'))
    model = nn.Module()
    model.backbone = pooled()
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = {id(p): g['lr'] for g in groups for p in g['params']}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(1e-4 if 'attnpool' in name else 1e-5), name


def test_it_trains_and_validates_on_ade20ks_layout(tmp_path):
    data = write_ade20k(tmp_path / 'ade')
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / 'r18.pth')
    options = [
        *SMALL_ADE20K,
        f'model.backbone.backbone.weights={tmp_path / "r18.pth"}',
        'model.backbone.embed_dim=128',
        'model.text_encoder.arch=tiny-rn',
        'model.text_encoder.pretrained=bundled',
        'visualizer.name=denseclip_any',
    ]
    rows = trained(
        str(ROOT / 'configs' / 'denseclip' / 'denseclip_any_r18_ade20k.py'), data, tmp_path / 'work', *options
    )
    assert [r['step'] for r in rows if 'loss' in r] == [1, 2]
    assert all(r['aux_identity.loss_ce'] > 0 for r in rows if 'loss' in r) and 'mIoU' in rows[-1]


def test_a_view_of_a_backbone_in_eval_mode_is_in_eval_mode():
    from vlm_dense.engine.models import view_of
    from vlm_dense.methods.denseclip.any_backbone import TorchvisionBackbone

    torch.manual_seed(0)
    backbone = TorchvisionBackbone('resnet18', ['layer1', 'layer4']).eval()
    images = torch.randn(1, 3, 32, 32)
    one, other = (list(model(images))[-1] for model in (backbone, view_of(backbone)))
    assert torch.equal(one, other)
