"""A small text tower of every kind that open_clip has, the tokenizer that goes with it, and open_clip's own pass."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import zlib
from collections.abc import Iterator
from types import SimpleNamespace

import torch
from open_clip.hf_model import HFTextEncoder, MeanPooler
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.clip.tokenizer import Tokenizer
from vlm_dense.registry import MODELS

WORDS = 50  # ids 4 .. 53; 54 starts and 55 ends the texts of towers that look for the largest id
TOP = 55
WIDTH, DIM, LAYERS = 32, 24, 3
VISION = dict(image_size=32, layers=1, width=64, patch_size=16)
TEXT = dict(context_length=24, vocab_size=TOP + 1, width=WIDTH, heads=2, layers=LAYERS)


@MODELS.register_module(force=True)
class WordTokenizer(Tokenizer):
    """One id a word or sign, in lower case; for towers with tokenizers that would have to be downloaded."""

    def __init__(self, start=(TOP - 1,), end=(TOP,), padding=0):
        self.start, self.end, self.padding = tuple(start), tuple(end), padding

    def own(self, text: str) -> list[int]:
        return [4 + zlib.crc32(word.encode()) % WORDS for word in re.findall(r'\w+|[^\w\s]', text.lower())]


NOT_CAUSAL = dict(no_causal_mask=True)
LAST = dict(no_causal_mask=True, pool_type='last')
KINDS = dict(  # what differs in text_cfg, and in the tokenizer
    clip=({}, {}),
    pe=(dict(context_length=18), {}),
    xlm_v=(dict(pool_type='eos', eos_id=2), dict(start=(0,), end=(2,), padding=1)),
    mt5=(dict(pool_type='eos', eos_id=1), dict(start=(), end=(1,))),
    mobileclip=(NOT_CAUSAL, {}),
    clipa=(LAST, dict(end=(0,))),
    siglip=(dict(LAST, proj_bias=True), dict(start=(), end=(1,), padding=1)),
    siglip2=(dict(LAST, proj_type='none'), dict(start=(), end=(1,))),
    coca=(dict(embed_cls=True), {}),
    masked=({}, dict(start=(0,), end=(2,), padding=1)),  # as towers of Hugging Face
)
HUGGING_FACE = dict(  # config of transformers, open_clip's own options, tokenizer
    roberta=(
        dict(
            model_type='roberta',
            vocab_size=TOP + 1,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=40,
            pad_token_id=1,
        ),
        dict(hf_pooler_type='mean_pooler', hf_proj_type='mlp'),
        dict(start=(0,), end=(2,), padding=1),
    ),
    hf_mt5=(
        dict(
            model_type='mt5',
            vocab_size=TOP + 1,
            d_model=WIDTH,
            num_layers=LAYERS,
            num_heads=2,
            d_ff=64,
            d_kv=16,
            pad_token_id=0,
            is_encoder_decoder=True,
        ),
        dict(hf_pooler_type='mean_pooler', hf_proj_type='mlp'),
        dict(start=(), end=(1,)),
    ),
    nllb=(
        dict(
            model_type='m2m_100',
            vocab_size=TOP + 1,
            d_model=WIDTH,
            encoder_layers=LAYERS,
            encoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=64,
            max_position_embeddings=64,
            pad_token_id=1,
            is_encoder_decoder=True,
            scale_embedding=True,
        ),
        dict(hf_pooler_type='cls_pooler', hf_proj_type='linear'),
        dict(start=(3,), end=(2,), padding=1),
    ),
)


class _Model(nn.Module):
    """What our tower and open_clip's encoder use of a model of transformers, which they may do without here."""

    def __init__(self):
        super().__init__()
        self.words, self.positions = nn.Embedding(TOP + 1, WIDTH), nn.Embedding(40, WIDTH)
        self.encoder = nn.Module()
        make = lambda: nn.TransformerEncoderLayer(WIDTH, 2, 64, 0.0, batch_first=True)  # noqa: E731
        self.encoder.layer = nn.ModuleList(make() for _ in range(LAYERS))

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def set_input_embeddings(self, module: nn.Module | None) -> None:
        self.words = module

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None):
        x = self.words(input_ids) if inputs_embeds is None else inputs_embeds
        x = x + self.positions.weight[: x.shape[1]]
        for layer in self.encoder.layer:
            x = layer(x, src_key_padding_mask=attention_mask == 0)
        return SimpleNamespace(last_hidden_state=x)


