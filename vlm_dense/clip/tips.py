"""TIPSv2: architectures, text tower and weights as its release has them.

"TIPSv2: Advancing Vision-Language Pretraining with Enhanced Patch-Text Alignment", CVPR 2026, arXiv 2604.12012. The
image tower is timm's, see :class:`vlm_dense.clip.tips_vit.TIPSViT`; both towers have one width, which is the joint
space, and no projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from open_clip.transformer import LayerNorm, Transformer
from torch import Tensor, nn

from vlm_dense.clip.blocks import Blocks


def _config(trunk: str, width: int, heads: int, layers: int = 12, mlp: int | None = None) -> dict:
    return dict(
        embed_dim=width,
        vision_cfg=dict(
            image_size=448,
            timm_model_name=f'vit_{trunk}_patch14_reg1_tipsv2',
            timm_model_pretrained=False,
            timm_pool='token',
            timm_proj='none',
        ),
        text_cfg=dict(
            tips=True,
            context_length=64,
            vocab_size=32000,
            width=width,
            heads=heads,
            layers=layers,
            mlp=mlp or 4 * width,
        ),
    )


ARCHITECTURES = {
    'TIPSv2-B-14': _config('base', 768, 12),
    'TIPSv2-L-14': _config('large', 1024, 16),
    'TIPSv2-SO-14': _config('so400m', 1152, 16, 27, 4304),
    'TIPSv2-g-14': _config('giant', 1536, 24),
}
"""Name -> config, in open_clip's form but for the text tower."""


def is_tips(config: Mapping) -> bool:
    """Whether an architecture's config is one of TIPSv2."""
    return bool(config['text_cfg'].get('tips'))


def sinusoids(length: int, width: int) -> Tensor:
    """Positions (length, width) of TIPSv2's texts: sines of all frequencies, then cosines."""
    frequencies = torch.exp(torch.arange(width // 2) * (-math.log(10000) / max(width // 2 - 1, 1)))
    angles = torch.arange(length)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TIPSText(nn.Module):
    """Weights of TIPSv2's text tower under the names of its release; :class:`TIPSBlocks` computes with them.

    Args:
        context_length: The most tokens of a text; positions are no weights.
        vocab_size, width, heads, layers: As in open_clip.
        mlp: Hidden channels of the MLPs.
        tips: Marks the config.
    """

    def __init__(
        self, context_length: int, vocab_size: int, width: int, heads: int, layers: int, mlp: int, tips: bool = True
    ):
        super().__init__()
        self.context_length = context_length
        self.token_embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.token_embedding.weight, std=width**-0.5)  # their factor makes it 1
        self.transformer = Transformer(
            width, layers, heads, mlp_ratio=mlp / width, act_layer=nn.ReLU, norm_layer=LayerNorm
        )
        self.ln_final = LayerNorm(width)


class TIPSBlocks(nn.Module):
    """TIPSv2's text tower without its table of tokens: factor and positions, blocks, norm and mean.

    Padding is masked, so a batch is cut to its longest text.

    Args:
        source: The weights; its modules are taken, not copied.

    Attributes:
        padding: Id of padding.
        positions: The most tokens of a text.
    """

    padding = 0

    def __init__(self, source: TIPSText):
        super().__init__()
        self.positions = source.context_length
        self.resblocks = Blocks(source.transformer).resblocks
        self.ln_final = source.ln_final
        width = source.token_embedding.embedding_dim
        self.factor = math.sqrt(width)
        self.register_buffer('table', sinusoids(self.positions, width), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.ln_final.weight.dtype

    def forward(
        self, x: Tensor, lengths: Tensor, edit: Callable[[Tensor, int], Tensor] | None = None, every: bool = False
    ) -> Tensor:
        """Means (N, width) of tokens (N, T, width), which are embeddings without their factor and positions.

        Args:
            x: The tokens.
            lengths: Tokens of each text, (N,); what follows is masked.
            edit: Function of the hidden states (N, L, width) and the index of a block, applied in front of each.
            every: All tokens (N, L, width) instead of their mean.
        """
        length = x.shape[1] if every or torch.compiler.is_compiling() else int(lengths.max())
        x = x[:, :length] * self.factor + self.table[:length].to(x.dtype)
        visible = torch.arange(length, device=x.device) < lengths.to(x.device)[:, None]
        for layer, block in enumerate(self.resblocks):
            x = block(x if edit is None else edit(x, layer), attn_mask=visible[:, None, None])
        x = self.ln_final(x)
        if every:
            return x
        weights = visible.to(x.dtype)
        return (weights[..., None] * x).sum(1) / (weights.sum(1, keepdim=True) + 1e-8)


def converted(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a release file, of images or of texts, under the names that towers load.

    The keys begin with ``visual.trunk.`` as timm names them, or with ``text.``; the temperature becomes
    ``logit_scale``. Files of timm's own weights and whole state dicts are taken as well.
    """
    found = dict(state_dict)
    if any(key.startswith(('visual.', 'text.')) for key in found):
        return found
    if 'token_embedding.weight' in found:
        temperature = found.pop('temperature', None)
        texts = {f'text.{key}': value for key, value in found.items()}
        return texts if temperature is None else texts | dict(logit_scale=-temperature.float().log())
    for key in [key for key in found if key.split('.')[0] in ('mask_token', 'head')]:
        del found[key]
    if 'register_tokens' in found:
        table = found.pop('pos_embed')
        found['cls_token'] = found['cls_token'] + table[:, :1]
        found.update(pos_embed=table[:, 1:], reg_token=found.pop('register_tokens'))
    names = {key: key.replace('.mlp.w12.', '.mlp.fc1.').replace('.mlp.w3.', '.mlp.fc2.') for key in found}
    return {f'visual.trunk.{names[key]}': value for key, value in found.items()}
