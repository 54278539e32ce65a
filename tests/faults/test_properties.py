"""What no input of a kind may do: raise anything but an error for users, or be read as something else."""

from __future__ import annotations

import ast
import io
import json
import keyword
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from PIL import Image

from vlm_dense.detection.coco import CocoFileDataset
from vlm_dense.engine.checkpoints.reading import load_from_local
from vlm_dense.engine.checkpoints.resume_check import read_assignments
from vlm_dense.engine.configs.keys import check_keys
from vlm_dense.engine.outputs import claim
from vlm_dense.errors import DataError, UserError
from vlm_dense.inference.images import load_image
from vlm_dense.vocabulary.class_names import as_class_names

quick = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
names = st.text(st.characters(exclude_categories=('Cs',)), max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | names
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4))


def files(content: bytes, name: str):
    folder = tempfile.TemporaryDirectory()
    (Path(folder.name) / name).write_bytes(content)
    return folder


# --- COCO -------------------------------------------------------------------------------------------------------------

entries = st.fixed_dictionaries(
    dict(id=st.integers(0, 4), image_id=st.integers(0, 3), category_id=st.integers(0, 3)),
    optional=dict(bbox=st.lists(st.integers(-9, 60), min_size=3, max_size=5) | scalars, area=scalars, iscrowd=scalars),
)
images = st.fixed_dictionaries(
    dict(id=st.integers(0, 3)), optional=dict(file_name=names | scalars, width=scalars, height=scalars)
)
categories = st.fixed_dictionaries(dict(id=st.integers(0, 3)), optional=dict(name=names | scalars))


@quick
@given(
    st.fixed_dictionaries(
        {},
        optional=dict(
            images=st.lists(images, max_size=3) | trees,
            annotations=st.lists(entries, max_size=4) | trees,
            categories=st.lists(categories, max_size=3) | trees,
        ),
    )
    | trees
)
def test_any_coco_file_is_read_or_refused(content):
    with files(json.dumps(content).encode(), 'train.json') as root:
        try:
            CocoFileDataset(root, pipeline=[])
        except UserError as error:
            assert str(error)


# --- class lists ------------------------------------------------------------------------------------------------------


@quick
@given(st.binary(max_size=60))
def test_any_file_of_names_is_read_or_refused(content):
    with files(content, 'names.txt') as root:
        try:
            found = as_class_names(f'{root}/names.txt')
        except UserError:
            return
    assert found and all(name.strip() and name.isprintable() for entry in found for name in entry)


words = st.text(st.characters(categories=('Ll', 'Lu', 'Nd')), min_size=1, max_size=8)


@quick
@given(st.lists(words, min_size=1, max_size=5, unique_by=str.casefold), st.booleans(), st.sampled_from(['\n', '\r\n']))
def test_names_are_read_as_they_are_written(given_names, mark, end):
    content = ('\ufeff' * mark + end.join(given_names) + end).encode()
    with files(content, 'names.txt') as root:
        try:
            found = as_class_names(f'{root}/names.txt')
        except UserError as error:
            assert 'tell them' in str(error) or 'apart' in str(error)  # CLIP's tokenizer reads two alike
            return
    assert [entry[0] for entry in found] == given_names


# --- checkpoints ------------------------------------------------------------------------------------------------------


@quick
@given(trees, trees)
def test_any_meta_of_a_checkpoint_is_read_or_refused(meta, weights):
    file = io.BytesIO()
    torch.save(dict(meta=meta, state_dict=weights), file)
    with files(file.getvalue(), 'a.pth') as root:
        try:
            found = load_from_local(f'{root}/a.pth')
        except UserError:
            return
    assert isinstance(found['state_dict'], dict) and (found['meta'] is None or isinstance(found['meta'], dict))


@quick
@given(st.text(max_size=80) | st.builds(ast.unparse, st.just(ast.parse('a = [1, dict(b=2)]'))))
def test_any_text_of_a_config_is_read_without_running_it(text):
    found = read_assignments(text)
    assert found is None or all(isinstance(key, str) for key in found)


ascii_words = st.text('abcdefgxyz_', min_size=1, max_size=6).filter(lambda text: not keyword.iskeyword(text))
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e6, 1e6) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ascii_words, inner, max_size=3),
)


@quick
@given(st.dictionaries(st.sampled_from(['model', 'optim_wrapper', 'one', 'two']), plain, min_size=1))
def test_what_a_checkpoint_tells_of_its_config_is_what_it_was(cfg):
    assert read_assignments(Config(cfg).pretty_text) == cfg


# --- configs ----------------------------------------------------------------------------------------------------------


@quick
@given(
    st.dictionaries(
        st.sampled_from(['model', 'env_cfg', 'default_hooks', 'optim_wrapper', 'train_dataloader', 'val_evaluator']),
        trees,
    )
)
def test_any_values_of_a_config_pass_the_check_of_keys_or_are_refused(cfg):
    with files(b'', 'a.py') as root:
        try:
            check_keys(Config(cfg), f'{root}/a.py')
        except UserError as error:
            assert 'would have no effect' in str(error)


# --- images -----------------------------------------------------------------------------------------------------------


@quick
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(['RGB', 'RGBA', 'L', 'P', 'LA', '1', 'CMYK', 'I;16']),
    st.sampled_from(['PNG', 'JPEG', 'TIFF', 'WEBP', 'BMP']),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), max_size=3),
)
def test_any_image_is_read_whole_or_refused(width, height, mode, kind, damage):
    file = io.BytesIO()
    try:
        Image.new(mode, (width, height)).save(file, kind)
    except (OSError, KeyError, ValueError):  # a mode that the format has not
        return
    content = bytearray(file.getvalue())
    for at, data in damage:
        content[at : at + len(data)] = data
    with files(bytes(content), 'a.png') as root:
        try:
            found = load_image(f'{root}/a.png', 10_000)
        except UserError:
            return
    assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
    assert damage or found.shape[:2] == (height, width)


# --- outputs ----------------------------------------------------------------------------------------------------------


@quick
@given(st.lists(st.tuples(st.sampled_from('abc'), st.booleans()), max_size=8))
def test_only_files_that_were_claimed_are_replaced(steps):
    with tempfile.TemporaryDirectory() as folder:
        own: set[str] = set()
        for name, ours in steps:
            path = Path(folder, name)
            if not ours:
                if not path.exists():
                    path.write_text('mine')
                continue
            try:
                claim([path])
            except DataError:
                assert path.exists() and name not in own
            else:
                assert name in own or not path.exists()
                own.add(name)
                path.write_text('ours')
