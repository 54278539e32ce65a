# TaI-DPT on NUS-WIDE, RN50, trained on the captions of Open Images (Localized Narratives, V6) and no image: ten times
# the rate on COCO, and a flatter softmax over the places of an image. Synonyms are our own, the release has others.
_base_ = ['./tai_dpt_coco.py', '../_base_/names/nus-wide.py']

model = dict(class_names={{_base_.nus_wide_names}}, text_prompt=dict(spatial_scales=(50, 4)))
train_dataloader = dict(
    dataset=dict(
        synonyms='nus-wide',
        names=None,
        dataset=dict(
            ann_file='OpenImages/captions/open_images_train_v6_captions.jsonl',
            classes={{_base_.nus_wide_names}},
            one_an_image=None,
        ),
    ),
)
test_dataloader = dict(dataset=dict(name='nus-wide'))
lr = 0.001
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=20, by_epoch=True, begin=1, end=20),
]
