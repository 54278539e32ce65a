# DenseCLIP of denseclip_shapes.py as a pure Python config: classes are imported, bases are read by read_base().
from mmengine.config import read_base

with read_base():
    from ._base_.runtime import *

from mmdet.models.necks import FPN
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmseg.datasets.transforms import PackSegInputs
from mmseg.evaluation import IoUMetric
from mmseg.models.decode_heads import FPNHead
from mmseg.models.losses import CrossEntropyLoss

from vlm_dense.clip.resnet import CLIPResNet
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.datasets.shapes import DrawScene, ShapesDataset
from vlm_dense.methods.denseclip import ContextDecoder, DenseCLIP, DenseCLIPPrompt, IdentityHead
from vlm_dense.segmentation.inference import MixedSizeSegDataPreProcessor

default_scope = 'mmseg'
model = dict(
    type=DenseCLIP,
    data_preprocessor=dict(
        type=MixedSizeSegDataPreProcessor,
        **colours,
        size=(96, 96),
    ),
    backbone=dict(
        type=CLIPResNet, arch='tiny-rn', pretrained='bundled', norm_eval=True, attnpool=True, input_resolution=96
    ),
    text_encoder=dict(type=TextTower, arch='tiny-rn', pretrained='bundled', context_length=13),
    text_prompt=dict(type=DenseCLIPPrompt, num_contexts=8, name_length=5),
    context_decoder=dict(type=ContextDecoder, width=64, heads=4, layers=2, dropout=0.1),
    identity_head=dict(
        type=IdentityHead, align_corners=False, loss_decode=dict(type=CrossEntropyLoss, loss_weight=0.4)
    ),
    score_concat_index=3,
    tau=0.07,
    neck=dict(type=FPN, in_channels=None, out_channels=64, num_outs=4),
    decode_head=dict(
        type=FPNHead,
        in_channels=[64] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=64,
        num_classes=9,
        norm_cfg=dict(type='GN', num_groups=8),
        align_corners=False,
        loss_decode=dict(type=CrossEntropyLoss),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
scene = dict(
    type=ShapesDataset,
    size=96,
    num_objects=(2, 5),
    label='shape',
    background=True,
    pipeline=[dict(type=DrawScene), dict(type=PackSegInputs)],
)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(split='train', num_scenes=20000, **scene),
)
val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(split='val', num_scenes=200, **scene),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
