"""WiSE-FT: a fine-tuned model and its zero-shot beginning, mixed weight by weight.

"Robust fine-tuning of zero-shot models", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.errors import CheckpointError, ConfigError
from vlm_dense.methods.prepared import Prepared
from vlm_dense.methods.roles import Head
from vlm_dense.registry import MODELS


@MODELS.register_module()
class WiSEFTHead(Prepared, Head, BaseModule):
    """``W n(f) + b`` of the unit feature; begins as class embeddings times CLIP's temperature and 0 (section 3).

    ``PrepareHook`` takes the beginning from the classifier's text prompt, that is from any hand-written ensemble.

    Args:
        class_names, image_tower: The classifier's; give K and D.

    Attributes:
        weight, bias: W (K, D) and b (K,); ``classification_head.*`` of the release.
    """

    text = False

    def __init__(self, class_names: Sequence[str], image_tower: ImageTower):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(class_names), image_tower.embed_dim))
        self.bias = nn.Parameter(torch.zeros(len(class_names)))

    @torch.no_grad()
    def prepare(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Begin with the zero-shot classifier; no data are read."""
        directions = model.text_prompt.directions(model.class_embeddings().float())
        self.weight.copy_(model.text_encoder.logit_scale.exp() * directions)
        self.bias.zero_()
        self.prepared = True

    def logits(self, features: ImageFeatures, text: None, logit_scale: Tensor) -> Tensor:
        """(B, K)."""
        self.check_prepared()
        return F.linear(F.normalize(features.global_, dim=-1), self.weight, self.bias)


def interpolate(
    zero_shot: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    alpha: float,
    fishers: Sequence[Mapping[str, Tensor]] | None = None,
    floor: float = 1e-8,
) -> dict[str, Tensor]:
    """``(1 - alpha) * zero_shot + alpha * tuned`` for every entry of two state dicts (section 4).

    With Fisher information F of both models, entries are weighted by ``(1 - alpha) max(F_0, floor)`` and
    ``alpha max(F_1, floor)`` in place of that; entries without it by 1 - alpha and alpha.

    Args:
        zero_shot, tuned: State dicts of the same names and shapes.
        alpha: 0 to 1.
        fishers: (F_0, F_1), name -> tensor.
        floor: See above.

    Returns:
        The mixture, in the dtypes of ``tuned``; integers are rounded down.

    Raises:
        ConfigError: alpha outside of 0 to 1.
        CheckpointError: the state dicts differ in names, or only one of the Fishers has an entry.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f'WiSE-FT: alpha must lie between 0 and 1, found {alpha}.')
    before, after = fishers or ({}, {})
    for what, one, other in (('state dicts', zero_shot, tuned), ('Fisher information', before, after)):
        lonely = sorted(set(one) ^ set(other))
        if lonely:
            raise CheckpointError(
                f'WiSE-FT: {len(lonely)} entries are in one of the two {what} only, first {lonely[0]}. Take both from '
                'the same architecture.'
            )
    mixed = {}
    for key, value in tuned.items():
        start, weights = zero_shot[key].to(value.device).float(), (1 - alpha, alpha)
        if key in before:
            fisher = (f[key].to(value.device).clamp(min=floor) for f in (before, after))
            weights = [weight * f for weight, f in zip(weights, fisher, strict=True)]
        total = weights[0] + weights[1]
        mixed[key] = ((weights[0] * start + weights[1] * value.float()) / total).to(value.dtype)
    return mixed


def from_release(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the official ``ImageClassifier`` under the names of a classifier here.

    Entries of the text side, which the official code keeps and never trains, are left out. The official checkpoint is a
    pickled module; its ``state_dict()`` has to be saved where its code is installed.
    """
    ours = {'image_encoder.model.visual.': 'backbone.', 'classification_head.': 'head.'}
    return {
        new + key.removeprefix(old): value
        for key, value in weights.items()
        for old, new in ours.items()
        if key.startswith(old)
    }
