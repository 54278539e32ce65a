# ZERO on ImageNet, ViT-B/16: 64 views of each test image, 19 of them vote; nothing is trained. templates='imagenet7'
# gives the authors' ensemble of sentences. A stopped test continues in the same work dir.
#   python tools/test.py configs/zero_tta/zero_tta_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=('a photo of a {}.',), separators='_'),
    test_time=dict(type='vlm_dense.ZERO', selection=0.3),
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

# one sentence for all sets, where tools/compare.py else takes that of the set
recipes = dict(sentence=dict(sets='others', options={'model.text_prompt.templates': ('a photo of a {}.',)}))
published = [dict(protocols=['few-shot', 'transfer', 'domain-generalisation'])]
