"""A small model of each trained open-vocabulary segmentor, and a batch for it."""

from __future__ import annotations

import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from tiny_towers import resnet, vit

from vlm_dense.registry import MODELS

ARCH = vit(embed_dim=16, width=32, layers=3, text=dict(layers=2))
NAMES = ['sky', 'road', 'red car']
OTHER = ['tree', ['house', 'building'], 'water', 'dog']
PLAIN = dict(type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {}.'])


def cat_seg(names=NAMES, **options):
    head = dict(
        hidden_dim=16,
        num_heads=2,
        num_layers=1,
        window_size=2,
        text_guidance_dim=8,
        image_guidance_dim=8,
        decoder_dims=[16, 8],
        decoder_guidance_dims=[4, 4],
        upsampled_dims=[8, 8],
    )
    head.update(options.pop('head', {}))
    own = dict(
        type='vlm_dense.CATSeg',
        class_names=names,
        backbone=dict(
            type='vlm_dense.CLIPViT',
            arch=ARCH,
            head=True,
            out_indices=[0, 1],
            dense_attention=dict(type='vlm_dense.CATSegAttention'),
        ),
        text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
        text_prompt=PLAIN,
        decode_head=head,
        clip_resolution=32,
        test_cfg=dict(mode='whole'),
    )
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(dict(own, **options)))


RESNET = resnet(embed_dim=16, text=dict(layers=2))


def sed(names=NAMES, **options):
    head = dict(
        hidden_dim=16,
        decoder_dims=[16, 8, 8],
        image_dims=[4, 4, 4],
        cost_dims=[4, 4, 4],
        num_heads=2,
        kernel_size=[3, 3, 3],
        pooling=1,
    )
    head.update(options.pop('head', {}))
    own = dict(
        type='vlm_dense.SED',
        class_names=names,
        backbone=dict(type='vlm_dense.CLIPTower', arch=RESNET, norm_eval=True),
        text_encoder=dict(type='vlm_dense.TextTower', arch=RESNET),
        text_prompt=dict(type='vlm_dense.TemplateVariantsPrompt', templates=['a {}.', 'a drawing of a {}.']),
        decode_head=head,
        clip_resolution=64,
        test_cfg=dict(mode='whole'),
    )
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(dict(own, **options)))


def fc_clip(names=NAMES, **options):
    head = dict(
        width=64,
        heads=2,
        num_queries=4,
        encoder_layers=1,
        encoder_ffn=16,
        decoder_layers=2,
        decoder_ffn=16,
        num_points=16,
    )
    own = dict(
        type='vlm_dense.FCCLIP',
        class_names=names,
        trained_names=NAMES,
        backbone=dict(type='vlm_dense.CLIPTower', arch=RESNET),
        text_encoder=dict(type='vlm_dense.TextTower', arch=RESNET),
        text_prompt=PLAIN,
        decode_head=dict(head, **options.pop('head', {})),
        test_cfg=dict(mode='whole'),
    )
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(dict(own, **options)))


def maft_plus(names=NAMES, **options):
    return fc_clip(names, type='vlm_dense.MAFTPlus', cdt=dict(heads=2), **options)


def san(names=NAMES, **options):
    head = dict(
        fusion=[0, 1],
        width=24,
        depth=2,
        side_heads=2,
        patch_size=8,
        image_size=32,
        num_queries=4,
        supervised=[1, 2],
        embed_channels=8,
        mlp_channels=8,
        num_points=16,
    )
    part = dict(type='vlm_dense.SideAdapterAttention', num_blocks=2, hidden_states=[-1, 0])
    own = dict(
        type='vlm_dense.SAN',
        class_names=names,
        backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True, dense_attention=part),
        text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
        text_prompt=PLAIN,
        decode_head=dict(head, **options.pop('head', {})),
        clip_resolution=1.0,
        test_cfg=dict(mode='whole'),
    )
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(dict(own, **options)))


SMALL = dict(mask_channels=4, width=8, num_maps=2)


def mask_adapter(names=NAMES, **options):
    own = dict(type='vlm_dense.MaskAdapterFCCLIP', mask_adapter=SMALL, iou_threshold=0.0)
    return fc_clip(names, **dict(own, **options))


def mask_adapter_maft_plus(names=NAMES, **options):
    return mask_adapter(names, type='vlm_dense.MaskAdapterMAFTPlus', cdt=dict(heads=2), **options)


BUILD = dict(
    cat_seg=cat_seg,
    sed=sed,
    fc_clip=fc_clip,
    maft_plus=maft_plus,
    san=san,
    mask_adapter=mask_adapter,
    mask_adapter_maft_plus=mask_adapter_maft_plus,
)


def images(number: int = 2, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    return torch.randn(number, 3, *size, generator=torch.Generator().manual_seed(1))


def samples(number: int = 2, size=(32, 32), classes: int = 3) -> list[SegDataSample]:
    labels = torch.randint(classes, (number, 1, *size), generator=torch.Generator().manual_seed(2))
    labels[:, :, :3] = 255
    meta = dict(img_shape=tuple(size), ori_shape=tuple(size))
    return [SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=one)) for one in labels]
