"""Config files: reading them, changing them by ``--cfg-options``, and messages for files and options that fail."""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import os
import traceback
from collections.abc import Iterator

from mmengine.config import Config

from vlm_dense import light
from vlm_dense.clip.preprocessing import follow_tag
from vlm_dense.engine.configs.components import READ_KEYS, component, takes_anything
from vlm_dense.engine.configs.keys import check_keys
from vlm_dense.engine.configs.names import CONFIGS, bases, existing_config
from vlm_dense.engine.configs.values import check_value_table
from vlm_dense.engine.messages import arguments_of
from vlm_dense.errors import ConfigError
from vlm_dense.libraries import name_packages

_FREE = {'custom_keys', 'metainfo', 'targets', 'variants'}
"""Dicts with keys of the user's own."""
_OF_CONFIGS = {'type', '_delete_', '_scope_'}


class FormattedOnce(Config):
    """mmengine's ``Config``; its text is formatted again only if the config has changed.

    A run asks for the text four times before its first iteration, and yapf takes up to seconds for it each time.
    """

    _last = ('', '')

    @property
    def pretty_text(self) -> str:
        """The config as Python, laid out by yapf."""
        content = repr(self._cfg_dict.to_dict())
        if FormattedOnce._last[0] != content:
            FormattedOnce._last = content, super().pretty_text
        return FormattedOnce._last[1]

    @classmethod
    def of(cls, cfg: Config) -> FormattedOnce:
        """The same config."""
        same = cls.__new__(cls)
        same.__setstate__(cfg.__getstate__())
        return same


def load_config(path: str, options: dict | None = None) -> Config:
    """Read a config file and change it.

    Args:
        path: The file, or a name that :func:`vlm_dense.engine.configs.names.find_config` finds.
        options: Of ``--cfg-options``: dotted key -> value. ``tower`` is applied first, see
            :func:`~vlm_dense.engine.configs.towers.use_tower`. ``data_root`` also changes every ``data_root`` inside
            the config that had the old value, and every ``ann_file`` below it.

    Raises:
        ConfigError: the file, or one it builds on, does not exist, is no Python, or builds on itself; a key of
            ``options`` that nothing would read; ``data_root`` for a config that has none; a value that cannot work.
    """
    path = str(existing_config(path))
    name_packages()
    _check_files(path, ())
    try:
        cfg = Config.fromfile(path, import_custom_modules=not light.begun())
        if light.begun() and cfg.get('custom_imports'):
            light.whole()  # they may replace parts of mmseg and mmdet, which must be there
            cfg = Config.fromfile(path)
    except ConfigError:
        raise
    except Exception as error:  # a config is a program, which may fail in any way
        raise ConfigError(f'Config {path} cannot be read: {_where(error)}{type(error).__name__}: {error}') from error
    _forget_deletions(cfg._cfg_dict)
    check_keys(cfg, path)
    options = dict(options or {})
    tower = options.pop('tower', cfg.get('tower'))
    if tower is not None:
        from vlm_dense.engine.configs.towers import use_tower  # which imports every kind of tower

        use_tower(cfg._cfg_dict, tower)
        cfg._cfg_dict.pop('tower', None)  # what follows is complete without it
    change_config(cfg, options, path)
    follow_tag(cfg._cfg_dict)
    check_value_table(cfg)
    return cfg


def change_config(cfg: Config, options: dict, path: str) -> None:
    """Change a config by dotted keys, as :func:`load_config` does.

    Args:
        cfg: Changed in place.
        options: Dotted key -> value.
        path: Of the config, for messages.

    Raises:
        ConfigError: a key that nothing would read; ``data_root`` for a config that has none.
    """
    if 'data_root' in options:
        if cfg.get('data_root') is None:
            raise ConfigError(
                f'{path} has no data_root to change. Change it where it is, with --cfg-options '
                'train_dataloader.dataset.data_root=DIR and the same for val_dataloader and test_dataloader.'
            )
        _move_data(cfg._cfg_dict, cfg.data_root, options['data_root'])
    for key in options:
        _check_option(cfg, key, path, options)
    if options:
        try:
            cfg.merge_from_dict(options)
        except (KeyError, TypeError, IndexError) as error:
            raise ConfigError(f'--cfg-options {" ".join(options)}: {error.args[0] if error.args else error}') from error
        except AttributeError as error:  # of mmengine, which goes on into the numbers of a list
            raise ConfigError(
                f'--cfg-options {" ".join(options)}: in a list, only dicts can be changed one by one. Give the whole '
                'list, as in KEY=[1,2,3].'
            ) from error


