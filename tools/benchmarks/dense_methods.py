"""MaskCLIP's successors against the order of computation of their released code; see dense_inference.py --methods."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import vlm_dense

vlm_dense.setup()  # before others import mmseg
import torch
import torch.nn.functional as F
from mmengine import ConfigDict
from mmengine.registry import init_default_scope
from mmseg.structures import SegDataSample
from torch import Tensor

from vlm_dense.engine.configs.files import load_config
from vlm_dense.engine.runner.memory import PeakMemory
from vlm_dense.methods.dense import LPOSS
from vlm_dense.methods.maskclip import MaskCLIP
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.pamr import PAMR
from vlm_dense.vocabulary.class_names import read_class_names

BASES = Path(__file__).parents[2] / 'configs' / '_base_' / 'models'
METHODS = ('maskclip-windows', 'sclip', 'clearclip', 'naclip', 'sc_clip', 'resclip', 'proxyclip', 'lposs')
KINDS = ('official', 'ours')


def build(method: str, arch: str, names: list[str]) -> MaskCLIP:
    """A method with its published settings, random weights, and one sentence a name."""
    init_default_scope('mmseg')
    cfg = load_config(str(BASES / f'{method}_vit-b16.py')).model
    for part in (cfg.backbone, cfg.text_encoder):
        part.update(arch=arch, pretrained=None)
    for proxy in (cfg.get('proxy'), cfg.backbone.get('dense_attention', {}).get('proxy')):
        if proxy:
            proxy.pretrained = False
    cfg.text_prompt = dict(type='vlm_dense.ZeroShotPrompt')
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(cfg, class_names=names)).requires_grad_(False).eval()


def text_of(model: MaskCLIP) -> Tensor:
    """Embeddings (N, D) of the names by the plain text tower, 77 tokens a name."""
    head, tower = model.decode_head, model.decode_head.text_encoder
    ids = head.text_prompt.token_ids
    x = tower.embed(ids) + tower.positional_embedding[: ids.shape[1]]
    mask = torch.full((ids.shape[1],) * 2, float('-inf')).triu_(1)
    for block in tower.transformer.resblocks:
        x = block(x, attn_mask=mask)
    return tower.ln_final(x)[torch.arange(len(x)), tower.find_eot(ids)] @ tower.text_projection


def official(model: MaskCLIP, image: Tensor) -> tuple[Tensor, float]:
    """Labels (H, W) of an image (1, 3, H, W), and the CPU seconds of the text.

    Text for the image; windows one by one, each enlarged and padded to the canvas before it is added; all maps at full
    size, resized once more, refined, softmax, maximum over the names of a class, argmax.
    """
    start = time.process_time()
    text = text_of(model)
    seconds = time.process_time() - start
    model.decode_head.embed_classes = lambda *_: text
    size, boxes = image.shape[2:], model._windows(*image.shape[2:])
    if isinstance(model, LPOSS):
        maps = _official_graph(model, image, boxes)
    else:
        maps = [model.window_map(image[:, :, y1:y2, x1:x2]) for y1, y2, x1, x2 in boxes]
    cosines = F.interpolate(_canvas(maps, boxes, size), tuple(size), mode='bilinear', align_corners=False)[0]
    del model.decode_head.embed_classes
    if isinstance(model, LPOSS):
        return cosines.argmax(dim=0), seconds
    found = model.class_maps(cosines[None])
    for step in model.postprocess.steps:
        if isinstance(step, PAMR):
            found.values = step.on(image[0])(found.values[0])[None]
        found = step.refine(found)
    return found.decided[0], seconds


def _canvas(maps: list[Tensor], boxes: list[tuple], size: torch.Size) -> Tensor:
    (height, width), canvas, counts = size, 0, torch.zeros(1, 1, *size, device=maps[0].device)
    for one, (y1, y2, x1, x2) in zip(maps, boxes, strict=True):
        one = F.interpolate(one, (y2 - y1, x2 - x1), mode='bilinear', align_corners=False)
        canvas = canvas + F.pad(one, (x1, width - x2, y1, height - y2))
        counts[:, :, y1:y2, x1:x2] += 1
    return canvas / counts


def _official_graph(model: LPOSS, image: Tensor, boxes: list[tuple]) -> list[Tensor]:
    """LPOSS: all affinities at once, and the system solved name by name."""
    features = torch.cat([model.both_features(image[:, :, y1:y2, x1:x2]) for y1, y2, x1, x2 in boxes])
    shapes = [features.shape[2:]] * len(boxes)
    nodes = features.permute(0, 2, 3, 1).flatten(0, 2)
    clip, proxy = nodes.split([model.backbone.embed_dim, nodes.shape[1] - model.backbone.embed_dim], dim=1)
    model.nearest = lambda rows: tuple((rows @ rows.T).topk(min(model.k, len(rows)), dim=1))
    graph = model.graph(proxy, model.places(boxes, shapes, proxy.device))
    del model.nearest
    cosines = model.name_cosines(clip)
    found = [model.solve(lambda x: torch.sparse.mm(graph, x), y[:, None]) for y in cosines.T]
    found = torch.cat(found, dim=1).view(len(boxes), *features.shape[2:], -1)
    return [one.permute(2, 0, 1)[None] for one in found]


def ours(model: MaskCLIP, image: Tensor) -> tuple[Tensor, float]:
    """Labels (H, W) as the model gives them; its text is encoded before."""
    sample = SegDataSample(metainfo=dict(img_shape=tuple(image.shape[2:]), ori_shape=tuple(image.shape[2:])))
    return model.predict(image, [sample])[0].pred_sem_seg.data[0], 0.0


@torch.no_grad()
def measure(method: str, kind: str, arch: str, size: tuple[int, int], classes: list[int], repeats: int, queue) -> None:
    """Put (K, CPU seconds, those of the text in it, peak MB, labels) into the queue for each number of classes."""
    torch.set_num_threads(1)
    names = [names[0] for names in read_class_names('coco-stuff171')]
    model = build(method, arch, names[: max(classes)])
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    run: Callable = official if kind == 'official' else ours
    for number in classes:
        model.set_class_names(names[:number])
        if kind == 'ours':
            model.decode_head.embed_classes()
        memory, found = PeakMemory().start(), []
        for _ in range(repeats):
            start = time.process_time()
            labels, text = run(model, image)
            found.append((time.process_time() - start, text))
        seconds, text = (statistics.median(column) for column in zip(*found, strict=True))
        peak = None if memory.peak is None else memory.peak - memory.before
        queue.put((number, seconds, text, peak, labels.to(torch.int32).numpy()))


def compare(methods: list[str], arch: str, size: tuple[int, int], classes: list[int], repeats: int) -> None:
    """Measure each method in both ways, one process at a time, and print a table."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['dense_methods'])
    head = ['method', 'K', 'official s', 'without text', 'ours s', 'times as fast', 'official MB', 'ours MB', 'share']
    print(f'{arch}, one image of {size[1]} x {size[0]} px, CPU seconds, one thread, medians of {repeats};')
    print(f'official: with text, and without it; MB: peak beyond the model\n\n| {" | ".join(head)} | same label |')
    print(f'|{"---|" * (len(head) + 1)}', flush=True)
    for method in methods:
        found = {}
        for kind in KINDS:
            queue = context.SimpleQueue()
            process = context.Process(target=measure, args=(method, kind, arch, size, classes, repeats, queue))
            process.start()
            for _ in classes:
                number, *rest = _get(queue, process)
                found[kind, number] = rest
            process.join()
        for number in classes:
            print(_line(method, number, found['official', number], found['ours', number]), flush=True)


def _get(queue, process):
    while queue.empty():
        process.join(0.2)
        if process.exitcode not in (None, 0):
            raise SystemExit('a worker failed; its error is above')
    return queue.get()


def _line(method: str, number: int, theirs: list, own: list) -> str:
    same = (theirs[3] == own[3]).mean()
    without = theirs[0] - theirs[1]
    memory = ['-', '-', '-']
    if theirs[2] is not None:
        memory = [f'{theirs[2]:.0f}', f'{own[2]:.0f}', f'{own[2] / theirs[2]:.2f}']
    return (
        f'| {method} | {number} | {theirs[0]:.1f} | {without:.1f} | {own[0]:.1f} | {theirs[0] / own[0]:.1f} '
        f'({without / own[0]:.1f}) | {" | ".join(memory)} | {same:.4%} |'
    )
