# LASP-V on drawn scenes by night: images of 4 shapes, names of all 8; the other 4 are virtual classes.
_base_ = './lasp_shapes.py'

names = ['circle', 'square', 'triangle', 'star', 'cross', 'ring', 'crescent', 'heart']
model = dict(class_names=names)
train_dataloader = dict(dataset=dict(dataset=dict(classes='base')))
val_dataloader = dict(dataset=dict(dataset=dict(classes='base')))
test_dataloader = dict(dataset=dict(classes='base'))
