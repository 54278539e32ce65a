"""Imports of what a program uses, without that of the packages around it.

``import mmseg.models.segmentors.base`` runs ``mmseg/models/__init__.py``, which imports every model of mmseg, mmdet
with scikit-learn and imgaug, and SciPy: seconds of a processor for one base class. Inside :func:`passing_over`,
packages of this kind are passed over: their modules are imported alone. Afterwards the packages count as not imported:
whoever imports one of them gets all of it, with the same classes in it, as if one had imported in the other order.

Programs ask for it, :func:`begin`; a process that imports vlm_dense as a library has the packages as they are. From
then on a registry of mmengine that is asked for a name imports the module that registers it, alone. If there is no such
module, or it is not certain, :func:`whole` imports all of mmseg and mmdet, and the registry looks as mmengine does.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import importlib
import importlib.util
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent
INDEXED = ('vlm_dense', 'mmseg', 'mmdet', 'mmengine', 'mmcv')
"""Packages with registered classes that are found by their sources."""
OF_NAMES = ('mmengine._strategy', 'mmengine.model', 'mmengine.model.wrappers', 'mmengine.runner')
"""Packages that stay as they are after :func:`passing_over`: each name is imported when it is asked for.

mmengine asks for names of them in functions, and no registry imports them for what they register."""
PACKAGES = (
    'torch.distributed.optim',
    'torchvision',
    'torchvision.datasets',
    'torchvision.models',
    'torchvision.ops',
    'timm',
    'timm.models',
    'mmcv.ops',
    'mmengine.optim',
    'mmengine.optim.optimizer',
    *OF_NAMES,
    'mmseg.datasets',
    'mmseg.datasets.transforms',
    'mmseg.models',
    'mmseg.models.decode_heads',
    'mmseg.models.losses',
    'mmseg.models.segmentors',
    'mmseg.models.utils',
    'mmseg.utils',
    'mmdet.apis',
    'mmdet.datasets',
    'mmdet.datasets.api_wrappers',
    'mmdet.datasets.samplers',
    'mmdet.datasets.transforms',
    'mmdet.engine',
    'mmdet.engine.hooks',
    'mmdet.evaluation',
    'mmdet.evaluation.functional',
    'mmdet.evaluation.metrics',
    'mmdet.models',
    'mmdet.models.backbones',
    'mmdet.models.data_preprocessors',
    'mmdet.models.dense_heads',
    'mmdet.models.detectors',
    'mmdet.models.layers',
    'mmdet.models.layers.transformer',
    'mmdet.models.losses',
    'mmdet.models.necks',
    'mmdet.models.roi_heads',
    'mmdet.models.roi_heads.bbox_heads',
    'mmdet.models.roi_heads.mask_heads',
    'mmdet.models.roi_heads.roi_extractors',
    'mmdet.models.task_modules',
    'mmdet.models.task_modules.assigners',
    'mmdet.models.task_modules.coders',
    'mmdet.models.task_modules.prior_generators',
    'mmdet.models.task_modules.samplers',
    'mmdet.models.utils',
    'mmdet.utils',
    'vlm_dense.detection',
    'vlm_dense.classification',
    'vlm_dense.classification.datasets',
    'vlm_dense.datasets',
    'vlm_dense.methods',
    *sorted(f'vlm_dense.methods.{each.parent.name}' for each in (ROOT / 'methods').glob('*/__init__.py')),
    'vlm_dense.segmentation',
)
"""Packages with an ``__init__`` that imports more than one of their modules needs; each behind its parent."""
_REGISTERED = re.compile(
    r'\.register_module\(([^)]*)\)(?:\n(?:[ \t]*@[^\n]+\n)*[ \t]*(?:class|def) (\w+))?', re.MULTILINE
)
_begun = False
_look_up = None


def begin() -> None:
    """From now on :func:`passing_over` does what it says here, and registries import what they are asked for."""
    global _begun, _look_up
    if _begun:
        return
    from mmengine.registry import Registry

    _begun, _look_up = True, Registry.get
    Registry.get = _get
    if 'torch._dynamo' not in sys.modules:
        sys.modules['torch._dynamo'] = _deferred_dynamo()


def begun() -> bool:
    """Whether :func:`begin` was called, and :func:`whole` not after it."""
    return _begun


def whole() -> None:
    """Import all that was passed over of mmengine, mmseg and mmdet; the process is as one that has not begun."""
    global _begun
    if not _begun:
        return
    from mmengine.registry import Registry

    _begun, Registry.get = False, _look_up
    for name in PACKAGES:
        module = sys.modules.get(name)
        if type(module) is _Bare and name.partition('.')[0] in INDEXED:
            module._run()
        if name.startswith('mmengine.'):
            importlib.import_module(name)
    import_all()


def import_all() -> None:
    """Import all of mmseg and, where it is installed, of mmdet, without their notes."""
    with quietly():
        import mmseg.datasets
        import mmseg.models  # noqa: F401

        if importlib.util.find_spec('mmdet'):
            import mmdet.apis  # noqa: F401


@contextmanager
def quietly() -> Iterator[None]:
    """Let imports print nothing.

    On every start mmseg and mmdet print that line NMS, deformable attention and some data sets are absent, with advice
    to compile something. Such first lines hide the program's own message. Logging, warnings and standard output are
    afterwards as they were.
    """
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()  # its handler keeps the stream that it finds, which must be the real one
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)
        logger.setLevel(logger.level)  # forgets that warnings were off


# --- registries -----------------------------------------------------------------------------------------------


def search(registry, key: str) -> tuple[Any, bool]:
    """The entry ``key`` of a registry of mmengine, after the import of its own module, in a process that has begun.

    As :meth:`mmengine.registry.Registry.get` looks: in the registry and those behind it, or in that of the scope in
    ``key``.

    Returns:
        The entry, None if there is none; and whether the sources say for certain that there is none. An import of all
        can still find what packages register in loops.
    """
    if not _begun or not isinstance(key, str):
        return None, False
    scope, name = registry.split_scope_key(key)
    if scope not in (None, registry.scope):
        with contextlib.suppress(ImportError):
            importlib.import_module(f'{scope}.registry')
        root = registry.root
        registry = root if scope == root.scope else root.children.get(scope)
        if registry is None:
            return None, False
    for each in _line(registry) if scope is None else [registry]:
        found, certain = _held(each, name)
        if found is not None or not certain:
            return found, False
    return None, True


def _line(registry) -> Iterator:
    """The registries in which a name without scope is looked up, one after the other."""
    while registry is not None:
        yield registry
        yield from getattr(registry, 'beside', tuple)()
        registry = registry.parent


def _held(registry, name: str) -> tuple[Any, bool]:
    """The entry ``name`` of this registry itself, after the import of its module, and whether None is certain."""
    packages = ('mmengine', 'mmcv') if registry.parent is None else (registry.scope,)
    if not set(packages) <= set(INDEXED):
        return registry.module_dict.get(name), False
    for package in packages:
        if name not in registry.module_dict:
            import_home(name, package)
    return registry.module_dict.get(name), all(_index(package).get(name, '') is not None for package in packages)


def _get(registry, key: str):
    """``Registry.get`` of a process that has begun."""
    found, _ = search(registry, key)
    if found is None:
        whole()
        found = _look_up(registry, key)
    return found


def import_home(name: str, package: str = 'vlm_dense') -> None:
    """Import the module of a package that registers a class, alone, in a process that has begun so."""
    home = _index(package).get(name) if _begun else None
    if home is not None and home not in sys.modules:
        importlib.import_module(package)
        with quietly(), passing_over():
            importlib.import_module(home)


@functools.cache
def _index(package: str) -> dict[str, str | None]:
    """Name of what a package registers -> its module, from the sources; None if several modules have it."""
    root, found = Path(importlib.util.find_spec(package).origin).parent, {}
    for path in root.rglob('*.py'):
        parts = path.relative_to(root).with_suffix('').parts
        if parts[0] in ('.mim', 'cli') or (package, parts[0]) == ('vlm_dense', 'ops'):
            continue
        for given, decorated in _REGISTERED.findall(path.read_text(encoding='utf-8')):
            names = re.findall(r'[\'"](\w+)[\'"]', given) or re.findall(r'module=(\w+)', given)
            for name in names or [decorated]:
                found.setdefault(name, set()).add('.'.join((package, *parts)))
    return {name: next(iter(modules)) if len(modules) == 1 else None for name, modules in found.items()}


@contextmanager
def uncollected() -> Iterator[None]:
    """Import without the garbage collector, which walks over all that is imported, again and again, and frees nothing.

    What is there afterwards stays to the end of the process, and later collections pass it over. In a process that has
    torch already nothing changes.
    """
    if 'torch' in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def passing_over() -> Iterator[None]:
    """Import modules in this context without the ``__init__`` of :data:`PACKAGES`, as far as these are not imported.

    In a process that has not begun with :func:`begin` the context does nothing.
    """
    if not _begun:
        yield
        return
    bare = [module for name in PACKAGES if name not in sys.modules and (module := _bare(name)) is not None]
    try:
        with _without_dynamo():
            yield
    finally:
        for module in reversed(bare):
            name = module.__name__
            if type(module) is _Bare and sys.modules.get(name) is module and name not in OF_NAMES:
                del sys.modules[name]
                parent, _, last = name.rpartition('.')
                vars(sys.modules.get(parent, module)).pop(last, None)
                _later.passed[name] = module


class _Bare(ModuleType):
    """A package that has not been run.

    A name that its file imports from one of its modules comes from there; one that it has in another way runs it.
    """

    def __getattr__(self, name: str):
        home = None if name == '__all__' else _homes(self.__file__).get(name)
        if name.startswith('__') and name != '__all__' and home is None:
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')
        if home is not None:
            found = getattr(importlib.import_module(home, self.__name__), name)
            setattr(self, name, found)
            return found
        if name != '__all__' and importlib.util.find_spec(f'{self.__name__}.{name}') is not None:
            return importlib.import_module(f'{self.__name__}.{name}')
        self._run()
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Leave out a module that has the name of what its package imports from it, as ``losses.accuracy``."""
        if not (
            type(value) is ModuleType and value.__name__ == f'{self.__name__}.{name}' and name in _homes(self.__file__)
        ):
            super().__setattr__(name, value)

    def _run(self) -> None:
        self.__class__ = ModuleType
        self.__spec__.loader.exec_module(self)


