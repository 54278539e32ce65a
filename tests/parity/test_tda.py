"""TDA equals the official code: the stream, its caches at every snapshot, one cache alone, other orders, and views."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import TINY, Case, array, inputs
from text_prompt_case import classifier

CACHES = dict(pos='positive', neg='negative')


def options(entry: dict) -> dict | None:
    """Our options of a cache."""
    if not entry['enabled']:
        return None
    limits = {
        name: tuple(entry[f'{name}_threshold'][side] for side in ('lower', 'upper'))
        for name in ('entropy', 'mask')
        if f'{name}_threshold' in entry
    }
    return dict(capacity=max(1, entry['shot_capacity']), alpha=entry['alpha'], beta=entry['beta'], **limits)


def views_of(config: dict) -> torch.Tensor:
    """Views (n, N, 3, S, S) of the first images of the stream; the first of each is the image."""
    entry, size = config['views'], TINY[config['clip']]['vision_cfg']['image_size']
    noise = array(entry['noise'], (entry['n_images'], entry['n_views'], 3, size, size)) * entry['noise_scale']
    noise[:, 0] = 0
    return inputs(config['images'])[: entry['n_images'], None] + noise


def check_state(case: Case, key: str, tda) -> None:
    """Both caches; one that is empty has no keys."""
    for short, name in CACHES.items():
        items = tda.caches[name].stored() if name in tda.caches else []
        assert bool(items) == bool(case.keys(f'{key}/{short}/')), (key, name)
        if not items:
            continue
        case.check(f'{key}/{short}/features', torch.stack([item.feature for item in items]))
        case.check(f'{key}/{short}/class', torch.tensor([item.label for item in items]))
        case.check(f'{key}/{short}/entropy', torch.tensor([item.entropy for item in items]))
        case.check(f'{key}/{short}/image', torch.tensor([item.number for item in items]))
        if f'{key}/{short}/prob' in case:
            case.check(f'{key}/{short}/prob', torch.stack([item.probabilities for item in items]))


def check_stream(case: Case, prefix: str, model, stream, snapshots: list[int]) -> None:
    """Everything that is known of each image, and the caches after some of them."""
    tda, rows = model.eval().test_time, []
    for number, views in enumerate(stream, 1):
        seen, logits = tda.look(model, views)
        events = tda.store(seen)
        evidence = {name: torch.zeros_like(logits) + found for name, found in tda.read(seen.feature).items()}
        rows.append((seen, logits, events, evidence))
        if number in snapshots:
            check_state(case, f'{prefix}state/{number}', tda)
    seen, logits, events, evidence = zip(*rows, strict=True)
    case.check(f'{prefix}mid/image_features', torch.stack([s.feature for s in seen]))
    case.check(f'{prefix}mid/clip_logits', torch.stack(logits))
    case.check(f'{prefix}mid/entropy', torch.tensor([s.entropy for s in seen]))
    case.check(f'{prefix}mid/normalised_entropy', torch.tensor([s.uncertainty for s in seen]))
    case.check(f'{prefix}mid/prob', torch.stack([s.probabilities for s in seen]))
    case.check(f'{prefix}mid/pred', torch.tensor([s.label for s in seen]))
    for short, name in CACHES.items():
        case.check(f'{prefix}mid/{short}_event', torch.tensor([e.get(name, -1) for e in events]))
        case.check(f'{prefix}mid/{short}_logits', torch.stack([e[name] for e in evidence]))


@torch.no_grad()
def test_every_official_number_is_reproduced(tda_case, tmp_path):
    case = Case(tda_case)
    config = case.config
    prompt = dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates'], separators='_')
    caches = {name: options(config[name]) for name in CACHES.values()}

    def model_of(**changes) -> torch.nn.Module:
        return classifier(config, tmp_path, prompt, test_time=dict(type='vlm_dense.TDA', **caches | changes))

    model = model_of()
    case.check('mid/text_weights', F.normalize(model.text_side.class_embeddings(), dim=-1).T)
    stream = inputs(config['images'])[:, None]
    check_stream(case, '', model, stream, config['snapshots'])
    case.check('logits', model.eval()(stream))
    for name, other in (('pos', 'negative'), ('neg', 'positive')):
        if f'alt/{name}_only/logits' in case:
            case.check(f'alt/{name}_only/logits', model_of(**{other: None})(stream))
    case.check('alt/reversed/logits', model.eval()(stream.flip(0)).flip(0))
    two = torch.empty(len(stream), len(config['classnames']))
    for first in (0, 1):
        two[first::2] = model.eval()(stream[first::2])
    case.check('alt/two_streams/logits', two)

    views = views_of(config)
    check_stream(case, 'views/', model, views, [len(views)])
    case.check('views/logits', model.eval()(views))
    every = [model.scores(v) for v in views]
    entropies = torch.stack([torch.special.entr(s.softmax(dim=1)).sum(dim=1) for s in every])
    case.check('views/mid/view_entropy', entropies)
    case.check('views/mid/selected', torch.stack([model.test_time.confident(s).sort().values for s in every]))
    case.done()
