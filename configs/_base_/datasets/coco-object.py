# COCO's 80 things and the background, class 0, which is what COCO-Stuff calls stuff and what it leaves out. Read from
# the files of COCO-Stuff, with the layout of coco-stuff171.py.
_base_ = './coco-stuff171.py'

num_classes = 81
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='vlm_dense.ObjectLabels'),
    dict(type='vlm_dense.CheckSeg', num_classes=num_classes),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(dataset=dict(type='vlm_dense.COCOObjectDataset', pipeline=test_pipeline))
