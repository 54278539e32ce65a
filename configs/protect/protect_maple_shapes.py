# ProTeCt on MaPLe's prompts, else as protect_shapes.py.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_taxonomy.py',
    '../_base_/schedules/protect_30e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    class_names={{_base_.nodes}},
    text_prompt=dict(type='vlm_dense.MaPLePrompt', words='a photo of a', num_contexts=2, depth=3),
    loss=dict(type='vlm_dense.ProTeCtLoss', taxonomy={{_base_.taxonomy}}, classes={{_base_.leaves}}, weight=0.5),
)
train_dataloader = dict(batch_size=8)
