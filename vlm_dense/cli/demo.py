"""A page in the browser: give an image, type class names, see the masks, or the boxes of a detector.

vlm-dense demo                                   # bundled model, drawn shapes only; a menu of methods
vlm-dense demo --model maskclip_vit-b16
vlm-dense demo --method maskclip naclip --arch ViT-B-16 --pretrained openai
vlm-dense demo --model f_vit_shapes --weights CHECKPOINT

The page reads what is uploaded to it, and nothing else of this machine or the network. Requests queue up; those that
run at the same time do not see each other. Uploads and answers are removed after an hour, the oldest earlier where all
of them have more than 1 GB, and all when the page is closed.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import vlm_dense
from vlm_dense.cli import arguments
from vlm_dense.cli.segment import build, build_method, check_model
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ConfigError, MissingLibraryError
from vlm_dense.libraries import how_to_install, need_mmdet
from vlm_dense.limits import PAGE_CONCURRENCY, PAGE_PIXELS, PAGE_WAITING
from vlm_dense.zoo import METHODS

if TYPE_CHECKING:
    from vlm_dense.inference import SegInferencer
    from vlm_dense.inference.page import Detector, Methods


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('demo', __doc__)
    parser.add_argument('--port', type=int, help='default: the first free one from 7860')
    parser.add_argument(
        '--concurrency',
        type=int,
        default=PAGE_CONCURRENCY,
        help='requests that run at the same time (default: %(default)s)',
    )
    parser.add_argument(
        '--waiting', type=int, default=PAGE_WAITING, help='requests that wait at most (default: %(default)s)'
    )
    arguments.add_model_arguments(parser)
    arguments.add_method_argument(parser, 'a menu of methods instead of --model (default: all, if no model is given)')
    parser.set_defaults(max_pixels=PAGE_PIXELS)
    return parser


def detects(model: str | None) -> bool:
    """Whether a model that --model names is a detector: an exported one, or one of mmdet's scope."""
    from vlm_dense.export.runtime import ExportedFile, is_exported
    from vlm_dense.inference.maskclip_models import segmentor_config

    if model is None:
        return False
    if is_exported(model):
        return ExportedFile(model).metadata['task'] == 'detection'
    return segmentor_config(model).get('default_scope') == 'mmdet'


def chosen_models(args: argparse.Namespace) -> SegInferencer | Methods | Detector:
    """The model that the arguments choose, or the menu of methods."""
    from vlm_dense.inference.page import Detector, Methods

    if args.method or not (args.model or args.arch or args.pretrained or args.weights):
        names = args.method or sorted(METHODS, key=lambda name: name != 'maskclip')  # which a menu begins with
        models = Methods(names, lambda name: build_method(name, args))
        models[models.names[0]]  # what is wrong with the arguments is said at once
        return models
    if detects(args.model):
        need_mmdet()
        from vlm_dense.inference import DetInferencer

        return Detector(DetInferencer(args.model, args.weights, args.device, False, args.max_pixels or None))
    return build(args)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parser().parse_args(argv)
    with user_errors(interrupted='The page is closed.'), tempfile.TemporaryDirectory() as folder:
        if find_spec('gradio') is None:
            raise MissingLibraryError(f'The page needs gradio. {how_to_install("demo")}')
        check_model(args)
        for name in ('concurrency', 'waiting'):
            if getattr(args, name) < 1:
                raise ConfigError(f'--{name} must be at least 1, found {getattr(args, name)}.')
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder is removed then, too
        vlm_dense.setup()  # before others import mmseg
        from vlm_dense.inference.page import Detector, build_page, draw_examples, launch

        os.environ['GRADIO_TEMP_DIR'] = os.path.join(folder, 'uploads')  # of this page alone, and gone with it
        models = chosen_models(args)
        examples = draw_examples(folder, background=not isinstance(models, Detector))
        page = build_page(models, examples, args.concurrency, args.waiting)
        try:
            launch(page, args.port, prevent_thread_lock=True, quiet=True)
            print(f'The page is at {page.local_url}  (Ctrl-C ends it)', flush=True)
            page.block_thread()
        except OSError as error:  # gradio's words name the ports
            raise ConfigError(f'The page cannot be served: {error} Choose another --port.') from error
