"""Image towers of every family compute what open_clip's and timm's own modules do, and what methods ask beyond that."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import _build_vision_tower
from timm.layers import AttentionPoolLatent, resample_abs_pos_embed
from timm.models.eva import EvaAttention
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import families

from vlm_dense.clip.image_tower import PromptTokens
from vlm_dense.clip.timm_blocks import TimmBlock
from vlm_dense.errors import ConfigError
from vlm_dense.methods.fine_tuning.clip_lora import linear_maps, merge
from vlm_dense.registry import MODELS

ROTARY = ('eva02', 'pe', 'pe_bare')
ANY_SIZE = (*families.OPEN_CLIP_VITS, 'resnet', *families.BLOCKS, 'convnext', 'fastvit', 'gap')
WITH_BLOCKS = (*families.OPEN_CLIP_VITS, *families.BLOCKS, 'gap')
SIZES = ((224, 224), (256, 320), (97, 161))


def published(config):
    """open_clip's own tower, drawn so that nothing is 0 or 1."""
    torch.manual_seed(1)
    visual = _build_vision_tower(config['embed_dim'], dict(config['vision_cfg']), config.get('quick_gelu', False))
    with torch.no_grad():
        for p in visual.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return visual.eval()


def tower_of(config, source, **options):
    tower = MODELS.build(dict(type='vlm_dense.CLIPTower', arch=config, **options))
    own = tower.state_dict().keys()
    whole = options.get('head', True) or not hasattr(source, 'trunk')
    found = {key: value for key, value in source.state_dict().items() if key in own or not whole}
    missing = tower.load_state_dict(found, strict=False)
    assert not missing.unexpected_keys and all(key.startswith('fpn') for key in missing.missing_keys)
    return tower.eval()


def images_of(family, config, batch=2):
    size = config['vision_cfg']['image_size']
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(3))


def feature(output):
    return output[0] if isinstance(output, tuple) else output


def of_grid(source, tower, images, grid):
    """open_clip's own tower with a table of positions of this grid, on images cut or filled up to it."""
    if hasattr(source, 'trunk'):  # ViTamin
        table, (height, width) = source.trunk.pos_embed, grid
        source.trunk.pos_embed = nn.Parameter(resample_abs_pos_embed(table, grid, num_prefix_tokens=0))
        return source(images[..., : 16 * height, : 16 * width])
    owner = source.attnpool if hasattr(source, 'attnpool') else source
    table = owner.positional_embedding
    side = round((len(table) - 1) ** 0.5)
    patches = table[1:].T.unflatten(1, (side, side))[None]
    patches = F.interpolate(patches, tuple(grid), mode='bilinear', align_corners=False)[0].flatten(1).T
    owner.positional_embedding = nn.Parameter(torch.cat([table[:1], patches]))
    if owner is source:
        p, (height, width) = tower.patch_size, images.shape[2:]
        images = F.pad(images, (0, -width % p, 0, -height % p))
    return source(images)


def close(found, wanted, rtol=1e-5):
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= rtol * wanted.abs().max()


@pytest.fixture
def pair(request, monkeypatch):
    """Family, its small config, and open_clip's own tower of it."""
    config = families.small(request.param, monkeypatch)
    return request.param, config, published(config)


of_families = lambda names: pytest.mark.parametrize('pair', names, indirect=True)  # noqa: E731


@of_families(families.CUTS)
@torch.no_grad()
def test_the_image_feature_is_that_of_open_clip(pair):
    family, config, source = pair
    tower, images = tower_of(config, source), images_of(family, config)
    found = tower.encode(images, ('global', 'dense', 'value', 'stages', 'pooled', 'images'))
    close(found.global_, feature(source(images)))
    assert found.images is images and (family == 'resnet' or torch.equal(found.pooled, found.global_))
    assert found.dense.shape == found.value.shape == (2, config['embed_dim'], *found.dense.shape[2:])
    assert [stage.shape[1] for stage in found.stages] == [tower.out_channels[i] for i in range(len(found.stages))]
    alone = tower.encode(images[1:], ('value',)).value
    close(alone, found.value[1:], 1e-4)
    assert not torch.equal(found.value[0], found.value[1])


@of_families(families.CUTS)
def test_a_runner_leaves_the_weights_as_they_were_loaded(pair):
    _, config, source = pair
    tower = tower_of(config, source)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    tower.init_weights()  # of mmengine: calls every child's, and timm's draw
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


