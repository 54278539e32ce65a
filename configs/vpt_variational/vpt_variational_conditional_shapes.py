# Variational prompts with a distribution that depends on the image, 16 shots, on drawn scenes by night.
_base_ = './vpt_variational_shapes.py'

model = dict(text_prompt=dict(conditional=True))
test_dataloader = dict(batch_size=20)
