"""Metadata of an exported file: classes, preprocessing, thresholds. Plain JSON, read without code.

Parts of a config are among it, and configs name classes to build. A file may be anybody's, so every name must be on one
of the lists below; a name with a path of modules, which mmengine would import, is on none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from vlm_dense.errors import CheckpointError

FORMAT = 2
"""Version of what is described here; a reader refuses a later one. 1 had no list of steps."""
KEY = 'vlm_dense.json'
"""Name of the entry in the metadata of ONNX and in the extra files of a .pt2."""

_SCOPES = ('', 'mmcv.', 'mmdet.', 'mmengine.', 'mmseg.', 'vlm_dense.')
STEPS = ('Resize', 'ResizeToMultiple', 'Pad', 'CenterCrop', 'ObjectLabels', 'TorchvisionTransforms')
STEPS = (*STEPS, 'PackSegInputs', 'PackDetInputs', 'PackClsInputs')
POSTPROCESSING = (
    'Aliases',
    'Probabilities',
    'PAMR',
    'OriginalSize',
    'AreaThreshold',
    'ProbabilityThreshold',
    'SumToOne',
)
PREPROCESSORS = ('SegDataPreProcessor', 'MixedSizeSegDataPreProcessor', 'DetDataPreprocessor', 'ClsDataPreprocessor')
HEADS = ('RetinaHead', 'RetinaSepBNHead', 'FCOSHead', 'ATSSHead')
HEAD_PARTS = ('AnchorGenerator', 'MlvlPointGenerator', 'DeltaXYWHBBoxCoder', 'DistancePointBBoxCoder')
HEAD_PARTS = (*HEAD_PARTS, 'FocalLoss', 'L1Loss', 'SmoothL1Loss', 'IoULoss', 'GIoULoss', 'CrossEntropyLoss')
HEAD_PARTS = (*HEAD_PARTS, 'BN', 'GN', 'SyncBN', 'nms', 'soft_nms')


def parse(text: str | bytes | None, path: str) -> dict:
    """The metadata that a file holds, checked.

    Raises:
        CheckpointError: none, damaged, of a later version, or with names of classes that are on no list.
    """
    if text is None:
        raise CheckpointError(
            f'{path} was not written by vlm_dense: it does not say which classes it has and how images are prepared. '
            'Export the model with `vlm-dense export`.'
        )
    try:
        found = json.loads(text)
        version, task, classes = found['format'], found['task'], found['classes']
        wrong = list(unknown_parts(found))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f'The description inside {path} is damaged ({error!r}). Export it again.') from error
    if not isinstance(version, int) or version > FORMAT:
        raise CheckpointError(f'{path} is of format {version!r}, and this vlm_dense reads up to {FORMAT}: update it.')
    if task not in ('segmentation', 'classification', 'detection') or not _are_names(classes):
        raise CheckpointError(f'The description inside {path} is damaged: task {task!r}, classes {classes!r:.80}.')
    if wrong:
        raise CheckpointError(
            f'{path} is refused: it asks for {", ".join(wrong)}, which no exported file needs. Nothing was run.'
        )
    return found


def _are_names(classes) -> bool:
    return isinstance(classes, list) and bool(classes) and all(isinstance(name, str) for name in classes)


def unknown_parts(found: dict) -> Iterator[str]:
    """Names in the configs of a description that are on no list."""
    yield from _not_in(found['pipeline'], STEPS)
    yield from _not_in(found['data_preprocessor'], PREPROCESSORS)
    yield from _not_in(found.get('postprocess', []), POSTPROCESSING)
    if found['task'] == 'detection':
        head, test_cfg = dict(found['head']), found['test_cfg']
        yield from _not_in(dict(type=head.pop('type')), HEADS)
        yield from _not_in([head, test_cfg], HEAD_PARTS)


def _not_in(node, known: Sequence[str]) -> Iterator[str]:
    if isinstance(node, list):
        for one in node:
            yield from _not_in(one, known)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == 'type' and not any(value == f'{scope}{name}' for scope in _SCOPES for name in known):
                yield repr(value)
            elif key.startswith('_'):
                yield repr(key)
            yield from _not_in(value, known)


def with_tuples(node):
    """The same with tuples instead of lists of numbers or words, as arguments of transforms are tuples."""
    if isinstance(node, dict):
        return {key: with_tuples(value) for key, value in node.items()}
    if isinstance(node, list):
        made = [with_tuples(one) for one in node]
        return made if any(isinstance(one, dict) for one in made) else tuple(made)
    return node
