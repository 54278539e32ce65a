# DeCLIP on OpenAI's ViT-B/16 with DINOv2's ViT-B/14, image patches of COCO.
_base_ = './declip_eva02-b16_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='vlm_dense.CLIPViT',
        arch='ViT-B-16',
        pretrained='openai',
        pos_mode='bicubic',
        dense_attention=dict(type='vlm_dense.DeCLIPAttention', mode='qq'),
    ),
    text_encoder=dict(arch='ViT-B-16', pretrained='openai'),
    unit_map=True,
)
# the release takes these where a model's name has "vit" in it
optim_wrapper = dict(optimizer=dict(betas=(0.9, 0.98), eps=1e-6))
