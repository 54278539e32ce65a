# MaskCLIP on drawn scenes with the bundled tiny-rn, crescents and hearts counted apart: the start of what is trained.
_base_ = [
    '../_base_/models/maskclip_tiny-rn.py',
    '../_base_/datasets/shapes_held-out.py',
    '../_base_/default_runtime.py',
]

background = dict(type='vlm_dense.NamedBackground', names=['empty background', 'background', 'texture', 'empty scene'])
model = dict(decode_head=dict(refinements=[background]))
train_dataloader = train_cfg = None
val_dataloader = val_evaluator = val_cfg = None