@functools.cache
def _homes(path: str) -> dict[str, str]:
    """Name -> module, as ``.base``, of what the file of a package imports from its modules by name.

    What it imports as ``*`` from a package in it is what that one imports by name.
    """
    homes, tree = {}, ast.parse(Path(path).read_text(encoding='utf-8'))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.level != 1 or not node.module:
            continue
        for each in node.names:
            inner = Path(path).parent.joinpath(*node.module.split('.'), '__init__.py')
            if each.name == '*' and inner.is_file():
                homes.update({name: f'.{node.module}{home}' for name, home in _homes(str(inner)).items()})
            elif each.asname in (None, each.name):
                homes[each.name] = f'.{node.module}'
    return homes


def _bare(name: str) -> ModuleType | None:
    """A package that is not run, instead of one that is not imported; None if what holds it is not there."""
    parent, _, last = name.rpartition('.')
    if name.startswith('mmdet.') and parent not in sys.modules:
        return None
    above = importlib.import_module(parent) if parent else None
    module = _later.passed.pop(name, None)
    if module is None:
        module = importlib.util.module_from_spec(PathFinder.find_spec(name, above and above.__path__))
        module.__class__ = _Bare
    sys.modules[name] = module
    if above is not None:
        setattr(above, last, module)
    return module


