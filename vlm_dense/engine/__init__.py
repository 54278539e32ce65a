"""What runs a training beyond mmengine's own: hooks, samplers, checkpoints. Importing this module registers them."""

from vlm_dense.engine import (
    checkpoint,
    compilation,
    cpu_distributed,
    losses,
    pictures,
    prepare,
    resumable_test,
    resume_check,
    saving,
    seeding,
    streams,
)

__all__ = [
    'checkpoint',
    'compilation',
    'cpu_distributed',
    'losses',
    'pictures',
    'prepare',
    'resumable_test',
    'resume_check',
    'saving',
    'seeding',
    'streams',
]
