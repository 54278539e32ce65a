"""Test-time adaptation that learns from the images before."""

from __future__ import annotations

from mmengine.dist import get_dist_info

from vlm_dense.contract.roles import TestTimeAdaptation
from vlm_dense.errors import ConfigError

PROCESSES = ('one', 'each')


class StreamAdaptation(TestTimeAdaptation):
    """Base of adaptations with state from image to image, so that the order of the images is part of the result.

    A stream begins whenever the mode of the model is set, which the loops of validation and test do first. A test by
    ``vlm_dense.ResumableTestLoop`` that was stopped resumes with the same state: what each batch has changed is written
    beside its predictions.

    Args:
        processes: ``'one'``: all images go through the first process in their order, which is the method;
            ``test_dataloader=dict(sampler=dict(type='vlm_dense.StreamSampler'))`` ensures it, and an image in another
            process is an error. ``'each'``: each process has a stream of its own over its share of the images, and the
            result depends on their number.

    Raises:
        ConfigError: another value, or an image in the wrong process.
    """

    transductive = True

    def __init__(self, processes: str = 'one'):
        super().__init__()
        if processes not in PROCESSES:
            raise ConfigError(f'{type(self).__name__}: processes must be one of {PROCESSES}, found {processes!r}.')
        self.processes = processes

    def reset(self) -> None:
        """Forget all images."""
        raise NotImplementedError

    def changes(self) -> list:
        """Changes of the state by the images since the last call: tensors and numbers in lists and dicts."""
        raise NotImplementedError

    def replay(self, changes: list) -> None:
        """Apply :meth:`changes` of the next images to the state; nothing is computed."""
        raise NotImplementedError

    def check_process(self) -> None:
        """Refuse an image that is not in the one stream.

        Raises:
            ConfigError: it is in another process than the first.
        """
        rank, count = get_dist_info()
        if rank and self.processes == 'one':
            raise ConfigError(
                f'{type(self).__name__} learns from the images before, and process {rank} of {count} was given some of '
                "them. Set test_dataloader=dict(sampler=dict(type='vlm_dense.StreamSampler')) for one stream in the "
                "first process, or test_time=dict(processes='each') for a stream in each, which gives other results."
            )

    def train(self, mode: bool = True) -> StreamAdaptation:
        """Set the mode, and begin another stream."""
        self.reset()
        return super().train(mode)
