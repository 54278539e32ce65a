"""Arguments that the command-line programs share.

Nothing heavy is imported here: a program reads its command line, and says what is wrong with it, before it imports
torch and the OpenMMLab libraries, which takes seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import importlib
import json
import logging
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import vlm_dense
from vlm_dense import light
from vlm_dense.engine.configs.names import existing_config
from vlm_dense.engine.messages import local_rank, user_errors
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.libraries import require_openmmlab
from vlm_dense.limits import MAX_PIXELS
from vlm_dense.zoo import MASKCLIP, METHODS, free_names

PROGRAMS = {
    'train': 'train',
    'test': 'test',
    'segment': 'segment',
    'detect': 'detect',
    'classify': 'classify',
    'demo': 'demo',
    'label': 'label',
    'features': 'features',
    'pseudo-label': 'pseudo_label',
    'export': 'export',
    'compare': 'compare',
    'compare-dense': 'compare_dense',
    'diff': 'diff',
    'ablate': 'ablate',
    'models': 'models',
    'info': 'model_info',
    'verify': 'verify',
    'print-config': 'print_config',
    'check-data': 'check_data',
    'show-dataset': 'show_dataset',
    'describe-classes': 'describe_classes',
    'merge-lora': 'merge_lora',
}
"""Name in the command ``vlm-dense`` -> module of this folder, and file of ``tools/``."""
EXPORTED = ('.onnx', '.pt2')
"""Endings of the files that the program ``export`` writes."""
VIDEOS = ('.mp4', '.mov', '.avi', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
"""Endings of the files that ``segment`` and ``detect`` take as videos."""
HUBS = ('hf-hub:', 'local-dir:')
"""Beginnings of the names of CLIPs in repositories and folders of open_clip's layout."""
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
KEPT = 'Finished results are kept; the same command continues.'  # of a comparison that was interrupted


class ConfigOptions(argparse.Action):
    """mmengine's ``DictAction``, which is imported where an option is given, and only there."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Read ``KEY=VALUE`` pairs into a dict."""
        wrong = [text for text in values if '=' not in text]
        if wrong:
            raise argparse.ArgumentError(self, f'expected KEY=VALUE, found {wrong[0]!r}')
        with user_errors():
            require_openmmlab()
        from mmengine.config import DictAction

        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)
        except AssertionError as error:  # brackets
            raise argparse.ArgumentError(self, f'{error}, found {" ".join(values)}') from error


class ConfigFile(argparse.Action):
    """The path or name of a config; its existence is checked when the command line is read.

    Args:
        others: Names that may stand instead of a config.
        suffixes: Accepted file suffixes; existence is checked when the files are read.
    """

    def __init__(self, *args, others: Collection[str] = (), suffixes: tuple[str, ...] = (), **kwargs):
        super().__init__(*args, **kwargs)
        self.others, self.suffixes = others, suffixes

    def __call__(self, parser, namespace, values, option_string=None):
        """Keep what was written; leave with a message if it is no config."""
        with user_errors(once_per_machine=True):
            if values not in self.others and not values.endswith(self.suffixes) and not values.startswith(HUBS):
                existing_config(values, self.others)
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """The arguments of a program; its help names the program as it was started.

    Args:
        name: One of ``PROGRAMS``.
        text: What it does, with examples that begin with ``vlm-dense NAME``.
    """

    def __init__(self, name: str, text: str):
        super().__init__(prog=command(name), description=text, formatter_class=argparse.RawDescriptionHelpFormatter)

    def parse_known_args(self, args=None, namespace=None):
        """Read the command line; from now on, names of files that are no UTF-8 are printed with escapes."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, 'reconfigure'):
                stream.reconfigure(errors='backslashreplace')
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        """The help, with the commands in it as this one was started."""
        return re.sub('vlm-dense ([a-z-]+)', lambda found: command(found[1]), super().format_help())


def command(name: str) -> str:
    """Command of a program: ``vlm-dense NAME``, or ``python tools/FILE.py`` if this process was started so."""
    started = Path(sys.argv[0])
    with contextlib.suppress(OSError):  # the working directory may be gone, which is told later
        started = started.resolve()
    if started.parent.name == 'tools' and name in PROGRAMS:
        return f'python tools/{PROGRAMS[name]}.py'
    return f'vlm-dense {name}'


def as_typed(name: str, argv: Sequence[str] | None = None) -> str:
    """The command that runs a program again, for a terminal.

    Args:
        name: One of ``PROGRAMS``.
        argv: Its arguments; those of this process if left out.
    """
    return f'{command(name)} {shlex.join(sys.argv[1:] if argv is None else argv)}'


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add that progress is not printed."""
    parser.add_argument('-q', '--quiet', action='store_true', help='print results and warnings only, no progress')


