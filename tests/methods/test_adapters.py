"""Adapters, caches and probes as a user runs them, made small; what they refuse."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from classification.small_runs import weights
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from tiny_towers import vit
from torch.utils.data import DataLoader

from vlm_dense.classification import ClsDataSample
from vlm_dense.cli import test as test_tool
from vlm_dense.cli import train as train_tool
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.comparison.cells import selection
from vlm_dense.engine.configs.names import find_config
from vlm_dense.errors import CheckpointError, ConfigError, DataError
from vlm_dense.methods.adapters.linear_probe import minimise
from vlm_dense.methods.fine_tuning import WiSEFTHook
from vlm_dense.methods.fine_tuning.wise_ft import interpolate
from vlm_dense.registry import MODELS

ROOT = Path(__file__).parents[2]

ARCH = vit()
NAMES = ['circle', 'tiger_shark', 'red star']


# --- runs -------------------------------------------------------------------------------------------------------------


def shrink(node, features: str) -> None:
    """Fewer scenes, shots and pairs of a search, everywhere in a config, and features in a folder of their own."""
    if isinstance(node, dict):
        for key, value in dict(num_scenes=60, shots=4, search_step=(8, 4), at_most=2).items():
            if node.get(key):
                node[key] = value
        if str(node.get('type')).startswith('vlm_dense.TipAdapter'):
            node['search_step'] = (8, 4)
        if node.get('type') == 'vlm_dense.FeatureDataset':
            node['cache_dir'] = features
        node = node.values()
    if isinstance(node, (list, tuple)) or not isinstance(node, str) and hasattr(node, '__iter__'):
        for value in node:
            shrink(value, features)


def small(config: str, folder: Path, epochs: int = 4) -> str:
    """A config made small; its path."""
    cfg = Config.fromfile(find_config(ROOT / f'configs/{config}_shapes.py'))._cfg_dict.to_dict()
    shrink(cfg, str(folder / 'features'))
    if cfg.get('train_cfg'):
        cfg['train_cfg'].update(max_epochs=epochs, val_interval=1)
        cfg['default_hooks']['checkpoint'].update(interval=1, max_keep_ckpts=-1)
    path = folder / f'{config}.py'
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in cfg.items()))
    return str(path)


def log_of(work_dir: Path) -> str:
    return next(work_dir.glob('*/*.log')).read_text()


def train(config: str, work_dir: Path, *more) -> Path:
    train_tool.main([config, '--work-dir', str(work_dir), *more])
    return work_dir


def measured(config: str, work_dir: Path, checkpoint: Path | None = None) -> tuple[str, float]:
    """The log of a test, and its top-1."""
    test_tool.main([config, *([str(checkpoint)] if checkpoint else []), '--work-dir', str(work_dir)])
    log = log_of(work_dir)
    return log, float(re.search(r'top1: (\S+)', log)[1])


@pytest.mark.parametrize(
    'config,saved',
    [
        ('clip_adapter', {'head.fc.0.weight', 'head.fc.2.weight'}),
        ('taskres', {'text_prompt.text_feature_residuals'}),
    ],
)
def test_adapters_train_on_features_and_their_checkpoint_holds_them_alone(config, saved, tmp_path):
    path = small(config, tmp_path, epochs=2)
    work_dir = train(path, tmp_path / 'run')
    assert set(weights(work_dir / 'epoch_2.pth')) == saved
    before = weights(work_dir / 'epoch_1.pth')
    assert all(not torch.equal(value, before[key]) for key, value in weights(work_dir / 'epoch_2.pth').items())
    assert 'After training: top1' in log_of(work_dir)


def test_tip_adapter_prepares_and_searches_on_validation_images_before_a_test(tmp_path):
    log, _ = measured(small('tip_adapter', tmp_path), tmp_path / 'test')
    assert 'search is vlm_dense.ShapesDataset val, 16 images' in log and 'TESTED on' not in log


@pytest.mark.parametrize('method', ['tip_adapter', 'tip_adapter_f'])
@pytest.mark.parametrize('dataset', ['shapes', 'imagenet'])
def test_what_is_chosen_on_test_images_has_a_name_and_is_told(method, dataset):
    for name, chosen_on in ((method, 'validation'), (f'{method}_on-test', 'test')):
        cfg = Config.fromfile(find_config(ROOT / f'configs/{name}_{dataset}.py'))
        assert selection(cfg._cfg_dict.to_dict()) == chosen_on


def test_a_linear_probe_is_fitted_before_a_test(tmp_path):
    log, _ = measured(small('linear_probe', tmp_path), tmp_path / 'test')
    assert re.search(r'LinearProbe: fitted to 32 images; C = \S+ classifies \S+ % of 16 images of the search', log)


@pytest.fixture(scope='module')
def tip_f(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tip')
    path = small('tip_adapter_f', folder)
    return path, train(path, folder / 'run')


def test_tip_adapter_f_finishes_with_the_best_epoch_and_a_search(tip_f):
    _, work_dir = tip_f
    best = next(work_dir.glob('best_top1_epoch_*.pth'))
    finished = weights(work_dir / 'finished.pth')
    assert torch.equal(finished['head.keys'], weights(best)['head.keys'])
    assert (finished['head.alpha'], finished['head.beta']) != (pytest.approx(1.17), 1.0)
    accuracies = [float(v) for v in re.findall(r'Epoch\(val\) \[\d+\]\[1/1\]\s+top1: (\S+)', log_of(work_dir))]
    assert best.name == f'best_top1_epoch_{accuracies.index(max(accuracies)) + 1}.pth'
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'finished.pth')


def test_tip_adapter_f_resumes_bit_for_bit_even_without_its_features(tip_f, tmp_path):
    path, work_dir = tip_f
    for file in (Path(path).parent / 'features').glob('*/*.pt'):
        file.unlink()
    again = train(path, tmp_path, '--resume', str(work_dir / 'epoch_2.pth'))
    for name in ('epoch_4.pth', 'finished.pth'):
        for key, value in weights(work_dir / name).items():
            assert torch.equal(weights(again / name)[key], value), (name, key)


def test_a_finished_run_that_is_resumed_finishes_alike(tip_f, tmp_path):
    path, work_dir = tip_f
    again = train(path, tmp_path, '--resume', str(work_dir / 'finished.pth'))
    for key, value in weights(work_dir / 'finished.pth').items():
        assert torch.equal(weights(again / 'finished.pth')[key], value), key


def test_wise_ft_gives_the_curve_and_keeps_one_mixture(tmp_path):
    path = small('wise_ft', tmp_path, epochs=2)
    work_dir = train(path, tmp_path / 'run')
    curve = json.loads((work_dir / 'robustness.json').read_text())
    assert [point['alpha'] for point in curve] == [0, 0.25, 0.5, 0.75, 1]
    assert all({'alpha', 'test', 'source', 'sketch', 'noisy'} <= set(point) for point in curve)
    before = re.search(r'Before training.*?: top1 (\S+),', log_of(work_dir))[1]
    after = re.search(r'After training: top1 (\S+),', log_of(work_dir))[1]
    assert f'{curve[0]["test"]["top1"]:.2f}' == before and f'{curve[2]["test"]["top1"]:.2f}' == after
    start, tuned = torch.load(work_dir / 'zero_shot.pth'), weights(work_dir / 'epoch_2.pth')
    mixed = weights(work_dir / 'wise_ft.pth')
    for key, value in start.items():
        torch.testing.assert_close(mixed[key], (value + tuned[key]) / 2)
    assert (tuned['head.weight'] - start['head.weight']).abs().max() > 0
    hook, meta = WiSEFTHook(), torch.load(work_dir / 'wise_ft.pth', weights_only=False)['meta']
    hook.after_load_checkpoint(None, dict(meta=meta, state_dict={}))
    hook.after_train(None)  # what is mixed is not mixed again when it is resumed
    official = {
        'classification_head.weight': mixed['head.weight'],
        'classification_head.bias': mixed['head.bias'],
        'image_encoder.model.positional_embedding': torch.zeros(3),
        **{f'image_encoder.model.visual.{k[9:]}': v for k, v in mixed.items() if k.startswith('backbone.')},
    }
    torch.save(official, tmp_path / 'official.pt')
    assert measured(path, tmp_path / 'test', tmp_path / 'official.pt')[1] == pytest.approx(float(after), abs=0.01)


def test_wise_ft_without_its_beginning_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match='Resume in the work dir in which the training began'):
        WiSEFTHook().after_train(SimpleNamespace(work_dir=str(tmp_path)))


# --- what they refuse -------------------------------------------------------------------------------------------------


def build(names=NAMES, **kwargs):
    torch.manual_seed(0)
    cfg = dict(
        type='vlm_dense.CLIPClassifier',
        class_names=names,
        data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor'),
        backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True),
        text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
    )
    return MODELS.build(cfg | kwargs).eval()


def loader(labels: list[int], seed: int = 0) -> DataLoader:
    features = torch.randn(len(labels), 16, generator=torch.Generator().manual_seed(seed))
    samples = [
        dict(inputs=dict(global_=feature), data_samples=ClsDataSample().set_label(label))
        for feature, label in zip(features, labels, strict=True)
    ]
    return DataLoader(samples, 4, collate_fn=pseudo_collate)


@pytest.mark.parametrize('head', ['TipAdapter', 'TipAdapterF', 'LinearProbe', 'WiSEFTHead'])
def test_a_head_that_saw_no_data_does_not_guess(head):
    model = build(head=dict(type=f'vlm_dense.{head}'))
    with pytest.raises(ConfigError, match=f'{head} has not seen its data. Add .*PrepareHook'):
        model(ImageFeatures(global_=torch.randn(2, 16)))
    model.load_state_dict(model.state_dict())
    assert model(ImageFeatures(global_=torch.randn(2, 16))).shape == (2, 3)


def test_classes_without_image_and_too_many_images_are_refused():
    tip = build(head=dict(type='vlm_dense.TipAdapter', shots=2, passes=1))
    with pytest.raises(DataError, match='the support set has no image of 1 of 3 classes: tiger_shark'):
        tip.head.prepare(tip, dict(support=loader([0, 0, 2])))
    with pytest.raises(DataError, match='room for 2 images of each of 3 classes, 6 in all, and its support set has 7'):
        tip.head.prepare(tip, dict(support=loader([0, 0, 1, 1, 2, 2, 2])))
    with pytest.raises(DataError, match='has the label 3; expected 0 to 2'):
        tip.head.prepare(tip, dict(support=loader([0, 1, 3])))
    with pytest.raises(ConfigError, match="reads the data 'support'; the data of PrepareHook are \\['search'\\]"):
        tip.head.prepare(tip, dict(search=loader([0, 1, 2])))
    probe = build(head=dict(type='vlm_dense.LinearProbe', solver='exact'))
    with pytest.raises(DataError, match='LinearProbe: the support set has no image of 1 of 3 classes: circle'):
        probe.head.prepare(probe, dict(support=loader([1, 2]), search=loader([0, 1, 2])))
    probe.head.shots = 2
    with pytest.raises(DataError, match="draws 2 images of each class, 'red star' has 1"):
        probe.head.prepare(probe, dict(support=loader([0, 0, 1, 1, 2]), search=loader([0, 1, 2])))


def test_images_of_other_classes_are_refused():
    model = build(head=dict(type='vlm_dense.TipAdapter', shots=1, passes=1))
    named = type('Named', (list,), dict(metainfo=dict(classes=('a', 'b', 'c'))))(loader([0, 1, 2]).dataset)
    with pytest.raises(DataError, match='The 3 classes a, b, c, .* are not the 3 classes circle'):
        model.head.prepare(model, dict(support=DataLoader(named, 3, collate_fn=pseudo_collate)))


def test_a_class_with_fewer_images_gives_what_it_has():
    model = build(head=dict(type='vlm_dense.TipAdapter', shots=3, passes=1, alpha=2.0, beta=1.5))
    data = loader([0, 1, 1, 2])
    model.head.prepare(model, dict(support=data))
    keys = torch.nn.functional.normalize(torch.stack([s['inputs']['global_'] for s in data.dataset]), dim=-1)
    x = torch.randn(5, 16)
    affinity = torch.nn.functional.normalize(x, dim=-1) @ keys.T
    cache = (-1.5 * (1 - affinity)).exp() @ torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 2])).float()
    with torch.no_grad():
        found = model(ImageFeatures(global_=x))
        model.head = MODELS.build(dict(type='vlm_dense.CosineHead'))
        torch.testing.assert_close(found, model(ImageFeatures(global_=x)) + 2 * cache)


@pytest.mark.parametrize('images', [3, 5])
@pytest.mark.parametrize('prompt', ['UPLPrompt', 'VariationalPrompt'])
def test_the_cache_stands_beside_each_variant_of_a_prompt(prompt, images):
    number = dict(UPLPrompt=dict(num_members=3, num_contexts=2), VariationalPrompt=dict(num_samples=3))[prompt]
    head = dict(type='vlm_dense.TipAdapter', shots=2, passes=1, alpha=2.0, beta=1.5, search_step=(3, 3))
    model = build(text_prompt=dict(type=f'vlm_dense.{prompt}', **number), head=head)
    truth = [0, 1, 1, 2, 0, 2]
    support, search = loader([0, 1, 1, 2]), loader(truth, seed=1)
    model.head.prepare(model, dict(support=support, search=search))

    def expected(x, alpha, beta):
        keys, x = (torch.nn.functional.normalize(f, dim=-1) for f in (features(support), x))
        one_hot = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 2])).float()
        text = torch.nn.functional.normalize(model.text_side.class_embeddings(), dim=-1)
        rows = []
        for image in x:  # one image and one variant at a time
            cache = alpha * (-beta * (1 - keys @ image)).exp() @ one_hot
            scores = torch.stack([model.text_encoder.logit_scale.exp() * text[v] @ image + cache for v in range(3)])
            mean = scores.mean(0) if prompt == 'UPLPrompt' else scores.softmax(1).mean(0).log()
            rows.append(mean)
        return torch.stack(rows)

    def features(data):
        return torch.stack([sample['inputs']['global_'] for sample in data.dataset])

    x = torch.randn(images, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            model(ImageFeatures(global_=x)), expected(x, model.head.alpha, model.head.beta), rtol=1e-4, atol=1e-4
        )
        betas, alphas = model.head.grid
        right = [
            [(expected(features(search), a, b).argmax(1) == torch.tensor(truth)).float().mean() for a in alphas]
            for b in betas
        ]
    torch.testing.assert_close(model.head.search_accuracy.float(), 100 * torch.tensor(right))


def test_a_search_needs_texts_that_serve_all_images():
    prompt = dict(type='vlm_dense.CoCoOpPrompt', words='a photo of a')
    model = build(text_prompt=prompt, head=dict(type='vlm_dense.TipAdapter', shots=1, passes=1))
    with pytest.raises(ConfigError, match='those of CoCoOpPrompt depend on the image. Give alpha and beta'):
        model.head.prepare(model, dict(support=loader([0, 1, 2]), search=loader([0, 1, 2])))


def test_a_search_without_a_right_answer_changes_nothing():
    model = build(head=dict(type='vlm_dense.TipAdapter', shots=1, passes=1, search_step=(2, 2)))
    model.head.prepare(model, dict(support=loader([0, 1, 2])))
    model.head.values.zero_()  # zero-shot is all that is left
    features = torch.stack([sample['inputs']['global_'] for sample in loader([0] * 8).dataset])
    with torch.no_grad():
        labels = ((model(ImageFeatures(global_=features)).argmax(1) + 1) % 3).tolist()
    model.head.search(model, loader(labels))
    assert model.head.search_accuracy.max() == 0
    assert (float(model.head.alpha), float(model.head.beta)) == (pytest.approx(1.17), 1.0)


@pytest.mark.parametrize('head', ['TipAdapter', 'TipAdapterF', 'LinearProbe', 'WiSEFTHead'])
def test_state_of_other_classes_is_refused_with_both_shapes(head):
    state = build(head=dict(type=f'vlm_dense.{head}')).state_dict()
    with pytest.raises(RuntimeError, match=r'torch.Size\(\[(48|3), (16|3)\]\).*torch.Size\(\[(64|4), (16|4)\]\)'):
        build([*NAMES, 'other'], head=dict(type=f'vlm_dense.{head}')).load_state_dict(state)


def test_releases_for_other_towers_and_classes_are_refused_with_both_shapes(tmp_path):
    def saved(content) -> str:
        torch.save(content, tmp_path / 'file.pt')
        return str(tmp_path / 'file.pt')

    adapter = {'fc.0.weight': torch.zeros(256, 1024), 'fc.2.weight': torch.zeros(1024, 256)}
    with pytest.raises(
        CheckpointError, match=r'expected \(4, 16\), found \(256, 1024\)(.|\n)*16 channels of its tower'
    ):
        build(head=dict(type='vlm_dense.CLIPAdapter', pretrained=saved(dict(state_dict=adapter))))
    residual = dict(text_feature_residuals=torch.zeros(5, 16))
    with pytest.raises(CheckpointError, match=r'expected \(3, 16\), found \(5, 16\)(.|\n)*3 classes'):
        build(text_prompt=dict(type='vlm_dense.TaskRes', pretrained=saved(dict(state_dict=residual))))
    with pytest.raises(CheckpointError, match=r"expected one matrix weight \(16, 32\), found \{'weight': \(8, 32\)\}"):
        build(text_prompt=dict(type='vlm_dense.TaskRes', enhanced=saved(dict(weight=torch.zeros(8, 32)))))
    keys = saved(torch.zeros(8, 48))
    with pytest.raises(CheckpointError, match=r'expected \(16, 48\), found \(8, 48\)'):
        build(head=dict(type='vlm_dense.TipAdapter', pretrained=dict(keys=keys, values=keys)))
    with pytest.raises(CheckpointError, match='expected one tensor, found an object of type dict'):
        path = saved(dict(a=torch.zeros(1)))
        build(head=dict(type='vlm_dense.TipAdapter', pretrained=dict(keys=path, values=path)))


def test_a_residual_alone_is_added_to_the_base_of_the_templates(tmp_path):
    residual = dict(text_feature_residuals=torch.randn(3, 16))
    torch.save(dict(state_dict=residual, epoch=1), tmp_path / 'model.pth.tar-100')
    model = build(text_prompt=dict(type='vlm_dense.TaskRes', pretrained=str(tmp_path / 'model.pth.tar-100')))
    plain = build(text_prompt=dict(type='vlm_dense.TaskRes'))
    with torch.no_grad():
        base = plain.text_prompt(plain.text_encoder)
        wanted = base + 0.5 * residual['text_feature_residuals']
        torch.testing.assert_close(model.text_prompt(model.text_encoder), wanted)
        rows = model.text_prompt(model.text_encoder, classes=torch.tensor([2, 0]))
        torch.testing.assert_close(rows, wanted[[2, 0]])  # as for ImageNet-A and -R


def test_impossible_options_are_refused():
    for head, message in (
        (dict(type='vlm_dense.CLIPAdapter', ratio=1.5), 'ratio must lie between 0 and 1'),
        (dict(type='vlm_dense.CLIPAdapter', reduction=17), 'reduction between 1 and the 16 channels'),
        (dict(type='vlm_dense.TipAdapter', shots=0), 'must be at least 1'),
        (dict(type='vlm_dense.LinearProbe', solver='sgd'), "solver must be one of .*, found 'sgd'"),
        (dict(type='vlm_dense.LinearProbe', solver='exact', strengths=[0.0]), 'strengths must be one or more numbers'),
    ):
        with pytest.raises(ConfigError, match=message):
            build(head=head)


def test_a_probe_without_scikit_learn_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.linear_model', None)
    with pytest.raises(ConfigError, match=r"pip install 'vlm-dense\[probe\]', or take solver='exact'"):
        build(head=dict(type='vlm_dense.LinearProbe'))
    build(head=dict(type='vlm_dense.LinearProbe', solver='exact'))


# --- against closed forms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('strength', [1e6, 1.0, 1e-6])
def test_the_exact_solver_is_at_the_optimum(strength):
    draw = np.random.RandomState(0)
    x, y = torch.from_numpy(draw.randn(40, 7)), torch.arange(40) % 4
    weight, bias = minimise(x, y, 4, strength)
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y, reduction='sum')
    gradients = torch.autograd.grad(0.5 * (weight**2).sum() + strength * loss, (weight, bias))
    assert max(g.abs().max() for g in gradients) < 1e-9 * max(1, strength)
    torch.testing.assert_close(weight.sum(0), torch.zeros(7, dtype=x.dtype), atol=1e-7, rtol=0)


@pytest.mark.parametrize('solver', ['sklearn', 'exact'])
def test_two_classes_and_one_class_are_probed_too(solver):
    two = build(NAMES[:2], head=dict(type='vlm_dense.LinearProbe', solver=solver))
    two.head.prepare(two, dict(support=loader([0, 1] * 6), search=loader([0, 1] * 6)))
    data = loader([0, 1] * 6).dataset
    with torch.no_grad():
        found = two(ImageFeatures(global_=torch.stack([s['inputs']['global_'] for s in data]))).argmax(1)
    assert found.tolist() == [0, 1] * 6  # 12 points in 16 dimensions can be told apart
    one = build(NAMES[:1], head=dict(type='vlm_dense.LinearProbe', solver=solver))
    one.head.prepare(one, dict(support=loader([0, 0]), search=loader([0])))
    assert one(ImageFeatures(global_=torch.randn(2, 16))).argmax(1).tolist() == [0, 0]


def test_mixtures_are_weighted_by_fisher_information_and_refuse_what_does_not_belong_together():
    start, end = (
        dict(a=torch.tensor([0.0, 0.0]), n=torch.tensor(2)),
        dict(a=torch.tensor([4.0, 4.0]), n=torch.tensor(5)),
    )
    plain = interpolate(start, end, 0.25)
    assert plain['a'].tolist() == [1.0, 1.0] and plain['n'] == 2 and plain['n'].dtype == torch.int64
    fishers = dict(a=torch.tensor([3.0, 0.0])), dict(a=torch.tensor([1.0, 2.0]))
    weighted = interpolate(start, end, 0.25, fishers, floor=0.5)['a']
    # 4 * alpha F1 / ((1 - alpha) F0 + alpha F1) with F0 at least 0.5
    torch.testing.assert_close(weighted, torch.tensor([4 * 0.25 / (2.25 + 0.25), 4 * 0.5 / (0.375 + 0.5)]))
    with pytest.raises(CheckpointError, match='1 entries are in one of the two Fisher information only, first a'):
        interpolate(start, end, 0.5, (dict(), fishers[1]))
    with pytest.raises(CheckpointError, match='in one of the two state dicts only, first b'):
        interpolate(start, dict(end, b=torch.zeros(1)), 0.5)
    with pytest.raises(ConfigError, match='alpha must lie between 0 and 1, found 1.5'):
        interpolate(start, end, 1.5)
