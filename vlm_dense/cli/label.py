"""Label any number of images by class names that you type, in parts that are resumed and shared by processes.

vlm-dense label photos/ masks/ --classes sky road car --model maskclip_vit-b16 --thresh 0.5
vlm-dense label "shard-{000..127}.tar" masks/ --format tar --with-images --classes sky road car --method naclip
vlm-dense label photos.parquet masks/ --format parquet --shard 3/8 --classes sky road car

A process that was stopped goes on where it was with the same command. torchrun and SLURM arrays: docs/scale.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_dense.cli import arguments, bulk
from vlm_dense.cli.segment import check_model
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.zoo import free_names


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('label', __doc__)
    bulk.add_arguments(parser, ('png', 'npy', 'tar', 'parquet'))
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help=f'{arguments.CLASSES} (default: those of the training)'
    )
    parser.add_argument(
        '--thresh', type=float, default=0.0, help='ignore pixels with a less probable label (default: %(default)s)'
    )
    parser.add_argument('--with-images', action='store_true', help='put the images beside the masks (--format tar)')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parser().parse_args(argv)
    interrupted = 'Finished parts are kept: run the same again.'
    with user_errors(interrupted=interrupted), arguments.figures_to(args.json) as write:
        check_model(args)
        if args.with_images and args.format != 'tar':
            raise ConfigError('Images are put beside the masks in shards only: give --format tar.')
        if not 0 <= args.thresh < 1:
            raise ConfigError(f'--thresh is a probability, from 0 up to but without 1, found {args.thresh}.')
        if not (args.classes or args.weights) and (args.method or args.arch or args.model in (None, *free_names())):
            raise ClassNamesError('Expected names of what the images may show, found none. Give --classes sky road.')
        model = dict(task='label', classes=arguments.class_list(args.classes), thresh=args.thresh)
        found = bulk.run_program(args, model, with_images=args.with_images)
        bulk.print_summary(found, args.out)
        write(found)
