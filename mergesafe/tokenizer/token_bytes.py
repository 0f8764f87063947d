"""Which bytes of text a token stands for, however its tokenizer spells them.

Byte-level BPE spells a space as the letter of byte 32, SentencePiece as ``▁``, WordPiece marks what
continues a word and leaves out the space before one that begins. In bytes they are alike, so that
tokens of two tokenizers can be compared. A token that is added beside the vocabulary is its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from mergesafe.errors import CheckpointError
from mergesafe.tokenizer.compare import Files
from mergesafe.tokenizer.special import content_of, special_settings
from mergesafe.tokenizer.vocabulary import (
    LETTERS,
    PLAIN_KINDS,
    TOKENIZER,
    added_tokens,
    read_bounded,
)
from mergesafe.untrusted import show

Spelling = Literal["byte-level", "sentencepiece", "wordpiece", "plain"]
#: Special tokens by what they are for; their ids follow in the configuration.
ROLES: Final = (
    "bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token",
)  # fmt: skip
_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE: Final = "\u2581"
_BYTES_OF: Final = {letter: byte for byte, letter in enumerate(LETTERS)}


@dataclass(frozen=True)
class Tokens:
    """A vocabulary by what its tokens stand for.

    Args:
        ids: token -> id, as the files spell it.
        spelling: how tokens of the vocabulary are spelt.
        plain: bytes -> id of tokens that stand for text.
        byte: byte -> id of SentencePiece's tokens for single bytes.
        added: text -> id of added and special tokens.
        special: those of ``added`` that are not text.
        roles: text of the token for each of :data:`ROLES` that there is.
    """

    ids: Mapping[str, int]
    spelling: Spelling
    plain: Mapping[bytes, int]
    byte: Mapping[int, int]
    added: Mapping[str, int]
    special: frozenset[str]
    roles: Mapping[str, str]

    def bytes_of(self, token: str) -> bytes | None:
        """What a token stands for; None for a special one."""
        if token in self.special:
            return None
        return _bytes_of(token, "plain" if token in self.added else self.spelling)

    def find(self, token: str, other: Tokens) -> int | None:
        """The id here of ``token`` of ``other``: of a token added under the same text, or one that
        stands for the same bytes, or the one with the same role.
        """
        if token in other.added and token in self.added:
            return self.added[token]
        data = other.bytes_of(token)
        if data is None:
            role = next((r for r in ROLES if other.roles.get(r) == token), None)
            ours = self.roles.get(role) if role is not None else None
            return self.ids.get(ours) if ours is not None else None
        single = data[0] if len(data) == 1 else None
        is_byte = token not in other.added and _is_byte(token, other.spelling)
        if is_byte and single is not None and single in self.byte:
            return self.byte[single]
        found = self.plain.get(data)
        if found is None and single is not None and (is_byte or single >= 128):
            found = self.byte.get(single)
        return found


def read_tokens(files: Files) -> Tokens:
    """The tokens of a model's tokenizer.

    Raises:
        CheckpointError: there is no tokenizer, it cannot be read, its ids are not those of its
            file, or two tokens have one id.
    """
    kind = next(iter(files.kinds), None)
    if kind is None:
        code = sorted(name for name in files.names if "tokeni" in name and name.endswith(".py"))
        raise CheckpointError(
            f"{files.folder}: holds no tokenizer ({TOKENIZER}, tokenizer.model or the like)"
            + (
                f", but {code[0]}, which would have to be run: mergesafe runs no code of a model. "
                if code
                else ". "
            )
            + f"Save one with transformers (tokenizer.save_pretrained) that writes {TOKENIZER}."
        )
    if kind not in PLAIN_KINDS:
        raise CheckpointError(
            f"{files.folder / files.kinds[kind]}: its pieces alone do not tell the ids of tokens. "
            f"Save the tokenizer with transformers, which writes {TOKENIZER}."
        )
    ids = files.vocabulary(kind)
    _check_ids(files, ids)
    settings = special_settings(files.folder)
    roles = {
        role: token
        for role in ROLES
        if isinstance(token := content_of(settings.get(role)), str) and token in ids
    }
    spelling, listed = _described(files, kind)
    beside = added_tokens(files.folder, files.names)
    special = {token for token, is_special in listed.items() if is_special} | set(roles.values())
    if kind != TOKENIZER:
        special |= beside.keys()
    added = {t: ids[t] for t in {**listed, **beside, **dict.fromkeys(special)} if t in ids}
    plain: dict[bytes, int] = {}
    byte: dict[int, int] = {}
    for token, index in ids.items():
        if token in special:
            continue
        data = _bytes_of(token, "plain" if token in added else spelling)
        if token not in added and _is_byte(token, spelling):
            byte.setdefault(data[0], index)
        else:
            plain.setdefault(data, index)
    return Tokens(ids, spelling, plain, byte, added, frozenset(special & ids.keys()), roles)


def spelt(data: bytes, spelling: Spelling) -> str | None:
    """How the vocabulary of a tokenizer would spell the bytes; None where they are no text and it
    spells text only.
    """
    if spelling == "byte-level":
        return data.decode("latin-1").translate(LETTERS)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    if spelling == "sentencepiece":
        return text.replace(" ", _SPACE)
    return text.strip() if spelling == "wordpiece" else text


def _bytes_of(token: str, spelling: Spelling) -> bytes:
    if spelling == "byte-level":
        found = [_BYTES_OF.get(letter) for letter in token]
        if None not in found:
            return bytes(byte for byte in found if byte is not None)
    elif spelling == "sentencepiece":
        if (match := _BYTE.fullmatch(token)) is not None:
            return bytes([int(match[1], 16)])
        token = token.replace(_SPACE, " ")
    elif spelling == "wordpiece":
        token = token.removeprefix("##") if token.startswith("##") else f" {token}"
    return token.encode("utf-8", "surrogateescape")


def _is_byte(token: str, spelling: Spelling) -> bool:
    return spelling == "sentencepiece" and _BYTE.fullmatch(token) is not None


def _check_ids(files: Files, ids: Mapping[str, int]) -> None:
    seen: dict[int, str] = {}
    for token, index in ids.items():
        if index in seen:
            raise CheckpointError(
                f"{files.folder}: its tokenizer gives the id {index} to two tokens, "
                f"{show(seen[index])} and {show(token)}. Which row of the embedding is whose "
                "cannot be told: use the tokenizer of the model's publisher."
            )
        if index < 0:
            raise CheckpointError(
                f"{files.folder}: its tokenizer gives {show(token)} the id {index}, expected 0 or "
                "more. Use the tokenizer of the model's publisher."
            )
        seen[index] = token


def _described(files: Files, kind: str) -> tuple[Spelling, dict[str, bool]]:
    """How tokens are spelt, and the added ones with whether they are special."""
    file = files.folder / files.kinds[kind]
    if kind == TOKENIZER:
        content = msgspec.json.decode(read_bounded(file))
        listed = {
            each["content"]: each.get("special") is True
            for each in content.get("added_tokens") or ()
        }
        return _spelling(content), listed
    if kind == "vocab.txt":
        return "wordpiece", {}
    if kind == "vocab.json":
        return ("byte-level" if "merges.txt" in files.names else "plain"), {}
    if kind == "tokenizer.model":
        data = read_bounded(file)
        tiktoken = data[:1] == b"{" or re.match(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n", data)
        return ("byte-level" if tiktoken else "sentencepiece"), {}
    return "byte-level", {}


def _spelling(tokenizer: Mapping[str, Any]) -> Spelling:
    """How the vocabulary of a tokenizer.json is spelt, by the rules that it goes with."""
    parts = [tokenizer.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")]
    rules = list(_objects(parts))
    kinds = kinds_of(parts)
    model = tokenizer.get("model") or {}
    if "ByteLevel" in kinds:
        return "byte-level"
    if model.get("type") == "WordPiece" or "WordPiece" in kinds:
        return "wordpiece"
    replaced = any(_SPACE in str(rule.get("content", "")) + str(rule.get("pattern", ""))
                   for rule in rules)  # fmt: skip
    if "Metaspace" in kinds or replaced or model.get("type") == "Unigram":
        return "sentencepiece"
    return "plain"


def kinds_of(rules: object) -> set[str]:
    """The kinds of rules of a tokenizer.json, and of the rules inside them."""
    return {kind for rule in _objects(rules) if isinstance(kind := rule.get("type"), str)}


def _objects(value: object) -> Iterator[Mapping[str, Any]]:
    """Every object inside, however deep."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            yield each
            left += each.values()
        elif isinstance(each, list):
            left += each
