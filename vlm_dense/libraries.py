"""Check for the OpenMMLab libraries, and their import without notices."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec

from vlm_dense import light
from vlm_dense.errors import MissingLibraryError


def how_to_install(extra: str) -> str:
    """Sentence on how to install vlm_dense with an extra; it is on no index."""
    return (
        f"Install vlm_dense with the extra {extra}: pip install '.[{extra}]' in a clone, or pip install "
        f"'FILE[{extra}]' with the path of its wheel."
    )


def require_openmmlab() -> None:
    """Check whether the libraries of the extra ``mm`` are there.

    Raises:
        MissingLibraryError: names those that are not.
    """
    missing = [name for name in ('mmengine', 'mmcv', 'mmseg') if find_spec(name) is None]
    if missing:
        raise MissingLibraryError(
            f'{", ".join(missing)} cannot be imported: this part of vlm_dense needs mmengine, mmcv and mmsegmentation. '
            f'{how_to_install("mm")}'
        )


def need_mmdet() -> None:
    """Check whether the library that detectors need is there.

    Raises:
        MissingLibraryError: it is not.
    """
    if find_spec('mmdet') is None:
        raise MissingLibraryError(f'Detectors need mmdetection. {how_to_install("mm")}')


def name_packages() -> None:
    """Make mmengine find configs of vlm_dense and of mmseg by ``package::folder/config.py``.

    mmengine keeps a table of the packages with configs for ``_base_``. It has no entry of vlm_dense, and the
    one of mmseg is the name of the original distribution, under which the maintained one is not installed.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE.update(vlm_dense='vlm_dense', mmseg='mmseg')


def import_quietly() -> None:
    """Import mmseg and mmdet without their notes on parts that nothing here uses, see :func:`quietly`.

    In a process that imports alone, see :mod:`vlm_dense.light`, it only looks whether they are there.

    Raises:
        MissingLibraryError: mmengine, mmcv or mmseg is not installed.
    """
    require_openmmlab()
    if light.begun():
        return  # what is used is imported where it is
    with quietly():
        import mmseg.datasets
        import mmseg.models  # noqa: F401

        if find_spec('mmdet'):
            import mmdet.apis  # noqa: F401


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Let imports print nothing.

    On every start mmseg and mmdet print that line NMS, deformable attention and some data sets are absent, with advice
    to compile something. Such first lines hide the program's own message. Logging, warnings and standard output are
    afterwards as they were.
    """
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()  # its handler keeps the stream that it finds, which must be the real one
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)
        logger.setLevel(logger.level)  # forgets that warnings were off
