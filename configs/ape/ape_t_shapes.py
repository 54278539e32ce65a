# APE-T, 16 shots, on drawn scenes by night. Epoch, alpha and beta are chosen on validation images.
#   python tools/train.py configs/ape/ape_t_shapes.py
_base_ = ['./ape_shapes.py', '../_base_/schedules/ape_t_20e.py']

model = dict(
    head=dict(
        _delete_=True,
        type='vlm_dense.APET',
        shots=16,
        passes=4,
        channels=96,
        search_scale=(7, 7),
        search_step=(50, 20),
    )
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
default_hooks = dict(checkpoint=dict(save_best='top1', rule='greater'))
