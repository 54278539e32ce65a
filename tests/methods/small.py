"""Small towers and classifiers for tests of prompts."""

from __future__ import annotations

import torch
from tiny_towers import vit

from vlm_dense.registry import MODELS

D = 16
ARCH = vit(embed_dim=D, image_size=16)


def text_tower() -> torch.nn.Module:
    """A frozen tower with random weights, biases included."""
    torch.manual_seed(0)
    tower = MODELS.build(dict(type='vlm_dense.TextTower', arch=ARCH))
    for p in tower.parameters():
        p.data.normal_(float(p.ndim == 1), 0.5)
    return tower


def build_prompt(tower, kind: str, names, **kwargs) -> torch.nn.Module:
    """A text prompt for a tower."""
    torch.manual_seed(1)
    return MODELS.build(
        dict(type=f'vlm_dense.{kind}', **kwargs), default_args=dict(class_names=names, text_tower=tower)
    )


def classifier(names, text_prompt: dict, **parts) -> torch.nn.Module:
    """A classifier on 16 x 16 px with random towers, in eval mode."""
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True),
            text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
            text_prompt=text_prompt,
            class_names=list(names),
            **parts,
        )
    ).eval()
