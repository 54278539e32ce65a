# APE-T's on ImageNet: a cosine to 0 in each iteration. Weight decay pulls the weights of images to 0, as published.
# Stands beside ape_*.py, which have the test loop.
max_epochs = 20
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, eps=1e-3, weight_decay=0.1))
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
