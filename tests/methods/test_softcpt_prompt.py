"""SoftCPT beyond the official figures: each kind of generator, sampled classes, releases, its loop, what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from methods.test_learned_context import ARCH, build, official

from vlm_dense.classification import ClsDataSample
from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError, DataError
from vlm_dense.registry import MODELS, OPTIM_WRAPPERS, PARAM_SCHEDULERS

TASKS = {'sea_life': 3, 'pets': 1}


@pytest.fixture(scope='module')
def tower():
    torch.manual_seed(0)
    tower = MODELS.build(dict(type='vlm_dense.TextTower', arch=ARCH))
    for p in tower.parameters():
        p.data.normal_(float(p.ndim == 1), 0.5)
    return tower


def softcpt(tower, **kwargs):
    return build(tower, 'SoftCPTPrompt', **dict(dict(tasks=TASKS, num_contexts=2, std=0.3), **kwargs))


# --- the prompt -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('specific', [False, True])
@pytest.mark.parametrize('source', ['task', 'both', 'mean', 'class'])
def test_contexts_are_what_the_equations_make_of_names(tower, source, specific):
    own = dict(task_contexts=3, class_contexts=2, task_specific=specific, class_specific=specific)
    prompt = softcpt(tower, source=source, **own)
    tasks = None if source == 'class' else prompt.task_prompt(tower)[[0, 0, 0, 1]]
    classes = None if source == 'task' else prompt.class_prompt(tower)
    joined = dict(task=tasks, both=tasks, mean=tasks)
    joined['class'] = classes
    if source == 'both':
        joined['both'] = torch.cat([classes, tasks], dim=1)
    elif source == 'mean':
        joined['mean'] = (classes + tasks) / 2
    contexts = (joined[source] @ prompt.proj).view(4, 2, 32)
    coop = build(tower, num_contexts=2, class_specific=True)
    torch.testing.assert_close(prompt(tower), coop.encode(tower, contexts), rtol=1e-4, atol=1e-5)
    prompt(tower).sum().backward()
    assert all(p.grad.any() for p in prompt.parameters())


@pytest.mark.parametrize('source', ['task', 'both'])
def test_some_classes_in_any_order_are_encoded_as_among_all(tower, source):
    prompt, classes = softcpt(tower, source=source), torch.tensor([3, 0, 2])
    torch.testing.assert_close(prompt(tower, classes=classes), prompt(tower)[classes])


@pytest.mark.parametrize('source', ['task', 'both'])
def test_names_alone_serve_without_vectors(tower, source):
    prompt = softcpt(tower, source=source, task_contexts=0, class_contexts=0)
    assert set(prompt.state_dict()) == {'proj'}
    tasks = tower.encode_tokens(tower.tokenize(['sea life.', 'pets.']))
    if source == 'task':
        wanted = (tasks @ prompt.proj).view(2, 2, 32)
        torch.testing.assert_close(prompt.contexts(tower, torch.arange(4)), wanted)
    assert prompt(tower).shape == (4, 16)


def test_vectors_in_front_of_class_names_can_stay(tower):
    prompt = softcpt(tower, source='both', frozen_class_contexts=True)
    assert {name for name, p in prompt.named_parameters() if p.requires_grad} == {'proj', 'task_prompt.ctx'}


def test_the_release_loads_from_a_file_of_each_module(tower, tmp_path):
    weights = {k: torch.randn_like(v) for k, v in softcpt(tower, source='both').state_dict().items()}
    names = dict(task_prompt_learner='task_prompt.', class_prompt_learner='class_prompt.', prompt_gen='')
    files = {}
    for module, prefix in names.items():
        own = {'ctx': weights[f'{prefix}ctx']} if prefix else {'proj': weights['proj']}
        files[module] = official(tmp_path / f'{module}.tar-50', own)
    prompt = softcpt(tower, source='both', pretrained=files)
    assert all(torch.equal(v, weights[k]) for k, v in prompt.state_dict().items())
    with pytest.raises(CheckpointError, match=r'expected \(16, 64\), found \(32, 64\)[\s\S]*makes 2 vectors of 32'):
        softcpt(tower, source='mean', pretrained=files)


# --- the loss ---------------------------------------------------------------------------------------------------------


def samples(*labels) -> list:
    bounds = {0: (0, 6), 1: (6, 16), 2: (16, 20)}
    found = []
    for task, label in labels:
        found.append(ClsDataSample().set_label(label))
        found[-1].task_classes = torch.tensor(bounds[task])
    return found


def test_classes_of_images_and_some_others_of_their_tasks_are_drawn():
    loss = MODELS.build(dict(type='vlm_dense.SoftCPTLoss', rate=0.25))
    data = samples((1, 9), (0, 4), (1, 7), (1, 9))
    drawn = set()
    for _ in range(100):
        classes = loss.classes(data).tolist()
        first, second = classes[: 1 + math.ceil(5 / 4)], classes[1 + math.ceil(5 / 4) :]
        assert first[0] == 4 and second[:2] == [7, 9] and len(second) == 2 + math.ceil(8 / 4)
        assert set(first) <= set(range(6)) and set(second) <= set(range(6, 16)) and len(set(classes)) == len(classes)
        drawn |= set(classes)
    assert drawn == set(range(16))
    assert MODELS.build(dict(type='vlm_dense.SoftCPTLoss')).classes(data) is None


def test_all_of_the_classes_drawn_are_all():
    loss = MODELS.build(dict(type='vlm_dense.SoftCPTLoss', rate=1.0))
    assert sorted(loss.classes(samples((0, 1), (2, 17))).tolist()) == [*range(6), *range(16, 20)]


@pytest.mark.parametrize(
    ('tasks', 'message'),
    [
        ({'pets': 1, 'sea_life': 3}, 'classes 0 to 2, and here these are of no task'),
        ({'fish': 3, 'pets': 1}, None),  # other words for the first task
        ({'pets': 2, 'sea_life': 2}, "'sea life' with the classes 0 to 1, and here these are 'pets'"),
    ],
)
def test_tasks_in_another_order_than_those_of_the_data_are_refused(tower, tasks, message):
    data, start = [], 0
    for name, size in (('sea life', list(tasks.values())[0] if message and '1, ' in message else 3), ('pets', 1)):
        data.append(ClsDataSample(metainfo=dict(task_name=name)).set_label(start))
        data[-1].task_classes = torch.tensor([start, start + size])
        start += size
    prompt = softcpt(tower, tasks=tasks)
    if message is None:
        prompt.training_batch(data)
    else:
        with pytest.raises(ConfigError, match=message):
            prompt.training_batch(data)
    prompt.training_batch([ClsDataSample().set_label(0)])


# --- the official loop ------------------------------------------------------------------------------------------------


def test_each_step_is_taken_several_times():
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    wrapper = OPTIM_WRAPPERS.build(
        dict(type='vlm_dense.RepeatedSteps', times=3, optimizer=torch.optim.SGD([parameter], lr=0.1, momentum=0.5))
    )
    wrapper.update_params((2 * parameter).sum())
    torch.testing.assert_close(parameter.detach(), torch.tensor([1.0 - 0.1 * 2 * (1 + 1.5 + 1.75)]))


def test_the_rate_goes_as_that_of_a_scheduler_stepped_several_times():
    parameter = torch.nn.Parameter(torch.zeros(1))
    ours, torchs = (torch.optim.SGD([parameter], lr=0.002) for _ in range(2))
    scheduler = PARAM_SCHEDULERS.build(
        dict(type='vlm_dense.RepeatedCosineLR', optimizer=ours, period=5, times=3, warm_up_lr=1e-5)
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(torchs, 5)
    assert ours.param_groups[0]['lr'] == 1e-5
    parameter.grad = torch.zeros(1)
    for epoch in range(1, 10):
        ours.step()
        torchs.step()
        for _ in range(2 if epoch == 1 else 3):  # the first step ends the warm-up
            cosine.step()
        scheduler.step()
        assert ours.param_groups[0]['lr'] == pytest.approx(torchs.param_groups[0]['lr'], abs=1e-9)


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_named(tower):
    for tasks in (None, {'sea life': 3}, {'sea life': 3, 'pets': 2}):
        with pytest.raises(ConfigError, match='number of classes of each task, 4 in all'):
            softcpt(tower, tasks=tasks)
    with pytest.raises(ConfigError, match="source must be one of .*found 'name'"):
        softcpt(tower, source='name')
    with pytest.raises(ClassNamesError, match='SoftCPTPrompt: .*The context takes 72 of them'):
        softcpt(tower, num_contexts=72)
    with pytest.raises(ClassNamesError, match='CoOpPrompt: .*The context takes 76 of them'):
        softcpt(tower, task_contexts=76)
    with pytest.raises(ConfigError, match='between 0 and 1, found 2'):
        MODELS.build(dict(type='vlm_dense.SoftCPTLoss', rate=2))
    with pytest.raises(DataError, match='has no task'):
        MODELS.build(dict(type='vlm_dense.SoftCPTLoss', rate=0.1)).classes([ClsDataSample().set_label(0)])
    with pytest.raises(ConfigError, match='times must be at least 1, found 0'):
        OPTIM_WRAPPERS.build(dict(type='vlm_dense.RepeatedSteps', times=0, optimizer=None))
