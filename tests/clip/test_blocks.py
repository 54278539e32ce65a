import copy

import pytest
import torch
from open_clip.transformer import CustomResidualAttentionBlock, QuickGELU, ResidualAttentionBlock
from torch import nn
from torch.nn import functional as F

from vlm_dense.clip.blocks import Attention, Block
from vlm_dense.clip.text_tower import Packing
from vlm_dense.errors import ConfigError


@pytest.fixture(params=[None, 0.3], ids=['plain', 'layer-scale'])
def source(request):
    torch.manual_seed(0)
    block = ResidualAttentionBlock(16, 2, ls_init_value=request.param, act_layer=QuickGELU).double()
    nn.init.normal_(block.attn.in_proj_bias)
    nn.init.normal_(block.attn.out_proj.bias)
    return block


@pytest.fixture
def block(source):
    return Block(source)


def tokens(n=3, length=5):
    return torch.randn(n, length, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def close(a, b):
    torch.testing.assert_close(a, b)


def test_equals_open_clips_block(source, block):
    x = tokens()
    close(block(x), source(x))


def test_names_and_weights_are_open_clips(source, block):
    assert block.state_dict().keys() == source.state_dict().keys()
    for (name, a), (other, b) in zip(block.named_parameters(), source.named_parameters(), strict=True):
        assert name == other and a is b
    other = Block(copy.deepcopy(source))
    other.load_state_dict({k: v + 1 for k, v in source.state_dict().items()})
    assert not torch.equal(other(tokens()), block(tokens()))


def test_causal_equals_open_clips_block_with_its_mask(source, block):
    x = tokens()
    mask = torch.full((5, 5), float('-inf'), dtype=x.dtype).triu(1)
    close(block(x, causal=True), source(x, attn_mask=mask))
    close(block(x, attn_mask=mask.float()), source(x, attn_mask=mask))
    close(block(x, attn_mask=mask == 0), source(x, attn_mask=mask))


@pytest.mark.parametrize('shared', [True, False])
def test_prefix_keys_and_values_equal_the_whole_sequence(block, shared):
    prefix, own = tokens(1 if shared else 3, 4) * 2, tokens()
    whole = torch.cat([prefix.expand(3, -1, -1), own], dim=1)
    out, kv = block(prefix, causal=True, return_kv=True)
    assert kv[0].shape == kv[1].shape == (prefix.shape[0], 2, 4, 8)
    expected = block(whole, causal=True)
    close(out.expand(3, -1, -1), expected[:, :4])
    close(block(own, causal=True, prefix_kv=kv), expected[:, 4:])


def test_without_causal_the_prefix_and_all_own_tokens_are_seen(source, block):
    prefix, own = tokens(1, 4) * 2, tokens()
    kv = block(prefix, return_kv=True)[1]
    whole = torch.cat([prefix.expand(3, -1, -1), own], dim=1)
    close(block(own, prefix_kv=kv), source(whole)[:, 4:])


@pytest.mark.parametrize('padded', [False, True])
def test_packed_sequences_equal_one_call_each(block, padded):
    lengths, x = torch.tensor([2, 5, 1]), tokens()
    packing = Packing.with_padding(lengths, 5, 0) if padded else Packing.of(lengths, 0, x.device)
    packed = x.flatten(0, 1)[packing.rows][None]
    assert packed.shape[1] == (15 if padded else 8)
    out, last = block(packed, packing=packing), block(packed, packing=packing, last_token_only=True)
    for i, n in enumerate(lengths):
        alone = block(x[i : i + 1, :n], causal=True)[0]
        start = int(packing.starts[i])
        close(out[0, start : start + n], alone)
        close(last[0, i], alone[-1])


def test_packing_says_where_tokens_lie():
    packing = Packing.of(torch.tensor([2, 4, 1]), 3, torch.device('cpu'))
    assert packing.rows.tolist() == [0, 1, 4, 5, 6, 7, 8]
    assert packing.padded.tolist() == [0, 1, 1, 1, 2, 3, 4, 5, 6, 6, 6, 6]
    assert packing.starts.tolist() == [0, 2, 6] and packing.ends.tolist() == [1, 5, 6]
    assert packing.visible.flatten(1).sum(1).tolist() == [5, 7, 4]


def test_drop_path_acts_on_both_branches(source, block):
    class Zero(nn.Module):
        def forward(self, x):
            return x * 0

    x = tokens()
    close(block(x, drop_path=Zero()), x)
    close(block(x, drop_path=nn.Identity()), source(x))


def test_the_pieces_make_up_the_attention(block):
    attn, y = block.attn, tokens()
    q, k, v = attn.qkv(y)
    assert q.shape == (3, 2, 5, 8) and attn.scale == 8**-0.5
    close(attn.output(attn.weights(q, k) @ v), attn(y))
    bias = torch.randn(5, 5, dtype=y.dtype)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    close(attn.weights(q, k, bias) @ v, expected)
    out, weights = attn(y, return_weights=True)
    close(out, attn(y))
    close(weights, attn.weights(q, k))
    x, kept = block(y, return_weights=True)
    close(x, block(y))
    close(kept, attn.weights(*attn.qkv(block.ln_1(y))[:2]))


def test_attention_to_oneself_is_the_output_projection_of_the_values(block):
    y = tokens()
    expected = block.attn.out_proj(block.attn.project(y)[2])
    close(block.attn(y, attn_mask=torch.eye(5, dtype=torch.bool)), expected)
    close(block.attn.output(block.attn.qkv(y)[2]), expected)


@pytest.mark.parametrize(
    'options', [{}, dict(causal=True, return_kv=True), dict(packing=Packing.of(torch.tensor([5]), 0, 'cpu'))]
)
def test_hooks_fire_on_the_block_its_attention_and_its_parts(block, options):
    fired = []
    for name, module in block.named_modules():
        if not isinstance(module, nn.Identity):
            module.register_forward_hook(lambda *_, name=name: fired.append(name))
    block(tokens(1), **options)
    assert sorted(fired) == sorted(n for n, m in block.named_modules() if not isinstance(m, nn.Identity))
    fired.clear()
    block(tokens(1), path=lambda own, x: own.attn.output(own.attn.qkv(own.ln_1(x))[2]))
    assert fired == ['ln_1', 'attn.out_proj', '']


class LowRank(nn.Module):
    """A LoRA layer as peft writes it around nn.Linear."""

    def __init__(self, base: nn.Linear, rank: int = 2):
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.Linear(base.in_features, rank, bias=False, dtype=base.weight.dtype)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False, dtype=base.weight.dtype)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


