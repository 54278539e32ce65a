"""What a method makes of data before it is trained or tested."""

from __future__ import annotations

from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.runner import Runner, set_random_seed
from torch.utils.data import DataLoader

from vlm_dense.registry import HOOKS


@HOOKS.register_module()
class PrepareHook(Hook):
    """Call ``prepare(model, data)`` of every module that has it, before a training and before a test.

    Such a method fills buffers and parameters of the module, whose shapes are those of its constructor. They are in
    the checkpoint, so nothing is prepared after one was loaded. It sees the model in eval mode. Every process reads
    all of the data in the same order and from the same seed, so that all prepare the same.

    Args:
        data: Loader configs by name, ``dict(support=dict(dataset=..., batch_size=32, num_workers=0))``. Which name a
            method reads is in its documentation; ``support`` are the labelled images, ``search`` those that
            hyper-parameters are chosen on.
    """

    priority = 'HIGH'  # before what tests the model at the start of a training

    def __init__(self, data: dict[str, dict]):
        self.data = data
        self.done = False

    def before_train(self, runner: Runner) -> None:
        """Prepare, unless a checkpoint was loaded."""
        self._prepare(runner)

    def before_test(self, runner: Runner) -> None:
        """Prepare, unless a checkpoint was loaded or this was done before training."""
        self._prepare(runner)

    def _prepare(self, runner: Runner) -> None:
        if self.done or runner._has_loaded:
            return
        self.done = True
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        data = {name: self._loader(**loader) for name, loader in self.data.items()}
        training = model.training
        model.eval()
        for module in list(model.modules()):
            if hasattr(module, 'prepare'):
                runner.logger.info(f'{type(module).__name__} prepares from {", ".join(data)}.')
                set_random_seed(runner.seed)
                module.prepare(model, data)
        model.train(training)

    @staticmethod
    def _loader(dataset: dict, batch_size: int = 32, num_workers: int = 0) -> DataLoader:
        dataset = ROOT_DATASETS.build(dataset)
        return DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=pseudo_collate)
