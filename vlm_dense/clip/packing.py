"""Where the tokens of causal sequences of several lengths lie when no padding is computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Packing:
    """The places of the tokens of N causal sequences that are put end to end.

    Three sequences of 2, 4 and 1 tokens, padded and packed; ``*`` is padding::

        padded, (3, 4)      packed, (7,)
        a0 a1 *  *          a0 a1 b0 b1 b2 b3 c0
        b0 b1 b2 b3
        c0 *  *  *          rows    0 1 4 5 6 7 8              padded place of each packed token
                            padded  0 1 1 1  2 3 4 5  6 6 6 6  packed token in each padded place
                            starts  0 2 6
                            ends    1 5 6

    Linear layers run over the packed tokens. Attention needs rows of equal length, so keys and values are spread out
    by ``padded`` (the places of padding repeat the last token of their sequence, which no earlier token sees), and its
    result is gathered by ``rows``.

    Attributes:
        rows: (S,) int64, the places of the flattened padded layout (N * longest) that hold tokens.
        padded: (N * longest,) int64, the packed token of each padded place.
        starts: (N,) int64, the packed place of each sequence's first token.
        ends: (N,) int64, the packed place of each sequence's last token.
        visible: (N, 1, 1, P + longest) bool, the keys that a last token sees; the shared prefix of P tokens is first.
    """

    rows: Tensor
    padded: Tensor
    starts: Tensor
    ends: Tensor
    visible: Tensor

    @classmethod
    def of(cls, lengths: Tensor, prefix_length: int, device: torch.device) -> Packing:
        """Plan that leaves out all padding.

        Args:
            lengths: (N,) int64 on the CPU, tokens of each sequence.
            prefix_length: P, tokens of the prefix that all sequences see.
            device: Where the plan is needed.
        """
        longest = int(lengths.max())
        own = (torch.arange(longest) < lengths[:, None]).flatten()
        ends = lengths.cumsum(0) - 1
        visible = torch.arange(prefix_length + longest) < prefix_length + lengths[:, None]
        plan = own.nonzero().squeeze(1), own.cumsum(0) - 1, ends - lengths + 1, ends, visible[:, None, None]
        return cls(*(t.to(device, non_blocking=True) for t in plan))

    @classmethod
    def with_padding(cls, lengths: Tensor, longest: int, prefix_length: int) -> Packing:
        """Plan that leaves nothing out, for ``torch.compile``: its shapes do not depend on the values of ``lengths``.

        Args:
            lengths: (N,) int64 on any device, tokens of each sequence.
            longest: Tokens of each padded sequence.
            prefix_length: P, as in :meth:`of`.
        """
        places = torch.arange(len(lengths) * longest, device=lengths.device)
        starts = torch.arange(len(lengths), device=lengths.device) * longest
        visible = torch.arange(prefix_length + longest, device=lengths.device) < prefix_length + lengths[:, None]
        return cls(places, places, starts, starts + lengths - 1, visible[:, None, None])
