"""All that the engine registers: hooks, loops, samplers, metrics. Importing this module imports them."""

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
