"""UPL: prompts learned from the labels that CLIP gives to unlabelled images.

"Unsupervised Prompt Learning for Vision-Language Models", arXiv 2204.03649. The labels are those of
``vlm_dense.PseudoLabelDataset``, with one labeller (UPL) or the mean of several (UPL*).

Zero-shot CLIP labels the training images, and for each class its most confident images are kept. Prompts as in
CoOp are trained on these pseudo-labels, several times from different starts, and the logits of all runs are
averaged. UPL* takes the labels from several CLIP models together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import TextPrompt
from vlm_dense.contract.roles import Loss, Step
from vlm_dense.errors import ConfigError
from vlm_dense.methods.text_prompts.coop import CoOpPrompt
from vlm_dense.registry import MODELS

PAPER = dict(
    name='UPL',
    title='Unsupervised Prompt Learning for Vision-Language Models',
    venue='arXiv 2022',
    link='https://arxiv.org/abs/2204.03649',
    code='https://github.com/tonyhuang2022/UPL',
    licence='none',
    idea=(
        'Zero-shot CLIP labels images that nobody has labelled; of each class the 16 that it is surest of are kept, '
        "CoOp's prompts are learned on them from several initial vectors, and the mean of their logits classifies. "
        'UPL* takes the mean of the probabilities of several CLIPs as labels.'
    ),
    trains='context vectors of an ensemble, on the labels that zero-shot CLIP gives',
    contract=(
        'unlabelled images, labelled by a data set; V = members of the ensemble, mean of logits; CE on pseudo-labels'
    ),
    variants={
        'upl_star': dict(trains='as upl, on the labels that several CLIPs give together'),
    },
    notes="""
Labels of the training images, where there are any, are not used; the log says how many of the kept labels agree with
them. For a folder of images without labels, take

    dataset=dict(type='vlm_dense.UnlabelledDataset', data_root=DIR, classes=['cat', ...], pipeline=...)

inside `vlm_dense.PseudoLabelDataset`. The members of the ensemble are trained in one run and see the same batches;
the official code trains one after the other, with other shuffles. Checkpoints of the release load with
`text_prompt=dict(pretrained=[FILE of each member])`.

Published figures: see the main table of the paper.
""",
)


@MODELS.register_module()
class UPLPrompt(TextPrompt):
    """An ensemble of CoOp's prompts from different initial vectors; the mean of their logits (section 3.3).

    ``loss=dict(type='vlm_dense.MemberCrossEntropy')`` trains each member as if it were alone, all in one run. They see
    the same batches then, and other ones where the official code trains them one after the other.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        num_members: Number of prompts, 16 in the paper.
        pretrained: Checkpoints of the official release, one of each member.
        **kwargs: ``num_contexts``, ``position``, ``class_specific``, ``std``, see :class:`CoOpPrompt`.

    Raises:
        ConfigError: ``num_members`` below 1, another number of checkpoints, or initial ``words``, from which all
            members would be the same.
        CheckpointError: see :class:`CoOpPrompt`.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        num_members: int = 16,
        pretrained: Sequence[str] | None = None,
        init_cfg: dict | None = None,
        **kwargs: Any,
    ):
        super().__init__(class_names, text_tower, init_cfg)
        if isinstance(pretrained, str) or num_members < 1 or pretrained is not None and len(pretrained) != num_members:
            raise ConfigError(
                'UPLPrompt: num_members must be at least 1 and pretrained a list with a checkpoint of each member; '
                f'found {num_members} and {pretrained!r}.'
            )
        if kwargs.get('words'):
            raise ConfigError('UPLPrompt: members that begin with the same words stay the same. Leave out words.')
        self.num_variants = num_members
        self._at_once = kwargs.get('position', 'end') == 'end' and not kwargs.get('class_specific')
        paths = pretrained or [None] * num_members
        self.members = nn.ModuleList(CoOpPrompt(class_names, text_tower, pretrained=path, **kwargs) for path in paths)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (V, K, D)."""
        if self._at_once:
            return self.members[0].encode(text_tower, torch.stack([member.ctx for member in self.members]), classes)
        return torch.stack([member(text_tower, classes=classes) for member in self.members])


@MODELS.register_module()
class MemberCrossEntropy(Loss):
    """Cross-entropy of each variant of the prompt, summed over them: no member of an ensemble feels the others.

    Raises:
        ConfigError: logits without variants.
    """

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``loss_ce``."""
        if step.variants is None:
            raise ConfigError(
                'MemberCrossEntropy: the logits have no variants. Take a text prompt that has some, as '
                'vlm_dense.UPLPrompt, and a head that leaves them to it, or vlm_dense.CrossEntropy.'
            )
        members = step.variants.shape[1]
        labels = step.labels()[:, None].expand(-1, members)
        return dict(loss_ce=members * F.cross_entropy(step.variants.flatten(0, 1), labels.flatten()))
