"""A page in the browser: give a picture, type class names, see the masks.

pip install 'vlm-dense[demo]'
python tools/demo.py                                   # bundled model, drawn shapes only
python tools/demo.py --model maskclip_vit-b16
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence

import cv2
import numpy as np
from segment import add_model_arguments, build, split_names

from vlm_dense.apis import SegInferencer
from vlm_dense.datasets import DrawScene, ShapesDataset
from vlm_dense.engine.launch import user_errors
from vlm_dense.errors import ConfigError, DataError, UserError

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # nothing is reported to anybody

EXAMPLES = 3


def segment(inferencer: SegInferencer, path: str | None, names: str) -> np.ndarray:
    """What the page does: picture with masks and legend, RGB uint8 (h, w, 3).

    Args:
        inferencer: The model.
        path: The uploaded file; ``None`` if there is none.
        names: Class names, separated by commas.

    Raises:
        UserError: no picture, none that can be read, or names that cannot be used.
    """
    if path is None:
        raise DataError('Give a picture first.')
    return inferencer(path, split_names([names]), return_vis=True)['visualization']


def draw_examples(folder: str) -> list[tuple[str, str]]:
    """Draw scenes of Shapes; (path, class names) of each."""
    scenes = ShapesDataset(
        EXAMPLES, 'test', size=256, num_objects=(2, 4), label='shape', background=True, pipeline=[DrawScene()]
    )
    examples = []
    for i, scene in enumerate(scenes):
        path = os.path.join(folder, f'scene_{i}.png')
        cv2.imwrite(path, scene['img'])
        shapes = [scenes.metainfo['classes'][label] for label in np.unique(scene['gt_seg_map']) if label > 0]
        examples.append((path, ', '.join(['empty background', *shapes])))
    return examples


def build_page(inferencer: SegInferencer, examples: Sequence[tuple[str, str]]):
    """The page, a ``gradio.Blocks``."""
    import gradio as gr

    def run(path: str | None, names: str) -> np.ndarray:
        try:
            return segment(inferencer, path, names)
        except UserError as error:
            raise gr.Error(str(error), duration=None) from error

    with gr.Blocks(title='Segment by names', analytics_enabled=False) as page:
        gr.Markdown('# Segment by names\n' + (inferencer.limits or 'Name everything that the picture shows.'))
        with gr.Row():
            with gr.Column():
                picture = gr.Image(
                    label='Picture', type='filepath', image_mode=None, sources=['upload', 'clipboard'], height=360
                )
                # the file as it is, so that there is one reader of pictures and one message about bad ones
                picture.preprocess = lambda payload: payload and payload.path
                names = gr.Textbox(label='Classes, separated by commas', placeholder='sky, road, car', elem_id='names')
                button = gr.Button('Segment', variant='primary', elem_id='segment')
            masks = gr.Image(
                label='Masks', format='png', interactive=False, buttons=['fullscreen', 'download'], elem_id='masks'
            )
        gr.Examples([list(example) for example in examples], [picture, names], label='Drawn scenes')
        for event in (button.click, names.submit):
            event(run, [picture, names], masks)
    return page


def launch(page, port: int | None = None, **options):
    """Serve the page on this machine only; with fonts of the system, so that nothing is loaded from elsewhere."""
    import gradio as gr

    theme = gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace'])
    return page.launch(server_port=port, theme=theme, ssr_mode=False, footer_links=[], **options)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--port', type=int, help='default: the first free one from 7860')
    add_model_arguments(parser)
    args = parser.parse_args(argv)
    with user_errors(), tempfile.TemporaryDirectory() as folder:
        try:
            import gradio  # noqa: F401
        except ImportError:
            raise ConfigError("The page needs gradio. Install it with: pip install 'vlm-dense[demo]'") from None
        launch(build_page(build(args), draw_examples(folder)), args.port)


if __name__ == '__main__':
    main()
