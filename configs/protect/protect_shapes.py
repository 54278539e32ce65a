# ProTeCt on CoOp's prompt, 4 shots of 64 classes ('red circle', ...) in a tree of 8 shapes, by night.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_taxonomy.py',
    '../_base_/schedules/protect_30e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    class_names={{_base_.nodes}},
    text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=16),
    loss=dict(type='vlm_dense.ProTeCtLoss', taxonomy={{_base_.taxonomy}}, classes={{_base_.leaves}}, weight=0.5),
)
train_dataloader = dict(batch_size=128)
