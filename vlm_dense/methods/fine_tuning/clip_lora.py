"""CLIP-LoRA: low-rank updates of linear maps in both towers, of which no trace is left at test time.

The query, key and value projections of every attention layer in both towers get a trainable update of low rank.
Training minimises plain cross-entropy with one set of hyper-parameters for all data sets and numbers of shots.
Afterwards the updates are merged into the weights, so that inference costs what CLIP costs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from open_clip.modified_resnet import AttentionPool2d
from torch import Tensor, nn

from vlm_dense.clip.blocks import QKV, TransformerBlock
from vlm_dense.clip.image_tower import ImageFeatures, ImageTower, PromptTokens
from vlm_dense.clip.loading import read_nested
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.roles import ImagePrompt
from vlm_dense.errors import CheckpointError, ConfigError
from vlm_dense.methods.text_prompts.zero_shot import ZeroShotPrompt
from vlm_dense.registry import MODELS

PAPER = dict(
    name='CLIP-LoRA',
    title='Low-Rank Few-Shot Adaptation of Vision-Language Models',
    venue='CVPR Workshops 2024',
    link='https://arxiv.org/abs/2405.18541',
    code='https://github.com/MaxZanella/CLIP-LoRA',
    licence='none',
    idea=(
        'Low-rank updates of linear maps in both towers, trained by the cross-entropy alone. They go into the weights '
        'afterwards, so that nothing is slower at test time.'
    ),
    trains='low-rank updates of both towers',
    published='11 sets, ViT-B/16, 16 shots, as others report it: 82.9',
    contract='names of linear maps in both towers; (K, D) of towers with low-rank updates; CE',
    notes="""
The updates work in every task: as `text_prompt=dict(type='vlm_dense.CLIPLoRAPrompt', ...)` those of both towers, as
`image_prompt=dict(type='vlm_dense.LoRA', ...)` those of the image tower beside any text prompt
([denseclip_lora_shapes.py](../denseclip/denseclip_lora_shapes.py)). Regular expressions choose the maps by name, and
one that matches nothing is refused. `merged.pt` is a CLIP in OpenAI's layout, `pretrained='merged.pt'` of both
towers; with `--whole` it is a checkpoint of the whole model, with neck and heads.

peft is not used: queries, keys and values of CLIP's blocks are one packed weight, of which the method updates each
third by factors of its own; peft's layer for packed projections has one pair of factors for all three, and wrapping
renames the weights of the towers.

Files of the release: `pretrained='lora_weights.pt'`, with the rank and the maps that it was trained with.
Published, ViT-B/16, mean of 11 sets with 1, 2, 4, 8, 16 shots, as later work reports it: 72.20, 75.41, 77.32,
80.10, 82.89.
""",
)


DEFAULT = (r'attn(pool)?\.[qkv]_proj$',)
"""Queries, keys and values of the blocks, and of the attention pool of a ResNet, which the authors do not update."""


class LowRank(nn.Module):
    """``alpha / sqrt(r) * B A dropout(x)``, added to the output of a frozen linear map (section 3).

    Args:
        inputs, outputs: Channels of the map.
        rank: r.
        alpha: Of the factor.
        dropout: Probability.

    Attributes:
        w_lora_A, w_lora_B: A (r, inputs), uniform as the weights of a linear layer, and B (outputs, r), 0.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float, dropout: float):
        super().__init__()
        self.w_lora_A = nn.Parameter(torch.empty(rank, inputs))
        self.w_lora_B = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.w_lora_A, a=5**0.5)
        self.settings = dict(rank=rank, alpha=alpha, dropout=dropout)
        self.scale = alpha / rank**0.5
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Update (..., outputs) for inputs (..., inputs)."""
        low = F.linear(self.dropout(x).to(self.w_lora_A.dtype), self.w_lora_A)
        return (self.scale * F.linear(low, self.w_lora_B)).to(x.dtype)

    def delta(self) -> Tensor:
        """Update of the weight (outputs, inputs) for merging."""
        return self.scale * self.w_lora_B.detach() @ self.w_lora_A.detach()


def _with_branch(layer: nn.Linear, args: tuple, output: Tensor) -> Tensor:
    """Forward hook of a linear layer that has a branch."""
    return output + layer.branches[0](args[0])


class _Map:
    """A linear map of a tower: a layer, or a part of the projection of a block's attention.

    Args:
        owner: The layer, or what has the ``branches`` of the projection.
        part: Of the projection, 0 to 2; None for a layer.
        weight: Its weight, or all three of a packed projection.
    """

    def __init__(self, owner: nn.Module, part: int | None, weight: nn.Parameter):
        self.owner, self.part, self.weight = owner, part, weight
        outputs, inputs = weight.shape
        self.packed = part is not None and outputs == 3 * inputs
        self.shape = (inputs, inputs) if self.packed else (outputs, inputs)
        """Outputs and inputs."""

    @property
    def low_rank(self) -> LowRank | None:
        """The update that the map has; ``None`` if it has none."""
        return getattr(self.owner, 'branches', {}).get(self.part or 0)

    def attach(self, low_rank: LowRank) -> None:
        """Add an update to the output of the map, which has none."""
        if not hasattr(self.owner, 'branches'):
            self.owner.branches = {}
            self.owner.register_forward_hook(_with_branch)
        self.owner.branches[self.part or 0] = low_rank

    @torch.no_grad()
    def add(self, delta: Tensor) -> None:
        """Add (outputs, inputs) to the weight."""
        whole = self.weight.chunk(3)[self.part] if self.packed else self.weight
        whole += delta.to(whole)


def linear_maps(tower: nn.Module) -> dict[str, _Map]:
    """The linear maps of a tower by name: those of its blocks, as in CLIP-LoRA's release (of MLPs as in the tower), and
    those of a ResNet's attention pool."""
    found = {}
    for name, module in tower.named_modules():
        if isinstance(module, TransformerBlock):
            found |= {f'{name}.{leaf}': _Map(*parts) for leaf, parts in module.linear_maps().items()}
        elif isinstance(module, AttentionPool2d):
            layers = {leaf: getattr(module, leaf) for leaf in (*QKV, 'c_proj')}
            found |= {f'{name}.{leaf}': _Map(layer, None, layer.weight) for leaf, layer in layers.items()}
    return found


