"""Texts -> token ids of CLIP's byte-pair encoding, refusing what does not fit."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer

from vlm_dense.errors import ClassNamesError, ConfigError


def tokenize(
    arch: str | Mapping | None,
    texts: Sequence[str],
    context_length: int = 77,
    truncate: bool = False,
) -> torch.LongTensor:
    """Token ids of texts: start token, the text's own, end token (49407, the largest id), zeros.

    open_clip cuts long texts silently; as in OpenAI's own tokenizer, here that
    is an error unless it is asked for. Underscores are left as they are.

    Args:
        arch: The architecture that will read the ids, as for
            :func:`vlm_dense.clip.loading.load_clip`; only to refuse one
            with a tokenizer other than CLIP's. None: CLIP's.
        texts: N texts.
        context_length: Tokens a text may have, start and end token included.
        truncate: Cut longer texts to ``context_length`` and end them with the
            end token.

    Returns:
        Ids, int64, (N, context_length).

    Raises:
        ClassNamesError: a text is longer than ``context_length``.
        ConfigError: ``arch`` has a tokenizer of its own.
    """
    if isinstance(texts, str):
        raise TypeError(f'tokenize expects a list of texts, found the text {texts!r}')
    _check_tokenizer(arch)
    bpe = _clip_bpe()
    ids = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        tokens = [bpe.sot_token_id, *bpe.encode(text), bpe.eot_token_id]
        if len(tokens) > context_length:
            if not truncate:
                raise ClassNamesError(
                    f'{text!r} has {len(tokens)} tokens, start and end included; the text context takes '
                    f'{context_length}. Shorten it or raise context_length.'
                )
            tokens = [*tokens[: context_length - 1], bpe.eot_token_id]
        row[: len(tokens)] = torch.tensor(tokens)
    return ids


@functools.cache
def _clip_bpe() -> SimpleTokenizer:
    return SimpleTokenizer()


def _check_tokenizer(arch: str | Mapping | None) -> None:
    if isinstance(arch, str):
        arch = open_clip.get_model_config(arch) if arch in open_clip.list_models() else None
    text_cfg = arch['text_cfg'] if arch else {}
    own = text_cfg.get('hf_tokenizer_name') or text_cfg.get('tokenizer_kwargs')
    if own:
        raise ConfigError(
            f'The architecture reads texts with a tokenizer of its own ({own}); only those with the '
            f"byte-pair encoding of OpenAI's CLIP can be used, such as 'ViT-B-16' or 'RN50'."
        )
