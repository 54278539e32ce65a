"""Which of mmcv's kernels are there, and from where; and a switch for programs that import nothing of vlm_dense.

list, without a command too: every kernel that mmcv asks for. real: mmcv's own, compiled. torchvision: the stand-in, on
kernels of torch and torchvision. absent: calling it raises NotImplementedError.

install: from now on every Python of this environment has the stand-in, through a .pth file among the packages.
uninstall: removes that file. status: says whether it is there.
"""

import argparse
import importlib
import importlib.util
import re
import sys
from pathlib import Path

from vlm_dense.ops import NAME, is_stand_in, switch


def wanted() -> dict[str, str]:
    """Every kernel that the installed mmcv asks for, and the module of ``mmcv.ops`` that does."""
    names = {}
    folder = Path(importlib.util.find_spec('mmcv').origin).parent / 'ops'
    for path in sorted(folder.glob('*.py')):
        for found in re.findall(r"load_ext\(\s*'_ext',\s*\[(.*?)\]", path.read_text(encoding='utf-8'), re.DOTALL):
            names |= dict.fromkeys(re.findall(r'\w+', found), path.stem)
    return names


def table() -> str:
    """A line for every kernel."""
    extension = importlib.import_module(NAME)
    provided = 'torchvision' if is_stand_in() else 'real'
    names = wanted()
    width = max(map(len, names))
    return '\n'.join(
        f'{name:{width}}  {provided if name in vars(extension) else "absent":11}  mmcv.ops.{module}'
        for name, module in sorted(names.items(), key=lambda item: (item[1], item[0]))
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command."""
    commands = dict(list=table, install=switch.install, uninstall=switch.uninstall, status=switch.status)
    parser = argparse.ArgumentParser(
        prog='python -m vlm_dense.ops', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('command', nargs='?', choices=list(commands), default='list')
    command = parser.parse_args(argv).command
    try:
        if command in ('list', 'install') and importlib.util.find_spec('mmcv') is None:
            raise OSError('mmcv is not installed: pip install onedl-mmcv')
        if command == 'install' and not is_stand_in():
            raise OSError('This mmcv has its compiled kernels, which come first; the switch would have no effect')
        print(commands[command]())
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
