"""The safe reading of weight files: safetensors, ``torch.save`` files, TorchScript archives, npz, pickled arrays."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vlm_dense.clip.torchscript import read_torchscript
from vlm_dense.errors import CheckpointError, WeightsNotFoundError

_LEGACY_TORCH = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
_LITTLE = 1 << 20  # bytes of repeated values that a file may always have
_FOREIGN = {
    b'<': 'an HTML or XML page (saved instead of the file?)',
    b'version https://git-lfs': 'a Git LFS pointer (the file itself was not fetched)',
    b'\x89PNG': 'a PNG image',
    b'\xff\xd8\xff': 'a JPEG image',
    b'PK': 'a zip archive that torch did not write',
}


def read_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read the tensors of a weight file without running any Python code in it.

    Reads safetensors, ``torch.save`` files, TorchScript archives, numpy's npz
    and pickled arrays, whatever their suffix. A ``'state_dict'`` inside a
    training checkpoint is taken out of it, and a ``'module.'`` in front of all
    keys is taken off.

    Args:
        path: The file.

    Returns:
        Name -> tensor on the CPU in the dtype of the file. Numbers among the
        tensors become tensors.

    Raises:
        WeightsNotFoundError: no such file.
        CheckpointError: the file is empty, truncated, damaged, of another
            kind, holds code or other Python objects, or holds no state dict.
    """
    path = Path(path)
    return _only_tensors(read_weights(path), path)


def read_tensor(path: str | os.PathLike) -> Tensor:
    """Read a file that holds one bare tensor, as ``torch.save(tensor, path)`` writes it; on the CPU.

    Raises:
        WeightsNotFoundError, CheckpointError: as :func:`read_state_dict`, or the file holds something else.
    """
    content = read_weights(path)
    if not isinstance(content, Tensor):
        raise CheckpointError(f'{path}: expected one tensor, found an object of type {type(content).__name__}.')
    return content.detach()


def read_nested(path: str | os.PathLike) -> Mapping:
    """Read a file that holds tensors and numbers in dicts of dicts, as some methods save them; on the CPU.

    Raises:
        WeightsNotFoundError, CheckpointError: as :func:`read_state_dict`, or the file holds something else.
    """
    content = read_weights(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f'{path}: expected a dict, found an object of type {type(content).__name__}.')
    return content


