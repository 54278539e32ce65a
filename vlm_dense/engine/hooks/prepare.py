"""Preparation of a method from data before training or test, and its finish after training."""

from __future__ import annotations

from mmengine.dataset import pseudo_collate
from mmengine.dist import barrier
from mmengine.hooks import Hook
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.runner import Runner, set_random_seed
from torch import nn
from torch.utils.data import DataLoader

from vlm_dense.engine.checkpoints.saving import best_checkpoint, save_result
from vlm_dense.engine.models import bare_model
from vlm_dense.registry import HOOKS


def prepare_data_set(dataset, model: nn.Module) -> None:
    """Pass the model to a data set with ``prepare(model)``: features instead of images."""
    if hasattr(dataset, 'prepare'):
        dataset.prepare(model)


@HOOKS.register_module()
class PrepareHook(Hook):
    """Call ``prepare(model, data)`` of every module that has it, before a training and before a test.

    Such a method fills buffers and parameters of the module, with shapes set by its constructor. They are in
    the checkpoint, so nothing is prepared after one was loaded. It sees the model in eval mode. Every process reads
    all of the data in the same order and from the same seed, so that all prepare the same.

    After a training it calls ``finish(model, data)`` of every module that has it, with the weights of the best
    checkpoint if ``CheckpointHook`` keeps it by ``save_best``, and saves the result as ``finished.pth``.

    Data sets that have ``prepare(model)`` are given the model before they are used, and their ``set_epoch(epoch)`` is
    called as that of samplers is.

    Args:
        data: Loader configs by name, ``dict(support=dict(dataset=..., batch_size=32, num_workers=0))``. Which name a
            method reads is in its documentation; ``support`` are the labelled images, ``search`` those that
            hyper-parameters are chosen on. The log says what was read, and warns of what is the test set.
    """

    priority = 'HIGH'  # before what tests the model at the start and the end of a training

    def __init__(self, data: dict[str, dict] | None = None):
        self.data = data or {}
        self.done = False

    def before_train(self, runner: Runner) -> None:
        """Prepare, unless a checkpoint was loaded."""
        model = bare_model(runner)
        prepare_data_set(runner.train_dataloader.dataset, model)
        if runner.val_loop is not None:
            prepare_data_set(runner.val_dataloader.dataset, model)
            if _config(runner, 'val') == _config(runner, 'test') is not None:
                runner.logger.warning(
                    'The validation set of this run is its test set: what is chosen by validation is chosen on test '
                    'images.'
                )
        self._prepare(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the epoch of the data set."""
        if hasattr(runner.train_dataloader.dataset, 'set_epoch'):
            runner.train_dataloader.dataset.set_epoch(runner.epoch)

    def before_val(self, runner: Runner) -> None:
        """Prepare the data set."""
        prepare_data_set(runner.val_dataloader.dataset, bare_model(runner))

    def before_test(self, runner: Runner) -> None:
        """Prepare, unless a checkpoint was loaded or this was done before training."""
        prepare_data_set(runner.test_dataloader.dataset, bare_model(runner))
        self._prepare(runner)

    def after_train(self, runner: Runner) -> None:
        """Finish, with the best weights."""
        best = best_checkpoint(runner)
        barrier()  # the first process has written it whole
        if self._call(runner, 'finish', lambda: best and _load(runner, best)):
            save_result(runner, 'finished.pth')
            runner.logger.info(f'Finished {best or "the last weights"}: {runner.work_dir}/finished.pth')

    def _prepare(self, runner: Runner) -> None:
        if not self.done and not runner._has_loaded:
            self.done = True
            self._call(runner, 'prepare')

    def _call(self, runner: Runner, method: str, before=None) -> bool:
        """Call a method of all modules that have it; whether there was one."""
        model = bare_model(runner)
        modules = [module for module in model.modules() if hasattr(module, method)]
        if not modules:
            return False
        if before is not None:
            before()
        training = model.training
        model.eval()
        data = {name: self._loader(runner, name, model) for name in self.data}
        for module in modules:
            runner.logger.info(f'{type(module).__name__}: {method} with {", ".join(data) or "no data"}.')
            set_random_seed(runner.seed)
            getattr(module, method)(model, data)
        model.train(training)
        return True

    def _loader(self, runner: Runner, name: str, model: nn.Module) -> DataLoader:
        options = dict(self.data[name])
        dataset = options.pop('dataset')
        if dataset == _config(runner, 'test'):
            runner.logger.warning(f'PrepareHook: {name} is the data set that is TESTED on.')
        dataset = ROOT_DATASETS.build(dataset)
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        prepare_data_set(dataset, model)
        runner.logger.info(f'PrepareHook: {name} is {_kind(self.data[name]["dataset"])}, {len(dataset)} images.')
        return DataLoader(dataset, **{'batch_size': 32, 'collate_fn': pseudo_collate, **options})


def _load(runner: Runner, path: str) -> None:
    """Load weights into a run that is over."""
    resumed, runner._resume = runner._resume, False  # the best checkpoint holds weights only
    runner.load_checkpoint(path)
    runner._resume = resumed


def _config(runner: Runner, which: str) -> dict | None:
    """Config of a data set of the run, without what only seeds its draws; ``None`` if there is none."""
    loader = getattr(runner, f'_{which}_dataloader')
    dataset = loader.get('dataset') if isinstance(loader, dict) else None
    if not isinstance(dataset, dict):
        return None
    return dataset['dataset'] if dataset['type'] == 'vlm_dense.SeededDataset' else dataset


def _kind(dataset: dict) -> str:
    """Type and split of what a data set config wraps."""
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    return ' '.join(str(v) for v in (dataset['type'], dataset.get('name'), dataset.get('split')) if v)
