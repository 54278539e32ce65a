"""Testing a model in the middle of a run."""

from __future__ import annotations

import torch
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from vlm_dense.engine.hooks.prepare import prepare_data_set
from vlm_dense.engine.models import bare_model


def evaluate(runner: Runner, dataloader: DataLoader | None = None) -> dict[str, float]:
    """Metrics of the model on a data set, by ``test_evaluator``; the test loop's if none is given."""
    loop, mode = runner.test_loop, runner.model.training
    dataloader = loop.dataloader if dataloader is None else dataloader
    prepare_data_set(dataloader.dataset, bare_model(runner))
    runner.model.eval()
    with torch.no_grad():
        for batch in dataloader:
            loop.evaluator.process(data_samples=runner.model.test_step(batch), data_batch=batch)
    runner.model.train(mode)
    return loop.evaluator.evaluate(len(dataloader.dataset))
