"""TCP: tokens computed from the text feature of each class, in a middle block of the text tower.

A shared context is independent of the classes, and a context of its own for each class does not carry over to new
ones. TCP computes prompt tokens from the frozen text feature of each class by a small network and puts them into a
middle block of the text tower. For new names the same network makes new tokens; KgCoOp's penalty is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import LearnedContext, TemplateReference
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='TCP',
    title='TCP: Textual-based Class-aware Prompt tuning for Visual-Language Model',
    venue='CVPR 2024',
    link='https://arxiv.org/abs/2311.18231',
    code='https://github.com/htyao89/Textual-based_Class-aware_prompt_tuning',
    licence='MIT',
    idea=(
        'A network makes tokens of the text feature of each class and puts them into a middle block of the text '
        'tower; the learned embeddings are held near hand-written ones. For new class names the same network makes '
        'new tokens.'
    ),
    trains='context vectors and a network that makes tokens of the text feature of each class',
    published='11 sets, ViT-B/16, 16 shots, as others report it: base 84.1, new 75.4, mean 79.5',
    contract='template; `inserted` of the text tower; (K, D); tokens of each class in a middle block; CE + `loss_kg`',
    notes="""
The hand-written `template`, the learned `prompt_template` and the epochs differ between data sets, as in the release:
the `recipes` of tcp_imagenet.py have them, and `tools/compare.py` takes them.

Published, ViT-B/16, 11 sets, 16 shots, as later work reports it: base 84.13, new 75.36, harmonic mean 79.51.
""",
)


@MODELS.register_module()
class TCPPrompt(LearnedContext):
    """CoOp's prompt with the name at the end, its first hidden states replaced by a network, and KgCoOp's loss.

    With t_k the unit embedding of class k in a hand-written prompt, ``Q_k = L2(QuickGELU(L1(t_k)))`` are tokens of the
    class. They replace the hidden states behind [SOS] before block ``block`` of the text tower (section 3.3), so that
    the context acts on the other tokens in the blocks before. ``loss_kg = weight * (1 - mean_k cos(w_k, t_k))``.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        template: The hand-written prompt of t, with ``{}`` for the class name.
        prompt_template: The prompt that is learned; its first words are those that the vectors replace. Both differ
            between data sets, as 'a photo of an aircraft {}.' and 'X X X X {}, a type of aircraft.'
        words: Initial words of the vectors; ``None`` for random ones.
        num_contexts: M.
        num_class_tokens: Tokens of a class.
        block: Counted from 0.
        weight: Of the loss.
        reduction: The network's inner width is D // ``reduction``.
        std: See :class:`LearnedContext`.
        pretrained: Checkpoint of the official release, see :meth:`LearnedContext.load_pretrained`.

    Attributes:
        ctx: (M, d).
        meta_net: L1, QuickGELU and L2.

    Raises:
        ConfigError: a template without ``{}``, initial words of fewer than M tokens, or a block or a number of tokens
            that the text tower does not have.
    """

    shared_states = False

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        template: str = 'a photo of a {}.',
        prompt_template: str = 'X X X X {}.',
        words: str | None = None,
        num_contexts: int = 4,
        num_class_tokens: int = 4,
        block: int = 8,
        weight: float = 8.0,
        reduction: int = 4,
        std: float = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        for each in (template, prompt_template):
            if each.count('{}') != 1:
                raise ConfigError(f'TCPPrompt: a template needs one {{}} for the class name, found {each!r}.')
        before, _, ending = prompt_template.partition('{}')
        own = dict(num_contexts=num_contexts, words=before, ending=ending, init_cfg=init_cfg)
        super().__init__(class_names, text_tower, **own)
        blocks = len(text_tower.blocks)
        if not 0 <= block < blocks or num_class_tokens < 1:
            raise ConfigError(
                f'TCPPrompt: block must lie between 0 and {blocks - 1}, the last of the text tower, and '
                f'num_class_tokens must be at least 1; found {block} and {num_class_tokens}.'
            )
        self.ctx.data.copy_(self._initial(text_tower, words, std))
        self.reference = TemplateReference(self.class_names, text_tower, template, type(self).__name__)
        inner, outer = text_tower.embed_dim // reduction, num_class_tokens * text_tower.width
        layers = dict(linear1=nn.Linear(text_tower.embed_dim, inner), gelu=QuickGELU(), linear2=nn.Linear(inner, outer))
        self.meta_net = nn.Sequential(OrderedDict(layers))
        self.num_class_tokens, self.block, self.weight = num_class_tokens, block, weight
        self.load_pretrained(pretrained)

    def _initial(self, text_tower: TextTower, words: str | None, std: float) -> Tensor:
        if words is None:
            return std * torch.randn_like(self.ctx)
        own = text_tower.tokenizer.own(words.replace('_', ' '))
        if len(own) < self.num_contexts:
            raise ConfigError(
                f'TCPPrompt: {self.num_contexts} vectors cannot begin as the {len(own)} tokens of {words!r}.'
            )
        return text_tower.embed(torch.tensor(own[: self.num_contexts])).detach()

    def encode(
        self,
        text_tower: TextTower,
        context: Tensor,
        classes: Tensor | None = None,
        deep: Tensor | None = None,
        inserted: tuple[int, Tensor] | None = None,
    ) -> Tensor:
        """Class embeddings, see :meth:`LearnedContext.encode`; by default the tokens of the classes are inserted."""
        if inserted is None:
            inserted = self.block, self.class_tokens(text_tower, classes)
        return super().encode(text_tower, context, classes, deep, inserted)

    def class_tokens(self, text_tower: TextTower, classes: Tensor | None = None) -> Tensor:
        """Q of the classes (k,), default all: (k, number of tokens, d)."""
        return self.meta_net(self.reference(text_tower, classes)).unflatten(1, (self.num_class_tokens, -1))

    def losses(self, class_embeddings: Tensor) -> dict[str, Tensor]:
        """``loss_kg``, over all classes, of the class embeddings w (K, D) of this iteration."""
        cosines = F.cosine_similarity(class_embeddings.float(), self.reference.embeddings, dim=-1)
        return dict(loss_kg=self.weight * (1 - cosines.mean()))