def chosen(tower: nn.Module, patterns: Sequence[str], owner: str) -> dict[str, _Map]:
    """The maps of a tower with one of the regular expressions in their name.

    Raises:
        ConfigError: a pattern that no map has.
    """
    maps = linear_maps(tower)
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in maps):
            some = (
                f'Its maps are {", ".join(list(maps)[:6])}, ... of {len(maps)}.'
                if maps
                else 'It has none: only blocks have them, and the attention pool of a ResNet, attnpool=True; '
                "a text tower of Hugging Face's has blocks of transformers; text_patterns=() leaves it as it is."
            )
            raise ConfigError(
                f'{owner}: no linear map of the {type(tower).__name__} matches {pattern!r}. {some} '
                'Change the pattern, or leave it out.'
            )
    return {name: found for name, found in maps.items() if any(re.search(p, name) for p in patterns)}


def key_of(name: str) -> str:
    """A map's name in a state dict, where dots separate modules."""
    return name.replace('.', '-')


def updates(
    tower: nn.Module | None, patterns: Sequence[str], rank: int, alpha: float, dropout: float, owner: str
) -> tuple[nn.ModuleDict, bool]:
    """The updates of a tower's maps, attached to them: a map has one update, which all prompts of its tower share.

    A prompt for other class names on the same tower gets the updates that the tower has, so it adds nothing to them
    and is trained with the first.

    Args:
        tower: It.
        patterns: Of the maps, see :func:`chosen`; none: no update.
        rank, alpha, dropout: See :class:`LowRank`.
        owner: Class of the prompt, for messages.

    Returns:
        The updates by :func:`key_of`, and whether they are new.

    Raises:
        ConfigError: a pattern that no map has, a rank below 1, a probability of dropout outside of [0, 1), or a tower
            that has other updates.
    """
    if rank < 1 or not 0 <= dropout < 1:
        raise ConfigError(
            f'{owner}: the rank must be at least 1 and dropout lie in [0, 1), found {rank} and {dropout}.'
        )
    if not patterns:
        return nn.ModuleDict(), True
    maps, settings = chosen(tower, patterns, owner), dict(rank=rank, alpha=alpha, dropout=dropout)
    there = {name: found.low_rank for name, found in linear_maps(tower).items() if found.low_rank is not None}
    if there and (set(there) != set(maps) or any(low_rank.settings != settings for low_rank in there.values())):
        raise ConfigError(
            f'{owner}: the {type(tower).__name__} has {len(there)} updates of another prompt, with '
            f'{next(iter(there.values())).settings}, and all prompts of a tower share its updates; asked for are '
            f'{len(maps)} with {settings}. Give both prompts the same patterns and settings, or build a second model.'
        )
    for found in () if there else maps.values():
        outputs, inputs = found.shape
        found.attach(LowRank(inputs, outputs, **settings))
    return nn.ModuleDict({key_of(name): found.low_rank for name, found in maps.items()}), not there


