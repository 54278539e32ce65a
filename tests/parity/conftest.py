"""What the tests of official numbers report beside passed and failed."""

from __future__ import annotations

import pytest
from official import errors


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Attach the largest error of each case to the report of the test, from where ``--parity-report`` has it."""
    errors.clear()
    try:
        return (yield)
    finally:
        item.user_properties += [('parity', (name, *found)) for name, found in errors.items()]
