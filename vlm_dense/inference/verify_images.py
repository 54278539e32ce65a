"""Predictions for images, for :mod:`vlm_dense.inference.verify`: names of drawn shapes, and MaskCLIP's maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mmcv
import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.clip.image_tower import ImageTower
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.datasets.scenes import SHAPES, draw_scene
from vlm_dense.inference.maskclip_models import maskclip_config
from vlm_dense.inference.seg_inferencer import SegInferencer
from vlm_dense.methods.text_prompts import ZeroShotPrompt

SCENES = 64
NAMES = ('empty background', *SHAPES)


def drawn_images(number: int, side: int, tower: ImageTower) -> tuple[Tensor, Tensor]:
    """Scenes (N, 3, H, W) of one object, normalised as the tower wants them, and its shape (N,), int64."""
    scenes = [draw_scene(f'verify {index}', (side, side), (1, 1)) for index in range(number)]
    images = torch.stack([torch.from_numpy(scene.image) for scene in scenes]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(getattr(tower.preprocessing, name))[:, None, None] for name in ('mean', 'std'))
    return (images - mean) / std, torch.tensor([int(scene.shapes[0]) for scene in scenes])


@torch.no_grad()
def drawn_accuracy(image_tower: ImageTower, text_tower: TextTower, side: int) -> tuple[int, int]:
    """Numbers of correctly classified and of all drawn shapes, zero-shot.

    Args:
        image_tower, text_tower: In eval mode.
        side: Of the images.
    """
    images, labels = drawn_images(SCENES, side, image_tower)
    prompt = ZeroShotPrompt(SHAPES, text_tower, templates=('a photo of a {}.', 'a drawing of a {}.'))
    features = torch.cat([image_tower.encode(part, ('global',)).global_ for part in images.split(8)])
    found = (F.normalize(features, dim=-1) @ prompt(text_tower).T).argmax(dim=1)
    return int((found == labels).sum()), len(labels)


def paint(
    arch: str | dict, pretrained: str, images: Sequence[str] | None, classes: Sequence[str] | None, out: Path
) -> list[Path]:
    """Segment images by MaskCLIP and save them with the masks on top; returns the files.

    Args:
        arch, pretrained: Of the CLIP.
        images: Files or folders; default: two drawn scenes.
        classes: What the images may show; default: the shapes of drawn scenes.
        out: Folder.
    """
    if not images:
        out.mkdir(parents=True, exist_ok=True)
        images = [str(out / f'scene{index}.png') for index in (1, 2)]
        for path in images:
            mmcv.imwrite(draw_scene(path.rpartition('/')[2], (384, 512)).image[..., ::-1], path)
    inferencer = SegInferencer(maskclip_config(arch, pretrained), show_progress=False)
    files = inferencer(list(images), classes=list(classes or NAMES), out_dir=str(out))['files']
    return [Path(each['vis']) for each in (files if isinstance(files, list) else [files])]
