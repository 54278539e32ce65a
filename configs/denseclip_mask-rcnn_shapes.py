_base_ = './denseclip/denseclip_mask-rcnn_shapes.py'
