# SED with early rejection, the 8 best classes of each position, CLIP's ConvNeXt-B, ADE20K. Published: 31.6 mIoU.
_base_ = './sed_convnext-b_ade20k.py'

model = dict(decode_head=dict(top_k=8))
