"""ZERO equals the official code: entropies, votes, ties, the stronger judge and the other prompts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import TINY, Case, array, tiny_clip
from text_prompt_case import IMAGE_TOWERS, classifier

from vlm_dense.methods.test_time.tpt import entropy
from vlm_dense.methods.test_time.zero_tta import cosines


def prompt(entry: dict) -> dict:
    """Templates if there are any, else one sentence that begins with ``ctx_init``."""
    templates = entry.get('templates') or [entry['ctx_init'].replace('_', ' ') + ' {}.']
    return dict(type='vlm_dense.ZeroShotPrompt', templates=templates, separators='_')


def views_of(config: dict) -> list[torch.Tensor]:
    """Views (N, 3, S, S) of each image; the first has no noise."""
    entry, size = config['views'], TINY[config['clip']]['vision_cfg']['image_size']
    block, count = entry['block'], entry['n_views']
    found = []
    for number in entry['images']:
        name, coarse = f'{entry["prefix"]}{number}', (3, size // block, size // block)
        noise = array(f'{name}/views', (count, *coarse)) * entry['noise_scale']
        noise[0] = 0
        views = array(f'{name}/base', (1, *coarse)) * entry['base_scale'] + noise
        found.append(views.repeat_interleave(block, 2).repeat_interleave(block, 3))
    return found


def judge(config: dict, folder) -> dict:
    """The case's CLIP with what it adds to its weights."""
    weights = tiny_clip(config['clip'])
    for name, entry in config['reward']['add'].items():
        weights[name] = weights[name] + array(*entry)
    torch.save(weights, folder / 'judge.pt')
    clip = dict(arch=TINY[config['clip']], pretrained=str(folder / 'judge.pt'))
    return dict(
        type='vlm_dense.CLIPClassifier',
        backbone=dict(IMAGE_TOWERS[config['clip']], **clip),
        text_encoder=dict(type='vlm_dense.TextTower', **clip),
        text_prompt=prompt(config),
    )


@torch.no_grad()
def test_every_official_number_is_reproduced(zero_tta_case, tmp_path):
    case = Case(zero_tta_case)
    config, views = case.config, views_of(case.config)

    def model(text: dict, **options) -> torch.nn.Module:
        test_time = dict(type='vlm_dense.ZERO', selection=config['gamma'], **options)
        return classifier(config, tmp_path, prompt(text), test_time=test_time)

    released = model(config, fallback='released')
    zero = released.test_time
    scores = [released.scores(v) for v in views]
    split = [zero.split(s) for s in scores]
    case.check('mid/text_features', F.normalize(released.text_side.class_embeddings(), dim=-1))
    seen = torch.stack([cosines(released, v) for v in views])
    case.check('mid/cosines', seen)
    case.check('mid/entropy', torch.stack([entropy(s) for s in scores]))
    case.check('mid/order', torch.stack([torch.cat(parts) for parts in split]))
    case.check('mid/selected', torch.stack([kept for kept, _ in split]))

    def votes(adaptation) -> torch.Tensor:
        return torch.stack([adaptation.votes(c[kept]) for c, (kept, _) in zip(seen, split, strict=True)])

    def decisions(all_votes) -> tuple[list[int], list[int]]:
        parts = zip(all_votes, scores, split, strict=True)
        return tuple(zip(*(zero.decide(v, s[discarded]) for v, s, (_, discarded) in parts), strict=True))

    case.check('mid/votes', votes(zero), rtol=0)
    winners, decided_by = decisions(votes(zero))
    case.check('mid/winner', winners)
    case.check('mid/tie_case', decided_by)
    case.check('logits', released(views), rtol=0)
    case.check('alt/tied_only/logits', model(config)(views), rtol=0)
    case.check('alt/half_temperature/votes', votes(model(config, temperature=2.0**-10).test_time))

    judged = model(config, fallback='released', judge=judge(config, tmp_path))
    second = torch.stack([cosines(judged.test_time.judge, v[kept]) for v, (kept, _) in zip(views, split, strict=True)])
    case.check('alt/rlcf/cosines', second)
    case.check('alt/rlcf/tie_case', decisions([zero.votes(c) for c in second])[1])
    case.check('alt/rlcf/logits', judged(views))

    other = model(config['alt_prompt'], fallback='released')
    case.check('alt/prompt/text_features', F.normalize(other.text_side.class_embeddings(), dim=-1))
    case.check('alt/prompt/entropy', torch.stack([entropy(other.scores(v)) for v in views]))
    case.check('alt/prompt/logits', other(views))
    case.done()
