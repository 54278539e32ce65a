# Tip-Adapter-F, 16 shots, on drawn scenes by night. Epoch, alpha and beta are chosen on validation images.
_base_ = ['../tip_adapter/tip_adapter_shapes.py', '../_base_/schedules/tip_adapter_f_20e.py']

model = dict(head=dict(type='vlm_dense.TipAdapterF'))
default_hooks = dict(checkpoint=dict(save_best='top1', rule='greater'))
