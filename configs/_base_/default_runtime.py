# What every config builds on: environment, logs, checkpoints, hooks.
default_scope = 'mmseg'
env_cfg = dict(
    # True is quicker on GPUs where images have one size, and picks kernels that may round otherwise in each run;
    # for equal bits on a GPU also set randomness.deterministic=True, which some operations refuse
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),  # gloo where there is no GPU
)
randomness = dict(seed=0)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='vlm_dense.SafeCheckpointHook', by_epoch=False, interval=8000, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [
    dict(type='vlm_dense.SeedIterationHook'),
    dict(type='vlm_dense.AverageLossesHook'),
    dict(type='vlm_dense.StopOnInvalidLoss'),
    dict(type='vlm_dense.CheckpointFitHook'),
    dict(type='vlm_dense.FrozenWeightsHook'),
    dict(type='vlm_dense.PredictionPictureHook'),
]
