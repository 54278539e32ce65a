"""Write masks for a folder of images, to train an ordinary segmentor on: label under its older name.

vlm-dense pseudo-label maskclip_vit-b16 none photos/ masks/ --thresh 0.5 --classes sky road car
vlm-dense pseudo-label configs/maskclip_plus_shapes.py work_dirs/.../iter_400.pth photos/ masks/ --processes 2

The masks are those of label, which has more sources and formats. After a stop run the same command again: a part of 32
images without one of its masks, or with a replaced image, is done again. Then train on photos/ and masks/:
configs/maskclip/pseudo_label_camvid.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors

_SHOWN = 5


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('pseudo-label', __doc__)
    arguments.add_named_config(parser)
    parser.add_argument('checkpoint', nargs='?', help='of a model that was trained; left out or none for MaskCLIP')
    parser.add_argument('images', help='folder of images')
    parser.add_argument('out', help='folder for the masks')
    parser.add_argument(
        '--thresh', type=float, default=0.0, help='ignore pixels with a less probable label (default: %(default)s)'
    )
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='class names for MaskCLIP, in label order')
    parser.add_argument('--batch-size', type=int, default=1, help='images at a time (default: %(default)s)')
    parser.add_argument(
        '--processes', type=int, default=1, help='processes, each with the model (default: %(default)s)'
    )
    parser.add_argument('--device', help='default: GPUs if there are some')
    arguments.add_max_pixels(parser)
    arguments.add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the program; returns the summary."""
    args = parser().parse_args(argv)
    with user_errors():
        arguments.setup(args.quiet, ('vlm_dense.inference.pseudo_label',))
    from vlm_dense.inference.pseudo_label import LIST, SUMMARY, pseudo_label

    with user_errors(interrupted='The masks that are written are kept: run the same again.'):
        summary = pseudo_label(
            args.config,
            None if args.checkpoint in (None, 'none', 'None') else args.checkpoint,
            args.images,
            args.out,
            classes=args.classes,
            thresh=args.thresh,
            batch_size=args.batch_size,
            processes=args.processes,
            device=args.device,
            max_pixels=args.max_pixels or None,
            show_progress=not args.quiet,
        )
    print(
        f'{summary["masks"]} masks in {args.out}, {summary["new"]} of them new. {summary["kept"]:.1%} of the pixels '
        'have a label; of these'
    )
    for index, (name, share) in enumerate(summary['histogram'].items()):
        print(f'  {index:3}  {share:6.1%}  {name}  (in {summary["images"][name]} images)')
    bad = summary['bad_files']
    if bad:
        print(f'{len(bad)} images could not be labelled:')
        for path, reason in list(bad.items())[:_SHOWN]:
            print(f'  {path}: {reason}')
        if len(bad) > _SHOWN:
            print(f'  ... all are in {SUMMARY}')
    print(f'Summary: {args.out}/{SUMMARY}. Images with a mask, as ann_file: {args.out}/{LIST}')
    return summary
