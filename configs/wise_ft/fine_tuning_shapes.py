# Full fine-tuning of image tower and classifier, 16 shots, on drawn scenes by night: WiSE-FT without mixing.
_base_ = './wise_ft_shapes.py'

default_hooks = dict(wise_ft=dict(alpha=1.0, alphas=(), shifts=dict(_delete_=True)))
