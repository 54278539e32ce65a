"""ProGrad: gradients without the component that conflicts with zero-shot CLIP.

With very few images CoOp forgets what zero-shot CLIP knew. ProGrad compares the gradient of the cross-entropy with
that of a distillation loss to zero-shot CLIP, and where they disagree removes from the first its part along the
second. Only the gradient changes; the loss, the prompt and inference are CoOp's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import LearnedContext, TemplateReference
from vlm_dense.contract.roles import CosineHead, Head
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS, OPTIM_WRAPPERS

PAPER = dict(
    name='ProGrad',
    title='Prompt-aligned Gradient for Prompt Tuning',
    venue='ICCV 2023',
    link='https://arxiv.org/abs/2205.14865',
    code='https://github.com/BeierZhu/Prompt-align',
    licence='MIT',
    idea='CoOp with gradients without the component that would unlearn what zero-shot CLIP knows.',
    trains='context vectors, by gradients that do not unlearn zero-shot CLIP',
    published="11 sets, ViT-B/16, 16 shots, as KgCoOp's authors ran it: base 82.5, new 70.8, mean 76.2",
    contract='template; OptimWrapper that aligns gradients; (K, D); CE; `kl` changes its gradient',
    notes="""
The gradient is changed by the optimiser wrapper `vlm_dense.ProGradOptimWrapper`, with mixed precision
`vlm_dense.ProGradAmpOptimWrapper`; with another one the prompt is refused. Few-shot recipes of the authors: 50 epochs
for 1 shot, 100 for 2 and 4, 200 for 8 and 16; `strength=0.8` for 8 and 16 shots of Flowers, DTD and EuroSAT.

