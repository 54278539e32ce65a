"""Videos: frames in, a video with what was found out; by PyAV, of the extra ``video``. Memory holds one batch."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import Progress

from vlm_dense.colours import class_colours, label_image
from vlm_dense.datasets.checks import check_pixels
from vlm_dense.drawing import draw_instances, draw_rows
from vlm_dense.engine.outputs import claim
from vlm_dense.errors import DataError, MissingLibraryError
from vlm_dense.inference.common import check_batch_size, save, view_side
from vlm_dense.inference.maskclip_models import note_on
from vlm_dense.inference.overlay import colour_over
from vlm_dense.libraries import how_to_install

if TYPE_CHECKING:
    from vlm_dense.inference.det_inferencer import DetInferencer
    from vlm_dense.inference.seg_inferencer import SegInferencer
    from vlm_dense.methods.maskclip.head import ClassNames

_CODECS = ('libx264', 'mpeg4')  # the first that this PyAV has


def _av():
    try:
        import av
    except ImportError:
        raise MissingLibraryError(f'Videos are read and written by PyAV. {how_to_install("video")}') from None
    return av


@contextmanager
def open_video(path: str | os.PathLike, max_pixels: int | None = None) -> Iterator[tuple[Iterator[np.ndarray], dict]]:
    """The frames of a video, uint8 (H, W, 3) BGR, one after the other, and ``rate`` and ``number`` of them.

    ``number`` is 0 if the file does not tell. Frames are not turned.

    Raises:
        MissingLibraryError: no PyAV.
        DataError: a file that is no video, is cut short, or has frames with more than ``max_pixels``.
    """
    av, path = _av(), os.fspath(path)
    if not os.path.isfile(path):
        raise DataError(f'Video {path} does not exist (looked from {os.getcwd()}).')
    try:
        container = av.open(path)
    except (av.error.FFmpegError, ValueError) as error:
        raise DataError(f'Video {path} cannot be read: {_why(error)}. Give another file.') from error
    with container:
        if not container.streams.video:
            raise DataError(f'{path} has no frames. Give a video.')
        stream = container.streams.video[0]
        stream.thread_type = 'AUTO'
        check_pixels((stream.width, stream.height), max_pixels, f'A frame of {path}')

        def frames() -> Iterator[np.ndarray]:
            done = 0
            try:
                for frame in container.decode(stream):
                    yield frame.to_ndarray(format='bgr24')
                    done += 1
            except av.error.FFmpegError as error:
                raise DataError(f'Video {path} cannot be read after frame {done}: {_why(error)}.') from error
            if not done:
                raise DataError(f'{path} has no frames. Give a video.')

        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        yield frames(), dict(rate=Fraction(rate).limit_denominator(1001 * 240), number=stream.frames or 0)


def _why(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error)


def write_video(path: str, frames: Iterator[np.ndarray], rate: Fraction) -> int:
    """Write frames, RGB uint8 (H, W, 3) of one size, as H.264 (MPEG-4 where PyAV has no H.264).

    Odd sides get a row or column more, which these formats ask for.

    Returns:
        The number of frames.

    Raises:
        DataError: the file cannot be written.
    """
    av, count = _av(), 0

    def write(place: str) -> None:
        nonlocal count
        codec = next((name for name in _CODECS if name in av.codecs_available), _CODECS[-1])
        with av.open(place, 'w') as container:
            stream = container.add_stream(codec, rate=rate)
            stream.pix_fmt = 'yuv420p'
            for frame in frames:
                height, width = frame.shape[:2]
                even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')
                if not count:
                    stream.width, stream.height = even.shape[1], even.shape[0]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format='rgb24')))
                count += 1
            container.mux(stream.encode())

    save(write, path)
    return count


def _through(
    path: str, out: str, work: Callable[[list[np.ndarray], int], Sequence[np.ndarray]], batch_size: int, options: dict
) -> int:
    """Run a function on batches of frames and their first number, and write what it draws as a video."""
    with (
        open_video(path, options['max_pixels']) as (frames, known),
        Progress(transient=True, disable=not options['show_progress']) as bar,
    ):
        task = bar.add_task(os.path.basename(path), total=known['number'] or None)

        def drawn() -> Iterator[np.ndarray]:
            first = 0
            while batch := list(itertools.islice(frames, batch_size)):
                yield from work(batch, first)
                first += len(batch)
                bar.advance(task, len(batch))

        return write_video(out, drawn(), known['rate'])


def _places(path: str | os.PathLike, out_dir: str | os.PathLike, others: Sequence[str]) -> list[str]:
    stem = Path(path).stem
    places = [os.path.join(out_dir, part.format(stem)) for part in ('vis/{}.mp4', *others)]
    claim(places, [os.fspath(path)])
    return places


def segment_video(
    inferencer: SegInferencer,
    path: str | os.PathLike,
    out_dir: str | os.PathLike,
    classes: ClassNames | None = None,
    batch_size: int = 1,
    save_labels: bool = False,
    opacity: float = 0.5,
) -> dict:
    """Segment the frames of a video.

    Args:
        inferencer: The model.
        path: A file that FFmpeg reads: MP4, MOV, AVI, MKV, WebM, GIF, ...
        out_dir: Gets ``vis/NAME.mp4``, colours over the greyed frames with a legend, at the rate of the video; with
            ``save_labels`` also ``pred/NAME/000000.png``, ..., the label map of each frame.
        classes: As of :class:`SegInferencer`.
        batch_size: Frames at a time; memory holds as many.
        save_labels: Keep the label maps.
        opacity: Of the colours, 0 to 1.

    Returns:
        ``frames``: their number; ``classes``; ``shares``: share of the pixels of all frames, one a class; ``files``.

    Raises:
        MissingLibraryError: no PyAV.
        DataError: no video, frames that are too large, or a place that cannot be written.
        ClassNamesError, ConfigError: as of :class:`SegInferencer`.
    """
    check_batch_size(batch_size)
    view = inferencer.view(classes)
    names, note = view.class_names, note_on(inferencer.limits, view.class_names)
    (shown,) = _places(path, out_dir, ())
    folder = os.path.join(out_dir, 'pred', Path(path).stem)
    counts = np.zeros(max(len(names), 1), np.int64)
    legend = list(zip(names, class_colours(names), strict=True))

    def work(batch: list[np.ndarray], first: int) -> Iterator[np.ndarray]:
        samples = inferencer.forward(inferencer.preprocess(batch), view)
        for i, (frame, one) in enumerate(zip(batch, inferencer.postprocess(samples, view), strict=True), first):
            labels = one['predictions']
            counts[:] += np.bincount(labels.ravel(), minlength=len(counts))[: len(counts)]
            if save_labels:
                save(label_image(labels, names).save, os.path.join(folder, f'{i:06d}.png'))
            tile = view_side(frame.shape)
            painted = colour_over(frame, labels, names, opacity)
            yield np.asarray(draw_rows([[painted]], [''], legend, tile=tile, note=note or ''))

    options = dict(max_pixels=inferencer.max_pixels, show_progress=inferencer.show_progress)
    number = _through(os.fspath(path), shown, work, batch_size, options)
    files = dict(vis=shown, **(dict(pred=folder) if save_labels else {}))
    shares = (counts / max(counts.sum(), 1)).tolist()
    return dict(frames=number, classes=list(names), shares=shares, files=files, **(dict(note=note) if note else {}))


def detect_video(
    inferencer: DetInferencer,
    path: str | os.PathLike,
    out_dir: str | os.PathLike,
    batch_size: int = 1,
    pred_score_thr: float = 0.3,
) -> dict:
    """Detect objects in the frames of a video.

    Args:
        inferencer: The model.
        path: A file that FFmpeg reads.
        out_dir: Gets ``vis/NAME.mp4``, the frames with what was found, at the rate of the video, and
            ``preds/NAME.jsonl``, a line of JSON with labels, scores, boxes and masks a frame.
        batch_size: Frames at a time; memory holds as many.
        pred_score_thr: Score above which objects are drawn and counted; the file has all.

    Returns:
        ``frames``: their number; ``classes``; ``objects``: those counted in all frames, one number a class; ``files``.

    Raises:
        MissingLibraryError: no PyAV.
        DataError: no video, frames that are too large, or a place that cannot be written.
    """
    check_batch_size(batch_size)
    shown, found = _places(path, out_dir, ('preds/{}.jsonl',))
    counts = np.zeros(len(inferencer.class_names), np.int64)

    def write(place: str) -> None:
        with open(place, 'w', encoding='utf-8') as lines:

            def work(batch: list[np.ndarray], first: int) -> Iterator[np.ndarray]:
                samples = inferencer.samples(batch)
                for frame, sample in zip(batch, samples, strict=True):
                    lines.write(json.dumps(inferencer.as_dict(sample)) + '\n')
                    objects = sample.pred_instances
                    objects = objects[objects.scores > pred_score_thr]
                    np.add.at(counts, objects.labels.numpy(), 1)
                    image = np.ascontiguousarray(frame[..., ::-1])
                    yield draw_instances(image, objects, inferencer.model.dataset_meta, view_side(frame.shape))

            options = dict(max_pixels=inferencer.max_pixels, show_progress=inferencer.show_progress)
            counted.append(_through(os.fspath(path), shown, work, batch_size, options))

    counted: list[int] = []
    save(write, found)
    return dict(
        frames=counted[0],
        classes=list(inferencer.class_names),
        objects=counts.tolist(),
        files=dict(vis=shown, preds=found),
    )
