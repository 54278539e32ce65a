"""Segment images by class names that you type.

vlm-dense segment photo.jpg --classes sky road car --model maskclip_vit-b16
vlm-dense segment photos/ --classes sky road car --arch ViT-L-14 --pretrained laion2b_s32b_b82k
vlm-dense segment scene.png --classes "empty background" circle star      # bundled model, drawn shapes only
vlm-dense segment photo.jpg --classes sky road car --method naclip --arch ViT-B-16 --pretrained openai
vlm-dense segment scene.png --classes "empty background" circle star --method maskclip naclip lposs
vlm-dense segment clip.mp4 --classes sky road car --model maskclip_vit-b16 # a video, with the extra video
vlm-dense segment map.tif --window 1024 --classes field forest water       # a GeoTIFF, with the extra geo
vlm-dense segment photo.jpg --model maskclip.onnx                          # a file of vlm-dense export
vlm-dense segment photo.jpg --model denseclip_own-masks --weights work_dirs/denseclip_own-masks/best_mIoU_iter_400.pth
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.zoo import free_names

if TYPE_CHECKING:
    from vlm_dense.inference import SegInferencer


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('segment', __doc__)
    parser.add_argument('image', nargs='+', help=f'{arguments.IMAGES}; videos')
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help=f'{arguments.CLASSES} (default: those of the training)'
    )
    parser.add_argument('--out', default='work_dirs/segment', metavar='DIR', help='where to save (%(default)s)')
    arguments.add_model_arguments(parser)
    parser.add_argument(
        '--window',
        type=arguments.positive,
        metavar='PX',
        help='segment by windows of this side, for GeoTIFFs and for images too large for memory',
    )
    parser.add_argument('--overlap', type=int, metavar='PX', help='of windows (default: an eighth of their side)')
    arguments.add_method_argument(parser, 'instead of --model; several are also drawn side by side')
    arguments.add_formats(parser)
    arguments.add_json(parser)
    arguments.add_quiet(parser)
    return parser


def check(args: argparse.Namespace) -> None:
    """Check what needs no model: images exist, options fit, and class names are given if the model has none.

    Raises:
        UserError: what cannot work.
    """
    arguments.existing_images(args.image)
    check_model(args)
    if args.window and args.method and len(args.method) > 1:
        raise ConfigError('--window takes one method at a time.')
    own_names = args.weights or not (args.method or args.arch or args.model in (None, *free_names()))
    if not (args.classes or own_names):
        raise ClassNamesError('Expected names of what the image may show, found none. Give --classes sky road car.')


def check_model(args: argparse.Namespace) -> None:
    """Check whether the options that choose a model fit.

    Raises:
        ConfigError: they do not.
    """
    if args.method and (args.model or args.weights):
        raise ConfigError('Expected --method, or --model with or without --weights, found both.')
    if args.method and bool(args.arch) != bool(args.pretrained):
        raise ConfigError('Expected --arch and --pretrained beside --method, found one of them.')
    if not args.method:
        arguments.model_or_tower(args)


def build(args: argparse.Namespace, show_progress: bool = False) -> SegInferencer:
    """The inferencer that the arguments choose."""
    model = args.model
    if args.arch or args.pretrained:
        from vlm_dense.inference import maskclip_config

        model = maskclip_config(args.arch, args.pretrained)
    return _inferencer(model, args, show_progress)


def build_method(method: str, args: argparse.Namespace, show_progress: bool = False) -> SegInferencer:
    """The inferencer of a method, on the CLIP of --arch and --pretrained or the bundled one."""
    from vlm_dense.inference import method_config

    clip = (args.arch, args.pretrained) if args.arch else ()
    return _inferencer(method_config(method, *clip), args, show_progress)


def _inferencer(model, args: argparse.Namespace, show_progress: bool) -> SegInferencer:
    from vlm_dense.inference import SegInferencer

    return SegInferencer(model, args.weights, args.device, None, show_progress, args.max_pixels or None)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parser().parse_args(argv)
    with user_errors(), arguments.figures_to(args.json) as write:
        check(args)
        arguments.setup(args.quiet, ('vlm_dense.inference.seg_inferencer',))
        from vlm_dense.engine.outputs import claim
        from vlm_dense.inference.images import image_list

        classes = arguments.class_list(args.classes)
        paths, videos = arguments.images_and_videos(args.image)
        if args.window or not paths:
            model = build_method(args.method[0], args, not args.quiet) if args.method else build(args, not args.quiet)
            rows = [segment_large(model, path, args, classes) for path in paths] if args.window else []
            return write(rows + [segment_frames(model, path, args, classes) for path in videos])
        images = image_list(paths)
        progress = not args.quiet
        if args.method is None:
            model = build(args, progress)
            result = model(images, classes, out_dir=args.out, formats=args.formats)
            rows = report(result)
            advise(result, args, 'maskclip_vit-b16')
            return write(rows + [segment_frames(model, path, args, classes) for path in videos])
        methods, found = list(dict.fromkeys(args.method)), {}
        if len(methods) > 1:
            claim([file for _, file in side_by_side(args, images)], images)
        rows = []
        for method in methods:
            folder = args.out if len(methods) == 1 else os.path.join(args.out, method)
            model = build_method(method, args, progress)
            found[method] = model(images, classes, out_dir=folder, formats=args.formats)
            rows += [dict(row, method=method) for row in report(found[method])]
            rows += [dict(segment_frames(model, path, args, classes, folder), method=method) for path in videos]
        if len(methods) > 1:
            save_side_by_side(args, images, found)
        advise(found[methods[0]], args, f'{methods[0]}_vit-b16')
        write(rows)


def segment_frames(model: SegInferencer, path: str, args: argparse.Namespace, classes, out: str | None = None) -> dict:
    """Segment a video, and print its file and the share of each class in all frames."""
    from vlm_dense.inference.video import segment_video

    found = segment_video(model, path, out or args.out, classes)
    print(f'{found["files"]["vis"]}  ({found["frames"]} frames)')
    return _report_shares(found, args)


def segment_large(model: SegInferencer, path: str, args: argparse.Namespace, classes) -> dict:
    """Segment an image by windows, and print its files and the share of each class."""
    from vlm_dense.inference.raster import segment_raster

    overlap = args.window // 8 if args.overlap is None else args.overlap
    found = segment_raster(model, path, args.out, classes, args.window, overlap)
    width, height = found['size']
    print(f'{found["files"]["vis"]}  ({width} x {height} px; labels: {found["files"]["pred"]})')
    return _report_shares(found, args)


def _report_shares(found: dict, args: argparse.Namespace) -> dict:
    shares = dict(zip(found['classes'], found['shares'], strict=True))
    for index, (name, share) in enumerate(shares.items()):
        print(f'  {index:3}  {share:6.1%}  {name}')
    advise(found, args, 'maskclip_vit-b16')
    more = {key: found[key] for key in ('frames', 'size', 'note') if key in found}
    return dict(found['files'], shares=shares, **more)


def advise(result: dict, args: argparse.Namespace, model: str) -> None:
    """Print the note of a result, and the command that segments the same with a large CLIP."""
    if 'note' in result:
        classes = arguments.as_typed('segment', [*args.image, '--classes', *result['classes'], '--model', model])
        print(f'{result["note"]} With a CLIP that was trained on photographs (350 MB, loaded once):\n  {classes}')


def report(result: dict) -> list[dict]:
    """Print the files and the share of each class; returns them, an entry an image."""
    from vlm_dense.inference.overlay import shares

    labels, files = result['predictions'], result['files']
    note = dict(note=result['note']) if 'note' in result else {}
    if isinstance(files, dict):
        labels, files = [labels], [files]
    rows = []
    for one, paths in zip(labels, files, strict=True):
        found = dict(shares(one))
        named = {name: found.get(index, 0) for index, name in enumerate(result['classes'])}
        rows.append(dict(paths, size=one.shape[::-1], shares=named, **note))
        print(f'{paths["vis"]}  ({one.shape[1]} x {one.shape[0]} px; labels: {paths["pred"]})')
        for index, (name, share) in enumerate(named.items()):
            print(f'  {index:3}  {share:6.1%}  {name}')
    return rows


def side_by_side(args: argparse.Namespace, images: Sequence) -> list[tuple]:
    """Each image, and the output file for the labels of all methods beside it."""
    from vlm_dense.inference.images import file_names

    folder = os.path.join(args.out, 'side_by_side')
    return [
        (image, os.path.join(folder, f'{name}.png')) for image, name in zip(images, file_names(images), strict=True)
    ]


def save_side_by_side(args: argparse.Namespace, images: Sequence, found: dict[str, dict]) -> None:
    """Save an image with the labels of all methods for each image that was segmented."""
    from vlm_dense.inference.common import save
    from vlm_dense.inference.images import load_image
    from vlm_dense.inference.overlay import draw_side_by_side

    for i, (source, file) in enumerate(side_by_side(args, images)):
        labels = {
            method: result['predictions'][i] if len(images) > 1 else result['predictions']
            for method, result in found.items()
        }
        names, note = (next(iter(found.values())).get(key, '') for key in ('classes', 'note'))
        image = load_image(source, args.max_pixels or None)
        save(draw_side_by_side(image, labels, names, note=note).save, file)
        print(file)
