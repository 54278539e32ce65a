# NUS-WIDE with 925 tags of users seen in training and its 81 concepts unseen. All 1006:
#   --cfg-options test_dataloader.dataset.classes=seen+unseen
_base_ = './coco2014_open-vocabulary.py'

train_dataloader = dict(dataset=dict(name='nus-wide-tags'))
test_dataloader = dict(dataset=dict(name='nus-wide-tags'))
