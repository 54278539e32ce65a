"""Save a contact sheet of the Shapes data set: a row per domain, each image beside its labels.

vlm-dense show-dataset --out sheet.png --label shape
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import vlm_dense
from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('show-dataset', __doc__)
    parser.add_argument('--out', default='work_dirs/show_dataset/shapes.png', help='file to write (%(default)s)')
    parser.add_argument('--domain', nargs='+', help='rows (default: all domains)')
    parser.add_argument('--label', default='shape', help='shape, colour or shape_colour')
    parser.add_argument('--classes', nargs='+', default=['all'], help='all, base, new or names')
    parser.add_argument('--split', default='val', help='train, val or test')
    parser.add_argument('--objects', nargs=2, type=int, default=(1, 4), metavar=('LEAST', 'MOST'))
    parser.add_argument('--size', type=int, default=64, help='side of a scene in pixels')
    parser.add_argument('--scenes', type=int, default=3, help='scenes a row (%(default)s)')
    parser.add_argument('--zoom', type=int, default=2, help='whole number by which pixels are enlarged')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parser().parse_args(argv)
    with user_errors():
        if min(args.scenes, args.zoom, args.size) < 1:
            raise ConfigError('--scenes, --zoom and --size must be at least 1.')
        vlm_dense.setup()  # before others import mmseg
        from PIL import Image

        from vlm_dense.datasets.contact_sheet import contact_sheet
        from vlm_dense.inference.common import save

        image = Image.fromarray(contact_sheet(args)[..., ::-1])
        suffix = Path(args.out).suffix.lower()
        if suffix not in Image.registered_extensions():
            raise ConfigError(f'--out {args.out}: {suffix or "no suffix"} is no format of images; take .png.')
        few = suffix in ('.png', '.gif')  # few colours make a small file, where the format knows such
        save((_with_few_colours(image) if few else image).save, args.out)
        size = Path(args.out).stat().st_size // 1000
    print(f'{args.out}: {image.width} x {image.height} px, {size} kB')


def _with_few_colours(image: Image.Image) -> Image.Image:
    """The image with 256 colours; those of the legend, its last rows, are kept as they are."""
    from PIL import Image

    legend = [rgb for _, rgb in sorted(image.crop((0, image.height - 24, *image.size)).getcolors(1 << 16))[-32:]]
    colours = image.quantize(256 - len(legend), kmeans=3).getpalette()[: 3 * (256 - len(legend))]
    palette = Image.new('P', (1, 1))
    palette.putpalette([*colours, *(value for rgb in legend for value in rgb)])
    return image.quantize(palette=palette, dither=Image.Dither.NONE)