@of_families(('clipa', 'siglip', 'vitamin', 'convnext', 'convnext_mlp', 'fastvit', 'swin', 'gap', 'pe_bare'))
@torch.no_grad()
def test_of_a_single_place_the_dense_feature_is_the_image_feature(pair):
    """The features of each place go through pool and projection alone: so does the only place of a small image."""
    family, config, source = pair
    tower = tower_of(config, source)
    if family == 'swin':  # of one size: the mean of dense is the image feature
        found = tower.encode(images_of(family, config), ('global', 'dense'))
        return close(found.dense.mean((2, 3)), found.global_)
    p = 32 if family in families.MAPS and family != 'gap' else tower.patch_size
    found = tower.encode(torch.randn(2, 3, p, p), ('global', 'dense'))
    assert found.dense.shape[2:] == (1, 1)
    close(found.dense[:, :, 0, 0], found.global_)


@of_families(('vit', 'timm_vit', 'timm_vit_norm', 'eva01', 'eva02', 'eva02_post'))
@torch.no_grad()
def test_where_the_class_token_is_the_image_feature_its_row_of_dense_is(pair):
    family, config, source = pair
    tower, images = tower_of(config, source), images_of(family, config)
    with_dense = tower.encode(images, ('global', 'dense')).global_
    close(with_dense, tower.encode(images, ('global',)).global_)


@of_families(WITH_BLOCKS)
@torch.no_grad()
def test_the_value_path_of_a_token_is_the_block_on_it_alone(pair):
    family, config, source = pair
    tower, images = (
        tower_of(config, source, dense_attention=dict(type='vlm_dense.ValueAttention')),
        images_of(*pair[:2]),
    )
    x, grid, options, _ = tower._tokens(images)
    x = tower._norm_pre(x)
    for i in range(len(tower.blocks) - 1):
        x = tower._block(i, x, **options)
    block = (source.transformer.resblocks if hasattr(source, 'transformer') else source.trunk.blocks)[-1]
    alone = block(x[:, tower.num_prefix :].reshape(-1, 1, x.shape[-1]))
    wanted = tower.project(alone.view(len(x), -1, x.shape[-1])).mT.unflatten(2, grid)
    close(tower.encode(images, ('value',)).value, wanted)
    if tower.pools_by_attention:
        plain = tower_of(config, source).encode(images, ('dense', 'value'))
        assert torch.equal(plain.value, plain.dense) and plain.key is None or plain.key.shape[1] == grid[0] * grid[1]


@of_families(WITH_BLOCKS)
@torch.no_grad()
def test_the_pieces_of_a_block_make_the_block(pair):
    """Query-key attention with residual and MLP, out of the pieces that methods use, is the block itself."""
    family, config, source = pair
    whole = dict(type='vlm_dense.ClearCLIPAttention', similarity=['qk'], residual=True, feed_forward=True)
    tower = tower_of(config, source, dense_attention=whole)
    found = tower.encode(images_of(family, config), ('dense', 'value'))
    close(found.value, found.dense)
    x, _, options, _ = tower._tokens(images_of(family, config))
    out, weights = tower._block(0, x, return_weights=True, **options)
    close(out, tower._block(0, x, **options))
    close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@of_families(ANY_SIZE)
