"""Writing exported files, whole or not at all."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from vlm_dense.engine.files import atomic_write
from vlm_dense.engine.outputs import claim
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.export.describe import describe
from vlm_dense.export.graph import Graph, graph_of
from vlm_dense.export.metadata import KEY
from vlm_dense.export.runtime import SUFFIXES, ExportedFile
from vlm_dense.export.trace import Size, Traced, check_same, trace, weights_bytes

OPSET = 20
"""Opset of the ONNX files."""
LEAST_TORCH = (2, 9)
_MOST_ONNX = 2**31 - 2**20  # bytes of a protobuf, less what is no weights


def export_model(
    model: nn.Module,
    cfg: Config,
    out: str | os.PathLike,
    class_names: Sequence[str],
    format: str | None = None,  # noqa: A002
    size: Size | None = None,
    config: str | None = None,
) -> dict:
    """Write a model that is already built; :func:`export_file` builds one from a config.

    Args:
        model: It is not changed.
        cfg: Config with ``model`` and a test pipeline, which the file describes.
        out: File to write, ``*.onnx`` or ``*.pt2``.
        class_names: A name of each class in label order.
        format: ``'onnx'`` or ``'pt2'``; default: by the suffix of ``out``.
        size: (height, width) in px that the file takes; default: any, if the model allows, else that of its windows.
        config: Name of the config, for the reader.

    Returns:
        The metadata of the file.

    Raises:
        ConfigError: a model that cannot be exported, a torch that is too old, missing packages, a wrong suffix.
        DataError: the file cannot be written; what was there before stays.
    """
    out, format = _checked(out, format)  # noqa: A001
    with _told(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    graph = graph_of(model)
    metadata = describe(model, cfg, class_names, graph.task, config)
    test_cfg = metadata.get('test_cfg') or {}
    window = tuple(test_cfg['crop_size']) if test_cfg.get('mode') == 'slide' else None
    print_log('Tracing the model, which takes up to some minutes ...', logger='current')
    traced = trace(graph, size, window)
    metadata |= dict(
        size=traced.size, least=traced.least, most=traced.most, batch=traced.batch, outputs=list(graph.names)
    )
    metadata |= dict(levels=graph.levels) if graph.task == 'detection' else {}
    claim([out])
    with _told(out), atomic_write(out) as begun:
        text = json.dumps(metadata)
        print_log(f'Writing {out} and comparing what it gives with the model ...', logger='current')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            (_write_onnx if format == 'onnx' else _write_pt2)(traced, graph, begun, text)
            _check_file(begun, format, traced, graph)
    return json.loads(text)


@contextmanager
def _told(out: Path) -> Iterator[None]:
    """Raise a :class:`DataError` for a file that cannot be written."""
    try:
        yield
    except OSError as error:
        raise DataError(f'{out} cannot be written: {error.strerror or error}.') from error


def _checked(out: str | os.PathLike, format: str | None) -> tuple[Path, str]:  # noqa: A002
    out = Path(out)
    format = format or out.suffix[1:]  # noqa: A001
    if format not in ('onnx', 'pt2') or out.suffix != f'.{format}':
        raise ConfigError(
            f'An exported file ends in {" or ".join(SUFFIXES)}, as its format says; found {out.name} for the format '
            f'{format!r}.'
        )
    if out.is_dir():
        raise DataError(f'{out} is a folder. Name a file.')
    version = tuple(map(int, re.findall(r'\d+', torch.__version__)[:2]))
    if version < LEAST_TORCH:
        raise ConfigError(
            f'Export needs torch {".".join(map(str, LEAST_TORCH))} or later, found {torch.__version__}. All else '
            'works with this torch, the use of .onnx files too; export in an environment with a later one.'
        )
    missing = [name for name in ('onnx', 'onnxscript') if importlib.util.find_spec(name) is None]
    if format == 'onnx' and missing:
        raise ConfigError(
            f'The format onnx needs {" and ".join(missing)}: pip install onnx onnxscript onnxruntime (the extra '
            "'export'), or take --format pt2, which needs torch only."
        )
    return out, format


def _write_pt2(traced: Traced, graph: Graph, path: Path, text: str) -> None:
    traced.program.example_inputs = None
    content = io.BytesIO()  # torch aborts the process where a file cannot be written to its end
    torch.export.save(traced.program, content, extra_files={KEY: text})
    path.write_bytes(content.getbuffer())


def _write_onnx(traced: Traced, graph: Graph, path: Path, text: str) -> None:
    if weights_bytes(graph) > _MOST_ONNX:
        raise ConfigError(
            f'The weights take {weights_bytes(graph):,} bytes, and one ONNX file holds 2 GB. Take --format pt2.'
        )
    program = torch.onnx.export(
        traced.program,
        dynamo=True,
        input_names=['images'],
        output_names=list(graph.names),
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    program.model.metadata_props.update({KEY: text, **_for_people(json.loads(text))})
    program.save(str(path), external_data=False)


def _for_people(metadata: dict) -> dict[str, str]:
    """Entries that viewers of ONNX files show; programs read the one named :data:`KEY`."""
    given = metadata['data_preprocessor']
    shown = {key: metadata[key] for key in ('task', 'classes', 'model', 'config')}
    shown |= dict(channels='RGB' if given.get('bgr_to_rgb') else 'BGR', mean=given.get('mean'), std=given.get('std'))
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in shown.items()}


@torch.no_grad()
def _check_file(path: Path, format: str, traced: Traced, graph: Graph) -> None:  # noqa: A002
    """Run what was written and compare it with the model, where there is something to run it."""
    if format == 'onnx' and importlib.util.find_spec('onnxruntime') is None:
        return
    try:
        file = ExportedFile(path, format)
        for images in traced.images:
            check_same(file(images), graph(images))
    except RuntimeError as error:
        raise ConfigError(f'{type(graph.model).__name__} cannot be exported as {format}: {error}') from error
