"""Imports of a fork server before it forks a process: importing this module sets it up as a program."""

import gc

import vlm_dense

vlm_dense.setup()

import vlm_dense.comparison.dense  # noqa: E402
import vlm_dense.methods  # noqa: E402
from vlm_dense.engine.runner import launch  # noqa: E402, F401

gc.freeze()  # all of this stays, in memory that the processes share: no collection looks through it
