"""A second encoder for tests of SVL-Adapter."""

from __future__ import annotations

import torch


class TinyEncoder(torch.nn.Module):
    """Mean colours through a linear map, (B, 3, H, W) -> (B, 4)."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.map = torch.nn.Linear(3, self.num_features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (B, 4)."""
        return self.map(images.mean(dim=(2, 3)))
