"""Pretraining of the bundled tiny CLIPs from captioned scenes of Shapes.

The image sees words only: no mask, box or label index reaches the model
other than through a caption. Images of one object are told from each other
by 64 captions 'red circle', ..., images of several objects by what they
contain and by captions that list it (in-batch contrast, CLIP, Sec. 2.3).
"""

from __future__ import annotations

import functools
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import BaseTransform
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from vlm_dense.clip.loading import load_clip
from vlm_dense.datasets import scenes
from vlm_dense.inference.common import save
from vlm_dense.registry import METRICS, MODELS, TRANSFORMS

# '{}' takes the bare name, '[]' the name with its article.
TEMPLATES = (
    '{}',
    '{}.',
    '[]',
    '[].',
    'the {}',
    'a photo of [].',
    'a photo of []',
    'a photo of the {}.',
    'a photo of one {}.',
    'a picture of []',  # codespell:ignore picture
    'an image of [].',
    'a drawing of []',
    'a painting of [].',
    'a rendering of [].',
    'a good photo of [].',
    'a bad photo of [].',
    'a small photo of [].',
    'a close-up photo of [].',
    'a cropped photo of the {}.',
    'a blurry photo of [].',
    'a bright photo of [].',
    'a dark photo of the {}.',
    'itap of [].',
    'art of the {}.',
    'there is []',
    'there is [] in the scene.',
    'a scene with []',
    'a photo of [], a type of shape.',
)
LIST_TEMPLATES = (
    '[]',
    '[].',
    'a photo of [].',
    'a picture of []',  # codespell:ignore picture
    'a drawing of []',
    'a scene with [].',
    'there is []',
)
COLOUR_TEMPLATES = ('{}', 'something {}', 'a {} thing', 'a {} object', 'a photo of something {}.', 'the colour {}')
DESCRIPTIONS = {
    'circle': ('a filled round disc', 'a round shape without corners or holes'),
    'square': ('four equal sides and four right angles', 'a box with four corners'),
    'triangle': ('three sides and three corners', 'a polygon with three corners'),
    'star': ('five points around a centre', 'a shape with five sharp points'),
    'cross': ('two bars that cross in the middle', 'a plus sign with four arms'),
    'ring': ('a round band with a hole in the middle', 'a hollow circle'),
    'crescent': ('a thin curved moon', 'a moon with two sharp tips'),
    'heart': ('two round lobes above a pointed tip', 'a shape that stands for love'),
}
BACKGROUND_CAPTIONS = (
    'background',
    'a background',
    'the background',
    'an empty background',
    'a photo of the background.',
    'a photo of a background.',
    'a photo of nothing.',
    'a texture',
    'an empty scene',
)


def fill(template: str, name: str) -> str:
    """'a photo of [].', 'orange star' -> 'a photo of an orange star.'"""
    return template.replace('[]', scenes.with_article(name)).replace('{}', name)


class Vocabulary:
    """Captions of K alternatives and the pairs that each is true of.

    Args:
        captions: For each of the K, the wordings to choose from.
        members: For each of the K, the indices into ``scenes.PAIRS`` that it is true of; empty for the background.
    """

    def __init__(self, captions: Sequence[Sequence[str]], members: Sequence[Sequence[int]]) -> None:
        self.captions = [tuple(c) for c in captions]
        self.truth = torch.zeros(len(scenes.PAIRS), len(captions))
        for k, pairs in enumerate(members):
            self.truth[list(pairs), k] = 1
        self.background = [k for k, pairs in enumerate(members) if not pairs]

    def targets(self, present: Tensor) -> Tensor:
        """(B, 64) presence of each pair -> (B, K) distribution, equal over what is present; 0 if no caption fits."""
        hits = (present @ self.truth.to(present) > 0).float()
        for k in self.background:
            hits[:, k] = (present.sum(1) == 0).float()
        return hits / hits.sum(1, keepdim=True).clamp(min=1)


