import copy
import dataclasses

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CustomTextCLIP
from torch import nn

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import MODELS

EOT = 60
VISION = {'image_size': 32, 'layers': 1, 'width': 64, 'patch_size': 16}
TEXT = {'context_length': 77, 'vocab_size': EOT + 1, 'width': 64, 'heads': 2, 'layers': 3}
WIDTH, DIM, LAYERS = 64, 24, 3


def needs(option: str):
    """Mark of a test about an option that the oldest supported open_clip does not have."""
    known = {f.name for f in dataclasses.fields(CLIPTextCfg)}
    return pytest.mark.skipif(option not in known, reason=f'this open_clip has no {option}')


def make_clip(kind=CLIP, vision=VISION, **text):
    torch.manual_seed(0)
    clip = kind(DIM, vision, {**TEXT, **text}, quick_gelu=True).double().eval()
    for name, parameter in clip.named_parameters():  # biases, norms and positions that matter
        if name != 'logit_scale':
            nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 0.5)
    return clip


@pytest.fixture(scope='module')
def clip():
    return make_clip()


@pytest.fixture
def tower(clip):
    return TextTower.from_clip(copy.deepcopy(clip))


def make_ids(lengths=(3, 7, 2, 5, 5), context_length=77, lead=(1,)):
    """Ids of sequences: ``lead``, ``length - 1`` words, EOT, zeros."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.zeros(len(lengths), context_length, dtype=torch.long)
    for row, length in zip(ids, lengths, strict=True):
        words = torch.randint(2, EOT, (length - 1,), generator=generator)
        row[: len(lead) + length] = torch.cat([torch.tensor(lead), words, torch.tensor([EOT])])
    return ids


def random(*shape, seed=5):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def plain(clip, embeddings, eot, deep=None):
    """The pass over whole sequences with open_clip's own blocks, for embeddings (N, 77 or fewer, C)."""
    length = embeddings.shape[1]
    x = embeddings + clip.positional_embedding[:length]
    for layer, block in enumerate(clip.transformer.resblocks):
        if deep is not None and 1 <= layer <= len(deep):
            x = torch.cat([x[:, :1], deep[layer - 1].expand(len(x), -1, -1), x[:, 1 + deep.shape[1] :]], dim=1)
        x = block(x, attn_mask=clip.attn_mask[:length, :length])
    return clip.ln_final(x)[torch.arange(len(x)), eot] @ clip.text_projection


def gradients(out, *inputs):
    weights = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(7))
    return torch.autograd.grad((out * weights).sum(), inputs)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def split(tower, ids, context):
    """Arguments of ``encode`` for [SOS, context, name ...] with ids of [SOS, name ...]."""
    prefix = torch.cat([tower.embed(ids[:1, :1])[0].expand(*context.shape[:-2], 1, -1), context], dim=-2)
    return tower.embed(ids[:, 1:]), tower.find_eot(ids) - 1, prefix


def joined(clip, ids, context):
    """Whole 77-token sequences [SOS, context, name, EOT, ...] and their EOT."""
    embeddings = clip.token_embedding(ids)
    m = context.shape[-2]
    whole = torch.cat([embeddings[:, :1], context.expand(len(ids), -1, -1), embeddings[:, 1 : 77 - m]], dim=1)
    return whole, ids.argmax(-1) + m


# --- token ids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('lead', [(1,), (1, 8, 9, 10)])
def test_tokens_after_eot_and_the_shared_start_change_nothing(clip, tower, lead):
    ids = make_ids(lead=lead)
    close(tower.encode_tokens(ids), clip.encode_text(ids))
    close(tower(ids[:1]), clip.encode_text(ids[:1]))


def test_many_prompts_in_chunks_equal_one_pass(clip):
    ids = make_ids([2 + i % 9 for i in range(23)])
    close(TextTower.from_clip(clip, chunk_size=4).encode_tokens(ids), clip.encode_text(ids))


