# TaskRes, 16 shots, on drawn scenes by night, trained on features instead of images.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot_features.py',
    '../_base_/schedules/taskres_200e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.TaskRes', templates=['a photo of a {}.'], scale=0.5))
default_hooks = dict(prepare=dict(type='vlm_dense.PrepareHook'), checkpoint=dict(interval=50))
