_base_ = './denseclip/denseclip_ade20k.py'
