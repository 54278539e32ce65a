# DualCoOp on COCO 2014, trained on 48 classes and tested on 17 unseen ones: RN50 at 224 px, 64 vectors that all classes
# share. The official code keeps the epoch with the best F1 on the test images; here it is the last one. All 65 classes:
#   --cfg-options test_dataloader.dataset.classes=seen+unseen
_base_ = './dualcoop_coco.py'

clip = dict(arch='RN50', pretrained='openai')
model = dict(
    backbone=clip,
    text_encoder=clip,
    text_prompt=dict(num_contexts=64, class_specific=False),
    loss=dict(weight=0.01, num_classes=100),
)
size = 224
train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(
        type='vlm_dense.TorchvisionTransforms',
        transforms=[dict(type='Resize', size=(size, size)), dict(type='RandAugment')],
    ),
    dict(type='mmseg.RandomCutOut', prob=1, n_holes=1, cutout_ratio=(0.5, 0.5)),
    dict(type='vlm_dense.PackClsInputs', multi_label=True),
]
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='vlm_dense.TorchvisionTransforms', transforms=[dict(type='Resize', size=(size, size))]),
    dict(type='vlm_dense.PackClsInputs', multi_label=True),
]
train_dataloader = dict(dataset=dict(classes='seen', pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(classes='unseen', pipeline=test_pipeline))
