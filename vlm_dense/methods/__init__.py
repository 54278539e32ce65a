"""Published methods; one method is one file, or one folder where it has parts, and reads like its paper.

Importing this package imports every module in its folders, which registers the methods: a new file is found without
being named anywhere. Without mmdet the modules that import it are left out. The public classes of a file are attributes
of its folder too, as ``vlm_dense.methods.text_prompts.CoOpPrompt``.
"""

import importlib
import inspect
import pkgutil


def _import_all() -> None:
    for found in pkgutil.walk_packages(__path__, f'{__name__}.'):
        if '.' not in found.name.removeprefix(f'{__name__}.'):
            continue  # a folder, imported with its files; or the old name of the contract
        try:
            module = importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            if (error.name or '').partition('.')[0] != 'mmdet':
                raise
            continue
        folder = importlib.import_module(found.name.rpartition('.')[0])
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith('_'):
                folder.__dict__.setdefault(name, value)


_import_all()