def _forget_deletions(node) -> None:
    """Remove ``_delete_`` where the base had nothing to delete, which mmengine would give to the component."""
    if isinstance(node, dict):
        node.pop('_delete_', None)
        for value in node.values():
            _forget_deletions(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _forget_deletions(value)


def _move_data(node, old: str, new: str) -> None:
    if isinstance(node, dict):
        for k, value in node.items():
            if k == 'data_root' and value == old:
                node[k] = new
            elif k == 'ann_file' and isinstance(value, str) and value.startswith(os.path.join(old, '')):
                node[k] = os.path.join(new, value[len(os.path.join(old, '')) :])  # of an evaluator, which has no root
            else:
                _move_data(value, old, new)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _move_data(value, old, new)


# --- files ----------------------------------------------------------------------------------------------------


def _check_files(path: str, above: tuple[str, ...]) -> None:
    """Check whether a config and the files that it builds on are there, are Python, and go round in no circle."""
    real = os.path.realpath(path)
    if real in above:
        chain = ' -> '.join(os.path.relpath(p) for p in (*above[above.index(real) :], real))
        raise ConfigError(f'The config builds on itself: {chain}. Take one of these _base_ entries out.')
    if not os.path.isfile(path):
        raise ConfigError(
            f'Config {os.path.relpath(above[-1])} builds on a file that does not exist: {path}. Correct its _base_.'
        )
    if not path.endswith('.py'):
        return
    try:
        with open(path, encoding='utf-8') as file:
            tree = ast.parse(file.read(), path)
    except SyntaxError as error:
        line = f', line {error.lineno}: {(error.text or "").strip()}' if error.lineno else ''
        raise ConfigError(f'Config {path}{line} is no Python: {error.msg}.') from error
    except ValueError as error:  # bytes that are no text
        raise ConfigError(f'Config {path} is no text in UTF-8: {error}.') from error
    for base in bases(tree):
        if base.startswith('vlm_dense::'):
            _check_own_base(path, base)
        elif '::' not in base:  # of another package
            _check_files(os.path.join(os.path.dirname(path), base), (*above, real))


def _check_own_base(path: str, base: str) -> None:
    """Check whether a base by name is a config of vlm_dense, with its folder, which mmengine asks for."""
    name = base.removeprefix('vlm_dense::')
    if '/' in name and (CONFIGS / name).is_file():
        return
    known = {file.name: file for file in CONFIGS.glob('*/*.py')}
    near = difflib.get_close_matches(os.path.basename(name), known, n=1)
    hint = f" Did you mean 'vlm_dense::{known[near[0]].relative_to(CONFIGS).as_posix()}'?" if near else ''
    raise ConfigError(
        f'Config {path} builds on {base!r}; expected a folder of the configs of vlm_dense and a file in it.{hint}'
    )


def _where(error: Exception) -> str:
    """'line 3: ' of the config in which an error arose, where that can be known."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [
        frame.lineno
        for above, frame in itertools.pairwise(frames)
        if frame.name == '<module>' and above.filename == inspect.getfile(Config)
    ]
    return f'line {lines[-1]}: ' if lines else ''


# --- options --------------------------------------------------------------------------------------------------


def _check_option(cfg: Config, key: str, path: str, options: dict) -> None:
    """Refuse a dotted key that nothing would read: a misspelt one, or a variable of the file.

    A new key is taken where the component that it belongs to has an argument of that name, and in dicts without a type
    unless it resembles one of their keys.
    """
    *parents, last = key.split('.')
    if _FREE & set(parents):
        return
    node, scope, top = cfg._cfg_dict, cfg.get('default_scope'), key.split('.')[0]
    if top in node and top not in READ_KEYS:
        places = [p for p in _places(node, top) if p.split('.')[0] in READ_KEYS]
        hint = f'Change {" or ".join(places[:3])}.' if places else 'Change the values derived from it.'
        raise ConfigError(
            f'--cfg-options {key} would have no effect: {top} is a variable of {path}, which is read when the file is. '
            f'{hint}'
        )

    def check(node: dict, part: str, above: list[str]) -> None:
        here = '.'.join(above)
        kind = component(options.get(f'{here}.type', node.get('type')), scope)
        _refuse_unknown(node, part, key, here, path, kind)

    for depth, part in enumerate(parents):
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(
                    f'--cfg-options {key}: {".".join(parents[:depth])} is a list of {len(node)}, so {part!r} must be '
                    f'a number below {len(node)}.'
                )
            node = node[int(part)]
        elif isinstance(node, dict):
            if part not in node:
                check(node, part, parents[:depth])
                return  # a new dict
            node = node[part]
        else:
            break
    if not isinstance(node, (dict, list, tuple)):
        raise ConfigError(
            f'--cfg-options {key}: {top} has no place of that name, on the way to it stands the value {node!r}.'
        )
    if isinstance(node, dict) and (last not in node or not parents):
        check(node, last, parents)


def _refuse_unknown(node: dict, part: str, key: str, here: str, path: str, kind: type | None) -> None:
    if not here:
        if part in READ_KEYS:
            return
        known, sure = READ_KEYS, True
    elif kind is not None:
        known, sure = arguments_of(kind) | set(node), not takes_anything(kind)
    else:
        known, sure = set(node), False
    if part in known or part in _OF_CONFIGS:
        return
    near = difflib.get_close_matches(part, sorted(known), n=3, cutoff=0.6 if sure else 0.75)
    if near or sure:
        hint = f'Did you mean {" or ".join(map(repr, near))}?' if near else f'It has {", ".join(sorted(known)[:20])}.'
        raise ConfigError(f'--cfg-options {key}: {here or path} has no {part!r}. {hint}')


def _places(node, name: str, path: str = '') -> Iterator[str]:
    """Dotted keys of a config that end in a name."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in items:
        here = f'{path}.{key}' if path else str(key)
        if key == name:
            yield here
        yield from _places(value, name, here)