def read_weights(path: str | os.PathLike) -> object:
    """Content of a weight file: tensors and numbers, bare or in dicts and lists; on the CPU.

    Raises:
        WeightsNotFoundError, CheckpointError: as :func:`read_state_dict`.
    """
    path = Path(path)
    if not path.is_file():
        found = 'a folder' if path.is_dir() else 'none'
        raise WeightsNotFoundError(f'Expected a weight file at {path.absolute()}, found {found}.')
    kind = file_kind(path)
    try:
        content = read_content(path, kind)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        asks_for = re.search(r'GLOBAL (\S+)', str(error))
        if asks_for is None:
            raise _damaged(path, kind, error) from error
        raise CheckpointError(
            f'{path} holds code or Python objects besides tensors (it asks for {asks_for[1]}). It was refused and '
            'nothing in it was run. Expected tensors only: if you trust where it comes from, open it there and save '
            "its state dict alone, with torch.save(state_dict, '...pt') or as safetensors."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise anything: EOFError, struct.error, RuntimeError, KeyError, ...
        raise _damaged(path, kind, error) from error
    return content


def read_content(path: Path, kind: str, allowed: Sequence = (), map_location='cpu') -> object:
    """Content of a weight file, read without running code; every reader of such files calls this one.

    Args:
        path: The file.
        kind: Of :func:`file_kind`.
        allowed: Classes that a pickle may build besides tensors, see :func:`allowed_in_pickles`.
        map_location: As in :func:`torch.load`.

    Raises:
        Exception: of any kind, what torch, zipfile or safetensors raise for damaged bytes.
        CheckpointError: see :func:`check_tensors`.
    """
    if zipfile.is_zipfile(path):
        _check_sums(path)  # torch itself does not compare them
    if kind == 'npz':
        with np.load(path, allow_pickle=False) as file:
            content = {key: torch.from_numpy(file[key]) for key in file.files}
    elif kind == 'safetensors':
        content = load_file(path)
    elif kind == 'TorchScript':
        content = read_torchscript(path)
    elif kind == 'pickle':
        content = read_pickled_arrays(path)
    else:
        with allowed_in_pickles(allowed):
            content = torch.load(path, map_location=map_location, weights_only=True)
    check_tensors(content, path)
    return content


def read_pickled_arrays(path: str | os.PathLike) -> object:
    """Read a pickle of numpy arrays, as detectron2 publishes weights; arrays of numbers become tensors.

    Nothing but numbers, strings, containers and arrays can be built, so that no code in the file can run.

    Raises:
        pickle.UnpicklingError: it asks for anything else.
    """
    with open(path, 'rb') as file:
        return _as_tensors(_ArraysOnly(file, encoding='latin1').load())  # as Python 2 wrote some of them


def _as_tensors(node: object) -> object:
    if isinstance(node, Mapping):
        return {key: _as_tensors(value) for key, value in node.items()}
    if isinstance(node, (np.ndarray, np.generic)) and node.dtype.kind in 'biufc':
        return torch.from_numpy(np.array(node, dtype=node.dtype.newbyteorder('=')))
    return node


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        found = _OF_ARRAYS.get((module.replace('numpy._core', 'numpy.core'), name))
        if found is None:
            raise pickle.UnpicklingError(f'GLOBAL {module}.{name} was not an allowed global')
        return found


def _empty_array(kind: object, shape: tuple, _: object) -> np.ndarray:
    """What numpy's pickles begin an array with; its numbers follow and are compared with its shape."""
    if kind is not _ARRAY or shape != (0,):
        raise pickle.UnpicklingError(f'an array that begins with the shape {shape}')
    return np.empty(0, np.int8)


def _number(dtype: np.dtype, data: bytes) -> np.generic:
    if dtype.hasobject:
        raise pickle.UnpicklingError('a number that is an object')
    return np.frombuffer(data if isinstance(data, bytes) else data.encode('latin1'), dtype)[0]


def _from_buffer(data: bytes, dtype: np.dtype, shape: tuple, order: str, *_: object) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'bytes as {encoding}')
    return text.encode('latin1')


_ARRAY = object()
_OF_ARRAYS = {
    ('numpy.core.multiarray', '_reconstruct'): _empty_array,
    ('numpy.core.multiarray', 'scalar'): _number,
    ('numpy.core.numeric', '_frombuffer'): _from_buffer,
    ('numpy', 'ndarray'): _ARRAY,
    ('numpy', 'dtype'): np.dtype,
    ('_codecs', 'encode'): _bytes,
    ('__builtin__', 'bytes'): lambda: b'',  # no bytes, in the protocol of Python 2
    ('collections', 'OrderedDict'): dict,
}


def is_stored_whole(tensor: Tensor) -> bool:
    """Whether each element of a tensor has its own memory, so that a copy takes no more of it."""
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def check_tensors(content: object, path: str | os.PathLike) -> None:
    """Refuse tensors that no module can take, or that would take far more memory than their file.

    A file of some bytes may hold ``torch.zeros(1).expand(10**12)``; the first look at its values takes all memory.
    Repeated values are allowed as far as they are no more than the file has bytes.

    Args:
        content: Dicts, lists and tensors, at any depth.
        path: The file that they were read from.

    Raises:
        CheckpointError: names the tensor.
    """
    room = max(os.path.getsize(path), _LITTLE)
    for key, tensor in _tensors(content, ''):
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            kind = 'quantised' if tensor.is_quantized else 'without values' if tensor.is_meta else str(tensor.layout)
            raise CheckpointError(
                f'{path}: {key or "the tensor"} is {kind}; expected dense tensors with values. Save the weights of the '
                'model itself.'
            )
        if not is_stored_whole(tensor):
            room -= tensor.numel() * tensor.element_size()
            if room < 0:
                raise CheckpointError(
                    f'{path} is refused: {key or "the tensor"} repeats few numbers to {tuple(tensor.shape)}, which '
                    f'would take {tensor.numel() * tensor.element_size():,} bytes. If it is right, save a copy of it.'
                )


