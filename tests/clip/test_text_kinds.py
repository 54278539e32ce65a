"""Text towers of every kind against open_clip's own pass: token ids, learned vectors, deep prompts, inserted tokens."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from tiny_texts import HUGGING_FACE, KINDS, WIDTH, WordTokenizer, make_clip, make_tower, plain, table, tokenizer
from tiny_towers import vit

from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import MODELS

NAMES = ['tiger_shark', 'sea-lion', 'a long name', 'cat']
needs_transformers = pytest.mark.skipif(find_spec('transformers') is None, reason='the extra hf is missing')
EVERY = [*KINDS, *(pytest.param(kind, marks=needs_transformers) for kind in HUGGING_FACE)]
CLIPS = {}


@pytest.fixture(params=EVERY)
def kind(request):
    if request.param not in CLIPS:
        CLIPS[request.param] = make_clip(request.param).requires_grad_(False)
    return request.param


@pytest.fixture
def clip(kind):
    return CLIPS[kind]


@pytest.fixture
def tower(kind, clip):
    """Takes modules of ``clip``; those of Hugging Face lose their table to it, so it gets a model of its own."""
    return make_tower(kind, make_clip(kind) if kind in (*HUGGING_FACE, 'masked') else clip)


def texts(length: int) -> list[str]:
    return ['red', 'a photo of a very large dog', 'two cats!', ' '.join(['word'] * (length - 2))]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


def gradients(out, *inputs):
    weights = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(7))
    return torch.autograd.grad((out * weights).sum(), inputs)


def length_of(tower) -> int:
    return min(tower.context_length, 24)


def build(tower, kind: str, names=NAMES, **options):
    torch.manual_seed(1)
    prompt = MODELS.build(
        dict(type=f'vlm_dense.{kind}', **options), default_args=dict(class_names=names, text_tower=tower)
    )
    return prompt.double()


def sequences(clip, tokens, prompt, context, position: str, length: int):
    """Full ids of all prompts of a learned context, their embeddings, and where the vectors stand in them."""
    m = context.shape[-2]
    before = dict(end=m, middle=m // 2, front=0)[position]
    ids, places = [], []
    for name in NAMES:
        own = tokens.own(name.replace('_', ' '))
        start = len(tokens.start)
        ids.append([9] * before + own + [9] * (m - before) + tokens.own('.'))
        places.append([*range(start, start + before), *(start + len(own) + i for i in range(before, m))])
    ids = tokens.rows(ids, length)
    rows = table(clip)(ids).detach()
    whole = []
    for k, place in enumerate(places):
        v = context if context.dim() == 2 else context[k]
        whole.append(rows[k].index_copy(0, torch.tensor(place), v.to(rows.dtype)))
    return ids, torch.stack(whole)


# --- token ids --------------------------------------------------------------------------------------------------------


def test_texts_are_encoded_as_by_open_clip(kind, clip, tower):
    length = length_of(tower)
    ids = tokenizer(kind)(texts(length), length)
    wanted = clip.encode_text(ids)
    close(tower.encode_tokens(ids), wanted)
    close(torch.cat([tower.encode_tokens(row[None]) for row in ids]), wanted)
    tower.chunk_size = 3
    close(tower.encode_tokens(ids.flip(0)), wanted.flip(0))


def test_rows_without_their_padding_are_filled_with_it(kind, clip, tower):
    length = length_of(tower)
    ids = tokenizer(kind)(texts(length)[:3], length)
    short = ids[:, : int(tower.find_eot(ids).max()) + 1]
    assert short.shape[1] < length
    close(tower.encode_tokens(short), clip.encode_text(ids))


def test_the_end_of_a_text_is_found(kind, tower):
    tokens, length = tokenizer(kind), length_of(tower)
    ids = tokens(texts(length), length)
    wanted = [len(tokens.start) + len(tokens.own(text)) for text in texts(length)]
    assert tower.find_eot(ids).tolist()[:3] == wanted[:3]


def test_token_features_end_in_the_feature_of_the_text(kind, tower):
    ids = tokenizer(kind)(texts(length_of(tower))[:3], length_of(tower))
    found, whole = tower.token_features(ids), tower.encode_tokens(ids)
    assert found.shape == (3, length_of(tower), tower.embed_dim)
    rows = torch.arange(3)
    if tower.kind.reads == 'end':
        close(found[rows, tower.find_eot(ids)], whole)
    elif tower.kind.reads == 'last':
        close(found[:, -1], whole)
    elif kind == 'masked':  # the mean of its tokens, and the projection is linear
        read = torch.arange(found.shape[1]) <= tower.find_eot(ids)[:, None]
        close((found * read[..., None]).sum(1) / read.sum(1, keepdim=True), whole)
    else:
        assert found.isfinite().all()


# --- prompts as embeddings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('class_specific', [False, True])
@pytest.mark.parametrize('position', ['end', 'middle', 'front'])
def test_learned_vectors_at_any_position_equal_the_plain_pass(kind, clip, tower, position, class_specific):
    prompt = build(tower, 'CoOpPrompt', num_contexts=3, position=position, class_specific=class_specific, std=0.5)
    ids, whole = sequences(clip, tokenizer(kind), prompt, prompt.ctx, position, length_of(tower))
    wanted, found = plain(clip, ids, whole), prompt(tower)
    close(found, wanted)
    (gradient,) = gradients(wanted, prompt.ctx)
    close(gradients(found, prompt.ctx)[0], gradient)
    tower.chunk_size = 2  # computed again in the backward pass
    close(gradients(prompt(tower), prompt.ctx)[0], gradient)


def test_initial_words_give_the_hand_written_prompt(tower):
    prompt = build(tower, 'CoOpPrompt', words='a photo of a')
    written = tower.encode_tokens(tower.tokenize([f'a photo of a {n.replace("_", " ")}.' for n in NAMES]))
    torch.testing.assert_close(prompt(tower), written, rtol=1e-5, atol=1e-5)  # vectors begin in float32


@pytest.mark.parametrize('depth', [2, 3])
def test_deep_prompts_equal_the_plain_pass(kind, clip, tower, depth):
    prompt = build(tower, 'DeepTextPrompt', num_contexts=2, words=None, depth=depth, std=0.5)
    tokens = tokenizer(kind)
    ids, whole = sequences(clip, tokens, prompt, prompt.ctx, 'end', length_of(tower))
    states = {i + 1: (len(tokens.start), rows[None]) for i, rows in enumerate(prompt.deep)}
    assert len(states) == depth - 1
    wanted, found = plain(clip, ids, whole, states), prompt(tower)
    close(found, wanted)
    inputs = prompt.ctx, *prompt.deep
    for a, b in zip(gradients(found, *inputs), gradients(wanted, *inputs), strict=True):
        close(a, b)


def test_variants_of_context_and_deep_prompts_equal_one_pass_each(kind, clip, tower):
    prompt = build(tower, 'CoOpPrompt', num_contexts=2)
    draw = torch.Generator().manual_seed(2)
    contexts = torch.randn(3, 2, WIDTH, generator=draw, dtype=torch.float64)
    deep = torch.randn(2, 3, 2, WIDTH, generator=draw, dtype=torch.float64)
    wanted = []
    for g, context in enumerate(contexts):
        ids, whole = sequences(clip, tokenizer(kind), prompt, context, 'end', length_of(tower))
        start = len(tokenizer(kind).start)
        wanted.append(plain(clip, ids, whole, {i + 1: (start, deep[i, g][None]) for i in range(2)}))
    close(prompt.encode(tower, contexts, deep=deep), torch.stack(wanted))
    tower.chunk_size = 3
    close(prompt.encode(tower, contexts, deep=deep), torch.stack(wanted))
    classes = torch.tensor([2, 0])
    close(prompt.encode(tower, contexts, classes, deep=deep), torch.stack(wanted)[:, classes])


@pytest.mark.parametrize('block', [0, 2])
def test_inserted_tokens_of_classes_equal_the_plain_pass(kind, clip, tower, block):
    own = dict(num_contexts=3, num_class_tokens=2, block=block, prompt_template='X X X {}.')
    prompt = build(tower, 'TCPPrompt', **own).float()
    ids, whole = sequences(clip, tokenizer(kind), prompt, prompt.ctx, 'end', length_of(tower))
    whole, tokens = whole.double(), prompt.class_tokens(tower).detach()
    wanted = plain(clip, ids, whole, {block: (len(tokenizer(kind).start), tokens.double())})
    close(prompt(tower), wanted)


def test_a_trainable_tower_gets_the_gradients_of_the_plain_pass(kind):
    reference = make_clip(kind)
    tower = make_tower(kind, make_clip(kind), frozen=False).eval()  # without the dropout of Hugging Face's
    ids = tokenizer(kind)(texts(12), length_of(tower))
    found = gradients_by_name(tower.encode_tokens(ids), dict(tower.named_parameters()))
    names = {name.removeprefix('text.'): p for name, p in reference.named_parameters() if not name.startswith('visual')}
    names.pop('logit_scale')
    wanted = gradients_by_name(reference.encode_text(ids), names)
    for name, value in found.items():
        theirs = wanted[name] if name in wanted else wanted[_name_in_transformers(name, wanted)]
        close(value, theirs)


def gradients_by_name(out, named):
    weights = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(7))
    values = torch.autograd.grad((out * weights).sum(), named.values(), allow_unused=True)
    return dict(zip(named, values, strict=True))


def _name_in_transformers(name: str, names) -> str:
    if name == 'token_embedding.weight':
        tables = 'words.weight', 'word_embeddings.weight', 'embed_tokens.weight'
        return next(each for each in names if each.endswith(tables))
    return name.replace('transformer.model.', 'transformer.').replace('text_projection.', 'proj.')


# --- what a kind refuses, and its scale -------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['mobileclip', 'siglip', 'coca'], indirect=True)
def test_a_context_that_would_be_cut_is_refused(kind, clip):
    with pytest.raises(ConfigError, match='context_length=13 cuts the context of 24 tokens'):
        make_tower(kind, clip, context_length=13)


@pytest.mark.parametrize('kind', ['mobileclip', 'siglip'], indirect=True)
def test_prompts_that_no_longer_fit_are_refused_or_cut_where_asked_for(kind, tower):
    long = 'word ' * (24 - len(tokenizer(kind).start))
    with pytest.raises(ClassNamesError, match='25 tokens.*takes 24'):
        tower.tokenize([long])
    cut = tower.tokenize([long], truncate=True)
    assert cut.shape == (1, 24)
    assert cut[0, -1] == tokenizer(kind).end[-1]
    with pytest.raises(ClassNamesError, match='CoOpPrompt.*takes 24'):
        build(tower, 'CoOpPrompt', num_contexts=23)
    context = torch.zeros(20, WIDTH, dtype=torch.float64)
    with pytest.raises(ClassNamesError, match='25 tokens'):
        tower.encode(tower.embed(tower.tokenize(['a b c d'])[:, :5]), torch.tensor([4]), prefix=context)


@pytest.mark.parametrize('kind', ['coca'], indirect=True)
def test_ids_of_padding_inside_a_text_hide_what_coca_hides(kind, clip, tower):
    ids = tokenizer(kind)(['one two three', 'a longer text of words'], 24)
    ids[0, 2] = ids[1, 3] = ids[1, 4] = 0
    close(tower.encode_tokens(ids), clip.encode_text(ids))


@pytest.mark.parametrize('kind', ['siglip'], indirect=True)
def test_padding_of_another_id_changes_the_text_as_in_open_clip(kind, clip, tower):
    ids = tokenizer(kind)(['one two'], 24)
    other = ids.where(ids != 1, 0)
    close(tower.encode_tokens(other), clip.encode_text(other))
    assert (tower.encode_tokens(other) - tower.encode_tokens(ids)).abs().max() > 0.1


def test_the_bias_of_a_sigmoid_is_kept_and_added_to_cosines():
    arch = dict(vit(text=dict(no_causal_mask=True, pool_type='last')), custom_text=True, init_logit_bias=-10)
    words = WordTokenizer(start=(), end=(1,))
    own = dict(backbone=dict(type='vlm_dense.CLIPViT', arch=arch, head=True), class_names=NAMES)
    text = dict(type='vlm_dense.TextTower', arch=arch, tokenizer=dict(type='WordTokenizer', start=(), end=(1,)))
    prompt = dict(type='vlm_dense.ZeroShotPrompt', templates=['a {}.'])
    model = MODELS.build(dict(type='vlm_dense.CLIPClassifier', text_encoder=text, text_prompt=prompt, **own)).eval()
    tower = model.text_encoder
    assert tower.logit_bias == -10 and 'logit_bias' not in tower.state_dict()
    assert torch.equal(tower.tokenize(['a cat']), words(['a cat'], 77))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found, (features, classes) = model(images), model.text_side.encode(model.backbone, images, ('global',))
    cosine = torch.nn.functional.cosine_similarity(features.global_[:, None], classes[None], dim=-1)
    torch.testing.assert_close(found, tower.logit_scale.exp() * cosine - 10)
