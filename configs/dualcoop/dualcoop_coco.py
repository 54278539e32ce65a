# DualCoOp on COCO 2014, RN101 at 448 px, vectors of each class. Published for 10 to 90 % of the labels; which are known
# is the business of the annotations, unknown ones count nowhere.
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/coco2014_multi-label.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

clip = dict(arch='RN101', pretrained='openai')
model = dict(
    backbone=dict(attnpool_positions='bicubic', **clip),
    text_encoder=clip,
    text_prompt=dict(type='vlm_dense.DualCoOpPrompt', num_contexts=16, class_specific=True),
    loss=dict(type='vlm_dense.AsymmetricLoss', weight=0.03),
)
train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(
        type='vlm_dense.TorchvisionTransforms',
        transforms=[dict(type='Resize', size=({{_base_.size}}, {{_base_.size}})), dict(type='RandAugment')],
    ),
    dict(type='mmseg.RandomCutOut', prob=1, n_holes=1, cutout_ratio=(0.5, 0.5)),
    dict(type='vlm_dense.PackClsInputs', multi_label=True),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_cfg = None  # no validation images
published = [dict(protocols=['multi-label'])]