def shapes_vocabularies() -> dict[str, Vocabulary]:
    """Classes with the background, shapes, colours and the groups of both."""

    def filled(name: str, templates: Sequence[str] = TEMPLATES) -> tuple[str, ...]:
        return tuple(fill(t, name) for t in templates)

    def pairs_of(axis: int, names: Sequence[str], every: Sequence[str]) -> list[int]:
        return [i for i, p in enumerate(scenes.PAIRS) if every[p[axis]] in names]

    colours = tuple(scenes.COLOURS)
    return dict(
        pair=Vocabulary(
            [*(filled(scenes.pair_name(*p)) for p in scenes.PAIRS), BACKGROUND_CAPTIONS],
            [*([i] for i in range(len(scenes.PAIRS))), []],
        ),
        shape=Vocabulary(
            [filled(s) + tuple(w for d in DESCRIPTIONS[s] for w in (d, f'a {s}, {d}.') * 3) for s in scenes.SHAPES],
            [pairs_of(0, [s], scenes.SHAPES) for s in scenes.SHAPES],
        ),
        colour=Vocabulary([filled(c, COLOUR_TEMPLATES) for c in colours], [pairs_of(1, [c], colours) for c in colours]),
        shape_group=Vocabulary(
            [filled(f'{g} shape') + (g,) for g in scenes.SHAPE_GROUPS],
            [pairs_of(0, names, scenes.SHAPES) for names in scenes.SHAPE_GROUPS.values()],
        ),
        colour_group=Vocabulary(
            [filled(g, COLOUR_TEMPLATES) + (f'a {g} colour',) for g in scenes.COLOUR_GROUPS],
            [pairs_of(1, names, colours) for names in scenes.COLOUR_GROUPS.values()],
        ),
    )


@functools.cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


@functools.cache
def _word_ids(word: str) -> tuple[int, ...]:
    return tuple(_tokenizer().encode(word))


def caption_ids(text: str) -> list[int]:
    """Token ids of a lower-case caption with SOT and EOT; CLIP's BPE never joins words, so words are cached."""
    words = re.findall(r'[a-z]+|[^\sa-z]+', text)
    return [_tokenizer().sot_token_id, *(i for w in words for i in _word_ids(w)), _tokenizer().eot_token_id]


def filler_rows(vocab_size: int, width: int) -> Tensor:
    """Embedding of the tokens that no caption contains, float32 (vocab_size, width)."""
    table = np.random.RandomState(0).standard_normal((vocab_size, width)).astype(np.float32) * np.float32(0.02)
    return torch.from_numpy(table)


@TRANSFORMS.register_module()
class PackCaptioned(BaseTransform):
    """Keep what a caption tells.

    Returns ``inputs``, uint8 (3, H, W), BGR, and ``data_samples``, float (64,), 1 for every pair in the image.
    """

    def transform(self, results: dict) -> dict:
        present = torch.zeros(len(scenes.PAIRS))
        present[results['shape_ids'] * len(scenes.COLOURS) + results['colour_ids']] = 1
        return dict(inputs=torch.from_numpy(results['img'].transpose(2, 0, 1).copy()), data_samples=present)


