"""Image prompts in a backbone: what is trained, what is saved, what is refused, and stock models with them."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from types import SimpleNamespace

import mmdet
import mmseg
import pytest
import torch
from engine.processes import in_processes
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from safetensors.torch import save_file
from tiny_towers import resnet, vit
from torch.nn.parallel import DistributedDataParallel

from vlm_dense.clip.loading import load_clip
from vlm_dense.engine.checkpoints.fit import FrozenWeightsHook
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.methods.fine_tuning.clip_lora import merge
from vlm_dense.registry import MODELS

SIZE = 64
ARCH = vit(embed_dim=16, text=dict(layers=1), image_size=SIZE, patch_size=16, layers=4)
VPT = dict(type='vlm_dense.VPTPrompt', num_tokens=3, depth=4)
LORA = dict(type='vlm_dense.LoRA', rank=2, dropout=0.0)
VP = dict(type='vlm_dense.VPPrompt', prompt_size=8, image_size=SIZE)
CONFIGS = dict(
    mmseg=Path(mmseg.__file__).parent / '.mim' / 'configs', mmdet=Path(mmdet.__file__).parent / '.mim' / 'configs'
)


def tower(prompt=None, **options):
    torch.manual_seed(0)
    own = dict(type='vlm_dense.CLIPViT', arch=ARCH, frozen=True, image_prompt=prompt)
    return MODELS.build({**own, **options})


def images(number: int = 2) -> torch.Tensor:
    return torch.randn(number, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def moved(module) -> set[str]:
    """Names of the parameters that got a gradient."""
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


@pytest.mark.parametrize(
    'prompt', [VPT, dict(VPT, depth=1, place='front'), VP, LORA], ids=['deep', 'shallow', 'vp', 'lora']
)
@pytest.mark.parametrize('pyramid', [False, True])
def test_only_the_prompt_and_the_pyramid_train(prompt, pyramid):
    backbone = tower(prompt, pyramid=pyramid).train()
    if prompt is LORA:
        for part in backbone.image_prompt.image.values():
            part.w_lora_B.data.normal_()
    sum(stage.square().mean() for stage in backbone(images())).backward()
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith(('image_prompt.', 'fpn')) for name in trained)
    assert any(name.startswith('fpn') for name in trained) == pyramid
    assert moved(backbone) | {'fpn1.1.bias'} == trained | {'fpn1.1.bias'}  # which a batch norm subtracts again
    assert not backbone.transformer.training and backbone.image_prompt.training
    assert not backbone.eval().image_prompt.training


def test_stages_are_those_of_the_tower_that_is_given_the_same_tokens():
    backbone, plain = tower(VPT), tower()
    plain.load_state_dict(backbone.state_dict(), strict=False)
    expected = plain.encode(images(), ('stages',), backbone.image_prompt.tokens()).stages
    for mine, theirs in zip(backbone(images()), expected, strict=True):
        assert torch.equal(mine, theirs)
    assert not torch.equal(backbone(images())[-1], plain(images())[-1])


def test_low_rank_updates_begin_as_the_tower_and_leave_its_weights():
    backbone, plain = tower(LORA), tower()
    plain.load_state_dict(backbone.state_dict(), strict=False)
    assert torch.equal(backbone(images())[-1], plain(images())[-1])
    before = copy.deepcopy(plain.state_dict())
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        backbone(images())[-1].square().mean().backward()
        optimizer.step()
    assert not torch.equal(backbone(images())[-1], plain(images())[-1])
    found = backbone.state_dict()
    assert all(torch.equal(found[key], value) for key, value in before.items())


def test_a_frozen_tower_without_prompt_keeps_no_graph():
    assert not tower()(images())[-1].requires_grad
    assert not tower(arch=resnet(), type='vlm_dense.CLIPResNet')(images())[-1].requires_grad


@pytest.mark.parametrize('prompt', [VPT, LORA], ids=['vpt', 'lora'])
@pytest.mark.parametrize('with_cp', [True, 'light'])
def test_recomputation_changes_no_gradient(prompt, with_cp):
    grads = []
    for option in (False, with_cp):
        backbone = tower(prompt, with_cp=option).train()
        backbone(images())[-1].square().mean().backward()
        grads.append([p.grad for p in backbone.image_prompt.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('prompt', [VPT, LORA], ids=['vpt', 'lora'])
def test_autocast_to_bfloat16_keeps_prompt_and_gradients_in_float32(prompt):
    backbone = tower(prompt).train()
    for part in backbone.image_prompt.parameters():
        part.data.normal_(std=0.05)
    stages, grads = [], []
    for enabled in (False, True):
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            stages.append(backbone(images())[-1])
        backbone.zero_grad()
        stages[-1].float().square().mean().backward()
        grads.append(torch.cat([p.grad.flatten() for p in backbone.image_prompt.parameters()]))
    assert grads[1].dtype == torch.float32 and not torch.equal(*grads)
    for exact, rounded in (stages, grads):
        assert torch.cosine_similarity(exact.flatten(), rounded.flatten().float(), dim=0) > 0.99


def test_a_resnet_takes_pixels_and_no_tokens():
    backbone = tower(VP, arch=resnet(), type='vlm_dense.CLIPResNet').train()
    backbone(images())[-1].square().mean().backward()
    assert moved(backbone) == {f'image_prompt.pad_{side}' for side in ('up', 'down', 'left', 'right')}
    assert not backbone.layer1.training
    with pytest.raises(DataError, match='Resize the images'):
        backbone(torch.zeros(1, 3, 96, 64))
    for prompt, told in ((VPT, 'only a ViT takes'), (LORA, 'no linear map.*attnpool=True')):
        with pytest.raises(ConfigError, match=told):
            tower(prompt, arch=resnet(), type='vlm_dense.CLIPResNet')


def test_low_rank_updates_of_a_resnet_are_in_its_attention_pool():
    pool = dict(arch=resnet(), type='vlm_dense.CLIPResNet', attnpool=True)
    with pytest.raises(ConfigError, match='updates the attention pool, which the stages .* Add 4'):
        tower(LORA, **pool)
    every = dict(LORA, patterns=['attnpool'])
    backbone, plain = (tower(p, out_indices=(0, 3, 4), **pool).train() for p in (every, None))
    plain.load_state_dict(backbone.state_dict(), strict=False)
    stages, found = backbone(images()), plain.encode(images(), ('stages', 'dense'))
    assert all(torch.equal(a, b) for a, b in zip(stages, found.stages, strict=True))
    assert torch.equal(stages[-1], found.dense) and backbone.out_channels[4] == stages[-1].shape[1]
    for part in backbone.image_prompt.image.values():
        part.w_lora_B.data.normal_()
    backbone(images())[-1].square().mean().backward()
    names = {f'image_prompt.image.attnpool-{m}_proj.w_lora_{x}' for m in 'qkvc' for x in 'AB'}
    assert moved(backbone) == names == {name for name, p in backbone.named_parameters() if p.requires_grad}
    merge(plain, backbone.image_prompt.image)
    torch.testing.assert_close(plain(images())[-1], backbone(images())[-1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain(images())[-1], found.dense, atol=1e-2)


@pytest.mark.parametrize('name', ['MaPLePrompt', 'CLIPLoRAPrompt', 'CAVPTPrompt', 'UPTPrompt', 'RePrompt'])
def test_prompts_that_need_names_are_refused_with_the_way_out(name):
    with pytest.raises(ConfigError, match=r"needs class_names.*backbone alone has not.*'vlm_dense\.DenseCLIP'"):
        tower(dict(type=f'vlm_dense.{name}'))


def test_a_prompt_in_the_backbone_of_a_model_that_prompts_it_is_refused():
    with pytest.raises(ConfigError, match='move image_prompt out of backbone'):
        MODELS.build(
            dict(
                type='vlm_dense.DenseCLIP',
                backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True, image_prompt=VPT),
                text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
                text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
                decode_head=dict(type='mmseg.FCNHead', in_channels=32, channels=4, num_classes=2),
                class_names=['sky', 'road'],
            )
        )
    with pytest.raises(ConfigError, match='leave one out'):
        tower(VPT).encode(images(), ('stages',), tower(VPT).image_prompt.tokens())
    with pytest.raises(ConfigError, match="give image_prompt to the model, 'vlm_dense.MaskCLIP'"):
        MODELS.build(dict(type='vlm_dense.MaskCLIPViT', arch=ARCH, image_prompt=VPT))


# --- in stock models ----------------------------------------------------------------------------------------------


def stock(library: str, path: str, prompt: dict):
    """A model of a config in the wheel of mmseg or mmdet, on a frozen tower with a prompt."""
    init_default_scope(library)
    model = Config.fromfile(CONFIGS[library] / path).model
    model.data_preprocessor = None
    model.pop('pretrained', None)
    model.backbone = dict(type='vlm_dense.CLIPViT', arch=ARCH, frozen=True, image_prompt=prompt, pyramid=True)
    if library == 'mmseg':
        if 'neck' in model:
            model.neck.update(in_channels=[32] * 4, out_channels=8)
        width = [8 if 'neck' in model else 32] * 4
        model.decode_head.update(channels=8, num_classes=3, norm_cfg=dict(type='BN'))
        model.decode_head.in_channels = width if isinstance(model.decode_head.in_index, list) else width[0]
        model.auxiliary_head = None
        return MMSEG_MODELS.build(model)
    model.neck.update(in_channels=[32] * 4, out_channels=32)
    for name in ('rpn_head', 'bbox_head', 'roi_head'):
        if name in model:
            _narrow(model[name])
    return MMDET_MODELS.build(model)


def _narrow(cfg) -> None:
    for key in ('in_channels', 'feat_channels', 'conv_out_channels', 'fc_out_channels', 'out_channels'):
        if isinstance(cfg.get(key), int):
            cfg[key] = 32
    for value in cfg.values():
        if isinstance(value, dict):
            _narrow(value)


def losses_of(library: str, model) -> torch.Tensor:
    if library == 'mmseg':
        samples = _samples()
    else:
        sides = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
        meta = dict(dict.fromkeys(sides, (SIZE, SIZE)), scale_factor=(1.0, 1.0))
        boxes = InstanceData(bboxes=torch.tensor([[4.0, 4.0, 40.0, 50.0]]), labels=torch.tensor([1]))
        samples = [DetDataSample(gt_instances=copy.deepcopy(boxes), metainfo=meta) for _ in range(2)]
    return model.parse_losses(model.loss(images(), samples))[0]


@pytest.mark.parametrize('prompt', [VPT, LORA], ids=['vpt', 'lora'])
@pytest.mark.parametrize(
    ('library', 'path'),
    [
        ('mmseg', 'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'),
        ('mmseg', 'upernet/upernet_r50_4xb4-80k_ade20k-512x512.py'),
        ('mmseg', 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'),
        ('mmseg', 'fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py'),
        ('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco.py'),
        ('mmdet', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'),
        ('mmdet', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'),
    ],
)
def test_a_stock_model_trains_the_prompt_and_not_the_tower(library, path, prompt):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model = stock(library, path, prompt)
    model.train()
    losses_of(library, model).backward()
    backbone = moved(model.backbone)
    assert any(name.startswith('image_prompt.') for name in backbone)
    assert all(name.startswith(('image_prompt.', 'fpn')) for name in backbone)
    assert any(name.startswith(('neck', 'decode_head', 'bbox_head', 'rpn_head')) for name in moved(model))


def test_a_checkpoint_holds_no_frozen_weight(tmp_path):
    path = str(tmp_path / 'clip.safetensors')
    save_file({k: v.contiguous() for k, v in load_clip(ARCH).state_dict().items() if k != 'attn_mask'}, path)
    cfg = dict(type='vlm_dense.CLIPViT', arch=ARCH, pretrained=path, frozen=True, image_prompt=VPT)
    runner = SimpleNamespace(model=MODELS.build(cfg), cfg=Config(dict(model=cfg)), seed=0, _resume=False)
    checkpoint = dict(meta={}, state_dict=runner.model.state_dict())
    FrozenWeightsHook().before_save_checkpoint(runner, checkpoint)
    assert set(checkpoint['state_dict']) == {'image_prompt.first', *(f'image_prompt.deep.{i}' for i in range(3))}


def train_in_two(rank: int, path: str) -> None:
    """Two steps of a segmentor in two processes, without a search for unused parameters."""
    model = stock('mmseg', 'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py', torch.load(path, weights_only=True))
    parallel = DistributedDataParallel(model.train())
    for _ in range(2):
        parallel.zero_grad()
        losses = parallel(images(), _samples(), mode='loss')
        model.parse_losses(losses)[0].backward()
    assert any(name.startswith('backbone.image_prompt.') for name in moved(model))


def _samples() -> list:
    labels = torch.arange(2 * SIZE * SIZE).reshape(2, 1, SIZE, SIZE) % 3
    return [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in labels]


@pytest.mark.slow
@pytest.mark.parametrize('prompt', [VPT, LORA], ids=['vpt', 'lora'])
def test_two_processes_find_no_unused_parameter(prompt, tmp_path):
    torch.save(prompt, tmp_path / 'prompt.pt')
    in_processes(2, train_in_two, str(tmp_path / 'prompt.pt'))
