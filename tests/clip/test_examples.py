"""The examples in the docstrings of the towers print what they say."""

from __future__ import annotations

import doctest

import pytest

from vlm_dense.clip import resnet, text_tower, vit


@pytest.mark.parametrize('module', [resnet, text_tower, vit], ids=lambda module: module.__name__.split('.')[-1])
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted >= 5 and not found.failed