def test_custom_text_clip_and_projection_with_bias():
    clip = make_clip(CustomTextCLIP, proj_bias=True)
    close(TextTower.from_clip(clip).encode_tokens(make_ids()), clip.encode_text(make_ids()))


@needs('eos_id')
def test_tower_that_names_its_eot():
    clip = make_clip(pool_type='eos', eos_id=30)
    ids = make_ids()
    ids[ids == 30], ids[ids == EOT] = 31, 30
    close(TextTower.from_clip(clip).encode_tokens(ids), clip.encode_text(ids))


def test_layer_scale_tower():
    clip = make_clip(ls_init_value=0.1)
    close(TextTower.from_clip(clip).encode_tokens(make_ids()), clip.encode_text(make_ids()))


def test_context_length_13_cuts_the_positions(clip):
    tower = TextTower.from_clip(clip, context_length=13)
    assert tower.positional_embedding.shape == (13, WIDTH)
    assert tower.context_length == 13
    close(tower.encode_tokens(make_ids(context_length=13)), clip.encode_text(make_ids()))
    close(tower.encode_tokens(make_ids()), clip.encode_text(make_ids()))  # zeros beyond 13 do no harm


def test_token_features_are_the_projection_at_every_position(clip, tower):
    ids = make_ids()[:, :20]
    out = tower.token_features(ids)
    for place in (0, 3, 19):
        expected = plain(clip, clip.token_embedding(ids), torch.full((len(ids),), place))
        close(out[:, place], expected)
    assert not out.requires_grad


# --- shared prefix, variants, chunks -----------------------------------------------------------------------------


@pytest.mark.parametrize('chunk_size', [None, 2])
def test_shared_context_equals_the_plain_pass_with_gradients(clip, tower, chunk_size):
    ids, context = make_ids(), random(4, WIDTH)
    own, eot, prefix = split(tower, ids, context)
    out = tower.encode(own, eot, prefix=prefix, chunk_size=chunk_size)
    expected = plain(clip, *joined(clip, ids, context))
    close(out, expected)
    close(gradients(out, context), gradients(expected, context))


@pytest.mark.parametrize('chunk_size', [None, 2, 12])
def test_variants_of_the_context_equal_one_call_each(clip, tower, chunk_size):
    ids, context = make_ids(), random(3, 4, WIDTH)
    own, eot, prefix = split(tower, ids, context)
    out = tower.encode(own, eot, prefix=prefix, chunk_size=chunk_size)
    assert out.shape == (3, len(ids), DIM)
    expected = torch.stack([plain(clip, *joined(clip, ids, c)) for c in context])
    close(out, expected)
    close(gradients(out, context), gradients(expected, context))
    assert tower.encode(own, eot, prefix=prefix[:1]).shape == (1, len(ids), DIM)


@pytest.mark.parametrize('chunk_size', [None, 2])
def test_class_specific_tokens_equal_the_plain_pass_with_gradients(clip, tower, chunk_size):
    ids = make_ids()
    embeddings = (clip.token_embedding(ids)[:, :9].detach() + random(5, 9, WIDTH)).detach().requires_grad_()
    out = tower.encode(embeddings, ids.argmax(-1), chunk_size=chunk_size)
    expected = plain(clip, embeddings, ids.argmax(-1))
    close(out, expected)
    close(gradients(out, embeddings), gradients(expected, embeddings))


def test_the_position_table_is_used_to_its_last_row(clip, tower):
    ids, context = make_ids([2, 60]), random(16, WIDTH)
    own, eot, prefix = split(tower, ids, context)
    assert prefix.shape[0] + int(eot.max()) + 1 == 77
    close(tower.encode(own, eot, prefix=prefix), plain(clip, *joined(clip, ids, context)))


