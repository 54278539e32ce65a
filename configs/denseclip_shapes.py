_base_ = './denseclip/denseclip_shapes.py'
