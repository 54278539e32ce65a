# What the pure Python configs build on: logs, checkpoints, hooks, the loops of a training in iterations.
from mmengine.hooks import DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

from vlm_dense.engine.checkpoints.fit import CheckpointFitHook, FrozenWeightsHook
from vlm_dense.engine.checkpoints.saving import SafeCheckpointHook
from vlm_dense.engine.hooks.losses import AverageLossesHook, StopOnInvalidLoss
from vlm_dense.engine.runner.seeding import SeedIterationHook

randomness = dict(seed=0)
colours = dict(  # CLIP's, of a data preprocessor
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    bgr_to_rgb=True,
)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=SafeCheckpointHook, by_epoch=False, interval=400, max_keep_ckpts=2),
    sampler_seed=dict(type=DistSamplerSeedHook),
)
custom_hooks = [
    dict(type=SeedIterationHook),
    dict(type=AverageLossesHook),
    dict(type=StopOnInvalidLoss),
    dict(type=CheckpointFitHook),
    dict(type=FrozenWeightsHook),
]
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4))
train_cfg = dict(type=IterBasedTrainLoop, max_iters=800, val_interval=400)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
