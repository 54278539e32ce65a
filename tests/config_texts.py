"""What configs say, read from their texts: each process of a test run would parse all of them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path


@cache
def says(path: Path, pattern: str) -> bool:
    """Whether a config or one of its bases has a line in which a regular expression is found."""
    text = path.read_text(encoding='utf-8')
    bases = re.findall(r"'([\w./-]+\.py)'", text)
    return bool(re.search(pattern, text, re.MULTILINE)) or any(says(path.parent / base, pattern) for base in bases)
