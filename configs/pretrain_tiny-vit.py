# The bundled tiny-vit: a small ViT with patch 8 that has tiny-rn as its teacher. See docs/tiny_clip.md.
# It needs many steps to tell shapes, so the batch is half of tiny-rn's.
_base_ = './pretrain_tiny-rn.py'
bundled = 'tiny-vit'

model = dict(arch=bundled, teacher='tiny-rn', teacher_weight=2.0)
train_dataloader = dict(batch_size=64)
