"""SoftCPT equals the official code: names, contexts, logits, the loss inside of tasks, sampled classes, both loops."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from official import Case, inputs
from text_prompt_case import by_own_name, classifier, labelled, set_parameters

from vlm_dense.methods.text_prompts.softcpt import read_names
from vlm_dense.registry import OPTIM_WRAPPERS


def build(config: dict, folder, options: dict) -> torch.nn.Module:
    """The classifier of a variant."""
    sizes = dict(zip(config['tasknames'], map(len, config['classnames']), strict=True))
    every = dict(config, classnames=[name for names in config['classnames'] for name in names])
    prompt = dict(
        type='vlm_dense.SoftCPTPrompt',
        tasks=sizes,
        source='both' if options['csc'] else 'task',
        num_contexts=options['n_ctx'],
        task_contexts=options['tctx'],
        task_specific=options['tcsc'],
        class_contexts=options['cctx'],
        class_specific=options['ccsc'],
    )
    model = classifier(every, folder, prompt, loss=dict(type='vlm_dense.SoftCPTLoss', rate=options['rate']))
    set_parameters(model.text_prompt, options['params'])
    return model


def samples_of(config: dict) -> list:
    bounds = list(pairwise([0, *accumulate(map(len, config['classnames']))]))
    tasks, labels = config['task_of_image'], config['label_in_task']
    samples = labelled([bounds[task][0] + label for task, label in zip(tasks, labels, strict=True)])
    for sample, task in zip(samples, tasks, strict=True):
        sample.task_classes = torch.tensor(bounds[task])
    return samples


def check_labels(case: Case, samples: list) -> None:
    """1 for the class, 0 for others of the task, -1 for those of other tasks."""
    official = torch.from_numpy(case['mid/label_matrix'])
    for row, sample in zip(official, samples, strict=True):
        first, end = sample.task_classes.tolist()
        wanted = torch.full_like(row, -1)
        wanted[first:end] = 0
        wanted[sample.gt_label] = 1
        assert torch.equal(row, wanted)


@torch.no_grad()
def check_forward(case: Case, model, prefix: str, images) -> None:
    prompt, tower = model.text_prompt, model.text_encoder
    case.check(f'{prefix}logits', model(images))
    case.check(f'{prefix}mid/task_features', read_names(prompt.task_prompt, tower))
    if f'{prefix}mid/class_features' in case:
        case.check(f'{prefix}mid/class_features', read_names(prompt.class_prompt, tower))
    if f'{prefix}mid/generated_context' in case:
        every = torch.arange(len(model.class_names))
        case.check(f'{prefix}mid/generated_context', prompt.contexts(tower, every))


def check_sampling(case: Case, model, prefix: str, samples: list) -> None:
    """Tasks without images are left out here; the official code encodes their classes for nothing."""
    chosen = model.loss_function.classes(samples)
    if f'{prefix}mid/selected_classes' in case:
        with_images = [range(*bounds) for bounds in {tuple(sample.task_classes.tolist()) for sample in samples}]
        official = case[f'{prefix}mid/selected_classes'].tolist()
        assert chosen.tolist() == [k for k in official if any(k in classes for classes in with_images)]


@torch.no_grad()
def check_sums(case: Case, model, prefix: str, images, samples: list) -> None:
    """Sums of the losses of each task's images."""
    for name in case.keys(f'{prefix}loss/task'):
        task = int(name.removesuffix('_sum'))
        rows = [i for i, of_image in enumerate(case.config['task_of_image']) if of_image == task]
        mean = model(images[rows], [samples[i] for i in rows], mode='loss')['loss_ce']
        case.check(f'{prefix}loss/task{name}', len(rows) * mean)


def train(case: Case, model, prefix: str, images, samples: list, keys: str, wrapper: dict) -> None:
    """Three iterations, compared with the keys that begin with ``prefix + keys``."""
    prompt, sgd = model.text_prompt, case.config['sgd']
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in prompt.parameters()}
    optimizer = torch.optim.SGD(trained, lr=sgd['lr'])
    wrapper = OPTIM_WRAPPERS.build(dict(wrapper, optimizer=optimizer))
    model.train()
    for step in range(sgd['steps']):
        total = model.parse_losses(model(images, samples, mode='loss'))[0]
        if step == 0 and not keys:
            case.check(f'{prefix}loss', total)
        wrapper.zero_grad()
        total.backward()
        for name in case.keys(f'{prefix}grad/') if step == 0 and not keys else ():
            case.check_grad(f'{prefix}grad/{name}', by_own_name(prompt, name, lambda p: p.grad))
        wrapper.step()
    with torch.no_grad():
        for name in case.keys(f'{prefix}{keys}after3/'):
            key = f'{prefix}{keys}after3/{name}'
            if name == 'loss':
                value = model.parse_losses(model(images, samples, mode='loss'))[0]
            elif name == 'logits':
                value = model.eval()(images)
                model.train()
            else:
                value = by_own_name(prompt, name, lambda p: p)
            case.check(key, value, rtol=1e-3)


def test_every_official_number_is_reproduced(softcpt_case, tmp_path, monkeypatch):
    case = Case(softcpt_case)
    assert case.config['sampling'].startswith('random permutation of k items replaced by k-1, k-2, ..., 0')
    monkeypatch.setattr(torch, 'randperm', lambda k: torch.arange(k - 1, -1, -1))
    images, samples = inputs(case.config['images']), samples_of(case.config)
    check_labels(case, samples)
    for prefix, options in case.config['variants'].items():
        model = build(case.config, tmp_path, options)
        check_forward(case, model, prefix, images)
        check_sampling(case, model, prefix, samples)
        check_sums(case, model, prefix, images, samples)
        train(case, model, prefix, images, samples, '', dict(type='OptimWrapper'))
        if case.keys(f'{prefix}official_loop/'):
            model = build(case.config, tmp_path, options)
            train(case, model, prefix, images, samples, 'official_loop/', dict(type='vlm_dense.RepeatedSteps', times=3))
    case.unread.discard('mid/logits_fp16_rounded_weights')  # information only
    case.done()
