# MVLPT's prompt of the image tower alone (MVPT), the 11 sets of CoOp at once, ViT-B/16.
_base_ = './mvlpt_coop11.py'

model = dict(
    text_prompt=dict(_delete_=True, type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {}.'], separators='_'),
    image_prompt=dict(
        type='vlm_dense.VPTPrompt', num_tokens=16, depth=12, place='front', through_ln_pre=False, std=None
    ),
)
