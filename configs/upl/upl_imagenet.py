# UPL on ImageNet without labels, RN50: 16 prompts on the 16 images of each class that zero-shot CLIP is surest of.
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.UPLPrompt', num_members=16, num_contexts=16),
    loss=dict(type='vlm_dense.MemberCrossEntropy'),
)
preprocessing = dict(
    type='vlm_dense.ClsDataPreprocessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321375, 70.32316305],
    bgr_to_rgb=True,
)
rn50 = dict(
    pipeline={{_base_.test_pipeline}},
    model=dict(
        type='vlm_dense.CLIPClassifier',
        data_preprocessor=preprocessing,
        backbone=dict(type='vlm_dense.CLIPResNet', arch='RN50', pretrained='openai', attnpool=True),
        text_encoder=dict(type='vlm_dense.TextTower', arch='RN50', pretrained='openai'),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {}.'], separators='_'),
    ),
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='vlm_dense.PseudoLabelDataset',
        top_k=16,
        batch_size=256,
        num_workers=8,
        labellers=[rn50],
        dataset=dict(
            type='vlm_dense.ImageSetDataset',
            name='imagenet',
            data_root={{_base_.data_root}},
            split='train',
            pipeline={{_base_.train_pipeline}},
        ),
    )
)

# where the paper or its release gives these settings, for tools/compare.py --plan
published = [dict(protocols=['few-shot'], shots=[16])]
