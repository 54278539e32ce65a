# Tip-Adapter-F on ImageNet, 16 shots, RN50. Epoch, alpha and beta are chosen on validation images, where the official
# code takes the test images: tip_adapter_f_on-test_imagenet.py. It also augments again in each epoch.
_base_ = ['../tip_adapter/tip_adapter_imagenet.py', '../_base_/schedules/tip_adapter_f_20e.py']

model = dict(head=dict(type='vlm_dense.TipAdapterF'))
default_hooks = dict(checkpoint=dict(save_best='top1', rule='greater'))

recipes = dict(eurosat=dict(length=100))  # beside what Tip-Adapter changes there
