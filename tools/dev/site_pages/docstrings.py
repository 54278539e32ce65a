"""References of docstrings, ``:class:`X```, as links of the site; mkdocs.yml names this extension of griffe."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import griffe

sys.path.insert(0, str(Path(__file__).parents[1]))
from site_pages.reference import Reference


class References(griffe.Extension):
    """Changes the references in every docstring."""

    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        """Change one object."""
        if obj.docstring:
            obj.docstring.value = _reference().linked(obj.docstring.value)


@cache
def _reference() -> Reference:
    return Reference()
