"""Run every method on every family of image towers and write the table of docs/towers.md; a few minutes.

python tools/dev/tower_table.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / 'docs' / 'towers.md'
BEGIN, END = '<!-- the table is made by tools/dev/tower_table.py -->', '<!-- end of the table -->'
TITLES = dict(
    vit='ViT',
    resnet='ResNet',
    clipa='CLIPA',
    coca='CoCa',
    siglip='SigLIP, 2',
    pe='PE-Core',
    pe_bare='PE-Core bigG',
    eva01='EVA01',
    eva02='EVA02 B, L',
    eva02_post='EVA02 E',
    timm_vit_norm='MobileCLIP B, L',
    vitamin='ViTamin',
    convnext='ConvNeXt',
    fastvit='MobileCLIP S',
    swin='Swin',
    gap='ViT, mean',
    relpos='ViT, relative',
)
REASONS = (
    ('tokens', r'puts tokens into the image tower|takes no prompt tokens'),
    ('blocks', r'no blocks for dense_attention|no linear map'),
    ('open_clip', r"open_clip's own blocks"),
    ('class token', r'no class token'),
    ('regions', r'has no regions'),
    ('size', r'px only'),
)


def reason(told: str) -> str:
    """A word for a refusal."""
    return next((word for word, pattern in REASONS if re.search(pattern, told)), 'other')


def table(found: Mapping[tuple[str, str], str]) -> str:
    """The table in Markdown of (method, family) -> ``'works'`` or the refusal."""
    methods, names = (list(dict.fromkeys(pair[i] for pair in found)) for i in (0, 1))
    lines = ['| | ' + ' | '.join(TITLES[name] for name in names) + ' |', '|---' * (len(names) + 1) + '|']
    for method in methods:
        told = [found[method, name] for name in names]
        lines.append(f'| {method} | ' + ' | '.join('yes' if t == 'works' else reason(t) for t in told) + ' |')
    works = sum(told == 'works' for told in found.values())
    return '\n'.join([*lines, '', f'{works} of {len(found)} work, {len(found) - works} are refused.'])


def main() -> None:
    """Write the table."""
    sys.path.insert(0, str(ROOT / 'tests'))
    from vlm_dense.libraries import import_quietly

    import_quietly()
    from matrix.towers import FAMILIES, ROWS, outcome

    found = {}
    for method in ROWS:
        found |= {(method, family): outcome(method, family) for family in FAMILIES}
        print(method, *(reason(found[method, name]) if found[method, name] != 'works' else 'yes' for name in FAMILIES))
    page = PAGE.read_text(encoding='utf-8')
    before, rest = page.split(BEGIN)
    PAGE.write_text(f'{before}{BEGIN}\n\n{table(found)}\n\n{END}{rest.split(END)[1]}', encoding='utf-8')
    other = {pair: told for pair, told in found.items() if told != 'works' and reason(told) == 'other'}
    print(*(f'{pair}: {told}' for pair, told in other.items()), sep='\n')


if __name__ == '__main__':
    main()
