_base_ = './denseclip/denseclip_camvid.py'
