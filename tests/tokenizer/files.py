"""Write the files of tokenizers, each with the tokens it is given in the order of ids."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOKENS = ("<unk>", "<s>", "</s>", *(f"t{i}" for i in range(3, 50)))


def bpe(tokens: Sequence[str] = TOKENS, added: dict[str, int] | None = None) -> dict[str, Any]:
    """A tokenizer.json."""
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": index, "content": token, "special": True}
            for token, index in (added or {}).items()
        ],
        "normalizer": None,
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": []},
    }


def unigram(tokens: Sequence[str] = TOKENS) -> dict[str, Any]:
    """A tokenizer.json."""
    return {**bpe(()), "model": {"type": "Unigram", "vocab": [[t, -1.5] for t in tokens]}}


def write(folder: Path, kind: str, tokens: Sequence[str] = TOKENS) -> Path:
    """A vocabulary file of this kind in ``folder``."""
    file = folder / ("qwen.tiktoken" if kind == ".tiktoken" else kind)
    if kind == "tokenizer.json":
        file.write_text(json.dumps(bpe(tokens)))
    elif kind == "vocab.json":
        file.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    elif kind == "vocab.txt":
        file.write_text("".join(f"{token}\n" for token in tokens))
    elif kind == "tekken.json":
        file.write_text(json.dumps(tekken(tokens)))
    elif kind == ".tiktoken":
        lines = (base64.b64encode(t.encode()) + b" %d\n" % i for i, t in enumerate(tokens))
        file.write_bytes(b"".join(lines))
    else:
        file.write_bytes(sentencepiece(tokens))
    return file


def tekken(tokens: Sequence[str], special: int = 3) -> dict[str, Any]:
    """The first ``special`` tokens are special, the others bytes; one more lies beyond the size."""
    rest = [*tokens[special:], "beyond the vocabulary"]
    return {
        "config": {"default_vocab_size": len(tokens), "default_num_special_tokens": special},
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(t.encode()).decode(), "token_str": t}
            for i, t in enumerate(rest)
        ],
        "special_tokens": [
            {"rank": i, "token_str": t, "is_control": True} for i, t in enumerate(tokens[:special])
        ],
    }


def sentencepiece(tokens: Sequence[str]) -> bytes:
    """A model as protocol buffers spell it: pieces with score and type, then a trainer's field."""
    out = b""
    for index, token in enumerate(tokens):
        text = token.encode()
        piece = b"\x0a" + varint(len(text)) + text + b"\x15\0\0\x80\xbf"
        piece += b"\x18" + varint(1 + (index < 3))
        out += b"\x0a" + varint(len(piece)) + piece
    return out + b"\x12\x05\x18\xc0\xb5\x03\x20"


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])
