# TaI-DPT on drawn scenes by night of 2 to 4 objects, trained on the captions of scenes and no image.
_base_ = [
    '../_base_/models/clip_classifier_tiny-rn.py',
    '../_base_/datasets/shapes_multi-label.py',
    '../_base_/schedules/tai_dpt_20e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.TaIDPTPrompt', num_contexts=16, spatial_scales=(50, 40)),
    loss=dict(type='vlm_dense.RankingLoss'),
)
train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        _delete_=True,
        type='vlm_dense.CaptionDataset',
        templates=['a photo of a {} shape.'],
        extra=['a photo of a {}.'],
        dataset=dict(
            type='vlm_dense.ShapesDataset',
            split='train',
            num_scenes=512,
            num_objects=(1, 4),
            label='colour',
            pipeline=[dict(type='vlm_dense.DrawScene')],
        ),
    ),
)
lr = 1e-3
optim_wrapper = dict(optimizer=dict(lr=lr))
