"""Exported files as functions of images: ONNX by onnxruntime, .pt2 by torch."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable

import torch
from torch import Tensor

from vlm_dense.clip.weight_files import is_stored_whole
from vlm_dense.errors import CheckpointError, ConfigError, DataError
from vlm_dense.export.archive import checked_archive
from vlm_dense.export.metadata import KEY, parse

SUFFIXES = ('.onnx', '.pt2')


def is_exported(path) -> bool:
    """Whether a path is that of an exported file, by its suffix."""
    return isinstance(path, (str, os.PathLike)) and os.fspath(path).endswith(SUFFIXES)


class ExportedFile:
    """An exported file: its metadata and its network.

    A copy is the file itself, which calls in several threads may share.

    Args:
        path: The file.
        format: ``'onnx'`` or ``'pt2'``; default: by the suffix of the path.

    Attributes:
        metadata: See :func:`vlm_dense.export.metadata.describe`; it is read and checked before the network is.

    Raises:
        ConfigError: another suffix, or no onnxruntime.
        CheckpointError: no such file, a damaged one, or one that vlm_dense has not written.
    """

    def __init__(self, path: str | os.PathLike, format: str | None = None):  # noqa: A002
        self.path = os.fspath(path)
        if format is None and not is_exported(self.path):
            raise ConfigError(f'{self.path}: expected a file that ends in {" or ".join(SUFFIXES)}.')
        if not os.path.isfile(self.path):
            raise CheckpointError(f'The exported file {self.path} does not exist (looked from {os.getcwd()}).')
        self.metadata, self._run = (_onnx if (format or self.path[-4:]) == 'onnx' else _pt2)(self.path)

    def __deepcopy__(self, memo: dict) -> ExportedFile:
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs of normalised images (B, 3, H, W), on their device.

        Raises:
            DataError: images of a size that the file does not take.
        """
        self._check_size(tuple(images.shape[2:]))
        if self.metadata['batch']:
            return self._run(images)
        parts = [self._run(image[None]) for image in images]
        return tuple(torch.cat(one) for one in zip(*parts, strict=True))

    def _check_size(self, size: tuple[int, int]) -> None:
        fixed, least, most = (self.metadata[key] for key in ('size', 'least', 'most'))
        if fixed is not None and list(size) != fixed:
            raise DataError(
                f'{self.path} takes images of {fixed[0]} x {fixed[1]} px (height x width) only, found {size[0]} x '
                f'{size[1]}. Bring images to that size, or export with another --size.'
            )
        for side, low, high in zip(size, least or (1, 1), most, strict=True):
            if side < low or (high is not None and side > high):
                raise DataError(
                    f'{self.path} takes images with sides from {low} to {high or "any number of"} px, found {size[0]} '
                    f'x {size[1]} (height x width).'
                )


# --- ONNX -----------------------------------------------------------------------------------------------------


def _onnx(path: str) -> tuple[dict, Callable[[Tensor], tuple[Tensor, ...]]]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f'{path} is run by onnxruntime, which is not installed: pip install onnxruntime (part of the extra '
            "'export'), or export with --format pt2."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    providers = onnxruntime.get_available_providers()
    wanted = [name for name in ('CUDAExecutionProvider', 'CPUExecutionProvider') if name in providers]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=wanted)
    except Exception as error:  # its errors have no base of their own
        raise CheckpointError(_damaged(path, error)) from error
    metadata = parse(session.get_modelmeta().custom_metadata_map.get(KEY), path)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        found = session.run(None, {'images': images.float().cpu().numpy()})
        return tuple(torch.from_numpy(one).to(images.device) for one in found)

    return metadata, run


def _damaged(path: str, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    size = os.path.getsize(path)
    return f'{path} ({size:,} bytes) cannot be read: damaged, cut short or another format ({reason}). Export it again.'


# --- .pt2 -----------------------------------------------------------------------------------------------------


def _pt2(path: str) -> tuple[dict, Callable[[Tensor], tuple[Tensor, ...]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            if broken:
                raise ValueError(f'wrong check sum of {broken}')
            found = [name for name in archive.namelist() if name.endswith(f'/{KEY}')]
            metadata = parse(archive.read(found[0]) if found else None, path)
            clean = checked_archive(archive, path)
        program = torch.export.load(clean)
        for name, tensor in {**program.state_dict, **program.constants}.items():
            if not is_stored_whole(tensor):
                raise CheckpointError(f'{path} is refused: {name} has more numbers than the file holds.')
    except CheckpointError:
        raise
    except Exception as error:  # torch.export.load fails in many ways
        raise CheckpointError(_damaged(path, error)) from error
    modules = {}

    def run(images: Tensor) -> tuple[Tensor, ...]:
        device = images.device
        if device not in modules:
            moved = program if device.type == 'cpu' else _moved(program, device)
            modules[device] = moved.module(check_guards=False)
        return tuple(modules[device](images.float()))

    return metadata, run


def _moved(program, device: torch.device):
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)
