"""Read a tokenizer's vocabulary, token -> id, from the files that models ship.

==============================  ==================================================================
``tokenizer.json``              BPE, WordPiece, WordLevel (an object) or Unigram (a list of pairs)
``vocab.json``                  an object, beside ``merges.txt``
``vocab.txt``                   one token a line
``tokenizer.model``             SentencePiece, or what tiktoken or Mistral write under this name
``spiece.model``, ``*.bpe.model``  SentencePiece
``tekken.json``                 Mistral's byte pairs, special tokens first
``*.tiktoken``                  lines of base64 and rank
==============================  ==================================================================

``added_tokens.json`` and ``added_tokens_decoder`` of ``tokenizer_config.json`` add to each. Tokens
that are bytes are spelt as byte-level BPE spells them, so that all files spell one token alike.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from mergesafe.checkpoint.places.location import Location, open_regular
from mergesafe.errors import CheckpointError, UnreadableError
from mergesafe.strict_json import parse_json
from mergesafe.tokenizer.sentencepiece import read_pieces
from mergesafe.untrusted import reason

#: The largest vocabularies in use take 35 MB.
LIMIT: Final = 128 << 20
#: Most tokens that are added to a vocabulary: models that speak add one for each sound, 65,536.
MAX_ADDED: Final = 100_000
TOKENIZER: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
ADDED_TOKENS: Final = "added_tokens.json"
#: What parsing raises on a file that is not what its name says.
_ODD: Final = (ValueError, KeyError, RecursionError, msgspec.MsgspecError)
_TIKTOKEN_LINE: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d{1,9}\r?\n")


class _Added(msgspec.Struct):
    id: int
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]]


class _Tokenizer(msgspec.Struct):
    """What of a tokenizer.json gives tokens their ids; the rest is skipped, which is fast."""

    model: _Model
    added_tokens: list[_Added] | None = None


class _AddedContent(msgspec.Struct):
    content: str


class _TokenizerConfig(msgspec.Struct):
    added_tokens_decoder: dict[str, _AddedContent] | None = None


class _TekkenConfig(msgspec.Struct):
    default_vocab_size: int
    default_num_special_tokens: int


class _TekkenToken(msgspec.Struct):
    rank: int
    token_bytes: str


class _TekkenSpecial(msgspec.Struct):
    rank: int
    token_str: str


class _Tekken(msgspec.Struct):
    config: _TekkenConfig
    vocab: list[_TekkenToken]
    special_tokens: list[_TekkenSpecial] | None = None


def vocabulary_of(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id of a parsed tokenizer.json: its model's vocabulary and the added tokens.

    Raises:
        CheckpointError: there is no such vocabulary in it.
    """
    try:
        return _ids(msgspec.convert(tokenizer, _Tokenizer))
    except _ODD:
        raise CheckpointError(
            f"{TOKENIZER}: holds no vocabulary that maps tokens to ids. Download it again."
        ) from None


def read_vocabulary(file: Location, kind: str) -> dict[str, int]:
    """Token -> id of a vocabulary file; ``kind`` is its name, or ``.tiktoken``.

    Raises:
        CheckpointError: it cannot be read, or holds no vocabulary.
    """
    data = read_bounded(file)
    try:
        found = _READERS[kind](data)
    except _TooManyError as error:
        raise CheckpointError(f"{file}: {error}") from None
    except _ODD:
        found = {}
    if not found:
        raise CheckpointError(f"{file}: {_problem(data, kind)}; download it again")
    return found


def _problem(data: bytes, kind: str) -> str:
    """What is wrong with the file of ``data``, which holds no vocabulary; a torn one is no JSON."""
    if kind.endswith(".json"):
        try:
            parse_json(data, constants=True)
        except ValueError as error:
            return str(error)
    return "holds no vocabulary that maps tokens to ids"


def added_tokens(folder: Location, names: frozenset[str]) -> dict[str, int]:
    """The tokens that ``added_tokens.json`` and ``tokenizer_config.json`` add, of those that
    ``names``, the files of the folder, holds.

    Raises:
        CheckpointError: a file cannot be read, or gives tokens no ids: what it adds is not known.
    """
    found: dict[str, int] = {}
    for name, read in ((ADDED_TOKENS, _added_json), (TOKENIZER_CONFIG, _added_decoder)):
        if name not in names:
            continue
        data = read_bounded(folder / name)
        try:
            found |= read(data)
        except _ODD:
            raise CheckpointError(
                f"{folder / name}: its added tokens cannot be read, expected an object of tokens "
                "and ids"
            ) from None
    return found


def _added_json(data: bytes) -> dict[str, int]:
    return msgspec.json.decode(data, type=dict[str, int])


