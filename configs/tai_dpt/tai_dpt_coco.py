# TaI-DPT on COCO 2014, RN50, trained on the captions of COCO 2017, one an image, and no image. There are no validation
# images; the official code takes every tenth test image, and a fixed list of 118,287 captions where these are drawn.
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/coco2014_multi-label.py',
    '../_base_/schedules/tai_dpt_20e.py',
    '../_base_/names/tai_dpt_coco2014.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    class_names={{_base_.coco_names}},
    text_prompt=dict(type='vlm_dense.TaIDPTPrompt', num_contexts=16, spatial_scales=(50, 40)),
    loss=dict(type='vlm_dense.RankingLoss'),
)
train_dataloader = dict(
    batch_size=512,
    dataset=dict(
        _delete_=True,
        type='vlm_dense.CaptionDataset',
        synonyms='coco2014',
        names={{_base_.coco_names}},
        dataset=dict(
            type='vlm_dense.CaptionFileDataset',
            data_root={{_base_.data_root}},
            ann_file='coco/annotations/captions_train2017.json',
            classes='coco2014',
            one_an_image=0,
        ),
    ),
)
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(
        type='vlm_dense.TorchvisionTransforms',
        transforms=[dict(type='Resize', size=224, interpolation='bicubic'), dict(type='CenterCrop', size=224)],
    ),
    dict(type='vlm_dense.PackClsInputs', multi_label=True),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_cfg = None
published = [dict(protocols=['multi-label'])]
