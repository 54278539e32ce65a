"""Learned context: where the vectors go, what official checkpoints it takes, what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_towers import vit

from vlm_dense.clip.loading import tokenize
from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError
from vlm_dense.registry import MODELS

NAMES = ['tiger_shark', 'sea-lion', 'a rather long name of a class', 'cat']
D = 16
ARCH = vit(embed_dim=D, image_size=16, layers=1)


@pytest.fixture(scope='module')
def tower():
    torch.manual_seed(0)
    tower = MODELS.build(dict(type='vlm_dense.TextTower', arch=ARCH))
    for p in tower.parameters():
        p.data.normal_(float(p.ndim == 1), 0.5)
    return tower


def build(tower, kind='CoOpPrompt', names=NAMES, **kwargs):
    torch.manual_seed(1)
    return MODELS.build(
        dict(type=f'vlm_dense.{kind}', **kwargs), default_args=dict(class_names=names, text_tower=tower)
    )


def tower_of_images() -> torch.nn.Module:
    arch = dict(ARCH, vision_cfg=dict(ARCH['vision_cfg'], layers=2))  # CAVPT's tokens need a block below theirs
    return MODELS.build(dict(type='vlm_dense.CLIPViT', arch=arch, head=True))


def plain(tower, sequences: list[torch.Tensor]) -> torch.Tensor:
    """Every prompt, as embeddings that end with EOT, on its own through the tower."""
    return torch.cat([tower.encode(s[None], torch.tensor([len(s) - 1])) for s in sequences])


def pieces(tower, name: str) -> tuple[torch.Tensor, ...]:
    """Embeddings of [SOS], the name, and '.' [EOT]."""
    ids = tokenize(ARCH, [name.replace('_', ' ') + '.'])[0]
    tokens = tower.embed(ids[: int(ids.argmax()) + 1])
    return tokens[:1], tokens[1:-2], tokens[-2:]


@pytest.mark.parametrize('class_specific', [False, True])
@pytest.mark.parametrize('m', [1, 4, 5])
@pytest.mark.parametrize('position', ['end', 'middle', 'front'])
def test_vectors_stand_where_the_paper_puts_them(tower, position, m, class_specific):
    prompt = build(tower, num_contexts=m, position=position, class_specific=class_specific, std=0.5)
    assert prompt.ctx.shape == ((len(NAMES), m, 32) if class_specific else (m, 32))
    sequences = []
    for k, name in enumerate(NAMES):
        v = prompt.ctx[k] if class_specific else prompt.ctx
        start, words, end = pieces(tower, name)
        before = dict(end=m, middle=m // 2, front=0)[position]
        sequences.append(torch.cat([start, v[:before], words, v[before:], end]))
    wanted = plain(tower, sequences)
    found = prompt(tower)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    probe = torch.randn_like(found)
    gradients = [torch.autograd.grad((x * probe).sum(), prompt.ctx)[0] for x in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('class_specific', [False, True])
def test_initial_words_give_the_hand_written_prompt(tower, class_specific):
    prompt = build(tower, words='a photo of a', class_specific=class_specific)
    sentences = [f'a photo of a {name.replace("_", " ")}.' for name in NAMES]
    torch.testing.assert_close(prompt(tower), tower.encode_tokens(tower.tokenize(sentences)), rtol=1e-4, atol=1e-5)
    assert prompt.num_contexts == 4


def test_sentences_are_cut_where_asked_for(tower):
    long = dict(templates=['a photo of a ' + 'very ' * 80 + '{}.'])
    with pytest.raises(ClassNamesError, match='the text context takes 77'):
        build(tower, 'ZeroShotPrompt', **long)
    ids = build(tower, 'ZeroShotPrompt', truncate=True, **long).token_ids
    assert ids.shape == (len(NAMES), 77) and (ids[:, -1] == 49407).all()


def test_words_beyond_the_vectors_stay(tower):
    prompt = build(tower, words='a photo of a', num_contexts=2)
    written = tower.encode_tokens(tower.tokenize([f'a photo of a {n.replace("_", " ")}.' for n in NAMES]))
    torch.testing.assert_close(prompt(tower), written, rtol=1e-4, atol=1e-5)
    assert prompt.ctx.shape == (2, 32)


def test_only_learned_weights_are_in_the_state_dict(tower):
    assert set(build(tower).state_dict()) == {'ctx'}
    assert set(build(tower, 'KgCoOpPrompt').state_dict()) == {'ctx'}
    assert set(build(tower, 'CoCoOpPrompt').state_dict()) == {
        'ctx',
        *(f'meta_net.linear{i}.{leaf}' for i in (1, 2) for leaf in ('weight', 'bias')),
    }


def test_an_image_of_cocoop_has_the_same_prompts_in_any_batch(tower):
    prompt = build(tower, 'CoCoOpPrompt', reduction=4)
    features = 3 * torch.randn(3, D)
    together = prompt(tower, features)
    assert together.shape == (3, len(NAMES), D)
    for feature, found in zip(features, together, strict=True):
        v = prompt.ctx + prompt.meta_net(F.normalize(feature, dim=0))
        parts = [pieces(tower, name) for name in NAMES]
        wanted = plain(tower, [torch.cat([start, v, words, end]) for start, words, end in parts])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found, prompt(tower, feature[None])[0], rtol=1e-4, atol=1e-5)


def test_kgcoop_starts_without_penalty_and_pays_for_distance(tower):
    prompt = build(tower, 'KgCoOpPrompt', weight=2.0).train()
    assert prompt.losses(prompt(tower))['loss_kg'].abs() < 1e-5
    prompt.ctx.data += torch.randn_like(prompt.ctx)  # layer norms do not see a constant
    w = prompt(tower)
    t = tower.encode_tokens(tower.tokenize([f'a photo of a {n.replace("_", " ")}.' for n in NAMES]))
    wanted = 2 - 2 * F.cosine_similarity(w, t).mean()
    assert wanted > 1e-3
    torch.testing.assert_close(prompt.losses(w)['loss_kg'], wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prompt.losses(F.normalize(w, dim=-1))['loss_kg'], wanted, rtol=1e-4, atol=1e-5)


def test_a_marker_among_the_words_is_the_place_of_the_name(tower):
    prompt = build(tower, words='a [CLS] on the table')
    sentences = [f'a {name.replace("_", " ")} on the table.' for name in NAMES]
    assert prompt.ctx.shape == (4, 32)
    torch.testing.assert_close(prompt(tower), tower.encode_tokens(tower.tokenize(sentences)))
    with pytest.raises(ConfigError, match='as many as there are words'):
        build(tower, words='a [CLS] on the table', num_contexts=5)


@pytest.mark.parametrize(
    'kind, options',
    [
        ('CoOpPrompt', dict(num_contexts=4, class_specific=True, position='middle')),
        ('CoCoOpPrompt', dict(reduction=2)),
        ('KgCoOpPrompt', {}),
        ('DeepTextPrompt', dict(depth=2)),
        ('DenseCLIPPrompt', dict(name_length=12)),
        ('ZeroShotPrompt', dict(templates=['a photo of a {}.', 'a {}.'])),
    ],
)
def test_some_of_the_classes_are_encoded_as_among_all(tower, kind, options):
    prompt, classes = build(tower, kind, **options), torch.tensor([3, 1])
    images = torch.randn(2, D) if prompt.image_conditioned else None
    with torch.no_grad():
        some, all_ = (prompt(tower, images, classes=which) for which in (classes, None))
    torch.testing.assert_close(some, all_[..., classes, :])


# --- official checkpoints ---------------------------------------------------------------------------------------------


class Warmup(torch.optim.lr_scheduler.LRScheduler):
    """As in the official trainer: its state holds the scheduler that follows it."""

    def __init__(self, optimizer, successor):
        self.successor = successor
        super().__init__(optimizer)

    def get_lr(self):
        return [1e-5]


def official(path, weights: dict) -> str:
    """A checkpoint as the official trainer saves it, with the state of optimiser and scheduler."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.1, momentum=0.9)
    scheduler = Warmup(optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50))
    optimizer.param_groups[0]['params'][0].grad = torch.ones(3)
    optimizer.step()
    scheduler.step()
    torch.save(
        dict(
            state_dict=dict(weights, token_prefix=torch.zeros(7, 1, 32), token_suffix=torch.zeros(7, 60, 32)),
            epoch=50,
            optimizer=optimizer.state_dict(),
            scheduler=scheduler.state_dict(),
            val_result=None,
        ),
        path,
    )
    return str(path)


