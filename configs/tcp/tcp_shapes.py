# TCP, 16 shots, on drawn scenes by night.
#   python tools/train.py configs/tcp/tcp_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/tcp_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.TCPPrompt', block=2))
