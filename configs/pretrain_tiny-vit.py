# The bundled tiny-vit: a ViT-S/8 of width 128, with tiny-rn as its teacher. See docs/tiny_clip.md.
_base_ = './pretrain_tiny-rn.py'
bundled = 'tiny-vit'

model = dict(arch=bundled, teacher='tiny-rn', teacher_weight=2.0)
