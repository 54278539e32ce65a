# APE, 16 shots, on drawn scenes by night; nothing is trained. alpha, beta and gamma are searched on validation images.
#   python tools/test.py configs/ape/ape_shapes.py
_base_ = '../tip_adapter/tip_adapter_shapes.py'

model = dict(
    text_prompt=dict(_delete_=True, type='vlm_dense.CuPLPrompt', sentences='shapes', templates=('a photo of a {}.',)),
    head=dict(
        _delete_=True,
        type='vlm_dense.APE',
        shots=16,
        passes=4,
        channels=96,
        search_scale=(7, 7, 1),
        search_step=(50, 20, 5),
    ),
)
