# COCO 2014 with 48 classes seen in training and 17 unseen ones in the test. All 65:
#   --cfg-options test_dataloader.dataset.classes=seen+unseen
_base_ = './coco2014_multi-label.py'

train_dataloader = dict(dataset=dict(classes='seen'))
test_dataloader = dict(dataset=dict(classes='unseen'))
