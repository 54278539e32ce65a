"""Time of a training epoch on features from disk against the same epoch on images, in one run, with equal numbers.

Both ways train the same model by the same steps, without augmentation. On images, as in the official codes, the frozen
image tower sees every image in every epoch. What extraction costs once is told apart.

    python tools/benchmarks/frozen_features.py                          # ViT-B/16 of random weights at 224 px
    python tools/benchmarks/frozen_features.py --arch tiny-rn --images 512 --size 64

Images are drawn scenes. Other programs on the same cores disturb the figures.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from vlm_dense.cli.arguments import positive
from vlm_dense.registry import DATASETS, MODELS

METHODS = {
    'tip_adapter_f': dict(head=dict(type='vlm_dense.TipAdapterF', shots=16, passes=1)),
    'clip_adapter': dict(head=dict(type='vlm_dense.CLIPAdapter')),
    'taskres': dict(text_prompt=dict(type='vlm_dense.TaskRes')),
}


def benchmark(arch: str, images: int, size: int, batch_size: int, epochs: int, say: Callable = print) -> dict:
    """Measure all methods.

    Returns:
        Name -> dict of ``images`` and ``features`` (seconds an epoch), ``speedup`` and ``difference`` (greatest, of
        the losses of both ways, relative).
    """
    scenes = dict(
        type='vlm_dense.ShapesDataset',
        num_scenes=images,
        size=size,
        num_objects=(1, 1),
        pipeline=[dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackClsInputs')],
    )
    plain = DATASETS.build(scenes)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        stored = DATASETS.build(dict(type='vlm_dense.FeatureDataset', dataset=scenes, cache_dir=folder))
        for name, parts in METHODS.items():
            model = _classifier(arch, plain.metainfo['classes'], images, parts)
            start = time.perf_counter()
            stored.prepare(model)
            extraction = time.perf_counter() - start
            if hasattr(getattr(model, 'head', None), 'prepare'):
                model.head.prepare(model, dict(support=DataLoader(stored, 256, collate_fn=pseudo_collate)))
            state = {key: value.clone() for key, value in model.state_dict().items()}
            result = {}
            for way, dataset in (('images', plain), ('features', stored)):
                model.load_state_dict(state)
                result[way] = _train(model, DataLoader(dataset, batch_size, collate_fn=pseudo_collate), epochs)
            (slow, one), (fast, other) = result.values()
            difference = max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))
            found[name] = dict(images=slow, features=fast, speedup=slow / fast, difference=difference)
            say(
                f'{name}: {slow:.3f} s an epoch on images, {fast:.4f} s on features, {slow / fast:.0f} times; losses '
                f'differ by {difference:.1e}; features in {extraction:.2f} s'
            )
    return found


def _classifier(arch: str, names, images: int, parts: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    clip = dict(arch=arch, pretrained='bundled' if arch.startswith('tiny') else None)
    tower = dict(type='vlm_dense.CLIPViT', head=True)
    if 'vit' not in arch.lower():
        tower = dict(type='vlm_dense.CLIPResNet', attnpool=True)
    model = dict(
        type='vlm_dense.CLIPClassifier',
        data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor', mean=[120.0] * 3, std=[70.0] * 3),
        backbone=dict(tower, **clip),
        text_encoder=dict(type='vlm_dense.TextTower', **clip),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
        class_names=names,
    )
    model.update(parts)
    if 'shots' in model.get('head', {}):
        model['head'] = dict(model['head'], shots=-(-images // len(names)))  # room for all
    return MODELS.build(model).eval()


def _train(model: torch.nn.Module, loader: DataLoader, epochs: int) -> tuple[float, list[float]]:
    """Median seconds of an epoch, and all losses."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    model.train()
    seconds, losses = [], []
    for _ in range(epochs):
        start = time.perf_counter()
        for batch in loader:
            batch = model.data_preprocessor(batch, True)
            total, _ = model.parse_losses(model(**batch, mode='loss'))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            losses.append(total.item())
        seconds.append(time.perf_counter() - start)
    model.eval()
    return statistics.median(seconds), losses


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--arch', default='ViT-B-16')
    parser.add_argument('--images', type=positive, default=64)
    parser.add_argument('--size', type=positive, default=224)
    parser.add_argument('--batch-size', type=positive, default=32)
    parser.add_argument('--epochs', type=positive, default=2)
    benchmark(**vars(parser.parse_args()))


if __name__ == '__main__':
    main()
