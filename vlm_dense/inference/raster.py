"""Rasters too large for memory, and GeoTIFFs, segmented window by window; by rasterio, of the extra ``geo``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import Progress

from vlm_dense.colours import class_colours
from vlm_dense.engine.outputs import claim
from vlm_dense.errors import ConfigError, DataError, MissingLibraryError
from vlm_dense.inference.common import save
from vlm_dense.inference.maskclip_models import note_on
from vlm_dense.inference.overlay import draw_overlay
from vlm_dense.libraries import how_to_install

if TYPE_CHECKING:
    from vlm_dense.inference.seg_inferencer import SegInferencer
    from vlm_dense.methods.maskclip.head import ClassNames

IGNORED = 255
"""Label of pixels without data."""
_SIDE = 1600  # pixels of the overview
_CACHE = 128  # MB of blocks that GDAL keeps
_BLOCK = 256  # pixels, of the file that is written


def segment_raster(
    inferencer: SegInferencer,
    path: str | os.PathLike,
    out_dir: str | os.PathLike,
    classes: ClassNames | None = None,
    window: int = 1024,
    overlap: int = 128,
    bands: tuple[int, int, int] | None = None,
) -> dict:
    """Segment a raster of any size by windows; memory holds one of them.

    A window is segmented as an image of its own, so its size decides what the model sees at a time. Windows overlap,
    and each gives the labels of its middle.

    Args:
        inferencer: The model.
        path: A file that GDAL reads: GeoTIFF, TIFF, JPEG 2000, PNG, ... Values that are not of 8 bits are stretched
            from the 2nd to the 98th percentile of each band.
        out_dir: Gets ``pred/NAME.tif``, the labels as a tiled GeoTIFF with the georeference of the raster, the colours
            of the classes, their names as tags (``class_0``, ...) and 255 where the raster has no data; and
            ``vis/NAME.png``, a small overview.
        classes: As of :class:`SegInferencer`; at most 255.
        window: Side of a window, in pixels.
        overlap: Pixels that neighbouring windows share.
        bands: Of red, green and blue, counted from 1; default: the first three, or the only one.

    Returns:
        ``size``: (width, height); ``classes``; ``shares``: share of the pixels with data, one a class; ``files``.

    Raises:
        MissingLibraryError: no rasterio.
        ConfigError: windows that do not fit their overlap, or more than 255 classes.
        DataError: a file that is no raster, without these bands, or a place that cannot be written.
    """
    try:
        import rasterio
        from rasterio.errors import RasterioError
    except ImportError:
        raise MissingLibraryError(f'Windows of rasters are read by rasterio. {how_to_install("geo")}') from None
    if window < 16 or not 0 <= overlap <= window // 2:
        raise ConfigError(
            f'Expected windows of at least 16 px that overlap by at most their half, found {window} px and {overlap} '
            'px.'
        )
    path, view = os.fspath(path), inferencer.view(classes)
    names, note = view.class_names, note_on(inferencer.limits, view.class_names)
    if len(names) > IGNORED:
        raise ConfigError(f'A raster of labels has at most {IGNORED} classes, found {len(names)}.')
    labels_path, shown = (
        os.path.join(out_dir, part, f'{Path(path).stem}{end}') for part, end in (('pred', '.tif'), ('vis', '.png'))
    )
    claim([labels_path, shown], [path])
    counts = np.zeros(256, np.int64)
    try:
        with rasterio.Env(GDAL_CACHEMAX=_CACHE), rasterio.open(path) as source:
            bands = _bands(source, bands, path)
            ranges = _ranges(source, bands)

            def write(place: str) -> None:
                with rasterio.open(place, 'w', **_profile(source)) as target:
                    target.write_colormap(1, dict(enumerate(class_colours(names))))
                    target.update_tags(**{f'class_{i}': name for i, name in enumerate(names)})
                    steps = list(windows(source.width, source.height, window, overlap))
                    with Progress(transient=True, disable=not inferencer.show_progress) as bar:
                        task = bar.add_task(os.path.basename(path), total=len(steps))
                        for outer, inner in steps:
                            labels = _labels(inferencer, view, source, bands, ranges, outer)
                            top, left = inner[0] - outer[0], inner[1] - outer[1]
                            part = labels[top : top + inner[2], left : left + inner[3]]
                            counts[:] += np.bincount(part.ravel(), minlength=256)
                            target.write(part, 1, window=_window(inner))
                            bar.advance(task)

            save(write, labels_path)
            image = _small(source, bands, ranges)
            with rasterio.open(labels_path) as found:
                labels = found.read(1, out_shape=image.shape[:2])
    except RasterioError as error:
        raise DataError(f'Raster {path} cannot be read: {error}. Give another file.') from error
    drawn = draw_overlay(
        image, np.where(labels == IGNORED, len(names), labels), [*names, 'no data'], Path(path).name, note=note or ''
    )
    save(drawn.save, shown)
    known = counts[: len(names)]
    return dict(
        size=(source.width, source.height),
        classes=list(names),
        shares=(known / max(known.sum(), 1)).tolist(),
        files=dict(vis=shown, pred=labels_path),
        **(dict(note=note) if note else {}),
    )


def windows(width: int, height: int, side: int, overlap: int) -> Iterator[tuple[tuple, tuple]]:
    """(outer, inner) windows of a raster, each (top, left, height, width) in pixels.

    Inner ones cover the raster once; an outer one has at least ``overlap / 2`` more on each side that is no border.
    Outer ones are all ``side`` high and wide, at the borders too, unless the raster is smaller: a narrow rest alone
    would be segmented differently.
    """
    margin = overlap // 2
    step = side - 2 * margin
    for top in range(0, height, step):
        for left in range(0, width, step):
            inner = top, left, min(step, height - top), min(step, width - left)
            tall, wide = min(side, height), min(side, width)
            above, before = (min(max(at - margin, 0), end) for at, end in ((top, height - tall), (left, width - wide)))
            yield (above, before, tall, wide), inner


def _window(place: tuple[int, int, int, int]):
    from rasterio.windows import Window

    top, left, height, width = place
    return Window(left, top, width, height)


def _bands(source, wanted: tuple[int, int, int] | None, path: str) -> tuple[int, ...]:
    bands = wanted or ((1, 2, 3) if source.count >= 3 else (1, 1, 1))
    if len(bands) != 3 or not all(1 <= band <= source.count for band in bands):
        raise DataError(f'{path} has {source.count} bands; expected three numbers of them, found {tuple(bands)}.')
    return tuple(bands)


def _profile(source) -> dict:
    profile = dict(driver='GTiff', dtype='uint8', count=1, nodata=IGNORED, compress='deflate', bigtiff='IF_SAFER')
    profile |= dict(width=source.width, height=source.height, crs=source.crs, transform=source.transform)
    if min(source.width, source.height) >= _BLOCK:
        profile |= dict(tiled=True, blockxsize=_BLOCK, blockysize=_BLOCK)
    return profile


def _ranges(source, bands: tuple[int, ...]) -> list[tuple[float, float]] | None:
    """Values of each band that become 0 and 255; None for 8 bits."""
    if all(source.dtypes[band - 1] == 'uint8' for band in bands):
        return None
    small = source.read(list(dict.fromkeys(bands)), out_shape=_small_shape(source), masked=True)
    found = dict(zip(dict.fromkeys(bands), small, strict=True))
    ranges = []
    for band in bands:
        values = found[band].compressed().astype(float)
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, (2, 98)) if values.size else (0.0, 1.0)
        ranges.append((float(low), float(max(high, low + 1e-6))))
    return ranges


def _small_shape(source) -> tuple[int, int]:
    scale = min(1, _SIDE / max(source.width, source.height))
    return max(1, round(source.height * scale)), max(1, round(source.width * scale))


def _pixels(values: np.ndarray, ranges: list[tuple[float, float]] | None) -> np.ndarray:
    """uint8 (H, W, 3) BGR of bands (3, H, W)."""
    if ranges is not None:
        low, high = (np.array(each, np.float32)[:, None, None] for each in zip(*ranges, strict=True))
        values = np.nan_to_num(np.clip((values.astype(np.float32) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(values.transpose(1, 2, 0)[..., ::-1])


def _small(source, bands: tuple[int, ...], ranges: list[tuple[float, float]] | None) -> np.ndarray:
    return _pixels(source.read(list(bands), out_shape=(3, *_small_shape(source))), ranges)


def _labels(inferencer: SegInferencer, view, source, bands, ranges, outer: tuple[int, int, int, int]) -> np.ndarray:
    """uint8 labels of a window; 255 where there are no data."""
    place = _window(outer)
    known = source.read_masks(sorted(set(bands)), window=place).any(0)
    if not known.any():
        return np.full(known.shape, IGNORED, np.uint8)
    image = _pixels(source.read(list(bands), window=place), ranges)
    samples = inferencer.forward(inferencer.preprocess([image]), view)
    labels = inferencer.postprocess(samples, view)[0]['predictions']
    return np.where(known, labels, IGNORED).astype(np.uint8)