class _Encoder(HFTextEncoder):
    """open_clip's encoder around it."""

    def __init__(self):
        nn.Module.__init__(self)
        self.config, self.output_tokens = SimpleNamespace(pad_token_id=1, max_position_embeddings=40), False
        self.transformer, self.pooler, self.proj = _Model(), MeanPooler(), nn.Linear(WIDTH, DIM, bias=False)


def make_clip(kind: str) -> nn.Module:
    """open_clip's model of a kind, float64, with random weights that all matter."""
    torch.manual_seed(0)
    if kind in HUGGING_FACE:
        config, options, _ = HUGGING_FACE[kind]
        with tempfile.TemporaryDirectory() as folder:  # transformers reads configs from a folder or the network
            with open(f'{folder}/config.json', 'w') as file:
                json.dump(config, file)
            clip = CustomTextCLIP(DIM, VISION, dict(options, hf_model_name=folder, hf_model_pretrained=False))
    else:
        own = KINDS[kind][0]
        separate = own.get('embed_cls') or own.get('pool_type') == 'last'
        if kind == 'masked':
            own, separate = {}, True
        dim = WIDTH if own.get('proj_type') == 'none' else DIM
        clip = (CustomTextCLIP if separate else CLIP)(dim, VISION, {**TEXT, **own}, quick_gelu=True)
        if kind == 'masked':
            clip.text = _Encoder()
    for name, parameter in clip.named_parameters():
        if name != 'logit_scale':
            nn.init.normal_(parameter, float(parameter.dim() == 1 and 'bias' not in name), 0.3)
    return clip.double().eval()


def tokenizer(kind: str) -> WordTokenizer:
    """The tokenizer of a kind."""
    return WordTokenizer(**(HUGGING_FACE[kind][2] if kind in HUGGING_FACE else KINDS[kind][1]))


def make_tower(kind: str, clip: nn.Module | None = None, **options) -> TextTower:
    """Our tower of a kind."""
    return TextTower.from_clip(clip or make_clip(kind), tokenizer=tokenizer(kind), **options)


class _Given(nn.Module):
    """In place of a table of tokens: the embeddings that are given, whatever the ids."""

    def __init__(self, embeddings: Tensor):
        super().__init__()
        self.embeddings = embeddings

    def forward(self, ids: Tensor) -> Tensor:
        return self.embeddings


def table(clip: nn.Module) -> nn.Module:
    """The token embeddings of open_clip's model."""
    text = getattr(clip, 'text', clip)
    return text.token_embedding if hasattr(text, 'token_embedding') else text.transformer.get_input_embeddings()


@contextlib.contextmanager
def _with_table(clip: nn.Module, module: nn.Module) -> Iterator[None]:
    text, own = getattr(clip, 'text', clip), table(clip)

    def put(module: nn.Module) -> None:
        if hasattr(text, 'token_embedding'):
            text.token_embedding = module
        else:
            text.transformer.set_input_embeddings(module)

    put(module)
    try:
        yield
    finally:
        put(own)


def plain(clip: nn.Module, ids: Tensor, embeddings: Tensor, states: dict[int, tuple[int, Tensor]] | None = None):
    """open_clip's own pass over whole sequences of given embeddings.

    Args:
        clip: open_clip's model.
        ids: (N, L) ids of full length, of which it takes ends and masks.
        embeddings: (N, L, C), instead of theirs.
        states: Block -> first place and hidden states (N or 1, M, C) put there in front of it.
    """
    text = getattr(clip, 'text', clip)
    owner = text.transformer
    if not hasattr(owner, 'resblocks'):
        owner = getattr(owner, 'encoder', owner)
    blocks = next(each for name in ('resblocks', 'layer', 'layers', 'block') if (each := getattr(owner, name, None)))

    def hook(start: int, rows: Tensor):
        def put(_, args):
            x = args[0].clone()
            x[:, start : start + rows.shape[1]] = rows
            return x, *args[1:]

        return put

    hooks = [blocks[i].register_forward_pre_hook(hook(*put)) for i, put in (states or {}).items()]
    try:
        with _with_table(clip, _Given(embeddings)):
            return clip.encode_text(ids)
    finally:
        for each in hooks:
            each.remove()
