# VPT-deep on ImageNet, 16 shots, ViT-B/16: every block has tokens of its own.
_base_ = './vpt_imagenet.py'

model = dict(image_prompt=dict(depth=12))
