"""Check that towers, prompts and MaskCLIP give with some weights what they must.

vlm-dense verify --arch ViT-B-16 --pretrained openai
vlm-dense verify                                            # the bundled tower, anywhere
vlm-dense verify --arch RN50 --pretrained RN50.pt --images photos/ --classes sky road car tree

Compares our towers with open_clip's own forward (image, text, two sizes), checks identities that need no reference,
names drawn images zero-shot, and saves what MaskCLIP paints. Returns 1 and the reason where something is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import vlm_dense
from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('verify', __doc__)
    parser.add_argument('--arch', default='tiny-vit', help="open_clip's name of the architecture (%(default)s)")
    parser.add_argument('--pretrained', default='bundled', help='tag of weights, or a file (%(default)s)')
    parser.add_argument('--images', nargs='+', metavar='FILE', help='images for MaskCLIP (default: drawn scenes)')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='what they may show')
    parser.add_argument('--out', default='work_dirs/verify', metavar='DIR', help='where to save (%(default)s)')
    arguments.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns 1 if a check failed."""
    args = parser().parse_args(argv)
    with user_errors(), arguments.figures_to(args.json) as write:
        if args.images:
            arguments.existing_images(args.images)
        vlm_dense.setup()  # before others import mmseg
        from vlm_dense.datasets.scenes import SHAPES
        from vlm_dense.inference import verify
        from vlm_dense.inference.verify_images import drawn_accuracy, paint

        print(f'{args.arch}, {args.pretrained}, beside open_clip {verify.openclip_version()}')
        towers = verify.build_towers(args.arch, args.pretrained)
        found = []
        reference = verify.build_reference(args.arch, args.pretrained)
        for finding in verify.verify(*towers, reference):
            found.append(finding)
            told = 'ok' if finding.passed else 'WRONG'
            print(f'{told:6}{finding.name:50}{finding.error:.1e}  {finding.reason}', flush=True)
        passed = all(finding.passed for finding in found)
        figures = dict(arch=args.arch, pretrained=args.pretrained, checks=[dict(vars(each)) for each in found])
        if passed:
            right, number = drawn_accuracy(*towers, verify.image_side(reference))
            print(f'zero-shot: {right} of {number} drawn shapes are named right (by chance {number // len(SHAPES)})')
            saved = paint(args.arch, args.pretrained, args.images, args.classes, Path(args.out))
            print('MaskCLIP painted:', *map(str, saved))
            figures |= dict(right=right, images=number, saved=saved)
        print('All is as it must be.' if passed else 'Something is wrong, see above.')
        write(figures)
    return 0 if passed else 1
