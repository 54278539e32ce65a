"""Write a model as one file for ONNX Runtime or torch.export, with its prompts encoded into the weights.

vlm-dense export maskclip_vit-b16 --classes sky road car --out maskclip.onnx
vlm-dense export configs/denseclip_shapes.py work_dirs/denseclip_shapes/best_mIoU_iter_800.pth --out denseclip.pt2
vlm-dense segment photo.jpg --model maskclip.onnx
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('export', __doc__)
    arguments.add_named_config(parser)
    parser.add_argument('checkpoint', nargs='?', help='of a model that was trained; MaskCLIP needs none')
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help=f'{arguments.CLASSES} (default: those of the training)'
    )
    parser.add_argument('--format', choices=('onnx', 'pt2'), help='default: by the suffix of --out')
    parser.add_argument('--out', required=True, metavar='FILE', help='file to write, *.onnx or *.pt2')
    parser.add_argument(
        '--size',
        type=arguments.positive,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='take images of this size only, in px',
    )
    return parser


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the program; returns the metadata of the file."""
    args = parser().parse_args(argv)
    arguments.setup(uses=('vlm_dense.inference.seg_inferencer', 'vlm_dense.inference.export'))
    from vlm_dense.inference.export import export_file

    with user_errors(interrupted='What was there is kept; run the same again.'):
        found = export_file(
            args.config,
            args.checkpoint,
            args.out,
            arguments.class_list(args.classes),
            args.format,
            None if args.size is None else tuple(args.size),
        )
    print(f'{args.out}  ({os.path.getsize(args.out) / 1e6:.1f} MB): {found["model"]}, {found["task"]}')
    print(f'  images: {sizes(found)}')
    print(
        f'  {len(found["classes"])} classes: {", ".join(found["classes"][:8])}{", ..." * (len(found["classes"]) > 8)}'
    )
    return found


def sizes(found: dict) -> str:
    """Batch and image sizes that a file accepts, in words."""
    batch = 'batches of any size' if found['batch'] else 'one at a time'
    if found['size'] is not None:
        return f'{batch}, {found["size"][0]} x {found["size"][1]} px (height x width)'
    most = ' x '.join('any' if side is None else str(side) for side in found['most'])
    return f'{batch}, from {found["least"][0]} x {found["least"][1]} to {most} px (height x width)'