def _tensors(node: object, place: str) -> Iterator[tuple[str, Tensor]]:
    todo = [(place, node)]  # no recursion: a file may nest as deeply as it likes
    seen: set[int] = set()
    while todo:
        key, node = todo.pop()
        if isinstance(node, Tensor):
            yield key, node
        elif isinstance(node, (Mapping, list, tuple)) and id(node) not in seen:
            seen.add(id(node))
            items = node.items() if isinstance(node, Mapping) else enumerate(node)
            todo += [(f'{key}.{k}'.lstrip('.'), value) for k, value in items]


@contextlib.contextmanager
def allowed_in_pickles(objects: Sequence) -> Iterator[None]:
    """Allow these classes and functions in ``torch.load(weights_only=True)``, and restore its list after.

    A pickle finds an object under its ``__module__`` and ``__qualname__``, in every version of torch.
    """
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(list(objects))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def file_kind(path: Path) -> str:
    """'safetensors', 'TorchScript', 'torch.save', 'npz' or 'pickle', from the content."""
    try:
        with path.open('rb') as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error.strerror}.') from error
    if head[8:9] == b'{':
        return 'safetensors'
    if head.startswith(_LEGACY_TORCH):
        return 'torch.save'
    if head.startswith(b'\x80'):
        return 'pickle'
    if head.startswith(b'PK'):
        try:
            with zipfile.ZipFile(path) as archive:
                names = {os.path.basename(name) for name in archive.namelist()}
        except zipfile.BadZipFile as error:
            raise _damaged(path, 'torch.save', error) from error
        if names and all(name.endswith('.npy') for name in names):
            return 'npz'
        if 'data.pkl' in names:
            return 'TorchScript' if 'constants.pkl' in names else 'torch.save'
    found = next((what for start, what in _FOREIGN.items() if head.lstrip().startswith(start)), None)
    if not head:
        found = 'an empty file'
    raise CheckpointError(
        f'{path}: expected weights (safetensors, a torch.save file, a TorchScript archive, an npz of numpy or pickled '
        f'arrays), found {found or f"something that starts with {head[:12]!r}"}.'
    )


def _check_sums(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken:
        raise zipfile.BadZipFile(f'the checksum of its part {broken} is wrong')


def _damaged(path: Path, kind: str, reason: object) -> CheckpointError:
    reason = str(reason).strip().partition('\n')[0][:200]
    return CheckpointError(
        f'{path}: expected a whole {kind} file, found {path.stat().st_size} bytes that are truncated or damaged '
        f'({reason}). Download or copy it again.'
    )


def _only_tensors(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get('state_dict'), Mapping):
        content = content['state_dict']
    if not isinstance(content, Mapping) or not content:
        what = 'an empty dict' if isinstance(content, Mapping) else f'an object of type {type(content).__name__}'
        raise CheckpointError(f'{path}: expected a state dict (names and tensors), found {what}.')
    tensors = {
        key: torch.as_tensor(value) if isinstance(value, (int, float)) else value for key, value in content.items()
    }
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f'{path}: expected a state dict (names and tensors), found {key!r} of type {type(value).__name__} '
                f'among {", ".join(map(str, list(tensors)[:5]))}.'
            )
    prefix = 'module.' if all(key.startswith('module.') for key in tensors) else ''
    return {key.removeprefix(prefix): value.detach() for key, value in tensors.items()}