Published, ViT-B/16, 11 sets, 16 shots, as KgCoOp's authors ran it: base 82.48, new 70.75, harmonic mean 76.16.
""",
)


_SCALE = 2.0**10  # of the divergence: half precision would round its gradient to 0; only its direction counts


@MODELS.register_module()
class ProGradPrompt(LearnedContext, Head):
    """CoOp's prompt with its gradient aligned to a hand-written prompt (section 3.2).

    a is the gradient of the task's loss, b that of ``kl``, the cross-entropy of the probabilities at temperature T with
    those of the hand-written prompt, times T^2. Where a and b point apart, a loses ``strength`` times its component
    along b::

        a - strength * <a, b> b / |b|^2     if <a, b> < 0, else a

    ``kl`` itself is never minimised; the log shows it as ``prompt.kl``. The gradient is changed by
    ``optim_wrapper=dict(type='vlm_dense.ProGradOptimWrapper', ...)``, with mixed precision
    ``'vlm_dense.ProGradAmpOptimWrapper'``. Images are compared by a classifier only: in a segmentor or detector this
    is CoOp's prompt.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        template: The hand-written prompt, with ``{}`` for the class name; anywhere, unless the vectors begin with it.
        from_template: Begin with the words of ``template``, the last of the M vectors; those before are 0. As many
            tokens as there are words are taken: of 'a type of pet, a photo of a', where the comma is a token and not a
            word, the last 'a' stays a word. ``False``: random vectors.
        num_contexts: M.
        temperature: T.
        strength: lambda.
        position, class_specific, std: See :class:`LearnedContext`.
        pretrained: Checkpoint of the official release, see :meth:`LearnedContext.load_pretrained`.

    Raises:
        ConfigError: a template without ``{}``; one to begin with that has no words before it, or more than vectors.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        template: str = 'a photo of a {}.',
        from_template: bool = True,
        num_contexts: int = 16,
        temperature: float = 1.0,
        strength: float = 1.0,
        position: str = 'end',
        class_specific: bool = False,
        std: float = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        words, zeros = None, 0
        if from_template:
            words, zeros = self._initial_words(template, num_contexts)
        own = dict(position=position, class_specific=class_specific, std=std, init_cfg=init_cfg)
        super().__init__(class_names, text_tower, num_contexts, words, **own)
        if from_template:
            self.ctx.data[..., :zeros, :] = 0
        self.reference = TemplateReference(self.class_names, text_tower, template, type(self).__name__)
        self.temperature, self.strength = temperature, strength
        self.direction: Tensor | None = None
        self._compared: tuple[Tensor, Tensor] | None = None
        self.load_pretrained(pretrained)

    @staticmethod
    def _initial_words(template: str, num_contexts: int) -> tuple[str, int]:
        """As many words as there are vectors, the last of them those of the template, and how many are not."""
        words, found, _ = template.partition(' {}')
        zeros = num_contexts - len(words.split())
        if not found or zeros < 0:
            raise ConfigError(
                f'ProGradPrompt: expected a template of at most {num_contexts} words, as many as there are vectors, '
                f'and then {{}} for the class name; found {template!r}. Take from_template=False, '
                'or change num_contexts.'
            )
        return ' '.join([*['X'] * zeros, words]), zeros

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D)."""
        if self.training:
            self.reference(text_tower, classes)
        return super().forward(text_tower, image_features, classes)

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """(B, K), the scaled cosines; in training those of the hand-written prompt are kept beside them."""
        found = CosineHead.logits(self, features, text, logit_scale)
        if self.training:
            with torch.no_grad():
                self._compared = found, CosineHead.logits(self, features, self.reference.embeddings, logit_scale)
        return found

    def losses(self, class_embeddings: Tensor) -> dict[str, Tensor]:
        """``kl``, which is not minimised, where images were compared; its gradient is added to ``direction``."""
        if self._compared is None:
            return {}
        (logits, written), self._compared = self._compared, None
        if not torch.is_grad_enabled():
            return dict(kl=self.divergence(logits, written))
        with torch.autocast(logits.device.type, enabled=False):
            kl = self.divergence(logits, written)
            (found,) = torch.autograd.grad(_SCALE * kl, self.ctx, retain_graph=True)
        self.direction = found if self.direction is None else self.direction + found
        return dict(kl=kl.detach())

    def divergence(self, logits: Tensor, written: Tensor) -> Tensor:
        """``kl``, scalar, of logits (B, K) and those of the hand-written prompt."""
        return self.temperature**2 * F.cross_entropy(
            logits / self.temperature, (written / self.temperature).softmax(dim=1)
        )

    def align(self, gradient: Tensor) -> Tensor:
        """Another gradient of the vectors instead of ``gradient``; ends the sum of ``direction``.

        With several processes both are means over them.
        """
        direction, self.direction = self.direction, None
        if direction is None:
            return gradient
        all_reduce(direction, 'mean')
        unit = direction.float() / direction.float().norm().clamp(min=torch.finfo(torch.float32).tiny)
        along = (gradient.float() * unit).sum()
        return gradient - (self.strength * along.clamp(max=0) * unit).to(gradient.dtype)

    def meet_optim_wrapper(self, optim_wrapper: OptimWrapper) -> None:
        """Make the optimiser wrapper align the gradient.

        Raises:
            ConfigError: it is one that does not.
        """
        if not isinstance(optim_wrapper, _Aligned):
            raise ConfigError(
                f'ProGradPrompt: {type(optim_wrapper).__name__} does not align gradients, so that this would be CoOp. '
                'Use optim_wrapper=dict(type="vlm_dense.ProGradOptimWrapper", ...), with mixed precision '
                '"vlm_dense.ProGradAmpOptimWrapper" in the config and not --amp.'
            )
        optim_wrapper.aligned = [*optim_wrapper.aligned, self]


class _Aligned:
    """Mixin of optimiser wrappers that align gradients before they are clipped and momentum is added.

    Attributes:
        aligned: :class:`ProGradPrompt` with the changed gradients.
    """

    aligned: Sequence[ProGradPrompt] = ()

    def step(self, **kwargs: Any) -> None:
        """Align, and step."""
        for prompt in self.aligned:
            if prompt.ctx.grad is not None:
                prompt.ctx.grad = prompt.align(prompt.ctx.grad)
        super().step(**kwargs)


@OPTIM_WRAPPERS.register_module()
class ProGradOptimWrapper(_Aligned, OptimWrapper):
    """mmengine's ``OptimWrapper``; the gradient of a :class:`ProGradPrompt` is aligned first."""


@OPTIM_WRAPPERS.register_module()
class ProGradAmpOptimWrapper(_Aligned, AmpOptimWrapper):
    """mmengine's ``AmpOptimWrapper``; the gradient of a :class:`ProGradPrompt` is aligned first."""
