# The target task of mvlpt_shapes.py from a source prompt. First train that:
#   python tools/train.py configs/mvlpt/mvlpt_domains_shapes.py
_base_ = './mvlpt_shapes.py'

load_from = 'work_dirs/mvlpt_domains_shapes/epoch_50.pth'
