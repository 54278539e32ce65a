"""VP: learned pixels on top of every image.

"Exploring Visual Prompts for Adapting Large-Scale Models", arXiv 2203.17274, section 3.

One perturbation is added to every image: a frame of pixels, or a patch. Only its pixels are trained, by gradients
through the frozen CLIP; prompts and weights stay as they are. Since pixels are all that changes, it would work
through any interface that takes images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.contract.release import load_release
from vlm_dense.contract.roles import ImagePrompt
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='VP',
    title='Exploring Visual Prompts for Adapting Large-Scale Models',
    venue='arXiv 2022',
    link='https://arxiv.org/abs/2203.17274',
    code='https://github.com/hjbahng/visual_prompting',
    licence='MIT',
    idea='A frame of learned pixels around each image.',
    trains='pixels that are added to the image',
    contract='pixels; text of zero_shot; CE',
)


KINDS = ('padding', 'fixed_patch', 'random_patch')


@MODELS.register_module()
class VPPrompt(ImagePrompt, BaseModule):
    """x + P with one P for all images, a frame or a patch (section 3.2); nothing is clipped.

    Args:
        kind: ``'padding'``: a frame; ``'fixed_patch'``: a square at the top left; ``'random_patch'``: that square at
            a place drawn again in every forward pass, in evaluation too, the same for the whole batch.
        prompt_size: p, width of the frame or side of the square, in pixels.
        image_size: S, side of the images.
        pretrained: Checkpoint of the official release.

    Attributes:
        pad_up, pad_down: (1, 3, p, S) of a frame.
        pad_left, pad_right: (1, 3, S - 2p, p) of a frame.
        patch: (1, 3, p, p) of a square.

    Raises:
        ConfigError: an unknown ``kind``, or a size that cannot be.
        DataError: images of another size.
    """

    def __init__(
        self,
        kind: str = 'padding',
        prompt_size: int = 30,
        image_size: int = 224,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if kind not in KINDS:
            raise ConfigError(f'VPPrompt: kind must be one of {KINDS}, found {kind!r}.')
        p, size = prompt_size, image_size
        if p < 1 or (2 * p if kind == 'padding' else p + 1) > size:
            raise ConfigError(f'VPPrompt: a {kind} of {p} px does not fit images of {size} px; lower prompt_size.')
        self.kind, self.prompt_size, self.image_size = kind, p, size
        if kind == 'padding':
            shapes = dict(pad_up=(p, size), pad_down=(p, size), pad_left=(size - 2 * p, p), pad_right=(size - 2 * p, p))
        else:
            shapes = dict(patch=(p, p))
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(1, 3, *shape)))
        load_release(self, pretrained)

    def pattern(self) -> Tensor:
        """P, (1, 3, S, S)."""
        size, p = self.image_size, self.prompt_size
        if self.kind == 'padding':
            inside = self.pad_left.new_zeros(1, 3, size - 2 * p, size - 2 * p)
            return torch.cat([self.pad_up, torch.cat([self.pad_left, inside, self.pad_right], 3), self.pad_down], 2)
        row, column = self.place() if self.kind == 'random_patch' else (0, 0)
        return F.pad(self.patch, (column, size - p - column, row, size - p - row))

    def place(self) -> tuple[int, int]:
        """Row and column of a random patch; the last possible ones are never drawn, as in the official code."""
        row, column = torch.randint(self.image_size - self.prompt_size, (2,)).tolist()
        return row, column

    def prompt(
        self, images: Tensor, text: Tensor | None = None, plain: ImageFeatures | None = None
    ) -> tuple[Tensor, None]:
        """Images with P added, and no tokens."""
        if images.shape[2:] != (self.image_size, self.image_size):
            raise DataError(
                f'VPPrompt was made for images of {self.image_size} x {self.image_size} px, found '
                f'{images.shape[2]} x {images.shape[3]}. Resize the images, or set image_size.'
            )
        return images + self.pattern(), None
