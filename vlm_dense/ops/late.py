"""For mmdet and mmseg that were imported before the stand-in was there.

Where mmcv's kernels are missing, their modules define functions of the same names that complain, or set the names to
None. Once the stand-in is there, the true ones take those places.
"""

import ast
import importlib
import sys


def replace_fallbacks():
    """Bind what loaded modules of mmdet and mmseg tried to import from ``mmcv.ops``."""
    for name, module in list(sys.modules.items()):
        if name.split('.')[0] in ('mmdet', 'mmseg') and (file := getattr(module, '__file__', None)):
            for wanted in _tried(file):
                name = '.' * wanted.level + (wanted.module or '')
                source = importlib.import_module(name, module.__package__)
                if all(hasattr(source, alias.name) for alias in wanted.names):
                    for alias in wanted.names:
                        setattr(module, alias.asname or alias.name, getattr(source, alias.name))


def _tried(file):
    """The imports that stand in a ``try`` at the top of a file with one from ``mmcv.ops``, which ended the others."""
    with open(file, encoding='utf-8') as lines:
        source = lines.read()
    if 'from mmcv.ops' not in source:
        return []
    tries = [statement for statement in ast.parse(source).body if isinstance(statement, ast.Try)]
    imports = [[s for s in each.body if isinstance(s, ast.ImportFrom)] for each in tries]
    return [s for each in imports if any((s.module or '').startswith('mmcv.ops') for s in each) for s in each]
