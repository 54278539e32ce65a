"""What inferencers return: a dict, which notebooks show as a table."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from vlm_dense.colours import class_colours
from vlm_dense.inference.overlay import shares

_SHOWN = 8
"""Images that a notebook shows; the others are counted."""
_SURE = 0.3
"""Score of objects that are told, as of those that are drawn."""


class Results(dict):
    """The dict of a call. In a notebook: images, where ``return_vis`` asked for them, and what was found in them."""

    def _repr_html_(self) -> str:
        found, images = self['predictions'], self.get('visualization')
        found, images = ([each] if isinstance(each, np.ndarray) else each or [] for each in (found, images))
        parts = [f'<p><b>{escape(self["note"])}</b></p>'] if 'note' in self else []
        parts += [_image(each) for each in images[:_SHOWN]]
        colours = [f'#{r:02x}{g:02x}{b:02x}' for r, g, b in class_colours(self['classes'])]
        rows = []
        for index, one in enumerate(found[:_SHOWN]):
            for label, text in self._told(one):
                cells = (f'<span style="color:{colours[label]}">&#9632;</span>', escape(self['classes'][label]), text)
                rows.append(''.join(f'<td>{cell}</td>' for cell in (*[index] * (len(found) > 1), *cells)))
        table = ''.join(f'<tr>{row}</tr>' for row in rows)
        parts.append(f'<table>{table}</table>' if rows else '<p>Nothing was found.</p>')
        if len(found) > _SHOWN:
            parts.append(f'<p>and {len(found) - _SHOWN} more images</p>')
        return ''.join(parts)

    @staticmethod
    def _told(one: np.ndarray | dict) -> list[tuple[int, str]]:
        """(label, what is told of it) in the prediction of an image, the most first."""
        if isinstance(one, np.ndarray):
            return [(label, f'{share:.1%}') for label, share in shares(one)]
        if 'label' in one:
            best = np.argsort(-np.asarray(one['scores']), kind='stable')[:5]
            return [(int(label), f'{one["scores"][label]:.1%}') for label in best]
        best = {}
        for label, score in zip(one['labels'], one['scores'], strict=True):
            if score > _SURE:
                best.setdefault(label, []).append(score)
        told = sorted(best.items(), key=lambda entry: -max(entry[1]))
        return [(label, f'{len(scores)}, best score {max(scores):.1%}') for label, scores in told]


def _image(array: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(array).save(content, 'PNG')
    return f'<img src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"/>'