def _added_decoder(data: bytes) -> dict[str, int]:
    decoder = msgspec.json.decode(data, type=_TokenizerConfig).added_tokens_decoder or {}
    return {token.content: int(index) for index, token in decoder.items()}


def with_added(vocabulary: dict[str, int], added: Mapping[str, int], kind: str) -> dict[str, int]:
    """``vocabulary`` and what a folder's other files add to it.

    ``tokenizer.json`` lists its own added tokens, and they come first: a token that it knows keeps
    its id. For the others, which know of none, the added ones come first.
    """
    return {**added, **vocabulary} if kind == TOKENIZER else {**vocabulary, **added}


def read_bounded(file: Location) -> bytes:
    """The bytes of a file of at most :data:`LIMIT`.

    Raises:
        CheckpointError: it cannot be read, or is larger.
    """
    with open_regular(file) as stream:
        try:
            data = stream.read(LIMIT + 1)
        except OSError as error:
            raise UnreadableError(f"{file}: cannot read ({reason(error)}).") from error
    if len(data) > LIMIT:
        raise CheckpointError(
            f"{file}: larger than {LIMIT:,} bytes, which no genuine file of this name is"
        )
    return data


class _TooManyError(ValueError):
    """More tokens than a genuine tokenizer adds."""


def _ids(tokenizer: _Tokenizer) -> dict[str, int]:
    vocab = tokenizer.model.vocab
    added = len(tokenizer.added_tokens or ())
    if added > MAX_ADDED:
        raise _TooManyError(
            f"{added:,} added tokens, expected at most {MAX_ADDED:,}. Use the tokenizer of the "
            "model's publisher."
        )
    if isinstance(vocab, list):
        vocab = {token: index for index, (token, _) in enumerate(vocab)}
    return vocab | {token.content: token.id for token in tokenizer.added_tokens or ()}


def _tokenizer_json(data: bytes) -> dict[str, int]:
    return _ids(msgspec.json.decode(data, type=_Tokenizer))


def _vocab_json(data: bytes) -> dict[str, int]:
    return msgspec.json.decode(data, type=dict[str, int])


def _vocab_txt(data: bytes) -> dict[str, int]:
    lines = data.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    return {token: index for index, token in enumerate(lines)}


def _sentencepiece(data: bytes) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(read_pieces(data))}


def _model(data: bytes) -> dict[str, int]:
    if data[:1] == b"{":
        return _tekken(data)
    if _TIKTOKEN_LINE.match(data):
        return _tiktoken(data)
    return _sentencepiece(data)


def _tekken(data: bytes) -> dict[str, int]:
    file = msgspec.json.decode(data, type=_Tekken)
    first = file.config.default_num_special_tokens
    # The file holds more tokens than are used: those of a larger vocabulary.
    used = file.config.default_vocab_size - first
    found = {token.token_str: token.rank for token in file.special_tokens or ()}
    for token in file.vocab:
        if token.rank < used:
            found[_spelt(base64.b64decode(token.token_bytes, validate=True))] = token.rank + first
    return found


def _tiktoken(data: bytes) -> dict[str, int]:
    found = {}
    for line in data.splitlines():
        if line:
            token, rank = line.split()
            found[_spelt(base64.b64decode(token, validate=True))] = int(rank)
    return found


def _letters() -> str:
    """The letter of each byte in byte-level BPE: itself where it prints, else one from 256 on.

    As ``bytes_to_unicode`` of GPT-2, https://github.com/openai/gpt-2/blob/master/src/encoder.py.
    """
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return "".join(chr(byte if byte in plain else next(others)) for byte in range(256))


#: The letter of each byte in byte-level BPE.
LETTERS: Final = _letters()


def _spelt(token: bytes) -> str:
    return token.decode("latin-1").translate(LETTERS)


_READERS: Final[dict[str, Callable[[bytes], dict[str, int]]]] = {
    TOKENIZER: _tokenizer_json,
    "vocab.json": _vocab_json,
    "vocab.txt": _vocab_txt,
    "tokenizer.model": _model,
    "spiece.model": _sentencepiece,
    "spm.model": _sentencepiece,
    "sentencepiece.bpe.model": _sentencepiece,
    "sentencepiece.model": _sentencepiece,
    "spm_char.model": _sentencepiece,
    "tekken.json": _tekken,
    ".tiktoken": _tiktoken,
}
#: Kinds of vocabulary files: where a folder holds several, the first is what loaders take.
KINDS: Final = tuple(_READERS)
#: Kinds whose tokenizers give ids as the file does; those of other SentencePiece files may shift
#: them (XLM-RoBERTa's by one), so they are compared with their like only.
PLAIN_KINDS: Final = (
    TOKENIZER, "vocab.json", "vocab.txt", "tokenizer.model", "tekken.json", ".tiktoken",
)  # fmt: skip