@torch.no_grad()
def test_images_of_any_size(pair):
    family, config, source = pair
    tower = tower_of(config, source)
    for height, width in SIZES:
        images = torch.randn(1, 3, height, width)
        found = tower.encode(images, ('global', 'dense', 'stages'))
        assert all(t.isfinite().all() for t in (found.global_, found.dense, *found.stages))
        if (
            family in (*families.BLOCKS, 'gap') and family != 'vitamin'
        ):  # its convolutions would be run to learn the size
            again = published(config)
            again.trunk.set_input_size((height, width))
            close(found.global_, again(images))
            p = tower.patch_size
            assert tower_of(config, source, remainder='pad')(images)[0].shape[2:] == (-(-height // p), -(-width // p))
        elif family in families.MAPS:
            close(found.global_, source(images))
        else:
            close(found.global_, feature(of_grid(published(config), tower, images, found.dense.shape[2:])))
    copies = tower.encode(images.expand(3, -1, -1, -1), ('global', 'dense'))
    close(copies.dense, found.dense.expand(3, -1, -1, -1), 1e-4)


@of_families(('swin', 'relpos'))
def test_a_tower_of_one_size_says_so(pair):
    family, config, source = pair
    with pytest.raises(ConfigError, match=r'images of (64 x 64|224 x 224) px only, found 96 x 64.*any size'):
        tower_of(config, source).encode(torch.zeros(1, 3, 96, 64), ('dense',))


@of_families(WITH_BLOCKS)
@torch.no_grad()
def test_prompt_tokens_enter_and_leave(pair):
    """Against open_clip's own blocks run on the same tokens, with timm's way to count a longer prefix."""
    family, config, source = pair
    tower, images = tower_of(config, source), images_of(family, config)
    first, later = torch.randn(3, tower.width), torch.randn(3, tower.width)
    x, grid, options, _ = tower._tokens(images)
    p = tower.num_prefix
    x = torch.cat([x[:, :p], first.expand(2, -1, -1), x[:, p:]], dim=1)
    x = tower._norm_pre(x)
    blocks = source.transformer.resblocks if hasattr(source, 'transformer') else source.trunk.blocks
    for i, block in enumerate(blocks):
        if i == 1:
            x = torch.cat([x[:, :p], later.expand(2, -1, -1), x[:, p + 3 :]], dim=1)
        if family in ROTARY:
            block.attn.num_prefix_tokens += 3
        x = block(x, **options)
        if family in ROTARY:
            block.attn.num_prefix_tokens -= 3
    x = torch.cat([x[:, :p], x[:, p + 3 :]], dim=1)
    wanted, dense = tower.pool(x), tower.project(x[:, p:]).mT.unflatten(2, grid)
    for place in ('front', 'end'):
        found = tower.encode(images, ('global', 'dense'), PromptTokens(first, (later,), place))
        close(found.global_, wanted)
        close(found.dense, dense)


@of_families(('convnext', 'fastvit', 'swin', 'relpos'))
def test_towers_of_maps_refuse_what_needs_blocks(pair):
    family, config, source = pair
    tower = tower_of(config, source)
    with pytest.raises(ConfigError, match=f'{tower.family[:4]}.*takes no prompt tokens.*ViT-B-16-SigLIP2'):
        tower.encode(images_of(family, config), ('global',), PromptTokens(torch.zeros(1, tower.width)))
    with pytest.raises(ConfigError, match='no blocks for dense_attention.*tower of blocks'):
        tower_of(config, source, dense_attention=dict(type='vlm_dense.SCLIPAttention'))
    with pytest.raises(ConfigError, match='found .light.'):
        tower_of(config, source, with_cp='light')


@of_families(families.CUTS)
def test_the_channels_of_the_stages_are_known_before_a_tower_is_built(pair):
    family, config, source = pair
    cfg = dict(type='vlm_dense.CLIPTower', arch=config, head=False)
    tower = MODELS.build(cfg)
    assert MODELS.get('vlm_dense.CLIPTower').stage_channels(cfg) == tower.out_channels
    stages = tower_of(config, source, head=False)(images_of(family, config))
    assert [stage.shape[1] for stage in stages] == tower.out_channels
    assert not {name for name, _ in tower.named_parameters()} & {'proj', 'head.proj.weight', 'trunk.norm.weight'}
    with pytest.raises(ConfigError, match='set (head|attnpool)=True'):
        tower.encode(images_of(family, config), ('global',))


@of_families(('siglip', 'vitamin', 'eva01', 'clipa'))
def test_a_pyramid_of_four_scales(pair):
    family, config, source = pair
    four = dict(out_indices=[0, 0, 1, 1], pyramid=True, head=False)
    tower = MODELS.build(dict(type='vlm_dense.CLIPTower', arch=config, **four))
    stages = tower(torch.randn(2, 3, *[8 * tower.patch_size] * 2))
    assert [tuple(stage.shape[2:]) for stage in stages] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert tower.stage_channels(dict(arch=config, **four)) == [stage.shape[1] for stage in stages] == tower.out_channels


@of_families(('vit', 'siglip', 'pe', 'eva02', 'eva02_post', 'vitamin', 'convnext', 'fastvit'))
def test_recomputation_changes_no_gradient(pair):
    family, config, source = pair
    images, gradients = images_of(family, config), []
    for with_cp in (False, True) if family in families.MAPS else (False, True, 'light'):
        tower = tower_of(config, source, with_cp=with_cp)
        tower.encode(images, ('global', 'dense')).dense.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in tower.parameters() if p.grad is not None]))
    for other in gradients[1:]:
        close(other, gradients[0], 1e-4)


