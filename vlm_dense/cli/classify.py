"""Classify images by class names that you type, or by those of a training.

vlm-dense classify photo.jpg --classes cat dog "fire truck" --model clip_vit-b16
vlm-dense classify photos/ --classes cat dog --arch ViT-L-14 --pretrained laion2b_s32b_b82k
vlm-dense classify scene.png --classes circle star heart                   # bundled model, drawn shapes only
vlm-dense classify photos/ --model coop_own-folders --weights work_dirs/coop_own-folders/best_accuracy_epoch_50.pth
vlm-dense classify "photos/**/*.jpg" --model coop.onnx                     # a file of vlm-dense export

The folder of --out gets predictions.csv, an image a row with the scores of all classes, and sheet.png, the images with
what they show.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ClassNamesError
from vlm_dense.zoo import CLASSIFIERS


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('classify', __doc__)
    parser.add_argument('image', nargs='+', help=arguments.IMAGES)
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help=f'{arguments.CLASSES} (default: those of the training)'
    )
    parser.add_argument('--out', default='work_dirs/classify', metavar='DIR', help='where to save (%(default)s)')
    parser.add_argument(
        '--top', type=arguments.positive, default=1, help='classes to print of each image (%(default)s)'
    )
    parser.add_argument('--batch-size', type=arguments.positive, default=1, help='images at a time (%(default)s)')
    arguments.add_model_arguments(parser, CLASSIFIERS)
    arguments.add_json(parser)
    arguments.add_quiet(parser)
    return parser


def check(args: argparse.Namespace) -> None:
    """Check what needs no model: images exist, options fit, and class names are given if the model has none.

    Raises:
        UserError: what cannot work.
    """
    arguments.existing_images(args.image)
    arguments.model_or_tower(args)
    if not (args.classes or args.weights) and (args.arch or args.model in (None, *CLASSIFIERS)):
        raise ClassNamesError('Expected names of what the images may show, found none. Give --classes cat dog.')


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parser().parse_args(argv)
    with user_errors(), arguments.figures_to(args.json) as write:
        check(args)
        arguments.setup(args.quiet, ('vlm_dense.inference.class_inferencer',))
        from vlm_dense.inference import ClassInferencer, classifier_config
        from vlm_dense.inference.images import image_list, source_name

        model = classifier_config(args.arch, args.pretrained) if args.arch else args.model
        images = image_list(args.image)
        inferencer = ClassInferencer(
            model,
            args.weights,
            args.device,
            arguments.class_list(args.classes),
            not args.quiet,
            args.max_pixels or None,
        )
        found = inferencer(images, batch_size=args.batch_size, out_dir=args.out)
        names = [source_name(image, i) for i, image in enumerate(images)]
        report(names, found, args.top)
        if 'note' in found:
            words = [*args.image, '--classes', *found['classes'], '--model', 'clip_vit-b16']
            command = arguments.as_typed('classify', words)
            print(f'{found["note"]} With a CLIP that was trained on photographs (350 MB, loaded once):\n  {command}')
        write(
            [
                dict(image=name, label=one['label'], name=one['name'], score=one['score'], scores=_by_name(one, found))
                for name, one in zip(names, found['predictions'], strict=True)
            ]
        )


def report(images: Sequence[str], found: dict, top: int) -> None:
    """Print a table, the best classes of each image with their scores, and the files."""
    width = max(map(len, images))
    for image, one in zip(images, found['predictions'], strict=True):
        order = (-one['scores']).argsort(kind='stable')[:top]
        best = (f'{one["scores"][k]:6.1%}  {found["classes"][k]}' for k in order)
        print(f'{image:{width}}  {"  ".join(best)}')
    for path in (found['files']['csv'], *found['files']['sheets']):
        print(path)


def _by_name(one: dict, found: dict) -> dict[str, float]:
    return dict(zip(found['classes'], map(float, one['scores']), strict=True))
