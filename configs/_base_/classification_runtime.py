# default_runtime.py for classification: in epochs, with zero-shot accuracy before and accuracy after training.
_base_ = './default_runtime.py'

default_scope = 'mmengine'
visualizer = dict(type='Visualizer')
log_processor = dict(by_epoch=True)
default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=10),
)
custom_hooks = [
    dict(type='vlm_dense.SeedIterationHook'),
    dict(type='vlm_dense.AverageLossesHook'),
    dict(type='vlm_dense.StopOnInvalidLoss'),
    dict(type='vlm_dense.CheckpointFitHook'),
    dict(type='vlm_dense.FrozenWeightsHook'),
    dict(type='vlm_dense.ZeroShotComparisonHook', templates=['a photo of a {}.']),
]
