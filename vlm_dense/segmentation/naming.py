"""Other class names for a segmentor with a head that compares with the embeddings of names."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import nn

from vlm_dense.engine.models import bare_model
from vlm_dense.errors import ConfigError
from vlm_dense.registry import HOOKS


def set_class_names(model: nn.Module, class_names: str | Sequence[str]) -> None:
    """Replace the classes of a model of mmseg.

    Args:
        model: With a decode head that has ``set_class_names``, as ``vlm_dense.PixelTextHead``, or a model that has it.
        class_names: In label order, or what names a list, see
            :func:`~vlm_dense.vocabulary.class_names.read_class_names`.

    Raises:
        ClassNamesError: names that cannot be used.
        ConfigError: no part of the model can have other names.
    """
    if hasattr(model, 'set_class_names'):
        model.set_class_names(class_names)
        return
    heads = [m for m in model.modules() if hasattr(m, 'set_class_names')]
    if not heads:
        raise ConfigError(
            f'{type(model).__name__} has no head with a classifier of class names. Use vlm_dense.PixelTextHead as '
            'decode_head, or vlm_dense.MaskCLIP.'
        )
    for head in heads:
        head.set_class_names(class_names)
    main = getattr(model, 'decode_head', None)
    if main in heads:
        model.num_classes = model.out_channels = main.num_classes


@HOOKS.register_module()
class ClassNamesHook(Hook):
    """Give a model the class names of the data set of the runner, before training, validation and test.

    Validation during a training may have other classes than the training, as some that were held out; behind it the
    model has those of the training again.

    For programs that do not know the names when they build the model, as ``tools/train.py`` of mmseg: the config names
    any list, and this hook takes that of the data. In training the heads' number of classes must be that of the data.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Names of the training data."""
        self._give(runner, runner.train_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Names of the validation data."""
        self._give(runner, runner.val_dataloader)

    def after_val(self, runner: Runner) -> None:
        """Names of the training data again, during a training."""
        if isinstance(runner._train_loop, BaseLoop):
            self._give(runner, runner.train_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Names of the test data."""
        self._give(runner, runner.test_dataloader)

    def _give(self, runner: Runner, loader) -> None:
        names = loader.dataset.metainfo.get('classes')
        if names is None:
            raise ConfigError(
                f'ClassNamesHook: {type(loader.dataset).__name__} has no classes. Give it metainfo=dict(classes=...).'
            )
        set_class_names(bare_model(runner), names)