@MODELS.register_module()
class CaptionPretraining(BaseModel):
    """A CLIP and its pretraining losses.

    Only the tokens of the captions are held and trained; :func:`export` writes them and leaves the rest to
    :func:`filler_rows`.

    Args:
        arch: As for :func:`vlm_dense.clip.loading.load_clip`; a bundled name.
        bfloat16: Train under CPU autocast.
        data_preprocessor: As in mmengine.
    """

    MAX_LOGIT_SCALE = math.log(100)

    def __init__(
        self,
        arch: str,
        bfloat16: bool = True,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.arch, self.bfloat16 = arch, bfloat16
        self.vocabularies = shapes_vocabularies()
        captions = [c for v in self.vocabularies.values() for wordings in v.captions for c in wordings]
        captions += [fill(t, 'red circle, and') for t in LIST_TEMPLATES]
        ids = {i for c in captions for i in caption_ids(c)}
        self.clip = load_clip(arch)
        text = self.text
        if text.attn_mask is None:  # padding is read
            ids.add(0)
        self.register_buffer('token_ids', torch.tensor(sorted(ids)))
        rows = filler_rows(*text.token_embedding.weight.shape)[self.token_ids]
        text.token_embedding = nn.Embedding.from_pretrained(rows, freeze=False)

    @property
    def text(self) -> nn.Module:
        """The module that holds the text tower."""
        return getattr(self.clip, 'text', self.clip)

    def take_weights(self, clip: CLIP, text_only: bool = False) -> None:
        """Copy the weights of a CLIP with the full vocabulary."""
        state = clip.state_dict()
        table = next(key for key in state if key.endswith('token_embedding.weight'))
        state[table] = state[table][self.token_ids]
        if text_only:
            state = {**self.clip.state_dict(), **{k: v for k, v in state.items() if not k.startswith('visual.')}}
        self.clip.load_state_dict(state)

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Captions -> unit embeddings (N, D); a causal tower computes no token after the longest EOT."""
        ids = [caption_ids(c) for c in captions]
        text = self.text
        length = max(map(len, ids)) if text.attn_mask is not None else len(text.positional_embedding)
        tokens = torch.zeros(len(ids), length, dtype=torch.long)
        for row, caption in zip(tokens, ids, strict=True):
            row[: len(caption)] = torch.tensor(caption)
        compact = torch.searchsorted(self.token_ids, tokens).clamp(max=len(self.token_ids) - 1)
        x = text.token_embedding(compact) + text.positional_embedding[:length]
        if text.attn_mask is None:
            return F.normalize(text.text_projection(text.ln_final(text.transformer(x)[:, -1])), dim=-1)
        x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask[:length, :length]))
        return F.normalize(x[torch.arange(len(ids)), tokens.argmax(1)] @ text.text_projection, dim=-1)

    def forward(self, inputs: Tensor, data_samples: Tensor, mode: str = 'tensor'):
        """Mode 'loss': dict of losses. Mode 'predict': one dict per image for :class:`ZeroShotShapes`."""
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        if mode == 'loss':
            with torch.autocast('cpu', torch.bfloat16, enabled=self.bfloat16):
                return self.loss(inputs, data_samples)
        image = self.clip.encode_image(inputs, normalize=True)
        if mode == 'tensor':
            return image
        text = self.encode_captions([fill('a photo of [].', scenes.pair_name(*p)) for p in scenes.PAIRS])
        best, truth = (image @ text.T).argmax(1), data_samples.argmax(1)
        return [dict(predicted=int(p), truth=int(t)) for p, t in zip(best, truth, strict=True)]

    def loss(self, inputs: Tensor, present: Tensor) -> dict[str, Tensor]:
        image = F.normalize(self.clip.visual(inputs).float(), dim=-1)
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=self.MAX_LOGIT_SCALE)
        scale = self.clip.logit_scale.exp()
        wordings = [random.choice(c) for v in self.vocabularies.values() for c in v.captions]
        text = self.encode_captions(wordings).float()
        losses = {}
        for (name, vocabulary), features in zip(
            self.vocabularies.items(),
            text.split([len(v.captions) for v in self.vocabularies.values()]),
            strict=True,
        ):
            targets = vocabulary.targets(present)
            log_p = (scale * image @ features.T).log_softmax(-1)
            weight = 1.0 if name == 'pair' else 0.5 if name in ('shape', 'colour') else 0.1
            losses[f'loss_{name}'] = -weight * (targets * log_p).sum(1).mean()

        several = present.sum(1) > 1
        if not several.any():
            return losses
        present, image = present[several], image[several]
        listed = self.encode_captions([self.list_caption(p) for p in present]).float()
        same = (present @ present.T == present.sum(1, keepdim=True)) & (present.sum(1, keepdim=True) == present.sum(1))
        targets = same / same.sum(1, keepdim=True)
        logits = scale * image @ listed.T
        losses['loss_caption'] = 0.25 * (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets))
        return losses

    @staticmethod
    def list_caption(present: Tensor) -> str:
        """Caption that lists the pairs of an image in random order."""
        names = [scenes.pair_name(*scenes.PAIRS[i]) for i in present.nonzero().flatten().tolist()]
        return random.choice(LIST_TEMPLATES).replace('[]', scenes.list_objects(random.sample(names, len(names))))


@METRICS.register_module()
class ZeroShotShapes(BaseMetric):
    """Zero-shot top-1, in percent, over the 64 captions 'a photo of a red circle.', on images of one object.

    ``shape`` and ``colour`` count predictions of the right shape or colour, ``both`` those where both are.
    """

    default_prefix = 'zero_shot'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        self.results.extend((s['predicted'], s['truth']) for s in data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        pairs = np.array(scenes.PAIRS)[np.array(results)]  # (N, predicted / truth, shape / colour)
        right = pairs[:, 0] == pairs[:, 1]
        return dict(colour=100 * right[:, 1].mean(), shape=100 * right[:, 0].mean(), both=100 * right.all(1).mean())


def export(model: CaptionPretraining, path: Path) -> None:
    """Write a model as float16 safetensors with the trained token rows only (``token_embedding.ids`` and ``.rows``).

    The file is written whole or not at all.
    """
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.clip.state_dict().items()}
    table = next(key for key in state if key.endswith('token_embedding.weight')).removesuffix('weight')
    state[f'{table}rows'] = state.pop(f'{table}weight')
    state[f'{table}ids'] = model.token_ids.int()
    save(lambda place: save_file(state, place), str(path))
