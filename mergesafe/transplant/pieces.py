"""The pieces into which a model's tokenizer splits the tokens of another one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import msgspec

from mergesafe.chat.tokenizer_files import check_tokenizer_files
from mergesafe.errors import CheckpointError, ModelError
from mergesafe.extras import install
from mergesafe.tokenizer.compare import Files
from mergesafe.tokenizer.token_bytes import Tokens, spelt
from mergesafe.tokenizer.vocabulary import TOKENIZER, read_bounded
from mergesafe.untrusted import show


def pieces_of(
    new: Mapping[int, str], donor: Tokens, files: Files, model: Tokens, rows: int
) -> dict[int, list[int]]:
    """Of each new token (id -> token of ``donor``) the model's ids of its pieces, in order; tokens
    that have none are left out.

    The vocabulary of the model's tokenizer.json splits the bytes of a token as it would split them
    inside a text: rules that rewrite a text, or cut it into words first, are not applied. Bytes
    that are no text are split one by one. Pieces that are unknown, or have no row, do not count.

    Raises:
        ModelError: the library tokenizers is not installed.
        CheckpointError: the model has no tokenizer.json, or the library cannot read it.
    """
    splitter, unknown = _splitter(files)
    found: dict[int, list[int]] = {}
    for index, token in new.items():
        data = donor.bytes_of(token)
        text = spelt(token.encode() if data is None else data, model.spelling)
        split: list[int] = []
        if text:
            split = [piece.id for piece in splitter.tokenize(text)]
        elif data:
            single = (model.byte.get(b, model.plain.get(bytes([b]))) for b in data)
            split = [each for each in single if each is not None]
        split = [each for each in split if each != unknown and each < rows]
        if split:
            found[index] = split
    return found


def _splitter(files: Files) -> tuple[Any, int | None]:
    """The model of the tokenizer, as the library tokenizers calls it, and its unknown token."""
    if find_spec("tokenizers") is None:
        raise ModelError(
            f"--method subword needs the package tokenizers. Install it: {install('models')}"
        )
    if TOKENIZER not in files.kinds:
        raise CheckpointError(
            f"{files.folder}: has no {TOKENIZER}, by which --method subword splits tokens without "
            "code of the model. Save the tokenizer with transformers (save_pretrained), or use "
            "another --method."
        )
    from tokenizers import Tokenizer

    check_tokenizer_files(files.folder)
    data = read_bounded(files.folder / TOKENIZER)
    try:
        made = Tokenizer.from_str(data.decode())
        unknown = msgspec.json.decode(data)["model"].get("unk_token")
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(
            f"{files.folder / TOKENIZER}: the library tokenizers cannot read it "
            f"({show(str(error))}). Use the tokenizer of the model's publisher."
        ) from error
    return made.model, made.token_to_id(unknown) if isinstance(unknown, str) else None
