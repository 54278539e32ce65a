"""LASP: its text-to-text loss, names without images, layer norms that are trained, official checkpoints."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from methods.small import build_prompt, classifier, text_tower

from vlm_dense.classification import ClsDataSample, FeatureDataset
from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError

NAMES, ALL = ['sea_lion', 'cat'], ['owl', 'cat', 'sea_lion', 'old tram']
TEMPLATES = ['a photo of a {}.', 'art of the {}.', 'itap of a {}.']
LASP = dict(type='vlm_dense.LASPPrompt', templates=TEMPLATES, all_names=ALL, noise=0.0)


@pytest.fixture(scope='module')
def tower():
    return text_tower()


def lasp(tower, names=NAMES, **kwargs):
    prompt = build_prompt(tower, 'LASPPrompt', names, **dict(dict(templates=TEMPLATES, all_names=ALL), **kwargs))
    prompt.w.data.normal_(0, 0.5)
    return prompt


def prompt_of(prompt, tower):
    """w of all names, by a prompt that has them as its classes."""
    other = lasp(tower, ALL)
    other.load_state_dict(prompt.state_dict())
    return other.eval()(tower)


def test_names_come_from_a_data_set_of_which_nothing_else_is_read(tower, tmp_path):
    entries = [[f'{label}.jpg', label, name] for label, name in enumerate(ALL)]
    (tmp_path / 'eurosat').mkdir()
    (tmp_path / 'eurosat/split_zhou_EuroSAT.json').write_text(
        json.dumps(dict.fromkeys(('train', 'val', 'test'), entries))
    )
    data = dict(type='vlm_dense.ImageSetDataset', name='eurosat', data_root=str(tmp_path), split='test')
    plain = [name.replace('_', ' ') for name in ALL]
    for of_data, given in (
        (lasp(tower, all_names=None, whole_set=data), lasp(tower, all_names=plain)),
        (
            build_prompt(tower, 'SubPTPrompt', NAMES, num_contexts=2, novel_set=dict(data, classes='new')),
            build_prompt(tower, 'SubPTPrompt', NAMES, num_contexts=2, novel_names=plain[2:]),
        ),
    ):
        assert torch.equal(of_data.template_ids, given.template_ids)
        assert of_data.loss_names.tolist() == given.loss_names.tolist()


def test_each_written_name_is_classified_by_the_learned_ones(tower):
    prompt = lasp(tower, noise=0.0, weight=3.0).train()
    found = prompt.losses(prompt(tower))['loss_text_to_text']
    learned = F.normalize(prompt_of(prompt, tower), dim=-1)
    losses = []
    for template in TEMPLATES:
        for a, name in enumerate(ALL):
            written = tower.encode_tokens(tower.tokenize([template.format(name.replace('_', ' '))]))
            logits = tower.logit_scale.exp() * learned @ F.normalize(written[0], dim=0)
            losses.append(-logits.log_softmax(dim=0)[a])
    torch.testing.assert_close(found, 3.0 * torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


def test_what_other_names_do_not_change(tower):
    prompt = lasp(tower)
    training = prompt.train()(tower)
    assert training.shape == (2, 16)
    torch.testing.assert_close(training, prompt.eval()(tower), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(training, prompt_of(prompt, tower)[[2, 1]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prompt.train()(tower, classes=torch.tensor([1])), training[1:])
    assert set(prompt.state_dict()) == {'ctx', 'w'}


def test_noise_comes_in_half_of_the_steps(tower):
    prompt, zeros = lasp(tower, noise=0.2), torch.zeros(3, 4, 16)
    drawn = [prompt.draw_noise(zeros) for _ in range(400)]
    noise = [x for x in drawn if x is not None]
    assert len(noise) == pytest.approx(200, abs=50)
    assert torch.stack(noise).std().item() == pytest.approx(0.2, rel=0.05)
    assert lasp(tower, noise=0.0).draw_noise(zeros) is None


def test_the_release_names_its_sentences(tower):
    prompt = build_prompt(tower, 'LASPPrompt', NAMES)
    assert len(prompt.template_ids) == 35 * 2 and len(prompt.template_ids.unique(dim=0)) == 34 * 2


# --- layer norms ------------------------------------------------------------------------------------------------------


def test_layer_norms_of_the_frozen_tower_are_trained_and_nothing_else():
    model = classifier(NAMES, LASP, trainable=['ln_[12]']).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    samples = [ClsDataSample().set_label(label) for label in (0, 1)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.parse_losses(model(torch.randn(2, 3, 16, 16), samples, mode='loss'))[0].backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    norms = {name for name in before if name.startswith('backbone.transformer') and '.ln_' in name}
    assert len(norms) == 8 and moved == norms | {'text_prompt.ctx', 'text_prompt.w'}
    assert not model.backbone.training


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(trainable=['ln_3']), 'ln_3.*no parameter'),
        (dict(trainable=['ln_1'], frozen_backbone=False), 'all are trained'),
    ],
)
def test_a_pattern_that_changes_nothing_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        classifier(NAMES, LASP, **options)


def test_features_on_disk_are_refused_for_a_tower_that_is_trained(tmp_path):
    scenes = dict(type='vlm_dense.ShapesDataset', num_scenes=2, pipeline=[])
    data = FeatureDataset(scenes, cache_dir=str(tmp_path))
    with pytest.raises(ConfigError, match='this model trains it'):
        data.prepare(classifier(NAMES, LASP, trainable=['ln_1']))


# --- official checkpoints ---------------------------------------------------------------------------------------------


def release(path, model, **changes) -> str:
    """A file as the official trainer saves it: the whole network, with what follows from class names."""
    weights = {'prompt_learner.ctx': torch.randn(4, 32), 'prompt_learner.w': torch.randn(1, 16)}
    for key in ('token_prefix', 'token_suffix_all', 'class_text_features'):
        weights[f'prompt_learner.{key}'] = torch.zeros(7, 3)
    weights |= {f'image_encoder.{k}': torch.randn_like(v) for k, v in model.backbone.state_dict().items()}
    weights |= {'text_encoder.module.ln_final.weight': torch.zeros(32), 'logit_scale': torch.zeros(())}
    torch.save(dict(state_dict={**weights, **changes}, epoch=25), path)
    return str(path)


def test_an_official_checkpoint_gives_vectors_shift_and_layer_norms(tmp_path):
    path = release(tmp_path / 'model.pth.tar-25', classifier(NAMES, LASP))
    weights = torch.load(path)['state_dict']
    model = classifier(NAMES, dict(LASP, pretrained=path))
    assert torch.equal(model.text_prompt.ctx, weights['prompt_learner.ctx'])
    assert torch.equal(model.text_prompt.w, weights['prompt_learner.w'])
    fresh = classifier(NAMES, LASP).backbone.state_dict()
    for name, value in model.backbone.state_dict().items():
        of_release = '.ln_1.' in name or '.ln_2.' in name
        assert torch.equal(value, weights[f'image_encoder.{name}'] if of_release else fresh[name]), name


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, tower):
    model = classifier(NAMES, LASP)
    wide = release(tmp_path / 'wide', model, **{'prompt_learner.w': torch.zeros(1, 32)})
    with pytest.raises(CheckpointError, match=r'w \(expected \(1, 16\), found \(1, 32\)\)'):
        classifier(NAMES, dict(LASP, pretrained=wide))
    key = 'image_encoder.transformer.resblocks.2.ln_1.weight'
    deep = release(tmp_path / 'deep', model, **{key: torch.zeros(32)})
    with pytest.raises(CheckpointError, match='1 unexpected: transformer.resblocks.2.ln_1.weight'):
        classifier(NAMES, dict(LASP, pretrained=deep))
    with pytest.raises(ConfigError, match='holds 8 layer norms of the image tower'):
        lasp(tower, pretrained=release(tmp_path / 'whole', model))


def test_options_that_cannot_work_are_named(tower):
    with pytest.raises(ConfigError, match='templates need one {}'):
        lasp(tower, templates=['a photo.'])
    with pytest.raises(ConfigError, match='templates need one {}'):
        lasp(tower, templates=[])
    with pytest.raises(ClassNamesError, match='LASPPrompt: .*The context takes 74 of them'):
        lasp(tower, words=None, num_contexts=74)
