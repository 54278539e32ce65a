"""Check for the OpenMMLab libraries, and their import without notices."""

from __future__ import annotations

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
    """Import mmseg and mmdet without their notes on parts that nothing here uses, see :func:`light.quietly`.

    In a process that imports alone, see :mod:`vlm_dense.light`, it only looks whether they are there.

    Raises:
        MissingLibraryError: mmengine, mmcv or mmseg is not installed.
    """
    require_openmmlab()
    if not light.begun():  # what is used is imported where it is
        light.import_all()
