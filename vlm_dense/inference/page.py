"""The page in the browser that ``vlm-dense demo`` serves: an image and class names in, masks or boxes out."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from vlm_dense.datasets import DrawScene, ShapesDataset
from vlm_dense.engine.files import remove
from vlm_dense.errors import ClassNamesError, ConfigError, DataError, UserError
from vlm_dense.inference.common import save
from vlm_dense.inference.images import load_image
from vlm_dense.inference.mask_files import above, objects_coco, objects_labelme, save_json, write_mask_files
from vlm_dense.inference.overlay import draw_side_by_side
from vlm_dense.inference.seg_inferencer import SegInferencer
from vlm_dense.limits import PAGE_CONCURRENCY, PAGE_WAITING
from vlm_dense.vocabulary.class_names import split_names

if TYPE_CHECKING:
    from vlm_dense.inference.det_inferencer import DetInferencer

EXAMPLES = (32, 37, 39)
"""Scenes of the test set of Shapes."""
MAX_BYTES, MAX_NAMES, MAX_LETTERS = 32_000_000, 100, 5_000
"""Limits of an upload and of its class names."""
MOST_BYTES, MOST_AGE = 1_000_000_000, 3600
"""Limits of all uploads and answers: bytes, seconds."""
_EVERY = 1.0  # seconds
_CSS = """
#files .filename {display: block} #files .stem {white-space: normal; overflow-wrap: anywhere}
#examples th {white-space: normal} #examples td .table {min-width: 0; max-width: none}
"""
"""On a phone, too, names of files are whole (.png, .coco.json and .labelme.json of one image), and class names."""

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # nothing is reported to anybody


class Methods:
    """Models by the name of their method, each built when it is first asked for.

    Args:
        names: In the order of the menu.
        make: Makes the model of a name.
    """

    def __init__(self, names: Sequence[str], make: Callable[[str], SegInferencer]):
        self.names = list(names)
        self._make = make
        self._made: dict[str, SegInferencer] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> SegInferencer:
        if name not in self.names:
            raise ConfigError(f'Choose among the methods {", ".join(self.names)}, not {name!r}.')
        with self._lock:
            if name not in self._made:
                self._made[name] = self._make(name)
            return self._made[name]


@dataclass
class Answer:
    """Result of the page for an image.

    Attributes:
        overlay: Masks and legend, RGB uint8 (h, w, 3).
        labels: Method, or '' of a page with one model -> indices (H, W) into ``classes``.
        classes: Names.
    """

    overlay: np.ndarray
    labels: dict[str, np.ndarray]
    classes: list[str]

    def write(self, source: str, folder: str, stem: str) -> list[str]:
        """Write the files of the labels, see :func:`written`."""
        files = []
        for method, labels in self.labels.items():
            name = f'{stem}.{method}' if method else stem
            files += write_mask_files(labels, self.classes, source, folder, f'{name}.labels')
        return files


@dataclass
class Objects:
    """Result of the page with a detector.

    Attributes:
        overlay: The image with what was found, RGB uint8 (h, w, 3).
        found: ``labels``, ``scores``, ``bboxes`` and, of a model that finds them, ``masks``.
        classes: Names.
        shape: (H, W) of the image.
    """

    overlay: np.ndarray
    found: dict[str, list]
    classes: list[str]
    shape: tuple[int, int]

    def write(self, source: str, folder: str, stem: str) -> list[str]:
        """Write the files of the objects, see :func:`written`."""
        paths = [os.path.join(folder, f'{stem}.objects.{ending}.json') for ending in ('coco', 'labelme')]
        for path, content in zip(paths, (objects_coco, objects_labelme), strict=True):
            save_json(content(self.found, self.classes, source, self.shape), path)
        return paths


class Detector:
    """A detector on the page. Its names belong to its model, so that requests take turns.

    Args:
        inferencer: The detector.

    Attributes:
        class_names, limits, max_pixels: Of the inferencer.
    """

    def __init__(self, inferencer: DetInferencer):
        self.class_names, self.limits = list(inferencer.class_names), inferencer.limits
        self.max_pixels = inferencer.max_pixels
        self._inferencer, self._turn = inferencer, threading.Lock()

    def detect(self, path: str | None, names: str, threshold: float) -> Objects:
        """Detect on the page.

        Args:
            path: The uploaded file; ``None`` if there is none.
            names: Class names, separated by commas; none for those of the model.
            threshold: Score below which nothing is shown.

        Raises:
            UserError: no image, none that can be read, or names that cannot be used.
        """
        path, classes = checked(path, names, self)
        with self._turn:
            self._inferencer.set_class_names(classes or self.class_names)
            result = self._inferencer(path, return_vis=True, pred_score_thr=threshold)
        found = above(result['predictions'][0], threshold)
        shape = load_image(path, self.max_pixels).shape[:2]
        return Objects(result['visualization'][0], found, result['classes'], shape)


def segment(inferencer: SegInferencer, path: str | None, names: str, method: str = '') -> Answer:
    """Segment on the page with one model.

    Args:
        inferencer: The model.
        path: The uploaded file; ``None`` if there is none.
        names: Class names, separated by commas.
        method: Of the menu.

    Raises:
        UserError: no image, none that can be read, or names that cannot be used.
    """
    path, classes = checked(path, names, inferencer)
    found = inferencer(path, classes or None, return_vis=True)
    return Answer(found['visualization'], {method: found['predictions']}, found['classes'])


def segment_side_by_side(
    models: Mapping[str, SegInferencer], chosen: Sequence[str], path: str | None, names: str
) -> Answer:
    """Segment on the page with a menu of methods: one as :func:`segment`, several side by side.

    Args:
        models: Method -> model.
        chosen: Methods of the menu.
        path, names: As of :func:`segment`.

    Raises:
        UserError: as of :func:`segment`, or no method.
    """
    chosen = list(dict.fromkeys(chosen or ()))
    if not chosen:
        raise ConfigError('Choose at least one method.')
    if len(chosen) == 1:
        return segment(models[chosen[0]], path, names, chosen[0])
    path, classes = checked(path, names, models[chosen[0]])
    image = load_image(path, models[chosen[0]].max_pixels)
    found = {method: models[method](image, classes or None) for method in chosen}
    labels = {method: result['predictions'] for method, result in found.items()}
    classes, note = found[chosen[0]]['classes'], found[chosen[0]].get('note', '')
    return Answer(np.asarray(draw_side_by_side(image, labels, classes, note=note)), labels, classes)


def checked(path: str | None, names: str, inferencer: SegInferencer | Detector) -> tuple[str, list[str]]:
    """The path and the class names of a request; no names for those of a trained model.

    Raises:
        UserError: there is no image, or there are too many names, or none for a model without names of its own.
    """
    if path is None:
        raise DataError('Give an image first.')
    classes = split_names([names[: MAX_LETTERS + 1]])
    if len(names) > MAX_LETTERS or len(classes) > MAX_NAMES:
        raise ClassNamesError(f'Expected at most {MAX_NAMES} class names and {MAX_LETTERS} letters, found more.')
    if not classes and inferencer.class_names is None:
        raise ClassNamesError('Type the names of all that the image shows, separated by commas.')
    return path, classes


def uploaded(path: str | None, folder: str) -> str | None:
    """The path, if it is that of a file below the folder of uploads; links are followed first.

    Raises:
        DataError: another place, whether anything is there or not, a URL, or no plain file.
    """
    if not path:
        return None
    real, folder = os.path.realpath(path), os.path.realpath(folder)
    if os.path.commonpath([real, folder]) != folder or not os.path.isfile(real):
        raise DataError('Only images that are uploaded to this page are read.')
    return real


def written(answer: Answer | Objects, source: str, folder: str) -> tuple[str, list[str]]:
    """Paths of new files below ``folder``: the image of an answer, and its files for annotation tools.

    gradio itself writes equal images into one file, also while it sends that file to somebody else, who then gets a
    part of it.

    Args:
        answer: What is written.
        source: Name of the file that was uploaded.
        folder: Where uploads lie.

    Raises:
        DataError: they cannot be written.
    """
    folder, stem = os.path.join(folder, uuid.uuid4().hex), os.path.splitext(source)[0][:16]  # a phone cuts longer names
    shown = os.path.join(folder, 'masks.png' if isinstance(answer, Answer) else 'objects.png')
    save(Image.fromarray(answer.overlay).save, shown)
    return shown, answer.write(source, folder, stem)


def draw_examples(folder: str, background: bool = True) -> list[tuple[str, str]]:
    """Draw scenes of Shapes that the bundled models can tell; (path, class names) of each.

    Args:
        folder: Where they go.
        background: Name the background too, as segmentation needs it.
    """
    scenes = ShapesDataset(
        max(EXAMPLES) + 1, 'test', size=256, num_objects=(2, 4), label='shape', background=True, pipeline=[DrawScene()]
    )
    examples = []
    for i in EXAMPLES:
        scene = scenes[i]
        path = os.path.join(folder, f'scene_{i}.png')
        cv2.imwrite(path, scene['img'])
        shapes = [scenes.metainfo['classes'][label] for label in np.unique(scene['gt_seg_map']) if label > 0]
        examples.append((path, ', '.join(['empty background'] * background + shapes)))
    return examples


@dataclass(frozen=True)
class _Words:
    """Texts of the page that depend on the task."""

    title: str
    advice: str
    background: str
    button: str
    result: str
    files: str


_SEGMENT = _Words(
    'Segment by names',
    'Name everything that the image shows.',
    'empty background, ',
    'Segment',
    'Masks',
    'Labels as PNG, COCO (run lengths), LabelMe (polygons)',
)
_DETECT = _Words('Detect by names', 'Name what to find.', '', 'Detect', 'Objects', 'Objects as COCO and LabelMe files')


def build_page(
    models: SegInferencer | Methods | Detector,
    examples: Sequence[tuple[str, str]],
    concurrency: int = PAGE_CONCURRENCY,
    waiting: int = PAGE_WAITING,
):
    """The page, a ``gradio.Blocks``.

    Uploads lie in the folder that gradio's environment variable ``GRADIO_TEMP_DIR`` names when the page is built.

    Args:
        models: The model, those of a menu, or a detector; calls in several threads must not see each other.
        examples: (path, class names) of each.
        concurrency: Requests that run at the same time.
        waiting: Requests that wait at most; further ones are refused.
    """
    import gradio as gr
    from gradio.utils import get_upload_folder

    folder = get_upload_folder()
    menu, detector = isinstance(models, Methods), isinstance(models, Detector)
    inferencer = models[models.names[0]] if menu else models
    words = _DETECT if detector else _SEGMENT

    def run(path: str | None, names: str | None, *option) -> tuple[str, list[str]]:
        try:
            path = uploaded(path, folder)
            if menu:
                answer = segment_side_by_side(models, *option, path, names or '')
            elif detector:
                answer = inferencer.detect(path, names or '', *option)
            else:
                answer = segment(inferencer, path, names or '')
            return written(answer, os.path.basename(path), folder)
        except UserError as error:  # without the folders of this machine
            text = str(error) if path is None else str(error).replace(os.path.realpath(path), os.path.basename(path))
            raise gr.Error(text, duration=None, print_exception=False) from error

    with gr.Blocks(title=words.title, analytics_enabled=False) as page:
        gr.Markdown(f'# {words.title}\n{inferencer.limits or words.advice}')
        with gr.Row():
            with gr.Column():
                upload = gr.Image(
                    label='Image', type='filepath', image_mode=None, sources=['upload', 'clipboard'], height=360
                )
                # the file as it is, so that there is one reader of images and one message about bad ones
                upload.preprocess = lambda payload: payload and payload.path
                move = upload.async_move_resource_to_block_cache

                async def move_upload(path):
                    """Refuse a URL before anything is fetched from it."""
                    try:
                        return await move(uploaded(str(path), folder) if path else path)
                    except DataError as error:
                        raise gr.Error(str(error), duration=None, print_exception=False) from error

                upload.async_move_resource_to_block_cache = move_upload
                names = gr.Textbox(
                    label='Classes, separated by commas',
                    placeholder=f'{words.background}circle, star' if inferencer.limits else 'sky, road, car',
                    value=_own_names(inferencer),
                    elem_id='names',
                    max_length=MAX_LETTERS,
                )
                given = [upload, names]
                if menu:
                    chosen = gr.Dropdown(
                        models.names,
                        value=models.names[:1],
                        multiselect=True,
                        label='Methods, side by side if there are several',
                        elem_id='methods',
                    )
                    given.append(chosen)
                elif detector:
                    given.append(gr.Slider(0, 1, 0.3, step=0.05, label='Lowest score', elem_id='threshold'))
                button = gr.Button(words.button, variant='primary', elem_id='segment')
            with gr.Column():
                masks = gr.Image(
                    label=words.result,
                    show_label=False,  # it would hide the title, or the name of an object, in the corner
                    format='png',
                    interactive=False,
                    buttons=['fullscreen', 'download'],
                    elem_id='masks',
                )
                files = gr.File(
                    label=words.files,
                    interactive=False,
                    file_count='multiple',
                    height=150,
                    elem_id='files',
                )
        gr.Examples([list(example) for example in examples], [upload, names], label='Drawn scenes', elem_id='examples')
        gr.Markdown(
            f'Images of up to {inferencer.max_pixels or float("inf"):,} pixels. {concurrency} requests run at the '
            f'same time, up to {waiting} wait.'
        )
        shared = dict(concurrency_limit=concurrency, concurrency_id='segment')
        button.click(run, given, [masks, files], api_name=words.button.lower(), **shared)
        names.submit(run, given, [masks, files], api_name=False, **shared)
    page.queue(max_size=waiting, api_open=False, default_concurrency_limit=concurrency)
    return page


def _own_names(inferencer: SegInferencer | Detector) -> str:
    """The classes of a trained model, which the page begins with; none if they are too many to type."""
    names = list(inferencer.class_names or ())
    return ', '.join(names) if len(names) <= MAX_NAMES else ''


def free_space(folder: str, kept: Collection[str], most_bytes: int = MOST_BYTES, most_age: float = MOST_AGE) -> int:
    """Remove uploads and answers: those that are too old, then the oldest until the rest fits.

    Args:
        folder: Where they lie, a folder each.
        kept: Names that stay.
        most_bytes: Of all that may be removed.
        most_age: In seconds.

    Returns:
        The bytes that are left.
    """
    found = []
    for entry in os.scandir(folder) if os.path.isdir(folder) else ():
        if entry.name in kept:
            continue
        files = (
            [path for path in Path(entry.path).rglob('*') if path.is_file()] if entry.is_dir() else [Path(entry.path)]
        )
        with suppress(FileNotFoundError):  # gradio moves what it has received
            found.append((entry.stat().st_mtime, sum(path.stat().st_size for path in files), entry.path))
    left, now = sum(size for _, size, _ in found), time.time()
    for changed, size, path in sorted(found):
        if left <= most_bytes and now - changed <= most_age:
            break
        with suppress(OSError):
            remove(path)
            left -= size
    return left


def _keep_free(folder: str) -> None:
    kept = set(os.listdir(folder)) if os.path.isdir(folder) else set()  # the examples

    def sweep() -> None:
        while True:
            time.sleep(_EVERY)
            with suppress(OSError):
                free_space(folder, kept)

    threading.Thread(target=sweep, daemon=True).start()


def launch(page, port: int | None = None, **options):
    """Serve the page on this machine only; with fonts of the system, so that nothing is loaded from elsewhere.

    Uploads and answers are removed after :data:`MOST_AGE` seconds, or earlier where they are more than
    :data:`MOST_BYTES`.
    """
    import gradio as gr
    from gradio.utils import get_upload_folder

    _keep_free(get_upload_folder())
    theme = gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace'])
    return page.launch(
        server_port=port, theme=theme, css=_CSS, ssr_mode=False, footer_links=[], max_file_size=MAX_BYTES, **options
    )
