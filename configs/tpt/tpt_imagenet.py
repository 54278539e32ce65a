# TPT on ImageNet, ViT-B/16: 64 views of each test image, one step. No checkpoint is needed; with one of CoOp,
# num_contexts=4, words=None. A stopped test continues in the same work dir.
#   python tools/test.py configs/tpt/tpt_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.CoOpPrompt', words='a photo of a'),
    test_time=dict(
        type='vlm_dense.TPT', selection=0.1, steps=1, optimizer=dict(type='AdamW', lr=5e-3, weight_decay=0.01)
    ),
)
test_dataloader = dict(
    batch_size=1,
    dataset=dict(
        pipeline=[
            dict(type='vlm_dense.LoadImage'),
            dict(type='vlm_dense.TPTViews', num_views=64, size=224),
            dict(type='vlm_dense.PackClsInputs'),
        ]
    ),
)
test_cfg = dict(type='vlm_dense.ResumableTestLoop')

# what the authors change elsewhere, for tools/compare.py: AugMix on the views, on ImageNet and its variants none
recipes = {
    'AugMix': dict(
        sets=list(_base_.targets),
        options={'test_dataloader.dataset.pipeline.1.mix': True},
    )
}
# where the paper or its release gives these settings, for tools/compare.py --plan
published = [dict(protocols=['few-shot', 'transfer', 'domain-generalisation'])]
