"""The stand-in for mmcv's kernels against the compiled ones: outputs, gradients, detectors.

Where mmcv has its compiled kernels, both run here, one after the other; elsewhere the stand-in's figures are compared
with those that are kept in a file. It prints a table and ends with status 1 if a difference is above its tolerance.

    python tools/dev/compare_ops.py
    python tools/dev/compare_ops.py --write tests/data/ops/compiled.npz    # with compiled mmcv: keep its figures

The kernels are called through ``mmcv.ops``, on the CPU, on random and on degenerate inputs. Of a training step there
are the losses, and of every parameter's gradient the norm and the product with fixed random numbers; of a prediction
the boxes, scores and labels. The models are mmdet's own configs with few channels.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

import vlm_dense

vlm_dense.setup()  # before others import mmdet

from kernel_cases import detectors, kernels, switching

from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import DataError
from vlm_dense.ops import extension, is_stand_in

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / 'tests' / 'data' / 'ops' / 'compiled.npz'

RELATIVE = 1e-4  # of the largest figure in an array
HALF = 2e-2  # the same, for cases in half precision, where the compiled kernels also add up in it

OF_THIS_PROCESSOR = {'nms/equal scores', 'nms_match/equal scores'}
"""Cases decided by the order that torch's sort gives to equal scores; it is the processor's, so they are not kept."""

PARTS = dict(
    boxes=kernels.of_boxes,
    regions=kernels.of_regions,
    deformable=kernels.of_deformable,
    rotated=kernels.of_rotated,
    text=kernels.of_text,
    detectors=detectors.of_detectors,
)


def as_arrays(cases: dict) -> dict[str, list[np.ndarray]]:
    """Cases of ``kernel_cases``, their tensors as arrays."""
    found = {}
    for name, results in cases.items():
        results = [results] if isinstance(results, torch.Tensor) else results
        found[name] = [torch.as_tensor(result).detach().numpy() for result in results if result is not None]
    return found


def figures(*parts: str) -> dict[str, list[np.ndarray]]:
    """The cases of ``PARTS``, all or those named, and their arrays."""
    return {name: arrays for part in parts or PARTS for name, arrays in as_arrays(PARTS[part]()).items()}


def write(found: dict[str, list[np.ndarray]], path: Path) -> None:
    """Keep cases in an npz: of each the numbers of all arrays in a row, in float32, and their types and shapes."""
    index = {name: [(str(a.dtype), a.shape) for a in arrays] for name, arrays in found.items()}
    rows = {name: np.concatenate([a.astype(np.float32).ravel() for a in arrays]) for name, arrays in found.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, index=np.array(json.dumps(index)), **rows)


def read(path: Path) -> dict[str, list[np.ndarray]]:
    """What :func:`write` kept.

    Raises:
        DataError: a file that is no such one.
    """
    try:
        with np.load(path) as file:
            found = {}
            for name, arrays in json.loads(str(file['index'])).items():
                parts = np.split(file[name], np.cumsum([int(np.prod(shape)) for _, shape in arrays]))
                found[name] = [p.reshape(s).astype(kind) for p, (kind, s) in zip(parts[:-1], arrays, strict=True)]
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f'{path} holds no figures of compare_ops.py --write: {error}') from error
    return found


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest over the arrays of: the largest difference, over the largest figure of theirs.

    Infinite if shapes, types or the places of NaNs differ.
    """
    if [(a.shape, a.dtype) for a in ours] != [(a.shape, a.dtype) for a in theirs]:
        return float('inf')
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if (np.isnan(a) != np.isnan(b)).any():
            return float('inf')
        a, b = (np.nan_to_num(x.astype(np.float32).astype(np.float64)) for x in (a, b))
        worst = max(worst, np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-12))
    return float(worst)


def tolerance(case: str) -> float:
    """What the difference of a case may be."""
    return HALF if 'half' in case else RELATIVE


def compare(ours: dict, theirs: dict) -> dict[str, float]:
    """Difference of every case, infinite if it is missing on one side.

    Of predictions only the scores count: rounding may swap two boxes with near scores.
    """
    part = {name: slice(1, None, 3) if name.endswith('/predictions') else slice(None) for name in ours}
    both = {name: difference(ours[name][part[name]], theirs[name][part[name]]) for name in ours if name in theirs}
    return both | dict.fromkeys(ours.keys() ^ theirs.keys(), float('inf'))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('figures', nargs='?', type=Path, default=FIGURES, help='file to compare with')
    parser.add_argument('--write', type=Path, metavar='FILE', help='write the figures of the compiled kernels')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    if args.write and is_stand_in():
        sys.exit('--write needs an mmcv with compiled kernels; this one has the stand-in.')
    found = figures()
    kept = {case: arrays for case, arrays in found.items() if case not in OF_THIS_PROCESSOR}
    if args.write:
        write(kept, args.write)
        print(f'{len(kept)} cases in {args.write}')
        return 0
    if is_stand_in():
        with user_errors():
            worst = compare(kept, read(args.figures))
    else:
        with switching.kernels(extension.KERNELS):
            worst = compare(figures(), found)
    rows = {}
    for case, value in worst.items():
        rows.setdefault(case.split('/')[0], []).append((value, case, value <= tolerance(case)))
    print('| Kernel or model | Cases | Identical | Largest relative difference | in |\n|---|---|---|---|---|')
    for kernel, cases in rows.items():
        value, case, _ = max(cases)
        same = sum(value == 0 for value, *_ in cases)
        print(f'| {kernel} | {len(cases)} | {same} | {value:.1e} | {value and case.partition("/")[2] or "-"} |')
    off = [case for cases in rows.values() for _, case, fine in cases if not fine]
    if off:
        print('above tolerance: ' + '; '.join(off), file=sys.stderr)
    return int(bool(off))


if __name__ == '__main__':
    sys.exit(main())