def test_official_checkpoints_load_whatever_classes_they_were_trained_on(tower, tmp_path):
    ctx = torch.randn(4, 32)
    path = official(tmp_path / 'model.pth.tar-50', dict(ctx=ctx))
    assert torch.equal(build(tower, num_contexts=4, pretrained=path).ctx, ctx)
    dead = {'bias_vectors': torch.zeros(1, 512), 'meta_net.linear1.weight': torch.zeros(512, 512)}
    path = official(tmp_path / 'model.pth.tar-100', dict(ctx=ctx, **dead))
    assert torch.equal(build(tower, 'KgCoOpPrompt', pretrained=path).ctx, ctx)
    weights = {k: torch.randn_like(v) for k, v in build(tower, 'CoCoOpPrompt').state_dict().items()}
    path = official(tmp_path / 'model.pth.tar-10', weights)
    assert all(
        torch.equal(v, weights[k]) for k, v in build(tower, 'CoCoOpPrompt', pretrained=path).state_dict().items()
    )


@pytest.mark.parametrize(
    'kwargs, shape, shapes',
    [
        (dict(num_contexts=4), (4, 64), r'expected \(4, 32\), found \(4, 64\)'),  # another tower
        (dict(num_contexts=4), (16, 32), r'expected \(4, 32\), found \(16, 32\)'),
        (dict(num_contexts=4, class_specific=True), (7, 4, 32), r'expected \(4, 4, 32\), found \(7, 4, 32\)'),
        (dict(num_contexts=4), (4, 4, 32), r'expected \(4, 32\), found \(4, 4, 32\)'),  # class-specific for shared
    ],
)
def test_a_foreign_checkpoint_is_refused_with_both_shapes(tower, tmp_path, kwargs, shape, shapes):
    path = official(tmp_path / 'model.pth.tar-50', dict(ctx=torch.zeros(shape)))
    with pytest.raises(CheckpointError, match=shapes):
        build(tower, pretrained=path, **kwargs)


