"""``python -m vlm_dense.ops``: which of mmcv's kernels are there, and from where.

real: mmcv's own, compiled. torchvision: the stand-in, on kernels of torch and torchvision. absent: calling it raises
NotImplementedError.
"""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

from vlm_dense.ops import NAME, is_stand_in


def wanted() -> dict[str, str]:
    """Every kernel that the installed mmcv asks for, and the module of ``mmcv.ops`` that does."""
    names = {}
    folder = Path(importlib.util.find_spec('mmcv').origin).parent / 'ops'
    for path in sorted(folder.glob('*.py')):
        for found in re.findall(r"load_ext\(\s*'_ext',\s*\[(.*?)\]", path.read_text(encoding='utf-8'), re.DOTALL):
            names |= dict.fromkeys(re.findall(r'\w+', found), path.stem)
    return names


def main() -> int:
    """Print the table."""
    if importlib.util.find_spec('mmcv') is None:
        print('mmcv is not installed: pip install onedl-mmcv', file=sys.stderr)
        return 1
    extension = importlib.import_module(NAME)
    provided = 'torchvision' if is_stand_in() else 'real'
    names = wanted()
    width = max(map(len, names))
    for name, module in sorted(names.items(), key=lambda item: (item[1], item[0])):
        print(f'{name:{width}}  {provided if name in vars(extension) else "absent":11}  mmcv.ops.{module}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