def print_metrics(metrics: Mapping[str, float]) -> None:
    """Print the metrics of a quiet run, a line each, in the first process of a machine."""
    if local_rank() == 0:
        print('\n'.join(f'{name}: {value:.4f}' for name, value in metrics.items()))


def add_oracles(parser: argparse.ArgumentParser) -> None:
    """Add figures that say where a method of segmentation loses."""
    text = 'add mIoU with true masks, with true names, at boundaries and inside, and the calibration error'
    parser.add_argument('--oracles', action='store_true', help=text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add where figures go for other programs, see :func:`figures_to`."""
    text = 'write the figures there as JSON; -: to standard output, and all else to standard error'
    parser.add_argument('--json', metavar='FILE', help=text)


def setup(quiet: bool = False, uses: Sequence[str] = ()) -> None:
    """Prepare this process, see :func:`vlm_dense.setup`; before others import mmseg.

    Args:
        quiet: Let the console show warnings only.
        uses: Modules of a program that imports what it uses and not all of mmseg and mmdet, see
            :mod:`vlm_dense.light`.
    """
    if uses:
        with user_errors():
            require_openmmlab()
    with light.uncollected():
        if uses:
            light.begin()
        with light.passing_over():
            vlm_dense.setup()
            for name in uses:
                importlib.import_module(name)
    if quiet:
        from mmengine.logging import MMLogger

        for handler in MMLogger.get_current_instance().handlers:
            handler.setLevel(logging.WARNING)


@contextlib.contextmanager
def figures_to(place: str | None) -> Iterator[Callable[[Any], None]]:
    """Give a function that writes figures as JSON.

    Args:
        place: A file; ``-`` is the standard output, where nothing else is printed then; None: the function does
            nothing. Numbers that JSON has not, as NaN, become null. Of several processes on a machine the first writes.
    """
    kept: list[Any] = []
    other = contextlib.redirect_stdout(sys.stderr) if place == '-' else contextlib.nullcontext()
    with other:
        yield kept.append
    if place is None or not kept or local_rank() > 0:
        return
    text = json.dumps(_plain(kept[0]), indent=1, ensure_ascii=False)
    if place == '-':
        print(text)
    else:
        Path(place).absolute().parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_text(f'{text}\n', encoding='utf-8')


def _plain(value: Any) -> Any:
    """Figures as JSON has them: numbers of numpy and torch are numbers, paths are texts."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    value = value.item() if hasattr(value, 'item') else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def progress(quiet: bool) -> Callable[[int, int], None]:
    """A function that draws a bar from (done, all); nothing if quiet."""
    from mmengine.utils import ProgressBar

    bar = None

    def told(done: int, every: int) -> None:
        nonlocal bar
        if quiet:
            return
        if bar is None:
            bar = ProgressBar(every)
            bar.completed = done - 1
        bar.update()

    return told


def add_formats(parser: argparse.ArgumentParser) -> None:
    """Add the formats of annotation tools."""
    parser.add_argument(
        '--formats',
        nargs='+',
        choices=('coco', 'labelme'),
        default=(),
        help='save also coco.json, of all images, or labelme/*.json, for annotation tools',
    )


def existing_images(paths: Sequence[str]) -> None:
    """Check whether files, folders and globs of images are there, before a model is built.

    Raises:
        DataError: names the first that is not.
    """
    for path in paths:
        if '://' in path or os.path.exists(path) or glob.glob(path, recursive=True):
            continue
        if glob.has_magic(path):
            raise DataError(f'No file matches {path} (looked from {os.getcwd()}).')
        raise DataError(f'Image {path} does not exist (looked from {os.getcwd()}).')


def model_or_tower(args: argparse.Namespace) -> None:
    """Check whether there is ``--model``, or ``--arch`` with ``--pretrained``, or none of them.

    Raises:
        ConfigError: there is another choice.
    """
    both, one = args.arch and args.pretrained, args.arch or args.pretrained
    if one and (args.model or not both):
        given = ' and '.join(f'--{key}' for key in ('model', 'arch', 'pretrained') if getattr(args, key))
        raise ConfigError(f'Expected --model alone, or --arch and --pretrained together, found {given}.')


def class_list(words: Sequence[str] | None) -> list[str] | str | None:
    """The names of ``--classes``: words, also with commas between them, or the file that the only word names."""
    if words and len(words) == 1 and (os.path.isfile(words[0]) or words[0].endswith('.txt')):
        return words[0]
    names = [name.strip() for text in words or () for name in text.split(',')]
    return [name for name in names if name] if words else None


def images_and_videos(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """The paths of videos, which are read frame by frame, apart from all others."""
    found = [[], []]
    for path in paths:
        for one in (
            sorted(glob.glob(path, recursive=True)) if not os.path.exists(path) and '://' not in path else [path]
        ):
            found[one.lower().endswith(VIDEOS) and os.path.isfile(one)].append(one)
    return found[0], found[1]


IMAGES = 'image files, folders, globs (in quotes) or URLs'
CLASSES = 'class names, or a file with a name a line'


def positive(text: str) -> int:
    """An integer of at least 1; the ``type`` of an argument."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f'expected an integer of at least 1, found {text!r}')
    return value


def add_config(parser: argparse.ArgumentParser, text: str = 'config file, or the name of one of vlm_dense') -> None:
    """Add the config that a program begins with."""
    parser.add_argument('config', action=ConfigFile, help=text)


def add_named_config(parser: argparse.ArgumentParser) -> None:
    """Add the config that a program begins with, or a name of a model that needs no training."""
    parser.add_argument(
        'config',
        action=ConfigFile,
        others=free_names(),
        help='config, its name in configs/, or a model name of vlm-dense segment',
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every program that reads a config."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='change the config, as in train_dataloader.batch_size=4',
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add where the data are and, of data of one's own, the names of their classes."""
    parser.add_argument('--data-root', metavar='DIR', help='where the data lie, if not where the config says')
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='class names of data of your own, in label order, or a file with a name a line',
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing share."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/<config>)')
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='how several processes were started')
    add_data(parser)
    parser.add_argument('--local_rank', '--local-rank', type=int, help='set by some launchers')
    add_config_arguments(parser)


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """Add the limit on images from outside."""
    parser.add_argument(
        '--max-pixels',
        type=int,
        default=MAX_PIXELS,
        metavar='N',
        help='refuse images with more pixels, before memory is taken for them (default: %(default)s; 0: no limit)',
    )


def add_model_arguments(parser: argparse.ArgumentParser, names: Collection[str] = MASKCLIP) -> None:
    """Add the arguments that choose a model of segmentation, or one of ``names``."""
    parser.add_argument(
        '--model',
        action=ConfigFile,
        others=free_names() if names is MASKCLIP else names,
        suffixes=EXPORTED,
        help=f'config, its name in configs/, an exported file, or one of {", ".join(names)}',
    )
    parser.add_argument('--weights', metavar='CHECKPOINT', help='of a model that was trained')
    parser.add_argument('--arch', help='another CLIP of open_clip instead of --model, as ViT-L-14')
    parser.add_argument('--pretrained', help='its weights: a tag of open_clip, or a file')
    parser.add_argument('--device', help='default: a GPU if there is one')
    add_max_pixels(parser)


def add_method_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the argument that chooses methods of segmentation without training."""
    help_ = f'{text}: {", ".join(METHODS)}'
    parser.add_argument('--method', nargs='+', choices=METHODS, metavar='NAME', help=help_)