@of_families(('vit', 'siglip', 'pe', 'eva02', 'eva02_post', 'eva01', 'vitamin', 'timm_vit', 'gap'))
@torch.no_grad()
def test_low_rank_updates_are_those_that_can_be_merged(pair):
    family, config, source = pair
    lora = dict(type='vlm_dense.LoRA', patterns=[r'attn\.[qkv]_proj$', r'attn\.proj$', r'mlp\.'], dropout=0.0)
    images, tower = images_of(family, config), tower_of(config, source)
    plain = tower.encode(images, ('global',)).global_
    updated = MODELS.build(dict(type='vlm_dense.CLIPTower', arch=config, frozen=True, image_prompt=lora)).eval()
    updated.load_state_dict(source.state_dict(), strict=False)
    close(updated.encode(images, ('global',)).global_, plain)
    for part in updated.image_prompt.parameters():
        part.normal_(std=0.3)
    moved = updated.encode(images, ('global',)).global_
    assert (moved - plain).abs().max() > 1e-3 * plain.abs().max()
    merge(tower, updated.image_prompt.image)
    close(tower.encode(images, ('global',)).global_, moved, 1e-4)
    assert {p.requires_grad for name, p in updated.named_parameters() if 'lora' not in name} == {False}
    assert len(linear_maps(tower)) == len(updated.image_prompt.image)


@of_families(('siglip', 'convnext'))
def test_frozen_stages_are_frozen(pair):
    family, config, source = pair
    tower = tower_of(config, source, frozen_stages=1).train()
    stages = tower.blocks if family == 'siglip' else tower.stages
    assert not any(p.requires_grad for p in stages[0].parameters()) and not stages[0].training
    assert all(p.requires_grad for p in stages[1].parameters()) and stages[1].training
    stem = tower.trunk.patch_embed if family == 'siglip' else tower.trunk.stem
    assert not any(p.requires_grad for p in stem.parameters())
    with pytest.raises(ConfigError, match='frozen_stages'):
        tower_of(config, source, frozen_stages=9)


def test_a_table_of_another_size_is_resized_when_a_checkpoint_is_loaded(monkeypatch):
    config = families.small('siglip', monkeypatch)
    larger = MODELS.build(dict(type='vlm_dense.CLIPTower', arch=config, input_resolution=96))
    smaller = MODELS.build(dict(type='vlm_dense.CLIPTower', arch=config))
    larger.load_state_dict(smaller.state_dict())
    assert larger.trunk.pos_embed.shape[1] == 36
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        close(larger.eval().encode(images, ('global',)).global_, smaller.eval().encode(images, ('global',)).global_)


def test_the_implementation_is_picked_and_others_name_it(monkeypatch):
    kinds = dict(vit='CLIPViT', resnet='CLIPResNet', coca='CLIPViT', pe='CLIPTimmViT', gap='CLIPTimmViT')
    for family, kind in {**kinds, 'convnext': 'CLIPTimmMaps', 'relpos': 'CLIPTimmMaps'}.items():
        config = families.small(family, monkeypatch)
        assert type(MODELS.build(dict(type='vlm_dense.CLIPTower', arch=config))).__name__ == kind
    tiny = MODELS.build(dict(type='vlm_dense.CLIPTower', arch='tiny-convnext'))
    assert type(tiny).__name__ == 'CLIPTimmMaps'
    assert [stage.shape[2:] for stage in tiny(torch.zeros(1, 3, 64, 96))] == [(16, 24), (8, 12), (8, 12), (8, 12)]
    convnext, siglip = (families.small(family, monkeypatch) for family in ('convnext', 'siglip'))
    for kind, arch in (
        ('CLIPTimmViT', convnext),
        ('CLIPTimmMaps', siglip),
        ('CLIPViT', siglip),
        ('CLIPResNet', convnext),
    ):
        with pytest.raises(ConfigError, match="Use type='vlm_dense.CLIPTower'"):
            MODELS.build(dict(type=f'vlm_dense.{kind}', arch=arch))


def test_blocks_stay_the_modules_of_timm(monkeypatch):
    config = families.small('eva02', monkeypatch)
    tower = MODELS.build(dict(type='vlm_dense.CLIPTower', arch=config))
    assert all(isinstance(block, TimmBlock) and type(block.attn) is EvaAttention for block in tower.blocks)
    pool = MODELS.build(dict(type='vlm_dense.CLIPTower', arch=families.small('siglip', monkeypatch))).trunk.attn_pool
    assert type(pool) is AttentionPoolLatent
