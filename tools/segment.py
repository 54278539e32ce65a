"""Segment pictures by class names that you type.

python tools/segment.py photo.jpg --classes sky road car --model maskclip_vit-b16
python tools/segment.py photos/ --classes sky road car --arch ViT-L-14 --pretrained laion2b_s32b_b82k
python tools/segment.py scene.png --classes "empty background" circle star      # bundled model, drawn shapes only
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import vlm_dense

vlm_dense.setup()  # before others import mmseg
from vlm_dense.apis import SegInferencer, maskclip_config
from vlm_dense.apis.maskclip_models import MASKCLIP
from vlm_dense.apis.overlay import shares
from vlm_dense.engine.launch import add_max_pixels, user_errors
from vlm_dense.errors import ConfigError


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('image', nargs='+', help='picture files, or one folder of them')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='class names (default: those of the config)')
    parser.add_argument('--out', default='work_dirs/segment', metavar='DIR', help='where to save (%(default)s)')
    add_model_arguments(parser)
    return parser.parse_args(argv)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose a model."""
    parser.add_argument('--model', help=f'config, its name in configs/, or one of {", ".join(MASKCLIP)}')
    parser.add_argument('--weights', metavar='CHECKPOINT', help='of a model that was trained; MaskCLIP needs none')
    parser.add_argument('--arch', help='MaskCLIP on another CLIP of open_clip in place of --model, as ViT-L-14')
    parser.add_argument('--pretrained', help='its weights: a tag of open_clip, or a file')
    parser.add_argument('--device', help='default: a GPU if there is one')
    add_max_pixels(parser)


def build(args: argparse.Namespace) -> SegInferencer:
    """The inferencer that the arguments choose."""
    model = args.model
    if args.arch or args.pretrained:
        if args.model or not (args.arch and args.pretrained):
            raise ConfigError('Expected --model, or --arch and --pretrained, found another choice of the three.')
        model = maskclip_config(args.arch, args.pretrained)
    max_pixels = args.max_pixels or None
    return SegInferencer(model, args.weights, args.device, show_progress=False, max_pixels=max_pixels)


def split_names(texts: Sequence[str]) -> list[str]:
    """Class names out of words and of lists with commas."""
    names = [name.strip() for text in texts for name in text.split(',')]
    return [name for name in names if name]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parse_args(argv)
    classes = split_names(args.classes) if args.classes else None
    with user_errors():
        result = build(args)(args.image, classes, out_dir=args.out)
    labels, files = result['predictions'], result['files']
    if isinstance(files, dict):
        labels, files = [labels], [files]
    for one, paths in zip(labels, files, strict=True):
        found = dict(shares(one))
        print(f'{paths["vis"]}  ({one.shape[1]} x {one.shape[0]} px; labels: {paths["pred"]})')
        for index, name in enumerate(result['classes']):
            print(f'  {index:3}  {found.get(index, 0):6.1%}  {name}')


if __name__ == '__main__':
    main()
