# CALIP on drawn scenes by night; nothing is trained. The betas are searched on validation images.
#   python tools/test.py configs/calip/calip_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-rn.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', separators='_'),
    head=dict(type='vlm_dense.CALIP', search_max=(2.0, 0.1), search_step=(200, 200)),
)
default_hooks = dict(
    prepare=dict(type='vlm_dense.PrepareHook', data=dict(search=dict(dataset={{_base_.val_dataloader.dataset}})))
)
test_cfg = dict(type='TestLoop')
