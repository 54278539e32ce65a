"""Stock detectors with few channels: of each a training step and a prediction."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from kernel_cases.drawing import draw
from kernel_cases.switching import kernels

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
    'ATSS with DyHead': (  # 2 channels a group of its norms: of a channel alone the mean is 0, a kink of what follows
        'dyhead/atss_r50_fpn_dyhead_1x_coco.py',
        dict(
            backbone=_RESNET,
            neck=[
                dict(
                    type='FPN',
                    in_channels=[8, 16, 32, 64],
                    out_channels=32,
                    start_level=1,
                    add_extra_convs='on_output',
                    num_outs=5,
                ),
                dict(type='DyHead', in_channels=32, out_channels=32, num_blocks=1, zero_init_offset=False),
            ],
            bbox_head=dict(in_channels=32, feat_channels=32, num_classes=3),
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


def build(name: str, dtype: torch.dtype = torch.float32, moved: float = 0.0) -> tuple:
    """A detector of ``DETECTORS`` and two images with boxes for it, the same on every machine.

    Args:
        name: Of ``DETECTORS``.
        dtype: Of parameters and images.
        moved: Parameters are multiplied by numbers that spread by this around 1.
    """
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs
    from mmengine import Config
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope

    MMLogger.get_instance('compare_ops', log_level='ERROR')  # instead of a line for every parameter
    init_default_scope('mmdet')
    path, small = DETECTORS[name]
    config = Config.fromfile(Path(mmdet.__file__).parent / '.mim' / 'configs' / path)
    config.merge_from_dict(dict(model=small))
    torch.manual_seed(0)
    np.random.seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    model.to(dtype)
    for key, parameter in model.named_parameters():
        if 'rtm_reg' in key and 'bias' in key:  # boxes without extent
            parameter.data.fill_(2)
        elif 'bn' in key and 'weight' in key:  # zero at the end of residual blocks
            parameter.data.fill_(1)
        elif 'conv_offset' in key or '_cls' in key:  # all zero, all alike
            parameter.data = draw(key, *parameter.shape).to(dtype) / 4
        elif (parameter != parameter.flatten()[0]).any():  # torch's own random numbers round by processor
            spread = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.5
            parameter.data = draw(key, *parameter.shape).to(dtype) * spread
        if moved:
            parameter.data *= 1 + moved * draw(f'{key} moved', *parameter.shape).to(dtype)
    sizes = dict(image_shapes=(3, 64, 96), num_items=[3, 2], num_classes=3)
    data = demo_mm_inputs(2, with_mask='Mask' in name, use_box_type=True, **sizes)
    if 'Mask' in name:  # halves: of random masks some means are 0.5, the threshold of their targets
        for sample in data['data_samples']:
            for i, mask in enumerate(sample.gt_instances.masks.masks):
                mask[:] = np.arange(96) < 37 + 6 * i
    if name == 'Deformable DETR':  # matches boxes of one type only
        for sample in data['data_samples']:
            sample.gt_instances.bboxes = sample.gt_instances.bboxes.to(dtype)
    if name == 'RTMDet':  # matches boxes in single precision only
        assign = model.bbox_head.assigner.assign
        model.bbox_head.assigner.assign = lambda found, *others: assign(_single(found), *others)
    model.data_preprocessor.register_forward_hook(lambda _, args, batch: {**batch, 'inputs': batch['inputs'].to(dtype)})
    return model, data


def _single(instances):
    return type(instances)(**{key: value.float() for key, value in instances.items()})


def of_detectors(moved: float = 0.0) -> dict:
    """A training step and a prediction of small detectors with parameters ``moved`` by that much.

    They compute in double precision: in single precision the gradients of such a model follow the processor's rounding,
    since values near a kink of a ReLU or of bilinear sampling fall to one side or to the other.
    """
    from mmcv.ops.nms import ext_module

    def nms(boxes, scores, **options):  # mmcv's takes single precision only
        return ext_module.nms(boxes.float(), scores.float(), **options)

    with kernels(dict(nms=nms)):
        return _of_detectors(moved)


def _of_detectors(moved: float) -> dict:
    found = {}
    for name in DETECTORS:
        model, data = build(name, torch.float64, moved)
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
        if 'Mask' in name:  # mmdet pastes masks in single precision only; they are not among the figures
            model.roi_head.mask_head = None
        predictions = [sample.pred_instances for sample in model.test_step(data)]
        found[f'{name}/predictions'] = [p[key].float() for p in predictions for key in ('bboxes', 'scores', 'labels')]
    return found
