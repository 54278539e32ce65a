"""Notebooks as Markdown, with the images that they hold."""

from __future__ import annotations

import base64
import json
from pathlib import Path


def convert(path: Path) -> tuple[str, dict[str, bytes]]:
    """Markdown of a notebook, and its images by file name."""
    parts, images = [], {}
    for cell in json.loads(path.read_text('utf-8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            parts.append(source)
            continue
        parts.append(f'```python\n{source}\n```')
        for output in cell['outputs']:
            data = output.get('data', {})
            if 'image/png' in data:
                name = f'{path.stem}_{len(images)}.png'
                images[name] = base64.b64decode(''.join(data['image/png']))
                parts.append(f'![Output]({name})')
            elif text := ''.join(output.get('text', data.get('text/plain', ''))):
                parts.append(f'```text\n{text.rstrip()}\n```')
    return '\n\n'.join(parts) + '\n', images
