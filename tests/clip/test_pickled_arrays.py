"""Pickles of numpy arrays, as detectron2 publishes weights: read without running anything, or refused."""

from __future__ import annotations

import pickle
import pickletools
from collections import OrderedDict

import numpy as np
import pytest
import torch

from vlm_dense.clip.weight_files import read_state_dict
from vlm_dense.engine.checkpoints.reading import load_from_local
from vlm_dense.errors import CheckpointError

ARRAYS = dict(
    a=np.arange(6, dtype=np.float32).reshape(2, 3),
    b=np.asfortranarray(np.arange(6.0).reshape(3, 2)),
    c=np.array(7),
    d=np.arange(3, dtype='>i4'),
    e=np.zeros((0, 4), np.float16),
    f=np.float32(0.5),
)


def check(found: dict) -> None:
    for key, value in ARRAYS.items():
        assert isinstance(found[key], torch.Tensor), key
        assert np.array_equal(found[key].numpy(), value), key
        assert found[key].numpy().dtype == value.dtype.newbyteorder('='), key


@pytest.mark.parametrize('protocol', range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_in_every_protocol_and_nested(protocol, tmp_path):
    path = tmp_path / 'model_final.pkl'
    path.write_bytes(pickle.dumps(OrderedDict(ARRAYS), protocol))
    check(read_state_dict(path))
    path.write_bytes(pickle.dumps(dict(model=ARRAYS, __author__='third party', iteration=3), protocol))
    check(load_from_local(str(path))['state_dict'])


def test_names_of_numpy_1_are_known_and_texts_of_python_2(tmp_path):
    data = pickle.dumps(ARRAYS, 2).replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
    assert b'_core' not in data
    (tmp_path / 'old.pkl').write_bytes(data)
    check(read_state_dict(tmp_path / 'old.pkl'))


class Calls:
    """A pickle of this calls a function when it is read carelessly."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


CODE = {
    'another function': lambda: Calls(eval, '1 + 1'),
    'a file of numpy': lambda: Calls(np.load, 'x.npy'),
    'a tensor': lambda: torch.ones(2),
    'an attribute': lambda: Calls(getattr, np.ndarray, 'tofile'),
}


@pytest.mark.parametrize('name', CODE)
def test_anything_else_is_refused_with_its_name(name, tmp_path):
    path = tmp_path / 'bad.pkl'
    path.write_bytes(pickle.dumps(dict(ARRAYS, evil=CODE[name]())))
    asked = {str(arg) for op, arg, _ in pickletools.genops(path.read_bytes()) if isinstance(arg, str)}
    with pytest.raises(CheckpointError, match='nothing in it was run') as told:
        read_state_dict(path)
    assert str(told.value).split('asks for ')[1].split(')')[0].split('.')[-1] in asked
    with pytest.raises(CheckpointError, match='Nothing was run'):
        load_from_local(str(path))


def _memory(opcodes: bytes) -> bytes:
    return b'\x80\x02' + opcodes + b'.'


BROKEN = {
    'cut short': pickle.dumps(ARRAYS)[:-20],
    'an array of any size': _memory(b'cnumpy\nndarray\n(I1000000000000\ntR'),
    'one that begins so': _memory(
        b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntU\x01btR'
    ),
    'a number that is an object': _memory(
        b'cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(U\x02O8I0\nI1\ntRU\x08AAAAAAAAtR'
    ),
    'bytes that are unpacked': _memory(b'c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR'),
}


@pytest.mark.parametrize('name', BROKEN)
def test_a_damaged_one_is_refused(name, tmp_path):
    path = tmp_path / 'broken.pkl'
    path.write_bytes(BROKEN[name])
    with pytest.raises(CheckpointError, match='expected a whole pickle file'):
        read_state_dict(path)
    with pytest.raises(CheckpointError, match='damaged'):
        load_from_local(str(path))


def test_arrays_that_hold_objects_are_no_weights(tmp_path):
    (tmp_path / 'odd.pkl').write_bytes(pickle.dumps(dict(a=np.array([1, 'x', None], dtype=object))))
    with pytest.raises(CheckpointError, match="found 'a' of type ndarray"):
        read_state_dict(tmp_path / 'odd.pkl')
