"""Every kind of file gives the same map from tokens to ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mergesafe.errors import CheckpointError
from mergesafe.tokenizer.compare import tokenizer_files
from mergesafe.tokenizer.sentencepiece import read_pieces
from mergesafe.tokenizer.vocabulary import KINDS, read_vocabulary, vocabulary_of

from .files import TOKENS, bpe, sentencepiece, unigram, write

EXPECTED = {token: index for index, token in enumerate(TOKENS)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_each_token_its_place(tmp_path: Path, kind: str) -> None:
    assert read_vocabulary(write(tmp_path, kind), kind) == EXPECTED


def test_unigram_and_added_tokens() -> None:
    assert vocabulary_of(unigram()) == EXPECTED
    assert vocabulary_of(bpe(added={"<x>": 50, "t3": 60})) == {**EXPECTED, "<x>": 50, "t3": 60}


@pytest.mark.parametrize("kind", [".tiktoken", "tekken.json"])
def test_a_tokenizer_model_may_be_of_another_make(tmp_path: Path, kind: str) -> None:
    content = write(tmp_path, kind).read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(content)
    assert read_vocabulary(tmp_path / "tokenizer.model", "tokenizer.model") == EXPECTED


def test_bytes_are_spelt_as_byte_level_bpe_spells_them(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = ["a b", "\n\n", "ü", "\x00\x7f", "日本", "\xad"]
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    expected = {level.pre_tokenize_str(w)[0][0]: i for i, w in enumerate(words)}
    assert read_vocabulary(write(tmp_path, ".tiktoken", words), ".tiktoken") == expected


def test_lines_end_in_any_way(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\r\n[UNK]\r\n\xc2\x85\r\nend")
    expected = {"[PAD]": 0, "[UNK]": 1, "\x85": 2, "end": 3}
    assert read_vocabulary(tmp_path / "vocab.txt", "vocab.txt") == expected


def test_sentencepiece_reads_what_the_library_writes(tmp_path: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    text = tmp_path / "text.txt"
    text.write_text(
        "".join(f"the {i} quick brown foxes jump over {i * 7} dogs\n" for i in range(200))
    )
    library.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "m"), vocab_size=60, byte_fallback=False,
        user_defined_symbols=["<|im_start|>"], minloglevel=2,
    )  # fmt: skip
    model = library.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    expected = [model.id_to_piece(i) for i in range(model.vocab_size())]
    assert read_pieces((tmp_path / "m.model").read_bytes()) == expected
    assert "<|im_start|>" in expected


GOOD = sentencepiece(TOKENS)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x00", b"{", GOOD[:-1], GOOD[:20], b"\x0a", b"\x0a\xff", b"\x0a\xff\xff\xff\xff\x7f",
        b"\x80" * 40, b"\x0b\x00", b"\x0a\x00", b"\x08\x01", b"\x0d\0\0\0\0", b"\x12\x00",
    ],
)  # fmt: skip
def test_what_is_no_sentencepiece_model_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        read_pieces(data)


def test_any_cut_or_flipped_byte_is_read_or_refused() -> None:
    for at in range(400):
        for value in (0, 0x7F, 0x80, 0xFF):
            data = GOOD[:at] + bytes([value]) + GOOD[at + 1 :]
            try:
                assert len(read_pieces(data)) <= len(TOKENS) + 1
            except ValueError:
                continue


ODD = [b"", b"\xff\xfe", b"{}", b"[]", b'"x"', b"{", b'{"model": {}}', b'{"vocab": [1]}']


@pytest.mark.parametrize(
    ("kind", "data"),
    # Any text is a vocab.txt, a list of lines.
    [(kind, data) for kind in KINDS for data in (ODD[:2] if kind == "vocab.txt" else ODD)],
)
def test_what_holds_no_vocabulary_is_an_error(tmp_path: Path, kind: str, data: bytes) -> None:
    file = tmp_path / f"file{kind}"
    file.write_bytes(data)
    torn = kind.endswith(".json") and data in [*ODD[:2], b"{"]
    what = r"not (valid JSON|UTF-8)" if torn else "holds no vocabulary that maps tokens to ids"
    with pytest.raises(CheckpointError, match=what + ".*; download it again$"):
        read_vocabulary(file, kind)


def test_files_that_add_tokens(tmp_path: Path) -> None:
    write(tmp_path, "vocab.json")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<x>": 50, "</s>": 51}))
    decoder = {"52": {"content": "<y>", "special": True}, "odd": {"content": "<z>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    files = tokenizer_files(tmp_path)
    # What a decoder with an odd id adds is not known.
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: its added tokens cannot"):
        files.vocabulary("vocab.json")
    del decoder["odd"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    assert files.vocabulary("vocab.json") == {**EXPECTED, "<x>": 50, "</s>": 51, "<y>": 52}
    write(tmp_path, "tokenizer.json")
    # tokenizer.json lists its own added tokens: what it knows keeps its id.
    expected = {**EXPECTED, "<x>": 50, "<y>": 52}
    assert tokenizer_files(tmp_path).vocabulary("tokenizer.json") == expected


def test_a_million_added_tokens_are_no_vocabulary(tmp_path: Path) -> None:
    added = [{"id": number, "content": f"<{number}>"} for number in range(110_000)]
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": added}))
    with pytest.raises(CheckpointError, match="110,000 added tokens, expected at most 100,000"):
        read_vocabulary(file, "tokenizer.json")
