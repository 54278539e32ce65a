"""List the models.

vlm-dense models denseclip --task segmentation

A name of the list is what train, test, info and vlm_dense.get_model take. Figures are those of the metafiles beside the
configs: published by the authors of a method, or of runs of this project. 'bundled' weights come with the package:
segment, detect, test and export use them where no checkpoint is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from vlm_dense.cli import arguments
from vlm_dense.engine.configs.names import BUNDLED
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ConfigError, counted, unknown_name
from vlm_dense.zoo import TOWERS, Card, cards, find_cards

HEAD = ('model', 'task', 'trained on', 'weights', 'published', 'own')


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('models', __doc__)
    parser.add_argument('pattern', nargs='?', default='', help='part of the name; *, ? and [...] as in file names')
    parser.add_argument('--task', help='part of the task, as segmentation, detection, classification')
    parser.add_argument('--names', action='store_true', help='print the names only')
    arguments.add_json(parser)
    return parser


def figures(card: Card, published: bool) -> str:
    """The figures of a model that are published, or those that are of this project, with their data set."""
    return ', '.join(
        f'{metric} {value} ({result["Dataset"]})'
        for result in card.results
        if bool(result.get('Published')) == published
        for metric, value in (result.get('Metrics') or {}).items()
    )


def here(card: Card) -> str:
    """Whether trained weights come with the package."""
    return 'bundled' if (card.weights or '').startswith(BUNDLED) else ''


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parser().parse_args(argv)
    with user_errors(), arguments.figures_to(args.json) as write:
        found = find_cards(args.pattern, args.task)
        if not find_cards(args.pattern):
            raise ConfigError(unknown_name(args.pattern, 'models of vlm_dense', [card.name for card in cards()]))
        if not found:
            tasks = '; '.join(sorted({card.task for card in cards()}))
            raise ConfigError(f'No model like {args.pattern!r} has a task like {args.task!r}. Tasks: {tasks}.')
        write([dict(asdict(card), task=card.task) for card in found])
        show(found, args.names)


def show(found: Sequence[Card], names: bool) -> None:
    """Print a table of models, or their names."""
    if names:
        return print('\n'.join(card.name for card in found))
    rows = [HEAD, *((c.name, c.task, c.data, here(c), figures(c, True), figures(c, False)) for c in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    for row in rows:
        print('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f'\nTowers for --cfg-options tower=NAME: {", ".join(TOWERS)}.')
    print(
        f'{counted(len(found), "model")}. Images by any class names, without training: {arguments.command("segment")}.'
    )
