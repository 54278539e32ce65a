"""Every example in a docstring of the package gives what it says."""

from __future__ import annotations

import doctest
import importlib
import logging
from pathlib import Path

import pytest

import vlm_dense

vlm_dense.setup()  # what mmseg says when it is imported is no part of an example
ROOT = Path(__file__).parents[1]
MODULES = sorted(
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for path in (ROOT / 'vlm_dense').rglob('*.py')
    if '>>>' in path.read_text(encoding='utf-8')
)


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    logging.disable()  # where weights were read is no part of an example
    try:
        found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    finally:
        logging.disable(logging.NOTSET)
    assert found.attempted and not found.failed
