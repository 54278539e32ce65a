"""Segment pictures by class names that you type.

vlm-dense segment photo.jpg --classes sky road car --model maskclip_vit-b16
vlm-dense segment photos/ --classes sky road car --arch ViT-L-14 --pretrained laion2b_s32b_b82k
vlm-dense segment scene.png --classes "empty background" circle star      # bundled model, drawn shapes only
vlm-dense segment photo.jpg --classes sky road car --method naclip --arch ViT-B-16 --pretrained openai
vlm-dense segment scene.png --classes "empty background" circle star --method maskclip naclip lposs
vlm-dense segment photo.jpg --model maskclip.onnx                          # a file of tools/export.py
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import vlm_dense
from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ConfigError

if TYPE_CHECKING:
    from vlm_dense.inference import SegInferencer


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('segment', __doc__)
    parser.add_argument('image', nargs='+', help='picture files, or one folder of them')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='class names (default: those of the config)')
    parser.add_argument('--out', default='work_dirs/segment', metavar='DIR', help='where to save (%(default)s)')
    arguments.add_model_arguments(parser)
    arguments.add_method_argument(parser, 'in place of --model; several are also drawn side by side')
    return parser


def build(args: argparse.Namespace, show_progress: bool = False) -> SegInferencer:
    """The inferencer that the arguments choose."""
    model = args.model
    if args.arch or args.pretrained:
        if args.model or not (args.arch and args.pretrained):
            raise ConfigError('Expected --model, or --arch and --pretrained, found another choice of the three.')
        from vlm_dense.inference import maskclip_config

        model = maskclip_config(args.arch, args.pretrained)
    return _inferencer(model, args, show_progress)


def build_method(method: str, args: argparse.Namespace, show_progress: bool = False) -> SegInferencer:
    """The inferencer of a method, on the CLIP of --arch and --pretrained or the bundled one."""
    if args.model or args.weights:
        raise ConfigError('Expected --method, or --model with or without --weights, found both.')
    if bool(args.arch) != bool(args.pretrained):
        raise ConfigError('Expected --arch and --pretrained beside --method, found one of them.')
    from vlm_dense.inference import method_config

    clip = (args.arch, args.pretrained) if args.arch else ()
    return _inferencer(method_config(method, *clip), args, show_progress)


def _inferencer(model, args: argparse.Namespace, show_progress: bool) -> SegInferencer:
    from vlm_dense.inference import SegInferencer

    return SegInferencer(model, args.weights, args.device, None, show_progress, args.max_pixels or None)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parser().parse_args(argv)
    with user_errors():
        vlm_dense.setup()  # before others import mmseg
        from vlm_dense.inference.common import keep_inputs, picture_list
        from vlm_dense.vocabulary.class_names import split_names

        classes = split_names(args.classes) if args.classes else None
        several = len(picture_list(args.image)) > 1
        if args.method is None:
            return report(build(args, several)(args.image, classes, out_dir=args.out))
        methods, found = list(dict.fromkeys(args.method)), {}
        if len(methods) > 1:
            keep_inputs(*zip(*side_by_side(args), strict=True))
        for method in methods:
            folder = args.out if len(methods) == 1 else os.path.join(args.out, method)
            found[method] = build_method(method, args, several)(args.image, classes, out_dir=folder)
            report(found[method])
        if len(methods) > 1:
            save_side_by_side(args, found)


def report(result: dict) -> None:
    """Print the files and the share of each class."""
    from vlm_dense.inference.overlay import shares

    labels, files = result['predictions'], result['files']
    if isinstance(files, dict):
        labels, files = [labels], [files]
    for one, paths in zip(labels, files, strict=True):
        found = dict(shares(one))
        print(f'{paths["vis"]}  ({one.shape[1]} x {one.shape[0]} px; labels: {paths["pred"]})')
        for index, name in enumerate(result['classes']):
            print(f'  {index:3}  {found.get(index, 0):6.1%}  {name}')


def side_by_side(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Each picture, and the file where the labels of all methods will stand beside it."""
    from vlm_dense.inference.common import file_names, picture_list

    pictures = picture_list(args.image)
    folder = os.path.join(args.out, 'side_by_side')
    return [
        (path, os.path.join(folder, f'{name}.png')) for path, name in zip(pictures, file_names(pictures), strict=True)
    ]


def save_side_by_side(args: argparse.Namespace, found: dict[str, dict]) -> None:
    """Save a picture with the labels of all methods for each picture that was segmented."""
    from vlm_dense.inference.common import load_picture, save
    from vlm_dense.inference.overlay import draw_side_by_side

    pictures = side_by_side(args)
    for i, (path, file) in enumerate(pictures):
        labels = {
            method: result['predictions'][i] if len(pictures) > 1 else result['predictions']
            for method, result in found.items()
        }
        names = next(iter(found.values()))['classes']
        image = load_picture(path, args.max_pixels or None)
        save(draw_side_by_side(image, labels, names).save, file)
        print(file)
