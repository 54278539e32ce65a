"""Cost of the text side in each kind of text tower, against open_clip's own tower in the same run.

The towers have their published sizes and random weights; tables of more than
60,000 tokens are cut, as they cost no time. Two workloads on K names of
ImageNet:

- names: ``a photo of a NAME.``, token ids to class embeddings without gradient,
  not from the cache, against open_clip's ``encode_text``;
- context: 16 learned vectors in front of each name (8 where the context is
  short), forward and backward, against open_clip's tower on whole sequences of
  the same embeddings.

    OMP_NUM_THREADS=1 python tools/benchmarks/text_kinds.py

CPU time (median), both in turn; class embeddings are compared as well.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import open_clip
import torch
from torch import Tensor, nn

from vlm_dense.cli.arguments import positive
from vlm_dense.clip.architectures import model_config
from vlm_dense.clip.building import build_text
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.clip.tokenizer import CLIPTokenizer, Tokenizer
from vlm_dense.contract.prompt import LearnedContext

ARCHS = {  # architecture -> start, end and padding of its texts
    'ViT-B-16': ((49406,), (49407,), 0),
    'PE-Core-B-16': ((49406,), (49407,), 0),
    'ViT-L-14-worldwide': ((), (1,), 0),
    'MobileCLIP-S1': ((49406,), (49407,), 0),
    'ViT-L-14-CLIPA': ((101,), (0,), 0),
    'ViT-B-16-SigLIP2': ((), (1,), 0),
    'coca_ViT-B-32': ((49406,), (49407,), 0),
}
MOST_TOKENS = 60_000


class Shifted(Tokenizer):
    """CLIP's byte-pair encoding with the start, end and padding of another tokenizer: texts of about their lengths."""

    def __init__(self, start: tuple[int, ...], end: tuple[int, ...], padding: int, vocabulary: int):
        self.start, self.end, self.padding, self.vocabulary = start, end, padding, vocabulary
        self.bpe = CLIPTokenizer()

    def own(self, text: str) -> list[int]:
        """See :meth:`Tokenizer.own`."""
        return [200 + token % (min(self.vocabulary, 49406) - 200) for token in self.bpe.own(text)]


class Given(nn.Module):
    """In place of a table of tokens: the embeddings that are given."""

    def __init__(self, embeddings: Tensor):
        super().__init__()
        self.embeddings = embeddings

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings, whatever the ids."""
        return self.embeddings


def build(arch: str, layers: int | None) -> tuple[nn.Module, TextTower]:
    """open_clip's text tower and ours, of the same weights."""
    config = model_config(arch)
    text = config['text_cfg']
    text['vocab_size'] = min(text['vocab_size'], MOST_TOKENS)
    text['layers'] = layers or text['layers']
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build_text(config).eval().requires_grad_(False))
    tokenizer = Shifted(*ARCHS[arch], text['vocab_size'])
    tower = TextTower.from_clip(models[1], tokenizer=tokenizer, frozen=False)  # which keeps no results
    return models[0].text, tower.eval().requires_grad_(False)


def encode(text: nn.Module, ids: Tensor) -> Tensor:
    """open_clip's ``encode_text`` without the normalisation."""
    found = text(ids)
    return found[0] if isinstance(found, tuple) else found


def encode_prompts(text: nn.Module, ids: Tensor, context: Tensor, start: int) -> Tensor:
    """open_clip's tower on whole sequences with vectors instead of the first tokens."""
    own = text.token_embedding
    rows = own(ids)
    behind = start + len(context)
    parts = rows[:, :start], context.expand(len(ids), -1, -1), rows[:, behind:]
    text.token_embedding = Given(torch.cat(parts, dim=1))
    try:
        return encode(text, ids)
    finally:
        text.token_embedding = own


def seconds(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """CPU time of a run, and what it gives."""
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def step(run: Callable[[], Tensor]) -> Tensor:
    """Forward and backward."""
    found = run()
    found.square().sum().backward()
    return found.detach()


def compare(theirs: Callable[[], Tensor], ours: Callable[[], Tensor], repeats: int) -> tuple[float, float, float]:
    """Median seconds of both, in turn, and the largest difference over the largest entry."""
    ours()
    runs = [(seconds(theirs), seconds(ours)) for _ in range(repeats)]
    (_, wanted), (_, found) = runs[-1]
    error = float((found - wanted).abs().max() / wanted.abs().max())
    plain, here = (statistics.median(run[way][0] for run in runs) for way in (0, 1))
    return plain, here, error


def measure(arch: str, classes: int, repeats: int, layers: int | None) -> float:
    """Print a row of the table; the largest difference."""
    text, tower = build(arch, layers)
    names = open_clip.IMAGENET_CLASSNAMES[:classes]
    ids = tower.tokenize([f'a photo of a {name}.' for name in names])

    with torch.no_grad():
        plain, here, error = compare(partial(encode, text, ids), partial(tower.encode_tokens, ids), repeats)
    torch.manual_seed(1)
    prompt = LearnedContext(names, tower, 16 if tower.context_length > 40 else 8)
    full = prompt.token_ids.new_full((len(names), tower.context_length), tower.tokenizer.padding)
    full[:, : prompt.token_ids.shape[1]] = prompt.token_ids
    both = (
        partial(step, partial(encode_prompts, text, full, prompt.ctx, tower.num_start)),
        partial(step, partial(prompt, tower)),
    )
    plain_step, here_step, error_step = compare(*both, repeats)
    kind = tower.kind
    how = 'prefix, no padding' if kind.shares else 'full context' if kind.full else 'cut to the longest'
    print(
        f'| {arch} | {"yes" if kind.causal else "no"}, {kind.reads} | {how} | {plain:.2f} | {here:.2f} | '
        f'{plain / here:.1f}x | {plain_step:.2f} | {here_step:.2f} | {plain_step / here_step:.1f}x | '
        f'{max(error, error_step):.0e} |',
        flush=True,
    )
    return max(error, error_step)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--archs', nargs='+', choices=ARCHS, default=list(ARCHS))
    parser.add_argument('--classes', type=positive, default=100)
    parser.add_argument('--repeats', type=positive, default=3)
    parser.add_argument('--layers', type=positive, help='blocks of each tower; default: all')
    args = parser.parse_args()
    print(f'K = {args.classes}, seconds of CPU time, {torch.get_num_threads()} threads')
    columns = 'names, open_clip | here | ratio | context, open_clip | here | ratio'
    print(f'| text tower | causal, read | here | {columns} | off |')
    print('|---|---|---|---|---|---|---|---|---|---|')
    worst = max(measure(arch, args.classes, args.repeats, args.layers) for arch in args.archs)
    return int(not worst < 1e-4)


if __name__ == '__main__':
    sys.exit(main())
