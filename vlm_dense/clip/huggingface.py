"""Text models of the library transformers in open_clip's models, with prompts given as embeddings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from open_clip.hf_model import HFTextEncoder
from torch import Tensor, nn

from vlm_dense.errors import ConfigError


class HuggingFaceBlocks(nn.Module):
    """Blocks and pooler of open_clip's ``HFTextEncoder``, without its table of tokens.

    Padding is masked in these models, so a batch is cut to its longest text.

    Args:
        source: The encoder; its modules are taken, not copied.

    Attributes:
        padding: Id of padding.
        positions: The most tokens of a text.

    Raises:
        ConfigError: A model of transformers in which the blocks are not found.
    """

    def __init__(self, source: HFTextEncoder):
        super().__init__()
        config = source.config
        self.model, self.pooler, self.padding = source.transformer, source.pooler, config.pad_token_id
        self.model.set_input_embeddings(None)  # tokens come as embeddings
        self.positions = (getattr(config, 'max_position_embeddings', None) or 514) - 2  # RoBERTa's begin at 2
        owner = getattr(self.model, 'encoder', self.model)
        lists = [getattr(owner, name, None) for name in ('layer', 'layers', 'block')]
        if not any(isinstance(each, nn.ModuleList) for each in lists):
            raise ConfigError(
                f'the text tower is a {type(self.model).__name__} of transformers, in which no list of blocks was '
                'found. Choose an architecture of open_clip with RoBERTa, XLM-R, mT5 or NLLB.'
            )

    @property
    def resblocks(self) -> nn.ModuleList:
        """The blocks."""
        owner = getattr(self.model, 'encoder', self.model)
        return next(each for name in ('layer', 'layers', 'block') if (each := getattr(owner, name, None)) is not None)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.model.parameters()).dtype

    @torch.compiler.disable  # the hooks; transformers compiles its models by itself
    def forward(
        self, x: Tensor, lengths: Tensor, edit: Callable[[Tensor, int], Tensor] | None = None, every: bool = False
    ) -> Tensor:
        """Pooled features (N, width) of tokens (N, T, width) without positions.

        Args:
            x: The tokens.
            lengths: Tokens of each text, (N,); what follows is masked.
            edit: Function of the hidden states (N, L, width) and the index of a block, applied in front of each.
            every: All tokens (N, L, width) instead of the pooled ones.
        """
        length = x.shape[1] if every else int(lengths.max())
        mask = (torch.arange(length) < lengths.cpu()[:, None]).long().to(x.device)
        hooks = []
        if edit is not None:
            hooks = [
                block.register_forward_pre_hook(partial(_edited, edit=edit, layer=layer))
                for layer, block in enumerate(self.resblocks)
            ]
        try:
            out = self.model(inputs_embeds=x[:, :length], attention_mask=mask)
        finally:
            for hook in hooks:
                hook.remove()
        return out.last_hidden_state if every else self.pooler(out, mask)


def _edited(block: nn.Module, args: tuple, edit: Callable[[Tensor, int], Tensor], layer: int) -> tuple:
    return edit(args[0], layer), *args[1:]
