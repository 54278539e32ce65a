"""Do towers, prompts and MaskCLIP give with some weights what they must? Answered on the user's machine, in a minute.

The reference is open_clip's own model, built by open_clip from the same file: its ``encode_image`` and ``encode_text``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP, build_model_from_openai_state_dict
from torch import Tensor, nn

from vlm_dense.clip.activation import OPENAI_ENTRIES
from vlm_dense.clip.architectures import model_config
from vlm_dense.clip.block_tower import BlockTower
from vlm_dense.clip.building import has_hf_text
from vlm_dense.clip.image_tower import ImageTower, resize_positions
from vlm_dense.clip.loading import load_clip, read_state_dict
from vlm_dense.clip.resnet import CLIPResNet
from vlm_dense.clip.sources import locate_weights
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.clip.vit import CLIPViT
from vlm_dense.registry import MODELS

TOLERANCE = 1e-3
"""Largest difference of unit features, by float32 rounding and another order of operations."""
TEXTS = (
    'a photo of a dog.',
    'a',
    'a centered satellite photo of highway or road.',
    'itap of my red circle, from above.',
)


@dataclass
class Finding:
    """Result of one check.

    Attributes:
        name: What was checked.
        error: Largest difference of values that must be equal.
        reason: Why it is wrong, if it is; empty if all is well.
    """

    name: str
    error: float
    reason: str = ''

    @property
    def passed(self) -> bool:
        """Whether the difference is rounding."""
        return self.error <= TOLERANCE


def build_towers(arch: str | dict, pretrained: str) -> tuple[ImageTower, TextTower]:
    """Our image and text tower in eval mode."""
    image = MODELS.build(dict(type='vlm_dense.CLIPTower', arch=arch, pretrained=pretrained))
    return image.eval(), TextTower(arch, pretrained).eval()


def build_reference(arch: str | dict, pretrained: str) -> nn.Module:
    """open_clip's model with the same weights, float32, in eval mode.

    Which activation it has says open_clip: its table of weights for a tag, its reader of OpenAI's layout for a file of
    that kind, else the architecture.
    """
    config = model_config(arch)
    path, tag = locate_weights(arch, config, pretrained)
    weights = read_state_dict(path)
    if any(name in weights for name in OPENAI_ENTRIES):
        plain = {name: value for name, value in weights.items() if name not in OPENAI_ENTRIES}
        model = build_model_from_openai_state_dict(dict(weights), cast_dtype=torch.float32).float()
        model.load_state_dict(plain)  # again: the reader has rounded them to half precision
        return model.eval()
    quick = tag.get('quick_gelu', False) if tag else config.get('quick_gelu', False)
    if 'multimodal_cfg' in config or has_hf_text(config):
        return load_clip(arch, pretrained).eval()
    own = {key: value for key, value in config.items() if key not in ('quick_gelu', 'custom_text')}
    model = (CustomTextCLIP if config.get('custom_text') else CLIP)(**own, quick_gelu=quick)
    if not set(dict(model.named_parameters())) <= set(weights):  # names of another library, or a packed table
        return load_clip(arch, pretrained, quick_gelu=quick).float().eval()
    model.load_state_dict({key: value for key, value in weights.items() if key in model.state_dict()})
    return model.float().eval()


def image_side(reference: nn.Module) -> int:
    """Side of the images that a model of open_clip was trained with."""
    side = reference.visual.image_size
    return side[0] if isinstance(side, tuple) else side


@torch.no_grad()
def verify(image_tower: ImageTower, text_tower: TextTower, reference: nn.Module) -> Iterator[Finding]:
    """Compare two towers with open_clip's forward, and check what must hold without any reference.

    Args:
        image_tower, text_tower: In eval mode, on the CPU.
        reference: open_clip's model with the same weights.

    Yields:
        A finding for each check, in their order.
    """
    draw = torch.Generator().manual_seed(0)
    side, patch = image_side(reference), image_tower.stride
    images = torch.randn(3, 3, side, side, generator=draw)
    larger = torch.randn(2, 3, side + patch, side + 3 * patch, generator=draw)

    def check(name: str, ours: Tensor, theirs: Tensor, why: Callable[[], str]) -> Finding:
        error = float((F.normalize(ours.float(), dim=-1) - F.normalize(theirs.float(), dim=-1)).abs().max())
        bad = not error <= TOLERANCE  # also where it is NaN
        return Finding(name, error if error == error else float('inf'), why() if bad else '')

    visual = dict(reference.visual.named_parameters())
    image = lambda: _why(image_tower, visual, reference.visual)  # noqa: E731
    names = {name.removeprefix('text.'): value for name, value in reference.named_parameters()}
    text = lambda: _why(text_tower, names, reference)  # noqa: E731

    yield check(
        'image features', image_tower.encode(images, ('global',)).global_, reference.encode_image(images), image
    )
    if (resized := _at_size(reference.visual, image_tower, larger.shape[2:])) is not None:
        name = f'image features at {larger.shape[2]} x {larger.shape[3]} px'
        yield check(name, image_tower.encode(larger, ('global',)).global_, _first(resized(larger)), image)
    ids = text_tower.tokenize(list(TEXTS))
    theirs = reference.encode_text(_padded(ids, reference, text_tower))
    yield check('text features', text_tower.encode_tokens(ids), theirs, text)

    def broken(what: str) -> Callable[[], str]:
        return lambda: f'{what} Please report it with the name of the weights.'

    alone = image_tower.encode(images[:1], ('global', 'value'))
    copies = image_tower.encode(images[:1].expand(3, -1, -1, -1), ('global', 'value'))
    for name, one, several in (
        ('copies of an image in a batch', alone.global_, copies.global_),
        ('maps of copies in a batch', alone.value.flatten(2).mT, copies.value.flatten(2).mT),
    ):
        yield check(name, several, one.expand_as(several), broken('Images of a batch change each other.'))
    single = torch.cat([text_tower.encode_tokens(row[None]) for row in ids])
    wrong = broken('Sentences of a batch change each other.')
    yield check('a text alone and in a batch', single, text_tower.encode_tokens(ids), wrong)
    if isinstance(image_tower, BlockTower):
        block = image_tower.blocks[-1]
        token = torch.randn(2, 1, image_tower.width, generator=draw)
        value = block(token, path=lambda part, x: part.feed_forward(x + part.scaled(part.output(part.qkv(x)[2]))))
        yield check(
            'a block on a token alone is its value path', block(token), value, broken('The value path is wrong.')
        )
    window = images[:1, :, :patch, :patch]
    small = _at_size(reference.visual, image_tower, window.shape[2:])
    if small is not None or isinstance(image_tower, CLIPResNet):
        own = image_tower.encode(window, ('value',)).value
        part = _one_patch(small or reference.visual, image_tower, window)
        yield check('the map of a window of one patch', own.flatten(2).mT[:, 0], part, image)


def _padded(ids: Tensor, reference: nn.Module, text_tower: TextTower) -> Tensor:
    """Token ids at the length that the reference wants."""
    length = getattr(reference, 'context_length', None) or reference.text.context_length
    return F.pad(ids, (0, length - ids.shape[1]), value=text_tower.tokenizer.padding)


def _first(found: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The image feature; CoCa's towers give tokens beside it."""
    return found if isinstance(found, Tensor) else found[0]


