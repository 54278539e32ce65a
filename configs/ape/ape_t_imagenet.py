# APE-T on ImageNet, 16 shots, RN50. Epoch, alpha and beta are chosen on validation images, where the official code
# takes the test images; it also augments anew in each epoch.
#   python tools/train.py configs/ape/ape_t_imagenet.py
_base_ = ['./ape_imagenet.py', '../_base_/schedules/ape_t_20e.py']

model = dict(
    head=dict(
        _delete_=True,
        type='vlm_dense.APET',
        shots=16,
        passes=10,
        channels=500,
        weights=(0.2, 0.8),
        alpha=2.0,
        beta=1.0,
        search_scale=(7, 7),
        search_step=(200, 20),
    )
)
default_hooks = dict(checkpoint=dict(save_best='top1', rule='greater'))
