"""Kinds of text towers: which tokens see each other, what is read, and which shortcuts are therefore exact."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from open_clip.hf_model import HFTextEncoder
from torch import nn

from vlm_dense.clip.tips import TIPSText
from vlm_dense.errors import ConfigError


@dataclass(frozen=True)
class TextKind:
    """How a text tower reads its tokens.

    ============================ ======== =================== ================
    towers                       causal   reads               ends
    ============================ ======== =================== ================
    CLIP, PE-Core                yes      ``'end'``           ``'largest'``
    worldwide (XLM-V, mT5)       yes      ``'end'``           its ``end_id``
    CoCa                         yes      ``'class token'``   ``'largest'``
    MobileCLIP (S, L)            no       ``'end'``           ``'largest'``
    SigLIP, CLIPA                no       ``'last'``          ``'tokenizer'``
    Hugging Face, TIPSv2         no       ``'pooler'``        ``'padding'``
    ============================ ======== =================== ================

    Attributes:
        causal: A token sees those before it only.
        reads: What the class embedding is made of: the token that ends the text, the last position of the context, a
            class token behind it, or what the tower's own pooler makes of all tokens.
        ends: Token that ends a text: that of the largest id of the row, the first of an id, the first of the id that
            the tokenizer ends with, or the last before the padding.
    """

    causal: bool
    reads: str
    ends: str | int = 'largest'

    @cached_property
    def shares(self) -> bool:
        """What follows the end changes nothing, so tokens behind it are not computed, and a shared prefix once."""
        return self.causal and self.reads == 'end'

    @cached_property
    def full(self) -> bool:
        """Tokens behind the end are read as well: the context is always full, with the tokenizer's own padding."""
        return not self.causal and self.reads != 'pooler'


def kind_of(text: nn.Module) -> TextKind:
    """Kind of an open_clip ``CLIP``, or of the text tower of a ``CustomTextCLIP`` or ``CoCa``.

    Raises:
        ConfigError: It is of none of the kinds.
    """
    if isinstance(text, (HFTextEncoder, TIPSText)):
        return TextKind(causal=False, reads='pooler', ends='padding')
    if getattr(text, 'cls_emb', None) is not None:
        return TextKind(causal=True, reads='class token')
    pool = getattr(text, 'pool_type', None) or getattr(text, 'text_pool_type', None)
    causal = getattr(text, 'attn_mask', None) is not None
    reads = dict(argmax='end', eos='end', last='last').get(pool)
    if reads is None or (reads == 'last' and causal) or getattr(text, 'use_pad_mask', False):
        raise ConfigError(
            f'expected a text tower that is read at the end of the text (pool_type argmax or eos), at the last '
            f'position (last, not causal), or at a class token (embed_cls), found {type(text).__name__} with '
            f'pool_type={pool!r}{", causal" if causal else ""}. Choose an architecture of open_clip such as ViT-B-16.'
        )
    eos = getattr(text, 'eos_id', None) or getattr(text, 'text_eos_id', None)
    return TextKind(causal, reads, dict(argmax='largest', eos=eos, last='tokenizer')[pool])