class _Later:
    """Finds packages that were passed over, when they are imported: they run in the module that has their parts."""

    def __init__(self):
        self.passed: dict[str, ModuleType] = {}

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        module = self.passed.pop(name, None)
        if module is None:
            return None
        module.__class__ = ModuleType
        spec = PathFinder.find_spec(name, path)
        spec.loader = _Into(spec.loader, module)
        return spec


class _Into(Loader):
    def __init__(self, loader: Loader, module: ModuleType):
        self.loader, self.module = loader, module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = self.loader
        self.loader.exec_module(module)


_later = _Later()
sys.meta_path.insert(0, _later)


# --- torch._dynamo --------------------------------------------------------------------------------------------


class _Deferred(ModuleType):
    """A module of torch that is imported when something is asked of it that it does not have yet."""

    def __getattr__(self, name: str):
        if name.startswith('__') and (name, self.__name__) != ('__path__', 'torch._dynamo'):
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')
        for other in [other for other, module in sys.modules.items() if type(module) is _Deferred]:
            del sys.modules[other]
        return getattr(importlib.import_module(self.__name__), name)


def _deferred_dynamo() -> ModuleType:
    """torch._dynamo for a process that compiles nothing: optimisers ask it for a break in the graph, decorators too."""
    module = _Deferred('torch._dynamo')
    module.disable, module.graph_break = _disable, _graph_break
    return module


def _graph_break(msg: str = '') -> None:
    """``torch._dynamo.graph_break``, which does nothing outside of what is compiled."""


def _disable(function=None, recursive: bool = True, **options):
    """``torch._dynamo.disable``, which comes into play when torch._dynamo is there."""
    if function is None:
        return functools.partial(_disable, recursive=recursive, **options)
    disabled = []

    @functools.wraps(function)
    def call(*args, **kwargs):
        if not disabled and type(sys.modules.get('torch._dynamo')) is ModuleType:
            disabled.append(sys.modules['torch._dynamo'].disable(function, recursive, **options))
        return (disabled[0] if disabled else function)(*args, **kwargs)

    return call


@contextmanager
def _without_dynamo() -> Iterator[None]:
    """Import torchvision without torch._dynamo.utils, of which it takes a function for where something is compiled."""
    name = 'torch._dynamo.utils'
    if name in sys.modules or type(sys.modules.get('torch._dynamo')) is not _Deferred:
        yield
        return
    module = sys.modules[name] = _Deferred(name)
    module.is_compile_supported = _is_compile_supported
    try:
        yield
    finally:
        if sys.modules.get(name) is module:
            del sys.modules[name]


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device_type)
