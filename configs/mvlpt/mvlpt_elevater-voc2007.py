# MVLPT's prompts of both towers (MUPT) on ELEVATER's VOC 2007, which shows several classes an image: the others of its
# 12 target sets, as elevater-cifar-10, take mvlpt_imagenet.py.
_base_ = './mvlpt_imagenet.py'

model = dict(loss=dict(type='vlm_dense.TaskCrossEntropy', others='kept'))  # of one task; targets of 1 / n
train_dataloader = dict(dataset=dict(name='elevater-voc2007'))
val_dataloader = dict(dataset=dict(name='elevater-voc2007'))
test_dataloader = dict(dataset=dict(name='elevater-voc2007'))
val_evaluator = dict(_delete_=True, type='vlm_dense.MultiLabelMetric')
test_evaluator = val_evaluator
targets, domains = dict(_delete_=True), dict(_delete_=True)  # none
