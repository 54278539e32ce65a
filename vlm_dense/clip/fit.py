"""Check of a state dict against a module: names, shapes, dtypes and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vlm_dense.errors import CheckpointError, first_of


def check_fit(
    state_dict: Mapping[str, Tensor], reference: Mapping[str, Tensor | Sequence[int]], source: object
) -> None:
    """Refuse a state dict that is not exactly what a module needs.

    Args:
        state_dict: What was found.
        reference: Name -> shape of everything that is needed. With tensors instead of shapes (the module's own
            state dict), integers and booleans where floats belong are refused as well.
        source: Where the state dict comes from, for the message.

    Raises:
        CheckpointError: Names the first missing, unexpected and wrongly shaped keys and counts them all; or, if all
            fit, those that are complex or of another kind, or hold NaN or infinity.
    """
    shapes = {key: value.shape if isinstance(value, Tensor) else torch.Size(value) for key, value in reference.items()}
    both = [key for key in shapes if key in state_dict]
    _refuse(
        {
            'missing': [key for key in shapes if key not in state_dict],
            'unexpected': [key for key in state_dict if key not in shapes],
            'of another shape': [
                f'{key} (expected {tuple(shapes[key])}, found {tuple(state_dict[key].shape)})'
                for key in both
                if state_dict[key].shape != shapes[key]
            ],
        },
        f'{source} does not fit: of the {len(shapes)} keys expected and the {len(state_dict)} found,',
        'Take the file that belongs to this model, or the model that belongs to this file.',
    )
    kinds = {'complex, expected real numbers': [key for key in both if state_dict[key].is_complex()]}
    kinds['of integers or booleans, expected floating-point numbers'] = [
        f'{key} ({state_dict[key].dtype})'
        for key in both
        if isinstance(reference[key], Tensor)
        and reference[key].is_floating_point()
        and not (state_dict[key].is_floating_point() or state_dict[key].is_complex())
    ]
    kinds['with NaN or infinite values'] = [
        key for key in both if state_dict[key].is_floating_point() and not state_dict[key].isfinite().all()
    ]
    _refuse(kinds, f'{source} holds no usable weights: of its {len(state_dict)} tensors,', 'Save or copy it again.')


def _refuse(findings: dict[str, list[str]], what: str, way_out: str) -> None:
    lines = [f'  {len(keys)} {kind}: {first_of(keys, 3)}' for kind, keys in findings.items() if keys]
    if lines:
        raise CheckpointError('\n'.join([what, *lines, f'Nothing was loaded. {way_out}']))
