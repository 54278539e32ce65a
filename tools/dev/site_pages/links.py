"""Links between files of the repository, as links between pages of the site."""

from __future__ import annotations

import posixpath
import re
from pathlib import PurePosixPath

_CODE_OR_LINK = re.compile(r'^ *```.*?^ *```|\[((?:`[^`\n]*`|[^\]`])*)\]\(([^)\s]+)\)|`[^`\n]+`', re.M | re.S)
_ELSEWHERE = re.compile(r'[a-z]+:|#')

PAGES = {
    'README.md': 'index.md',
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
    'projects/tiny_clip/README.md': 'tiny_clip.md',
}
"""File of the repository -> page of the site, for files outside docs and configs."""


def page_of(path: str) -> str | None:
    """Page, with its anchor, that shows a file of the repository; ``None`` if none does.

    Examples:
        >>> page_of('docs/ops.md'), page_of('configs/coop/coop_shapes.py'), page_of('configs/coop/README.md')
        ('ops.md', 'methods/coop.md#coop_shapes', 'methods/coop.md')
    """
    parts = PurePosixPath(path).parts
    if path in PAGES:
        return PAGES[path]
    if parts[0] == 'docs':
        return '/'.join(parts[1:]).replace('.ipynb', '.md')
    if parts[0] == 'configs' and len(parts) == 3:
        page = f'methods/{parts[1]}.md'
        return page if parts[2] == 'README.md' else f'{page}#{PurePosixPath(path).stem}'
    return None


def to_site(text: str, origin: str, page: str) -> str:
    """Markdown of a file of the repository with its links changed to those of the site; code stays as it is.

    Of a link to a file that the site does not show, as a test, the words stay.

    Args:
        text: Markdown.
        origin: Path of the file in the repository.
        page: Path of its page in the site.
    """

    def change(found: re.Match) -> str:
        if found[2] is None or _ELSEWHERE.match(found[2]):
            return found[0]
        link, anchor = _split(found[2])
        target = page_of(posixpath.normpath(posixpath.join(posixpath.dirname(origin), link)))
        if target is None:
            return found[1]
        path, own = _split(target)
        return f'[{found[1]}]({posixpath.relpath(path, posixpath.dirname(page) or ".")}{anchor or own})'

    return _CODE_OR_LINK.sub(change, text)


def _split(link: str) -> tuple[str, str]:
    path, mark, anchor = link.partition('#')
    return path, mark + anchor
