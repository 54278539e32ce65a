"""Texts -> token ids, by the tokenizer that a text tower was trained with; what does not fit is refused."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from open_clip.factory import LOCAL_DIR_PREFIX
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from vlm_dense.clip.architectures import model_config, of_repository, standard_name
from vlm_dense.clip.tips import ARCHITECTURES as TIPS
from vlm_dense.clip.tips import is_tips
from vlm_dense.errors import ClassNamesError, ConfigError, MissingLibraryError, WeightsNotFoundError
from vlm_dense.libraries import how_to_install
from vlm_dense.registry import MODELS


class Tokenizer:
    """A text as token ids: those in front of it, its own, those behind it, padding.

    Attributes:
        start: Ids in front of every text; SigLIP's towers have none.
        end: Ids behind every text.
        padding: Id of what fills a row.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]
    padding: int

    def own(self, text: str) -> list[int]:
        """The text's own ids, without those that every text has."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict) -> Tokenizer:
        return self  # it does not change, and its table is large

    def __call__(self, texts: Sequence[str], context_length: int, truncate: bool = False) -> Tensor:
        """Ids of texts, int64, (N, context_length).

        Args:
            texts: N texts.
            context_length: Tokens a text may have, with those that every text has.
            truncate: Cut the own tokens of longer texts; else they are refused.

        Raises:
            ClassNamesError: a text is longer than ``context_length``.
        """
        if isinstance(texts, str):
            raise TypeError(f'tokenize expects a list of texts, found the text {texts!r}')
        return self.rows([self.own(text) for text in texts], context_length, truncate, texts)

    def rows(
        self,
        owns: Sequence[Sequence[int]],
        context_length: int,
        truncate: bool = False,
        texts: Sequence[str] | None = None,
    ) -> Tensor:
        """As :meth:`__call__`, of own ids; ``texts`` are only named in the message."""
        ids = torch.full((len(owns), context_length), self.padding, dtype=torch.long)
        room = context_length - len(self.start) - len(self.end)
        for index, (row, own) in enumerate(zip(ids, owns, strict=True)):
            if len(own) > room and not truncate:
                every = 'start and end included' if self.start else 'end included'
                raise ClassNamesError(
                    f'{texts[index] if texts else list(own)!r} has {len(own) + context_length - room} tokens, {every}; '
                    f'the text context takes {context_length}. Shorten it, or raise '
                    'context_length if the tower has more.'
                )
            tokens = [*self.start, *own[: max(0, room)], *self.end]
            row[: len(tokens)] = torch.tensor(tokens)
        return ids


class CLIPTokenizer(Tokenizer):
    """CLIP's byte-pair encoding: start token, text, end token (49407, the largest id), zeros.

    Underscores are left as they are.

    Args:
        **options: Of open_clip's ``SimpleTokenizer``.
    """

    padding = 0

    def __init__(self, **options: Any):
        self.bpe = SimpleTokenizer(**options)
        self.start, self.end = (self.bpe.sot_token_id,), (self.bpe.eot_token_id,)

    def own(self, text: str) -> list[int]:
        """See :meth:`Tokenizer.own`."""
        return self.bpe.encode(text)


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of the library transformers, with open_clip's cleaning of texts.

    Args:
        source: Folder of its files, or its name on the Hugging Face hub.
        **options: Of open_clip's ``HFTokenizer``.

    Raises:
        MissingLibraryError: transformers is not installed.
        ConfigError: a way to put tokens together that no text tower here reads.
        WeightsNotFoundError: the files are neither on this machine nor to be had.
    """

    def __init__(self, source: str | os.PathLike, **options: Any):
        if options.pop('tokenizer_mode', None):
            raise ConfigError(f"{source}: a tokenizer with tokenizer_mode='clips' cannot be used.")
        options.pop('context_length', None)
        if find_spec('transformers') is None:
            raise MissingLibraryError(
                f'The tokenizer {source} needs transformers, which is not installed. {how_to_install("hf")}'
            )
        try:
            hf = HFTokenizer(os.fspath(source), **options)
        except Exception as error:  # no network, a file that is missing or damaged, a library: the way out is the same
            raise _not_found(source, error) from error
        if hf.tokenizer.pad_token_id is None:
            raise ConfigError(f'The tokenizer {source} has no padding token, and text towers read rows of one length.')
        self.hf, self.clean = hf.tokenizer, hf.clean_fn
        self.padding = self.hf.pad_token_id
        own, whole = self.own('a'), self.hf('a').input_ids
        places = [i for i in range(len(whole) - len(own) + 1) if whole[i : i + len(own)] == own]
        end = whole[places[0] + len(own) :]
        if hf.strip_sep_token:
            end = [0 if token == self.hf.sep_token_id else token for token in end]
        self.start, self.end = tuple(whole[: places[0]]), tuple(end)

    def own(self, text: str) -> list[int]:
        """See :meth:`Tokenizer.own`."""
        return self.hf(self.clean(text), add_special_tokens=False).input_ids


