"""Exported files against PyTorch: same labels, size, time.

    python tools/benchmarks/export.py                                    # the small models on drawn scenes
    python tools/benchmarks/export.py --models denseclip_rn50 denseclip_vit-b16 --images 2

Models that are trained get a few iterations here (``--iterations``), those of full size random weights. Each is
written in both formats, and PyTorch's inferencer and that of the file see the same images: scenes of the validation
split, for the models of full size noise of 512 x 512 px. Agreement is the share of pixels, of images or of boxes (of
the same class, with corners within half a pixel) that are equal. Milliseconds are processor time of a whole call,
preparation and enlargement included; the median over the images after one that is not counted. PyTorch and the file
take turns at each image. Everything runs on one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import vlm_dense

vlm_dense.setup()  # before others import mmseg
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope

from vlm_dense.cli.arguments import positive
from vlm_dense.datasets.shapes import ShapesDataset
from vlm_dense.engine.runner.launch import build_runner, fill_class_names, load_config
from vlm_dense.inference import DetInferencer, ExportedClassifier, SegInferencer, export_file

CONFIGS = Path(__file__).parents[2] / 'configs'
SMALL = {
    'denseclip_tiny-rn': ('denseclip/denseclip_shapes.py', None),
    'denseclip_tiny-vit': ('denseclip/denseclip_shapes.py', '_base_/models/denseclip_tiny-vit.py'),
    'denseclip_any_tiny-r18': ('denseclip/denseclip_any_r18_shapes.py', None),
    'maskclip_tiny-vit': ('maskclip/maskclip_tiny-vit_shapes.py', None),
    'maskclip_tiny-rn': ('maskclip/maskclip_tiny-rn_shapes.py', None),
    'maskclip_plus': ('maskclip_plus/maskclip_plus_shapes.py', None),
    'naclip_tiny-vit': ('naclip/naclip_tiny-vit_shapes.py', None),
    'coop': ('coop/coop_shapes.py', None),
    'denseclip_retinanet': ('denseclip/denseclip_retinanet_shapes.py', None),
    'clip_retinanet': ('clip_baselines/clip_retinanet_shapes.py', None),
}
"""Name -> config, and the file of another model for it."""
ONE_SIZE = ('naclip_tiny-vit',)
"""Models that are exported for the size of their images; the others take any."""
LARGE = {'denseclip_rn50': 'denseclip_rn50.py', 'denseclip_vit-b16': 'denseclip_vit-b16.py'}
"""Name -> model, with random weights."""


def small_config(name: str) -> Config:
    """The config of a model on drawn scenes."""
    path, model = SMALL[name]
    cfg = load_config(str(CONFIGS / path))
    if model is not None:
        cfg.model = load_config(str(CONFIGS / model)).model
        cfg.model.decode_head.num_classes = cfg.num_classes
    return cfg


def large_config(name: str) -> Config:
    """DenseCLIP of full size for 150 classes, without weights."""
    cfg = load_config(str(CONFIGS / 'denseclip' / 'denseclip_ade20k.py'))
    cfg.model = load_config(str(CONFIGS / '_base_' / 'models' / LARGE[name])).model
    cfg.model.backbone.pretrained = cfg.model.text_encoder.pretrained = None
    cfg.model.test_cfg = dict(mode='whole', keep_logits=False)
    cfg.test_pipeline = [dict(type='PackSegInputs')]
    cfg.test_dataloader.dataset.pipeline = cfg.test_pipeline
    return cfg


def weights(cfg: Config, iterations: int, folder: str) -> str | None:
    """A checkpoint of a model after a few iterations; 0: of random weights; None where nothing is trained."""
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    fill_class_names(cfg)
    torch.manual_seed(0)
    if not iterations:
        model = MODELS.build(cfg.model)
        path = os.path.join(folder, 'random.pth')
        torch.save(dict(state_dict=model.state_dict(), meta={}), path)
        return path
    if cfg.model.type in ('vlm_dense.MaskCLIP',):
        return None
    steps = 'max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters'
    cfg.train_cfg[steps] = iterations if steps == 'max_iters' else 1
    cfg.update(work_dir=folder, launcher='none', log_level='ERROR', randomness=dict(seed=0))
    cfg.update(val_dataloader=None, val_cfg=None, val_evaluator=None)
    cfg.default_hooks = dict(cfg.default_hooks, checkpoint=dict(type='CheckpointHook', interval=-1))
    cfg.custom_hooks = [h for h in cfg.get('custom_hooks') or [] if 'Image' not in h['type']]
    runner = build_runner(cfg)
    runner.train()
    path = os.path.join(folder, 'trained.pth')
    torch.save(dict(state_dict=runner.model.state_dict(), meta={}), path)
    return path


def images(cfg: Config, count: int, large: bool) -> list[np.ndarray]:
    """Images (H, W, 3), uint8, BGR."""
    if large:
        return list(np.random.default_rng(0).integers(0, 256, (count, 512, 512, 3), dtype=np.uint8))
    found = cfg.test_dataloader.dataset
    found = found.dataset if 'dataset' in found else found
    options = {k: v for k, v in found.items() if k in ('size', 'num_objects', 'label', 'background', 'domain')}
    draw = TRANSFORMS.build(dict(type='vlm_dense.DrawScene'))
    scenes = ShapesDataset(split='val', num_scenes=count, pipeline=[], **options)
    return [draw(scenes.get_data_info(i))['img'] for i in range(count)]


# --- what PyTorch and a file say --------------------------------------------------------------------------------


def segmentor(source, checkpoint: str | None) -> Callable[[np.ndarray], np.ndarray]:
    """A function of an image: its labels."""
    inferencer = SegInferencer(source, checkpoint, 'cpu', show_progress=False)
    return lambda image: inferencer(image)['predictions']


def detector(source, checkpoint: str | None) -> Callable[[np.ndarray], dict]:
    """A function of an image: its boxes."""
    inferencer = DetInferencer(source, checkpoint, 'cpu', show_progress=False)
    return lambda image: inferencer(image)['predictions'][0]


def classifier(source, checkpoint: str | None) -> Callable[[np.ndarray], int]:
    """A function of an image: its label."""
    if isinstance(source, str):
        file = ExportedClassifier(source)
        return lambda image: file(image)[0]['label']
    from vlm_dense.inference.export import build_model

    model = build_model(source, checkpoint, None)[0]
    pack = TRANSFORMS.build(dict(type='vlm_dense.PackClsInputs'))

    @torch.no_grad()
    def label(image: np.ndarray) -> int:
        one = pack(dict(img=image, img_shape=image.shape[:2]))
        data = dict(inputs=[one['inputs']], data_samples=[one['data_samples']])
        return int(model.test_step(data)[0].pred_label)

    return label


def same_pixels(one: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """How many pixels have the same label, and how many there are."""
    return int((one == other).sum()), one.size


def same_label(one: int, other: int) -> tuple[int, int]:
    """Whether the labels are equal, and 1."""
    return int(one == other), 1


def same_boxes(one: dict, other: dict) -> tuple[int, int]:
    """How many boxes have a partner, and how many there are in the longer list."""
    left = list(zip(other['labels'], other['bboxes'], strict=True))
    equal = 0
    for label, box in zip(one['labels'], one['bboxes'], strict=True):
        near = [i for i, (k, b) in enumerate(left) if k == label and np.abs(np.subtract(b, box)).max() < 0.5]
        if near:
            left.pop(near[0])
            equal += 1
    return equal, max(len(one['labels']), len(other['labels']))


KINDS = dict(segmentation=(segmentor, same_pixels), detection=(detector, same_boxes))
KINDS['classification'] = (classifier, same_label)
UNITS = dict(segmentation='pixels', detection='boxes', classification='images')


def timed(functions: Sequence[Callable], scenes: list[np.ndarray]) -> list[tuple[list, float]]:
    """What each function says of the images, and the median of its milliseconds; they take turns."""
    found, times = [[] for _ in functions], [[] for _ in functions]
    for i, image in enumerate([scenes[0], *scenes]):
        for function, results, own in zip(functions, found, times, strict=True):
            start = time.process_time()
            result = function(image)
            if i:  # the first call makes what is kept
                results.append(result)
                own.append(1e3 * (time.process_time() - start))
    return [(results, statistics.median(own)) for results, own in zip(found, times, strict=True)]


def report(name: str, args: argparse.Namespace, folder: str) -> None:
    """Print a row of each format."""
    large = name in LARGE
    cfg = large_config(name) if large else small_config(name)
    checkpoint = weights(cfg, 0 if large else args.iterations, folder)
    scenes = images(cfg, args.images, large)
    for form in args.formats:
        out = os.path.join(folder, f'{name}.{form}')
        start = time.perf_counter()
        found = export_file(cfg.copy(), checkpoint, out, size=scenes[0].shape[:2] if name in ONE_SIZE else None)
        seconds = time.perf_counter() - start
        make, compare = KINDS[found['task']]
        plain, (labels, milliseconds) = timed((make(cfg.copy(), checkpoint), make(out, None)), scenes)
        counts = [compare(*pair) for pair in zip(plain[0], labels, strict=True)]
        equal, total = (sum(column) for column in zip(*counts, strict=True))
        whole = f'{os.path.getsize(checkpoint) / 1e6:.1f}' if checkpoint else '-'
        unit = UNITS[found['task']]
        sizes = 'any' if found['size'] is None else 'x'.join(map(str, found['size']))
        print(
            f'| {name} | {form} | {equal / total:.4%} of {total:,} {unit} | {whole} | '
            f'{os.path.getsize(out) / 1e6:.1f} | {plain[1]:.1f} | {milliseconds:.1f} | '
            f'{milliseconds / plain[1]:.2f} | {sizes} | {seconds:.0f} |',
            flush=True,
        )


def main() -> None:
    """Export the models and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*SMALL, *LARGE]
    parser.add_argument(
        '--models', nargs='+', choices=known, default=list(SMALL), metavar='NAME', help=', '.join(known)
    )
    parser.add_argument('--formats', nargs='+', choices=('onnx', 'pt2'), default=['onnx', 'pt2'])
    parser.add_argument('--images', type=positive, default=40)
    parser.add_argument('--iterations', type=positive, default=60, help='of training; one epoch where epochs count')
    args = parser.parse_args()
    torch.set_num_threads(1)
    print('| model | format | agreement | MB checkpoint | MB file | ms PyTorch | ms file | ratio | sizes | s export |')
    print('|---|---|---|---|---|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as folder:  # one: mmengine keeps the writer of the first run
        for name in args.models:
            report(name, args, folder)


if __name__ == '__main__':
    main()
