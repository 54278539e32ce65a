"""Write features of any number of images, dense or global, of any tower and method, in parts as label does.

vlm-dense features photos/ features/ --model maskclip_vit-b16
vlm-dense features photos/ features/ --method naclip --arch ViT-B-16 --pretrained openai --format safetensors
vlm-dense features "shard-{000..127}.tar" features/ --kind global --arch ViT-L-14 --pretrained openai --format parquet

Unit vectors of float16: dense ones (h, w, D), which class embeddings are compared with, global ones (D,). How they are
read: docs/scale.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_dense.cli import arguments, bulk
from vlm_dense.cli.segment import check_model
from vlm_dense.engine.messages import user_errors


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('features', __doc__)
    bulk.add_arguments(parser, ('npy', 'safetensors', 'tar', 'parquet'))
    parser.add_argument('--kind', choices=('dense', 'global'), default='dense', help='of the features (%(default)s)')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parser().parse_args(argv)
    interrupted = 'Finished parts are kept: run the same again.'
    with user_errors(interrupted=interrupted), arguments.figures_to(args.json) as write:
        check_model(args)
        found = bulk.run_program(args, dict(task='features', kind=args.kind))
        bulk.print_summary(found, args.out)
        write(found)