@MODELS.register_module()
class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model with nothing around a text and zeros as padding, as TIPSv2 has it.

    Args:
        file: The model, ``tokenizer.model``.
        lower: Texts in lower case.

    Raises:
        MissingLibraryError: sentencepiece is not installed.
        WeightsNotFoundError: there is no such file, or it is none of these.
    """

    start, end, padding = (), (), 0

    def __init__(self, file: str | os.PathLike, lower: bool = True):
        if find_spec('sentencepiece') is None:
            raise MissingLibraryError(
                f'The tokenizer {file} needs sentencepiece, which is not installed. {how_to_install("hf")}'
            )
        from sentencepiece import SentencePieceProcessor

        try:
            self.model = SentencePieceProcessor(model_file=os.fspath(Path(file).expanduser()))
        except (OSError, RuntimeError) as error:
            raise WeightsNotFoundError(
                f'tokenizer={str(file)!r}: expected the file of a sentencepiece model, found none that can be read.'
            ) from error
        self.lower = lower

    def own(self, text: str) -> list[int]:
        """See :meth:`Tokenizer.own`."""
        return self.model.encode(text.lower() if self.lower else text)


def _not_found(source: str | os.PathLike, error: Exception) -> WeightsNotFoundError:
    path, why = Path(source).expanduser(), ' '.join([type(error).__name__, *str(error).splitlines()[:1]])[:200]
    if path.is_dir() or path.is_absolute() or str(source).startswith('.'):
        found = 'It holds no tokenizer that transformers can read' if path.is_dir() else 'There is no such folder'
        return WeightsNotFoundError(
            f'tokenizer={str(source)!r}: {found} ({why}). Expected a folder with tokenizer_config.json and '
            'tokenizer.json, or a sentencepiece model.'
        )
    cache = f'models--{str(source).replace("/", "--")}'
    return WeightsNotFoundError(
        f'The tokenizer {source} is not on this machine and could not be downloaded ({why}).\n'
        f'  To get it: on a machine with a network run \'hf download {source} --include "*token*" "*.model"\'.\n'
        f'  Then copy the folder {cache} of its cache into {HF_HUB_CACHE} here, or its files into a folder:\n'
        "    text_encoder=dict(type='vlm_dense.TextTower', ..., tokenizer='/path/to/the/folder')."
    )


def build_tokenizer(
    arch: str | Mapping | None = None, tokenizer: str | os.PathLike | Mapping | Tokenizer | None = None
) -> Tokenizer:
    """The tokenizer of an architecture.

    Args:
        arch: The architecture that will read the ids, as for :func:`vlm_dense.clip.loading.load_clip`.
            None: CLIP's byte-pair encoding.
        tokenizer: Instead of its own: a folder with the files of a tokenizer of transformers, a tokenizer, or the
            config of one that is registered in ``MODELS``.

    Raises:
        MissingLibraryError, WeightsNotFoundError: see :class:`HuggingFaceTokenizer`.
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if isinstance(tokenizer, Mapping):
        return MODELS.build(dict(tokenizer))
    place = None
    if isinstance(arch, str):
        if arch.startswith(LOCAL_DIR_PREFIX):
            place = arch.partition(':')[2]
        known = of_repository(arch) or standard_name(arch) in TIPS
        arch = model_config(arch) if known else open_clip.get_model_config(standard_name(arch))
    if not tokenizer and arch and is_tips(arch):
        raise ConfigError(
            "TIPSv2's texts are split by the sentencepiece model of its release (in lower case, padded with 0, without "
            "start and end). Give tokenizer=dict(type='vlm_dense.SentencePieceTokenizer', "
            "file='/path/to/tokenizer.model')."
        )
    text_cfg = (arch or {}).get('text_cfg', {})
    source = tokenizer or (text_cfg.get('hf_tokenizer_name') and (place or text_cfg['hf_tokenizer_name']))
    options = dict(text_cfg.get('tokenizer_kwargs') or {})
    if source:
        return HuggingFaceTokenizer(source, tokenizer_mode=text_cfg.get('tokenizer_mode'), **options)
    return CLIPTokenizer(**options) if options else _clip_bpe()


def tokenize(
    arch: str | Mapping | None,
    texts: Sequence[str],
    context_length: int = 77,
    truncate: bool = False,
) -> Tensor:
    """Token ids of texts by the tokenizer of an architecture.

    open_clip cuts long texts silently; as in OpenAI's own tokenizer, here that
    is an error unless it is asked for.

    Args:
        arch: See :func:`build_tokenizer`. None: CLIP's byte-pair encoding.
        texts: N texts.
        context_length: Tokens a text may have, start and end token included.
        truncate: Cut longer texts to ``context_length``; they keep their end
            token.

    Returns:
        Ids, int64, (N, context_length).

    Raises:
        ClassNamesError: a text is longer than ``context_length``.
        MissingLibraryError, WeightsNotFoundError: see :class:`HuggingFaceTokenizer`.
    """
    return build_tokenizer(arch)(texts, context_length, truncate)


@functools.cache
def _clip_bpe() -> CLIPTokenizer:
    return CLIPTokenizer()
