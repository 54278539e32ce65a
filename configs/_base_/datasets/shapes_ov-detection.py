# Drawn scenes with boxes, nothing to download; crescents and hearts are neither shown nor named in training.
_base_ = './shapes_instance.py'

base_classes = ['circle', 'square', 'triangle', 'star', 'cross', 'ring']
novel_classes = ['crescent', 'heart']
meta = dict(base_classes=base_classes, novel_classes=novel_classes)
train_dataloader = dict(dataset=dict(classes=base_classes, metainfo=meta))
val_dataloader = dict(dataset=dict(metainfo=meta))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='vlm_dense.OVCocoMetric', metric=['bbox'])
test_evaluator = val_evaluator