def test_a_checkpoint_of_another_method_is_refused(tower, tmp_path):
    path = official(tmp_path / 'model.pth.tar-10', build(tower, 'CoCoOpPrompt').state_dict())
    with pytest.raises(CheckpointError, match='4 unexpected: meta_net'):
        build(tower, num_contexts=4, pretrained=path)
    path = official(tmp_path / 'model.pth.tar-50', dict(ctx=torch.zeros(4, 32)))
    with pytest.raises(CheckpointError, match='4 missing: meta_net'):
        build(tower, 'CoCoOpPrompt', pretrained=path)


def test_learned_vectors_of_other_classes_load_unless_each_class_has_its_own(tower):
    prompt = build(tower, num_contexts=4)
    build(tower, names=['one'], num_contexts=4).load_state_dict(prompt.state_dict())
    own = build(tower, num_contexts=4, class_specific=True)
    with pytest.raises(RuntimeError, match=r'\[4, 4, 32\].*\[1, 4, 32\]'):
        build(tower, names=['one'], num_contexts=4, class_specific=True).load_state_dict(own.state_dict())


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_options_that_cannot_work_are_named(tower):
    with pytest.raises(ConfigError, match="position must be one of .*found 'start'"):
        build(tower, position='start')
    with pytest.raises(ConfigError, match='at least 1; found 0'):
        build(tower, num_contexts=0)
    with pytest.raises(ConfigError, match="as many as there are words in 'a photo'; found 4"):
        build(tower, words='a photo', num_contexts=4)
    with pytest.raises(ConfigError, match='need one {}'):
        build(tower, 'KgCoOpPrompt', template='a photo.')


def test_a_context_longer_than_fits_is_explained(tower):
    with pytest.raises(ClassNamesError, match='CoOpPrompt: .*The context takes 72 of them.*context_length'):
        build(tower, num_contexts=72)


@pytest.mark.parametrize(
    'kind,options',
    [
        ('KgCoOpPrompt', dict(words=None, template='a photo of a {}.')),
        ('LASPPrompt', dict(words=None)),
        ('PLOTPrompt', {}),
        ('UPLPrompt', {}),
        ('TaIDPTPrompt', {}),
        ('DualCoOpPrompt', {}),
        ('SoftCPTPrompt', dict(tasks=dict(animal=1))),
        ('UPTPrompt', dict(image_tower=tower_of_images)),
        ('MVLPTPrompt', dict(image_tower=tower_of_images)),
        ('CAVPTPrompt', dict(image_tower=tower_of_images)),
    ],
)
def test_contexts_of_other_methods_that_are_too_long_are_explained(tower, kind, options):
    options = {key: value() if callable(value) else value for key, value in options.items()}
    with pytest.raises(ClassNamesError, match=r'\w+Prompt: .*The context takes 76 of them.*context_length'):
        build(tower, kind, names=['cat'], num_contexts=76, **options)(tower)


def test_one_class_and_names_beyond_ascii_work(tower):
    assert build(tower, names=['café "à la" crème!']).forward(tower).shape == (1, D)
