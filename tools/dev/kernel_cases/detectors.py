"""Stock detectors with few channels: of each a training step and a prediction."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from kernel_cases.drawing import draw

_TWO_STAGES = dict(
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=3),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_classes=3),
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=20)),
)
_RESNET = dict(depth=18, base_channels=8, init_cfg=None)
_ATTENTION = dict(embed_dims=32, dropout=0.0)
_FFN = dict(embed_dims=32, feedforward_channels=64, ffn_drop=0.0)
DETECTORS = {
    'Mask R-CNN': ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', dict(backbone=_RESNET, **_TWO_STAGES)),
    'Mask R-CNN with deformable convolution': (
        'dcnv2/mask-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py',
        dict(
            backbone=dict(base_channels=4, init_cfg=None),
            **{**_TWO_STAGES, 'neck': dict(in_channels=[16, 32, 64, 128], out_channels=16)},
        ),
    ),
    'RetinaNet': (
        'retinanet/retinanet_r50_fpn_1x_coco.py',
        dict(
            backbone=_RESNET,
            neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
            bbox_head=dict(in_channels=16, feat_channels=16, num_classes=3),
            test_cfg=dict(score_thr=0.0, max_per_img=20),
        ),
    ),
    'Deformable DETR': (
        'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        dict(
            num_queries=20,
            backbone=_RESNET,
            neck=dict(in_channels=[16, 32, 64], out_channels=32, norm_cfg=dict(num_groups=4)),
            encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=_ATTENTION, ffn_cfg=_FFN)),
            decoder=dict(
                num_layers=2,
                layer_cfg=dict(self_attn_cfg=_ATTENTION, cross_attn_cfg=_ATTENTION, ffn_cfg=_FFN),
            ),
            positional_encoding=dict(num_feats=16),
            bbox_head=dict(embed_dims=32, num_classes=3),
            test_cfg=dict(max_per_img=20),
        ),
    ),
    'ATSS with DyHead': (
        'dyhead/atss_r50_fpn_dyhead_1x_coco.py',
        dict(
            backbone=_RESNET,
            neck=[
                dict(
                    type='FPN',
                    in_channels=[8, 16, 32, 64],
                    out_channels=16,
                    start_level=1,
                    add_extra_convs='on_output',
                    num_outs=5,
                ),
                dict(type='DyHead', in_channels=16, out_channels=16, num_blocks=1, zero_init_offset=False),
            ],
            bbox_head=dict(in_channels=16, feat_channels=16, num_classes=3),
            test_cfg=dict(score_thr=0.0, max_per_img=20),
        ),
    ),
    'RTMDet': (
        'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
        dict(
            backbone=dict(widen_factor=0.125, init_cfg=None, norm_cfg=dict(type='BN')),
            neck=dict(in_channels=[32, 64, 128], out_channels=32, norm_cfg=dict(type='BN')),
            bbox_head=dict(in_channels=32, feat_channels=32, norm_cfg=dict(type='BN'), num_classes=3),
            test_cfg=dict(score_thr=0.0, max_per_img=20),
        ),
    ),
}

UNSTABLE = ('ATSS with DyHead',)
"""Their offsets fall on the edges of bilinear sampling, where rounding decides which cell is read: processors differ.
``ops_sweep.py --compiled`` compares them with the compiled kernels in one run; there are no stored figures."""


def build(name: str) -> tuple:
    """A detector of ``DETECTORS``, always with the same parameters, and two images with boxes for it."""
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs
    from mmengine import Config
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope

    MMLogger.get_instance('compare_ops', log_level='ERROR')  # in place of a line for every parameter
    init_default_scope('mmdet')
    path, small = DETECTORS[name]
    config = Config.fromfile(Path(mmdet.__file__).parent / '.mim' / 'configs' / path)
    config.merge_from_dict(dict(model=small))
    torch.manual_seed(0)
    np.random.seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    for key, parameter in model.named_parameters():
        if 'conv_offset' in key or '_cls' in key:  # all zero, all alike
            parameter.data = draw(key, *parameter.shape) / 4
        elif 'rtm_reg' in key and 'bias' in key:  # boxes without extent
            parameter.data.fill_(2)
        elif 'bn' in key and 'weight' in key:  # zero at the end of residual blocks
            parameter.data.fill_(1)
    sizes = dict(image_shapes=(3, 64, 96), num_items=[3, 2], num_classes=3)
    return model, demo_mm_inputs(2, with_mask='Mask' in name, use_box_type=True, **sizes)


def of_detectors() -> dict:
    """A training step and a prediction of small detectors, of those that every processor computes alike."""
    found = {}
    for name in (name for name in DETECTORS if name not in UNSTABLE):
        model, data = build(name)
        model.train()
        loss, parts = model.parse_losses(model(**model.data_preprocessor(copy.deepcopy(data), True), mode='loss'))
        loss.backward()
        found[f'{name}/losses'] = [torch.as_tensor(value).detach() for _, value in sorted(parts.items())]
        summaries = []
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                grad = parameter.grad.double()
                summaries += [grad.norm(), (grad * draw(key, *grad.shape)).sum()]
        found[f'{name}/gradients'] = [torch.stack(summaries)]
        model.eval()
        predictions = [sample.pred_instances for sample in model.test_step(data)]
        found[f'{name}/predictions'] = [p[key].float() for p in predictions for key in ('bboxes', 'scores', 'labels')]
    return found
