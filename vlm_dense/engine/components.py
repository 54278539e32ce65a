"""Registered parts of the engine: hooks, loops, samplers, metrics. Importing this module imports them."""

from vlm_dense.engine.checkpoints import fit, resume_check, saving
from vlm_dense.engine.hooks import images, losses, prepare
from vlm_dense.engine.runner import (
    batches,
    compilation,
    cpu_distributed,
    resumable_test,
    schedules,
    seeding,
    shards,
    streams,
)

__all__ = [
    'batches',
    'compilation',
    'cpu_distributed',
    'fit',
    'images',
    'losses',
    'prepare',
    'resumable_test',
    'resume_check',
    'saving',
    'schedules',
    'seeding',
    'shards',
    'streams',
]
