import pytest
import torch
from open_clip.transformer import CustomResidualAttentionBlock, QuickGELU, ResidualAttentionBlock
from torch import nn

from vlm_dense.clip.blocks import attend, block_forward, project_qkv, split_heads
from vlm_dense.errors import ConfigError


@pytest.fixture(params=[None, 0.3], ids=['plain', 'layer-scale'])
def block(request):
    torch.manual_seed(0)
    block = ResidualAttentionBlock(16, 2, ls_init_value=request.param, act_layer=QuickGELU).double()
    nn.init.normal_(block.attn.in_proj_bias)
    nn.init.normal_(block.attn.out_proj.bias)
    return block


def tokens(n=3, length=5):
    return torch.randn(n, length, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_equals_open_clips_block(block):
    x = tokens()
    torch.testing.assert_close(block_forward(block, x), block(x))


def test_causal_equals_open_clips_block_with_its_mask(block):
    x = tokens()
    mask = torch.full((5, 5), float('-inf'), dtype=x.dtype).triu(1)
    torch.testing.assert_close(block_forward(block, x, causal=True), block(x, attn_mask=mask))
    torch.testing.assert_close(block_forward(block, x, attn_mask=mask), block(x, attn_mask=mask))
    torch.testing.assert_close(block_forward(block, x, attn_mask=mask == 0), block(x, attn_mask=mask))


@pytest.mark.parametrize('shared', [True, False])
def test_prefix_keys_and_values_equal_the_whole_sequence(block, shared):
    prefix, own = tokens(1 if shared else 3, 4) * 2, tokens()
    whole = torch.cat([prefix.expand(3, -1, -1), own], dim=1)
    out, kv = block_forward(block, prefix, causal=True, return_kv=True)
    assert kv[0].shape == kv[1].shape == (prefix.shape[0], 2, 4, 8)
    expected = block_forward(block, whole, causal=True)
    torch.testing.assert_close(out.expand(3, -1, -1), expected[:, :4])
    torch.testing.assert_close(block_forward(block, own, causal=True, prefix_kv=kv), expected[:, 4:])


def test_without_causal_the_prefix_and_all_own_tokens_are_seen(block):
    prefix, own = tokens(1, 4) * 2, tokens()
    kv = block_forward(block, prefix, return_kv=True)[1]
    whole = torch.cat([prefix.expand(3, -1, -1), own], dim=1)
    torch.testing.assert_close(block_forward(block, own, prefix_kv=kv), block(whole)[:, 4:])


def test_drop_path_acts_on_both_branches(block):
    class Zero(nn.Module):
        def forward(self, x):
            return x * 0

    x = tokens()
    torch.testing.assert_close(block_forward(block, x, drop_path=Zero()), x)
    torch.testing.assert_close(block_forward(block, x, drop_path=nn.Identity()), block(x))


def test_projected_values_through_the_output_projection_are_attention_to_oneself(block):
    y = tokens()
    q, k, v = (split_heads(t, 2) for t in project_qkv(block.attn, y))
    expected = block.attn.out_proj(project_qkv(block.attn, y)[2])
    eye = torch.eye(5, dtype=torch.bool)
    torch.testing.assert_close(attend(block.attn, q, k, v, attn_mask=eye), expected)


@pytest.mark.parametrize(
    'block',
    [CustomResidualAttentionBlock(16, 2), ResidualAttentionBlock(16, 2, is_cross_attention=True), nn.Linear(16, 16)],
)
def test_other_blocks_are_refused_by_name(block):
    with pytest.raises(ConfigError, match=type(block).__name__):
        block_forward(block, torch.zeros(1, 2, 16))
