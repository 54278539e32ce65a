# UPL on drawn scenes by night that nobody has labelled: 4 prompts on the labels of zero-shot CLIP.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_unlabelled.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.UPLPrompt', num_members=4, num_contexts=16),
    loss=dict(type='vlm_dense.MemberCrossEntropy'),
)