def _at_size(visual: nn.Module, tower: ImageTower, size: Sequence[int]) -> nn.Module | None:
    """A copy of open_clip's tower for images of another size, by the rule of its family; None if it has none."""
    if isinstance(tower, CLIPResNet) or getattr(tower, 'fixed_size', None) is not None:
        return None
    visual = copy.deepcopy(visual)
    if isinstance(tower, CLIPViT):
        grid = [length // tower.stride for length in size]
        visual.positional_embedding = nn.Parameter(resize_positions(visual.positional_embedding, grid, tower.pos_mode))
    elif hasattr(visual.trunk, 'set_input_size') and not hasattr(visual.trunk.patch_embed, 'backbone'):
        visual.trunk.set_input_size(tuple(size))
    elif isinstance(tower, BlockTower) and not getattr(visual.trunk, 'dynamic_img_size', False):
        return None  # a stem of convolutions has to know the size when it is built
    return visual


def _one_patch(visual: nn.Module, tower: ImageTower, window: Tensor) -> Tensor:
    """MaskCLIP's feature (1, D) of a window of one patch, of the parts of open_clip's tower, made for that size."""
    if hasattr(visual, 'trunk'):
        return _one_patch_of_timm(visual, tower, window)
    if isinstance(tower, CLIPViT):
        x = visual.conv1(window).flatten(2).mT
        x = torch.cat([visual.class_embedding.expand(1, 1, -1), x], dim=1)
        x = visual.ln_pre(x + visual.positional_embedding)
        *blocks, last = visual.transformer.resblocks
        for block in blocks:
            x = block(x)
        if visual.attn_pool is not None:  # the last attention layer is the pool
            return visual.ln_post(visual.attn_pool(last(x)[:, 1:]))[:, 0] @ visual.proj
        attn, width = last.attn, x.shape[-1]
        y = F.linear(last.ln_1(x), attn.in_proj_weight[2 * width :], attn.in_proj_bias[2 * width :])
        x = x + last.ls_1(attn.out_proj(y))
        x = x + last.ls_2(last.mlp(last.ln_2(x)))
        return (visual.ln_post(x) @ visual.proj)[:, 1]
    pool, x = visual.attnpool, visual.stem(window)
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = stage(x)
    return pool.c_proj(pool.v_proj(x.flatten(2).mT))[:, 0]


def _one_patch_of_timm(visual: nn.Module, tower: ImageTower, window: Tensor) -> Tensor:
    """As :func:`_one_patch`, of timm's trunks: a block, or a pool, of one token alone attends to that token."""
    trunk = visual.trunk
    if not isinstance(tower, BlockTower) or not tower.num_prefix:
        return visual(window)  # its only place is the image
    depth = len(trunk.blocks)
    index = depth - 1 if trunk.attn_pool is not None else depth - 2
    [(x, _)] = trunk.forward_intermediates(
        window, [index], return_prefix_tokens=True, output_fmt='NLC', intermediates_only=True
    )
    x = trunk.norm(x if trunk.attn_pool is not None else trunk.blocks[-1](x))
    x = x[:, 0] if trunk.attn_pool is None else trunk.attn_pool(x)
    return visual.head(trunk.head(trunk.fc_norm(x)))


# --- why it is wrong --------------------------------------------------------------------------------------------------


def _why(tower: nn.Module, reference: dict[str, Tensor], owner: nn.Module) -> str:
    """The first difference of a tower from the reference: of its weights, else of its activation."""
    for name, ours in tower.named_parameters():
        theirs = reference.get(name)
        if theirs is None or (ours.shape == theirs.shape and torch.allclose(ours.float(), theirs.float())):
            continue
        return f'{name} {_difference(ours.float(), theirs.float())}'
    ours, theirs = (_activation(module) for module in (tower, owner))
    if ours != theirs:
        return (
            f'the blocks have {ours}, these weights were trained with {theirs}. Name the architecture with or without '
            "'-quickgelu', or leave act out."
        )
    return 'all weights are those of the reference, so the computation differs. Please report it with the weights.'


def _difference(ours: Tensor, theirs: Tensor) -> str:
    if ours.dim() == 2 and ours.shape == theirs.shape[::-1] and torch.allclose(ours, theirs.mT):
        return 'is transposed: the weights have another layout than the architecture. Transpose it in the file.'
    if ours.shape != theirs.shape:
        return f'has the shape {tuple(ours.shape)}, in the weights {tuple(theirs.shape)}.'
    order = torch.cdist(ours.flatten(1), theirs.flatten(1)).argmin(dim=1) if ours.dim() == 2 else None
    if order is not None and len(order.unique()) == len(order) and torch.allclose(ours, theirs[order]):
        moved = int((order != torch.arange(len(order))).sum())
        return f'is permuted: {moved} of {len(order)} rows stand at other places than in the weights.'
    share = float((~torch.isclose(ours, theirs)).float().mean())
    return f'is not that of the weights: {100 * share:.0f} % of its numbers differ.'


def _activation(module: nn.Module) -> str:
    """Kind of the activations of the MLPs."""
    found = {type(part).__name__ for name, part in module.named_modules() if name.endswith('mlp.gelu')}
    return ', '.join(sorted(found)) or 'none'


def openclip_version() -> str:
    """Of the reference."""
    return open_clip.__version__
