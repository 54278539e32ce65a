"""Detect objects in images with a detector that was trained.

vlm-dense detect photo.jpg --model denseclip_mask-rcnn_r50_coco --weights epoch_12.pth
vlm-dense detect clip.mp4 --model my_config.py --weights epoch_12.pth      # a video, with the extra video
vlm-dense detect photos/ --model my_config.py --weights work_dirs/my_config/epoch_12.pth --threshold 0.5
vlm-dense detect photo.jpg --model f_vit_eva02-b16_ov-coco --weights epoch_3.pth --classes teapot kite

The folder of --out gets vis/*.png, the images with what was found, and preds/*.json: labels, scores, boxes (x1 y1 x2
y2, pixels) and, of a model that finds them, masks as COCO's run lengths. The classes are those of the training, with
the names of its checkpoint; open-vocabulary detectors, F-VLM and F-ViT, take any others with --classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ConfigError
from vlm_dense.libraries import need_mmdet


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('detect', __doc__)
    parser.add_argument('image', nargs='+', help=f'{arguments.IMAGES}; videos')
    parser.add_argument(
        '--model',
        action=arguments.ConfigFile,
        suffixes=arguments.EXPORTED,
        required=True,
        help='config, its name in configs/, or an exported file',
    )
    parser.add_argument('--weights', metavar='CHECKPOINT', help='what the training has saved')
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help=f'{arguments.CLASSES}, instead of those of the training: any for F-VLM and F-ViT, else only shown',
    )
    parser.add_argument('--out', default='work_dirs/detect', metavar='DIR', help='where to save (%(default)s)')
    parser.add_argument(
        '--threshold',
        type=float,
        default=0.3,
        help='score above which objects are drawn and printed; files have all (%(default)s)',
    )
    parser.add_argument('--batch-size', type=arguments.positive, default=1, help='images at a time (%(default)s)')
    parser.add_argument('--device', help='default: a GPU if there is one')
    arguments.add_max_pixels(parser)
    arguments.add_formats(parser)
    arguments.add_json(parser)
    arguments.add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parser().parse_args(argv)
    with user_errors(), arguments.figures_to(args.json) as write:
        if not 0 <= args.threshold <= 1:
            raise ConfigError(f'--threshold is a score, from 0 to 1, found {args.threshold}.')
        arguments.existing_images(args.image)
        need_mmdet()
        arguments.setup(args.quiet, ('mmdet',))
        from vlm_dense.inference import DetInferencer
        from vlm_dense.inference.images import file_names, image_list
        from vlm_dense.inference.video import detect_video

        paths, videos = arguments.images_and_videos(args.image)
        images = image_list(paths) if paths or not videos else []
        inferencer = DetInferencer(
            args.model,
            args.weights,
            args.device,
            not args.quiet,
            max_pixels=args.max_pixels or None,
            classes=arguments.class_list(args.classes),
        )
        names, rows = file_names(images), []
        if images:
            result = inferencer(
                images,
                out_dir=args.out,
                batch_size=args.batch_size,
                pred_score_thr=args.threshold,
                no_save_pred=False,
                formats=args.formats,
            )
            for name, found in zip(names, result['predictions'], strict=True):
                report(os.path.join(args.out, '{}', name), found, result['classes'], args.threshold)
                rows.append(dict(found, image=name, names=[result['classes'][k] for k in found['labels']]))
        for path in videos:
            found = detect_video(inferencer, path, args.out, args.batch_size, args.threshold)
            print(f'{found["files"]["vis"]}  ({found["frames"]} frames; all: {found["files"]["preds"]})')
            objects = dict(zip(found['classes'], found['objects'], strict=True))
            print('\n'.join(f'  {count:6}  {name}' for name, count in objects.items() if count))
            rows.append(dict(found['files'], frames=found['frames'], objects=objects))
        write(rows)


def report(place: str, found: dict, classes: Sequence[str], threshold: float) -> None:
    """Print the files of an image, and label and box of each object with a score above a threshold."""
    shown = [i for i, score in enumerate(found['scores']) if score > threshold]
    print(f'{place.format("vis")}.png  ({len(shown)} objects; all: {place.format("preds")}.json)')
    for i in shown:
        x1, y1, x2, y2 = map(round, found['bboxes'][i])
        print(f'  {found["scores"][i]:.2f}  {classes[found["labels"][i]]}  ({x1}, {y1}) to ({x2}, {y2})')