@MODELS.register_module()
class LoRA(ImagePrompt, BaseModule):
    """Low-rank updates of the image tower, beside any text prompt, in a classifier, segmentor or detector.

    The tower is frozen and keeps its weights; the updates are the only parameters here. peft's layers do not fit: the
    queries, keys and values of CLIP's blocks are one packed weight, of which the method updates each third by factors
    of its own, and peft would rename the towers' weights.

    Args:
        image_tower: The tower.
        patterns: Regular expressions of names of linear maps, as ``transformer.resblocks.0.attn.q_proj``; the others of
            a block are ``attn.k_proj``, ``attn.v_proj``, ``attn.proj``, ``mlp.c_fc`` and ``mlp.c_proj``; those of the
            attention pool of a ResNet ``attnpool.q_proj``, ``.k_proj``, ``.v_proj`` and ``.c_proj``.
        rank, alpha, dropout: See :class:`LowRank`.

    Attributes:
        image: The updates.

    Raises:
        ConfigError: no pattern, one that matches nothing, or numbers that cannot be.
    """

    def __init__(
        self,
        image_tower: ImageTower,
        patterns: Sequence[str] = DEFAULT,
        rank: int = 2,
        alpha: float = 1.0,
        dropout: float = 0.25,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if not patterns:
            raise ConfigError('LoRA: without patterns nothing is updated. Leave it out of the config.')
        self.image, _ = updates(image_tower, patterns, rank, alpha, dropout, 'LoRA')

    def prompt(
        self, images: Tensor, text: Tensor | None = None, plain: ImageFeatures | None = None
    ) -> tuple[Tensor, PromptTokens | None]:
        """Images as they are."""
        return images, None

    def official(self) -> dict[str, LowRank]:
        """The updates by the names of the release."""
        return {f'visual.{key.replace("-", ".")}': part for key, part in self.image.items()}


@MODELS.register_module()
class CLIPLoRAPrompt(ZeroShotPrompt, ImagePrompt):
    """Hand-written prompts of towers with low-rank updates: CLIP-LoRA.

    Works in every task with a CLIP tower as backbone. Both towers are frozen and keep their weights; the updates are
    the only parameters, and what a checkpoint holds. ``tools/merge_lora.py`` writes them into the weights of a CLIP.
    Without updates of the text tower it is encoded once. A prompt for other class names on the same towers shares the
    updates, see :func:`updates`.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        image_tower: The tower; only needed for its updates.
        text_patterns, image_patterns: Of the maps to update, see :class:`LoRA`; ``()``: none of that tower.
        rank, alpha, dropout: See :class:`LowRank`.
        templates, separators, lowercase: See :class:`ZeroShotPrompt`. The authors take one sentence for all data sets.
        pretrained: File of the official release, ``lora_weights.pt``.

    Attributes:
        text, image: The updates.

    Raises:
        ConfigError: no pattern at all, one that matches nothing, numbers that cannot be, or updates of an image tower
            that this model does not show to its prompts.
        CheckpointError: a file of other maps, another rank or factor.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        image_tower: ImageTower | None = None,
        text_patterns: Sequence[str] = DEFAULT,
        image_patterns: Sequence[str] = DEFAULT,
        rank: int = 2,
        alpha: float = 1.0,
        dropout: float = 0.25,
        templates: str | Sequence[str] = ('a photo of a {}.',),
        separators: str = '_',
        lowercase: bool = False,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(class_names, text_tower, templates, separators, lowercase, init_cfg)
        owner, own = type(self).__name__, (rank, alpha, dropout)
        if not text_patterns and not image_patterns:
            raise ConfigError(f'{owner}: without patterns nothing is updated; that is vlm_dense.ZeroShotPrompt.')
        if image_patterns and image_tower is None:
            raise ConfigError(f'{owner}: this model shows no image tower to its prompts. Set image_patterns=().')
        self.text, new_text = updates(text_tower, text_patterns, *own, owner)
        self.image, new_image = updates(image_tower, image_patterns, *own, owner)
        self.drawn = dropout > 0
        if pretrained is not None and new_text and new_image:  # shared updates may be trained further
            self._load(pretrained, rank, alpha)

    def sentences(self, text_tower: TextTower, project: bool = True) -> Tensor:
        """Embeddings (K, T, D), see :meth:`ZeroShotPrompt.sentences`; with gradient where the tower has updates."""
        if not self.text:
            return super().sentences(text_tower, project)
        eot = text_tower.find_eot(self.token_ids)
        tokens = text_tower.embed(self.token_ids[:, : int(eot.max()) + 1])
        shared = 0
        if not (
            self.training and self.drawn
        ):  # else each sentence draws a mask of its own for the words before the name
            same = int((self.token_ids == self.token_ids[:1]).all(0).int().cumprod(0).sum())
            shared = min(same, int(eot.min()))
        prefix = tokens[0, :shared] if shared else None
        found = text_tower.encode(tokens[:, shared:], eot - shared, prefix=prefix, project=project)
        return found.float().unflatten(0, (len(self.class_names), len(self.templates)))

    def prompt(
        self, images: Tensor, text: Tensor | None = None, plain: ImageFeatures | None = None
    ) -> tuple[Tensor, PromptTokens | None]:
        """Images as they are."""
        return images, None

    # --- files ----------------------------------------------------------------------------------------------------

    def official(self) -> dict[str, LowRank]:
        """The updates by the names of the release, those of the text tower first."""
        found = {key.replace('-', '.'): part for key, part in self.text.items()}
        return found | {f'visual.{key.replace("-", ".")}': part for key, part in self.image.items()}

    def _load(self, path: str, rank: int, alpha: float) -> None:
        content = read_nested(path)
        weights, told = content.get('weights'), content.get('metadata') or {}
        wrong = {
            name: (told[name], own) for name, own in dict(r=rank, alpha=alpha).items() if told.get(name, own) != own
        }
        if not isinstance(weights, Mapping) or wrong:
            raise CheckpointError(
                f'{path} does not fit: expected the weights of CLIP-LoRA with r={rank} and alpha={alpha}, found '
                f'{wrong or sorted(content)}.'
            )
        blocks: dict[str, dict[str, LowRank]] = {}
        for name, part in self.official().items():
            block, _, leaf = name.rpartition('.')
            blocks.setdefault(block, {})[leaf] = part
        layers = [f'layer_{i}' for i in range(len(blocks))]
        for layer, (block, parts) in zip(layers, blocks.items(), strict=True):
            found = weights.get(layer, {})
            if set(weights) != set(layers) or set(found) != set(parts):
                raise CheckpointError(
                    f'{path} does not fit: it updates {len(weights)} blocks, this model {len(blocks)}; of {block} '
                    f'{sorted(found)}, here {sorted(parts)}. Choose the patterns that the file was trained with.'
                )
            for leaf, part in parts.items():
                part.load_state_dict(found[leaf])


def merge(tower: nn.Module, updates: Mapping[str, LowRank]) -> None:
    """Add updates to the weights of a tower, where they then act twice: build the model without them.

    Args:
        tower: It.
        updates: ``text`` or ``image`` of a module that has updates.
    """
    maps = linear_maps(tower)
    for key, part in updates.items():
        maps[key.replace('-', '.')].add(part.delta())


def merged(weights: Mapping[str, Tensor], updates: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """Weights of a CLIP with the updates added; the originals stay as they are.

    Args:
        weights: In OpenAI's layout, or open_clip's with a text tower of its own.
        updates: What ``official()`` of :class:`LoRA` or :class:`CLIPLoRAPrompt` gives.
    """
    found = dict(weights)
    for name, part in updates.items():
        block, _, leaf = name.rpartition('.')
        third = QKV.index(leaf) if leaf in QKV else None
        keys = [f'{name}.weight']
        if third is not None:
            keys += [f'{block}.in_proj_weight', f'{block}.qkv.weight']
        elif block.endswith('.attn'):
            keys += [f'{block}.out_proj.weight']
        key = next(key for own in keys for key in (own, f'text.{own}') if key in found)
        third = None if key.endswith(keys[0]) else third
        value = found[key].float()
        thirds = list(value.chunk(3)) if third is not None else [value]
        thirds[third or 0] = thirds[third or 0] + part.delta().to(value.device)
        found[key] = torch.cat(thirds).to(weights[key].dtype)
    return found