def kept_bytes(tower, own, eot, prefix, **kwargs):
    """Bytes of activations that the backward pass would keep."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in tower.parameters()}
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        tower.encode(own, eot, prefix=prefix, **kwargs)
    return sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in weights)


def test_what_the_backward_pass_keeps_does_not_grow_with_the_classes(tower):
    few = split(tower, make_ids([4] * 8, context_length=6), random(4, WIDTH))
    many = split(tower, make_ids([4] * 64, context_length=6), random(4, WIDTH))
    assert kept_bytes(tower, *many, chunk_size=8) < kept_bytes(tower, *few, chunk_size=8)
    assert kept_bytes(tower, *many) > 4 * kept_bytes(tower, *few)


def test_what_the_backward_pass_keeps_of_variants_are_keys_and_values(tower):
    own, eot, prefix = split(tower, make_ids([4] * 8, context_length=6), random(4, WIDTH))
    few, many = (prefix.detach().expand(n, -1, -1).clone().requires_grad_() for n in (4, 32))
    growth = kept_bytes(tower, own, eot, many, chunk_size=8) - kept_bytes(tower, own, eot, few, chunk_size=8)
    layers, floats = len(tower.transformer.resblocks), 28 * prefix.numel()
    result = 28 * len(eot) * tower.embed_dim
    assert growth <= 4 * (floats * (2 * layers + 2) + 2 * result)


# --- deep prompts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('depth', [1, 2])
@pytest.mark.parametrize('chunk_size', [None, 2])
def test_deep_prompts_in_the_prefix_equal_the_full_loop(clip, tower, depth, chunk_size):
    ids, context, deep = make_ids(), random(4, WIDTH), random(depth, 2, WIDTH, seed=6)
    own, eot, prefix = split(tower, ids, context)
    out = tower.encode(own, eot, prefix=prefix, deep=deep, chunk_size=chunk_size)
    expected = plain(clip, *joined(clip, ids, context), deep)
    close(out, expected)
    close(gradients(out, context, deep), gradients(expected, context, deep))


def test_deep_prompts_of_variants_equal_the_full_loop(clip, tower):
    ids, context, deep = make_ids(), random(3, 4, WIDTH), random(2, 3, 2, WIDTH, seed=6)
    own, eot, prefix = split(tower, ids, context)
    expected = [plain(clip, *joined(clip, ids, context[g]), deep[:, g]) for g in range(3)]
    close(tower.encode(own, eot, prefix=prefix, deep=deep), torch.stack(expected))
    expected = [plain(clip, *joined(clip, ids, context[g]), deep[:, 0]) for g in range(3)]
    close(tower.encode(own, eot, prefix=prefix, deep=deep[:, 0]), torch.stack(expected))


@pytest.mark.parametrize('chunk_size', [None, 2])
def test_deep_prompts_in_class_specific_sequences_equal_the_full_loop(clip, tower, chunk_size):
    ids, deep = make_ids((5, 7, 4, 6)), random(2, 3, WIDTH)
    out = tower.encode(tower.embed(ids), ids.argmax(-1), deep=deep, chunk_size=chunk_size)
    expected = plain(clip, clip.token_embedding(ids), ids.argmax(-1), deep)
    close(out, expected)
    close(gradients(out, deep), gradients(expected, deep))


@pytest.mark.parametrize(
    'shape', [(3, 2, WIDTH), (2, 5, WIDTH), (2, 3, 2, WIDTH)], ids=['too many layers', 'too many tokens', 'no variants']
)
def test_deep_prompts_that_do_not_fit_are_refused(tower, shape):
    own, eot, prefix = split(tower, make_ids(), random(4, WIDTH))
    with pytest.raises(ConfigError, match='deep prompts'):
        tower.encode(own, eot, prefix=prefix, deep=random(*shape))


# --- frozen weights and the cache --------------------------------------------------------------------------------


def test_frozen_means_no_gradients_and_eval_mode(clip):
    tower = TextTower.from_clip(copy.deepcopy(clip))
    nn.Sequential(tower).train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower.encode_tokens(make_ids()).requires_grad


def test_trainable_tower_gets_the_gradients_of_the_plain_pass():
    reference = make_clip()
    tower = TextTower.from_clip(make_clip(), frozen=False)
    assert tower.train().training
    gradient = gradients(tower.encode_tokens(make_ids()), *tower.parameters())
    names = [name for name, _ in tower.named_parameters()]
    reference_parameters = dict(reference.named_parameters())
    expected = gradients(reference.encode_text(make_ids()), *(reference_parameters[name] for name in names))
    for name, a, b in zip(names, gradient, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8, msg=lambda m, name=name: f'{name}: {m}')


def count_passes(tower, monkeypatch):
    passes = []
    encode = tower.encode
    monkeypatch.setattr(tower, 'encode', lambda *a, **k: passes.append(1) or encode(*a, **k))
    return passes


def test_frozen_prompts_are_encoded_once(tower, monkeypatch):
    passes = count_passes(tower, monkeypatch)
    first = tower.encode_tokens(make_ids())
    first.zero_()  # the caller's edit must not reach the cache
    again = tower.encode_tokens(make_ids())
    assert len(passes) == 1
    assert again.abs().sum() > 0
    tower.encode_tokens(make_ids([3, 4]))
    assert len(passes) == 2


def test_the_cache_is_bounded(tower):
    for length in range(2, 40):
        tower.encode_tokens(make_ids([length]))
    assert len(tower._encoded) == 16


def test_a_result_cached_in_inference_mode_can_be_trained_on(tower):
    with torch.inference_mode():
        tower.encode_tokens(make_ids())
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    (tower.encode_tokens(make_ids()) * scale).sum().backward()
    assert scale.grad is not None


def optimizer_step(tower):
    parameter = tower.ln_final.weight.requires_grad_()
    parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD([parameter], lr=0.1).step()


def load(tower):
    tower.load_state_dict({k: v * 1.1 for k, v in tower.state_dict().items()})


def edit_data(tower):
    tower.transformer.resblocks[1].mlp.c_fc.weight.data[3] += 1


def edit_one_bias(tower):
    tower.transformer.resblocks[0].attn.out_proj.bias.data[7] += 1


def swap(tower):
    weights = tower.text_projection
    weights.data = weights.data * 2


def average(tower):
    for parameter in tower.parameters():  # as an average of weights writes them: in place, past the version counter
        parameter.data.mul_(0.9)


@pytest.mark.parametrize('change', [optimizer_step, load, edit_data, edit_one_bias, swap, average])
def test_the_cache_is_dropped_when_weights_change(tower, change):
    before = tower.encode_tokens(make_ids())
    change(tower)
    after = tower.encode_tokens(make_ids())
    assert not torch.allclose(before, after)
    fresh = TextTower.from_clip(make_clip())
    fresh.load_state_dict(tower.state_dict())
    close(after, fresh.encode_tokens(make_ids()))


# --- types -------------------------------------------------------------------------------------------------------


def test_autocast_stays_close_and_is_cached_apart(clip):
    tower = TextTower.from_clip(copy.deepcopy(clip).float(), chunk_size=2)
    expected = tower.encode_tokens(make_ids())
    context = random(4, WIDTH).detach().float().requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = tower.encode_tokens(make_ids())
        learned = tower.encode(*split(tower, make_ids(), context)[:2], prefix=split(tower, make_ids(), context)[2])
    assert out.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(out.float(), expected).min() > 0.99
    learned.float().sum().backward()
    assert context.grad.dtype == torch.float32
    assert context.grad.isfinite().all()


def test_half_precision_weights_take_float32_prompts(clip):
    tower = TextTower.from_clip(copy.deepcopy(clip).bfloat16())
    context = random(4, WIDTH).detach().float().requires_grad_()
    own, eot, prefix = split(tower, make_ids(), context)
    out = tower.encode(own, eot, prefix=prefix, deep=context[None, :2])
    assert out.dtype == tower.dtype == torch.bfloat16
    out.float().sum().backward()
    assert context.grad.isfinite().all()


# --- construction and errors -------------------------------------------------------------------------------------


def test_built_from_a_config_by_arch():
    arch = {'embed_dim': DIM, 'vision_cfg': VISION, 'text_cfg': {**TEXT, 'vocab_size': 49408}}
    tower = MODELS.build(dict(type='vlm_dense.TextTower', arch=arch, context_length=13))
    ids = tower.tokenize(['red circle', 'a blue square'])
    assert ids.shape == (2, 13)
    assert tower.encode_tokens(ids).shape == (2, tower.embed_dim) == (2, DIM)
    assert tower.width == WIDTH
    with pytest.raises(ClassNamesError):
        tower.tokenize(['word ' * 13])


@pytest.mark.parametrize('kind', [CLIP, CustomTextCLIP])
def test_state_dict_has_openais_keys(kind):
    tower = TextTower.from_clip(make_clip(kind))
    blocks = {key for key in tower.state_dict() if key.startswith('transformer.resblocks.')}
    assert {key.split('.', 3)[3] for key in blocks} == {
        *('ln_1.weight', 'ln_1.bias', 'attn.in_proj_weight', 'attn.in_proj_bias', 'attn.out_proj.weight'),
        *('attn.out_proj.bias', 'ln_2.weight', 'ln_2.bias', 'mlp.c_fc.weight', 'mlp.c_fc.bias'),
        *('mlp.c_proj.weight', 'mlp.c_proj.bias'),
    }
    assert len(blocks) == 12 * LAYERS
    assert set(tower.state_dict()) - blocks == {
        *('token_embedding.weight', 'positional_embedding', 'ln_final.weight', 'ln_final.bias', 'text_projection'),
    }


def test_logit_scale_is_a_constant(clip, tower):
    close(tower.logit_scale, clip.logit_scale.detach())
    assert 'logit_scale' not in dict(tower.named_parameters())


def test_too_long_sequences_say_length_limit_and_remedy(clip):
    tower = TextTower.from_clip(clip, context_length=13)
    with pytest.raises(ClassNamesError, match='21 tokens.*13 positions.*raise context_length'):
        tower.encode_tokens(make_ids([20]))
    own, eot, prefix = split(tower, make_ids(), random(8, WIDTH))
    with pytest.raises(ClassNamesError, match='16 tokens.*13 positions'):
        tower.encode(own, eot, prefix=prefix)
    with pytest.raises(ClassNamesError, match='77 tokens'):
        tower.token_features(make_ids())


@pytest.mark.parametrize('eot', [[1, 2], [1, 2, 77, 3, 3], [0, -1, 2, 3, 3]])
def test_eot_that_does_not_fit_the_sequences_is_refused(tower, eot):
    with pytest.raises(ConfigError, match='EOT'):
        tower.encode(tower.embed(make_ids()), torch.tensor(eot))


@pytest.mark.parametrize('length', [1, 78])
def test_context_length_outside_the_table_is_refused(clip, length):
    with pytest.raises(ConfigError, match='77 rows'):
        TextTower.from_clip(clip, context_length=length)


@pytest.mark.parametrize('text', [{'pool_type': 'first'}, {'pool_type': 'last'}])
def test_towers_that_are_read_elsewhere_are_refused(text):
    with pytest.raises(ConfigError, match=f"found CLIP with pool_type='{text['pool_type']}', causal"):
        TextTower.from_clip(make_clip(**text))


@needs('qk_norm')
def test_custom_blocks_are_refused_by_name():
    with pytest.raises(ConfigError, match='CustomResidualAttentionBlock'):
        TextTower.from_clip(make_clip(qk_norm=True))