@pytest.mark.parametrize('options', [{}, dict(causal=True), dict(packing=Packing.of(torch.tensor([5]), 0, 'cpu'))])
def test_a_low_rank_layer_around_out_proj_changes_the_output_as_its_merged_weight(source, options):
    x, block = tokens(1), Block(source)
    before = block(x, **options)
    block.attn.out_proj = LowRank(block.attn.out_proj)
    close(block(x, **options), before)
    nn.init.normal_(block.attn.out_proj.lora_B.weight)
    changed = block(x, **options)
    assert not torch.allclose(changed, before)
    merged = Block(copy.deepcopy(source))
    lora = block.attn.out_proj
    merged.attn.out_proj.weight.data += lora.lora_B.weight @ lora.lora_A.weight
    close(changed, merged(x, **options))
    changed.sum().backward()
    assert lora.lora_B.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'other',
    [CustomResidualAttentionBlock(16, 2), ResidualAttentionBlock(16, 2, is_cross_attention=True), nn.Linear(16, 16)],
)
def test_other_blocks_are_refused_by_name(other):
    with pytest.raises(ConfigError, match=type(other).__name__):
        Block(other)
    with pytest.raises(ConfigError, match='MultiheadAttention'):
        Attention(nn.MultiheadAttention(16, 2, kdim=8))
