# Drawn scenes, nothing to download: random grids of regions to train on, boxes and masks of 8 shapes to test on. They
# are three times as large as the images of the tiny-vit, so that its map is worse than what it says of crops.
size = 192
crop_size = 64  # of the tiny-vit
scene = dict(type='vlm_dense.ShapesDataset', size=size, num_objects=(2, 5), label='shape')
train_pipeline = [
    dict(type='vlm_dense.DrawScene'),
    dict(type='vlm_dense.GridBoxes', max_split=6, max_boxes=20),
    dict(type='vlm_dense.PackRegions', image_size=size, crop_size=crop_size),
]
test_pipeline = [dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackRegions', image_size=size, masks=True)]

train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(split='train', num_scenes=20000, pipeline=train_pipeline, **scene),
)
test_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', num_scenes=100, test_mode=True, pipeline=test_pipeline, **scene),
)
test_evaluator = dict(type='vlm_dense.RegionAccuracy')
