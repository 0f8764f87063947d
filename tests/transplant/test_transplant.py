"""A tiny model under another tokenizer, by every method, through the command and Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import CONFIG, Tensors, command, digest, leftovers, llama, read, same_bits, save

import mergesafe as ms
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import read_header
from mergesafe.cli.transplant import summary
from mergesafe.errors import NonFiniteError
from mergesafe.journal import encode_line
from mergesafe.transplant import stored_rows
from mergesafe.transplant.alignment import Special
from mergesafe.transplant.api import TransplantResult

LETTERS = [chr(code) for code in range(ord("a"), ord("a") + 26)]
SPACED = [f"\u0120{letter}" for letter in LETTERS]
#: 50 tokens of the model; of the donor's 60, ids 3 to 22 and two of the special ones are shared.
OURS = ["<unk>", "<s>", "</s>", *LETTERS, *SPACED[:21]]
PAIRS = [f"{one}{two}" for one in "abcdef" for two in "xyzabc"]
THEIRS = ["<unk>", "<begin>", "</s>", *LETTERS[:20], *PAIRS, "\u00c3"]
NEW = list(range(23, 60))
#: Where a donor's token lies in the model, by id.
KEPT = {0: 0, 1: 1, 2: 2, **{index: index for index in range(3, 23)}}


def tokenizer(folder: Path, words: Sequence[str], bos: str) -> None:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": words[i], **flags, "special": True} for i in range(3)]
    content = {
        "version": "1.0", "added_tokens": added, "truncation": None, "padding": None,
        "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)}, "merges": []},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    roles = {"bos_token": bos, "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))


def checkpoint(
    folder: Path, tensors: Tensors, words: Sequence[str], bos: str, **config: Any
) -> Path:
    save(folder, tensors, {"vocab_size": len(words), **config}, shards=2)
    tokenizer(folder, words, bos)
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A model in bfloat16 with a head of its own, and a donor in float32 that is tied."""
    model = checkpoint(tmp_path / "model", llama(1), OURS, "<s>")
    donor = checkpoint(
        tmp_path / "donor", llama(2, tied=True, vocab=60, dtype=torch.float32), THEIRS, "<begin>",
        tie_word_embeddings=True, eos_token_id=[2, 5], pad_token_id=0,
    )  # fmt: skip
    (model / "generation_config.json").write_text('{"eos_token_id": 2, "top_k": 5}')
    return model, donor


def plain_pursuit(target: np.ndarray, atoms: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    taken: list[int] = []
    residual, solution = target, np.zeros(0)
    while len(taken) < k and np.abs(residual).max() > 1e-12:
        taken.append(int(np.argmax(np.abs(atoms @ residual))))
        solution = np.linalg.lstsq(atoms[taken].T, target, rcond=None)[0]
        residual = target - atoms[taken].T @ solution
    return solution @ rows[taken]


def expected(method: str, table: torch.Tensor, donor: torch.Tensor, k: int) -> torch.Tensor:
    """A table in float64 rounded once: its rows of KEPT, and those of NEW by ``method``."""
    rows = table.double().numpy()
    found = np.zeros((60, rows.shape[1]))
    for target, source in KEPT.items():
        found[target] = rows[source]
    mean = table.double().mean(0).float().numpy()
    for index in NEW:
        if method == "mean" or (method == "subword" and index == 59):
            found[index] = mean  # "\u00c3" alone is a byte that the model has no token for
        elif method == "subword":
            found[index] = rows[[OURS.index(letter) for letter in THEIRS[index]]].mean(0)
        elif method == "omp":
            theirs = donor.double().numpy()
            found[index] = plain_pursuit(theirs[index], theirs[list(KEPT)], rows[list(KEPT)], k)
    return torch.from_numpy(found).float().to(table.dtype)


@pytest.mark.parametrize("method", ["omp", "subword", "mean", "zero"])
def test_rows_by_each_method_and_all_else_as_it_is(
    method: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    model, donor = pair
    out = tmp_path / "out"
    done = command(
        "transplant-tokenizer", model, donor, out, "--method", method, "--k", 6, "--json"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["tokens"], told["rows"], told["copied"]) == (60, 60, 23)
    assert told["filled"] == (method == "subword")
    assert told["made"] + told["filled"] == len(NEW)
    assert told["special"] == [
        {"token": "<unk>", "id": 0, "source": "<unk>", "source_id": 0},
        {"token": "<begin>", "id": 1, "source": "<s>", "source_id": 1},
        {"token": "</s>", "id": 2, "source": "</s>", "source_id": 2},
    ]
    before, after, other = read(model), read(out), read(donor)
    tables = {"model.embed_tokens.weight", "lm_head.weight"}
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before.keys() - tables)
    for name in tables:
        wanted = expected(method, before[name], other["model.embed_tokens.weight"], 6)
        assert same_bits(after[name], wanted), name
    config = json.loads((out / "config.json").read_text())
    ids = {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 0}
    assert config == {**CONFIG, **ids}
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [2, 5], "top_k": 5}
    assert (out / "tokenizer.json").read_bytes() == (donor / "tokenizer.json").read_bytes()
    assert ms.verify(out).tensors == len(after)


def test_same_bytes_by_any_memory_and_threads(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ms.transplant_tokenizer(*pair, tmp_path / "a", k=5, threads=1)
    monkeypatch.setattr(stored_rows, "BLOCK_BYTES", 200)  # blocks of three rows
    monkeypatch.setattr("mergesafe.transplant.new_rows._RESIDENT", 0.0)
    ms.transplant_tokenizer(*pair, tmp_path / "b", k=5, threads=3, memory="64MiB")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_head_that_is_the_embedding_stays_it(pair: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = llama(1, tied=True)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    model = checkpoint(tmp_path / "tied", tensors, OURS, "<s>", tie_word_embeddings=True)
    ms.transplant_tokenizer(model, pair[1], tmp_path / "out")
    after = read(tmp_path / "out")
    assert same_bits(after["lm_head.weight"], after["model.embed_tokens.weight"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]


def test_a_head_that_only_the_configuration_ties(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "odd", llama(1), OURS, "<s>", tie_word_embeddings=True)
    done = ms.transplant_tokenizer(model, pair[1], tmp_path / "out", method="zero")
    assert "differs from the input embedding" in done.notes[-1]
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    )


def test_the_bias_of_a_head(pair: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = {**llama(1), "lm_head.bias": torch.arange(50, dtype=torch.float32)}
    packed = {"quant_method": "fp8"}  # what is copied byte for byte keeps its description
    model = checkpoint(tmp_path / "bias", tensors, OURS, "<s>", quantization_config=packed)
    ms.transplant_tokenizer(model, pair[1], tmp_path / "out", method="mean")
    assert json.loads((tmp_path / "out/config.json").read_text())["quantization_config"] == packed
    bias = read(tmp_path / "out")["lm_head.bias"]
    assert bias.tolist() == [float(KEPT.get(index, 0)) for index in range(60)]


def test_a_donor_without_weights_and_tokens_without_rows(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    model, donor = pair
    for file in donor.glob("*.safetensors*"):
        file.unlink()
    ms.transplant_tokenizer(model, donor, tmp_path / "out", method="subword")
    checkpoint(tmp_path / "short", llama(2, vocab=50), THEIRS, "<begin>")
    done = ms.transplant_tokenizer(model, tmp_path / "short", tmp_path / "out2")
    assert "10 tokens have no row in the donor's embedding: their rows are zeros" in done.warnings
    assert not read(tmp_path / "out2")["model.embed_tokens.weight"][50:].any()


def _without_tokenizer(model: Path, donor: Path) -> None:
    (donor / "tokenizer.json").unlink()


def _two_of_one_id(model: Path, donor: Path) -> None:
    tokens = json.loads((donor / "tokenizer.json").read_text())
    tokens["model"]["vocab"]["a"] = 4
    (donor / "tokenizer.json").write_text(json.dumps(tokens))


def _an_id_of_a_billion(model: Path, donor: Path) -> None:
    tokens = json.loads((donor / "tokenizer.json").read_text())
    tokens["model"]["vocab"]["a"] = 10**9
    (donor / "tokenizer.json").write_text(json.dumps(tokens))


def _without_embedding(model: Path, donor: Path) -> None:
    tensors = read(model)
    tensors["other"] = tensors.pop("model.embed_tokens.weight")
    _saved_again(model, tensors)


def _unknown_table(model: Path, donor: Path) -> None:
    _saved_again(model, {**read(model), "value_table.weight": torch.zeros(50, 3)})


def _not_a_number(model: Path, donor: Path) -> None:
    tensors = read(model)
    tensors["lm_head.weight"][7, 3] = torch.nan
    _saved_again(model, tensors)


def _nothing_shared(model: Path, donor: Path) -> None:
    tokens = json.loads((donor / "tokenizer.json").read_text())
    words = [f"\u0120\u0120{index}" for index in range(60)]
    tokens["model"]["vocab"] = {word: index for index, word in enumerate(words)}
    tokens["added_tokens"] = []
    (donor / "tokenizer.json").write_text(json.dumps(tokens))


def _saved_again(folder: Path, tensors: Tensors) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    save(folder, tensors)


@pytest.mark.parametrize(
    ("damage", "options", "told"),
    [
        (_without_tokenizer, [], "holds no tokenizer"),
        (_two_of_one_id, [], "gives the id 4 to two tokens, 'a' and 'b'"),
        (_an_id_of_a_billion, [], "gives 'a' the id 1,000,000,000"),
        (_without_embedding, [], "no tensor is known to be the input embedding"),
        (_unknown_table, [], "tensor 'value_table.weight' has the shape [50, 3]"),
        (_not_a_number, [], "row 7 of tensor 'lm_head.weight' holds NaN or infinity"),
        (_not_a_number, ["--method", "mean"], "row 7 of tensor 'lm_head.weight' holds NaN"),
        (_nothing_shared, [], "share no token"),
        (None, ["--method", "omq"], "--method omq: unknown choice (did you mean 'omp'?)"),
        (None, ["--k", "0"], "--k 0: expected a whole number from 1 to"),
        (None, ["--memory", "16MiB"], "does not hold the rows of one token"),
    ],
)
def test_what_is_refused(
    damage: Any, options: list[str], told: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    if damage is not None:
        damage(*pair)
    done = command("transplant-tokenizer", *pair, tmp_path / "out", *options)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "out").exists()
    assert not leftovers(tmp_path)


def test_an_adapter_and_an_output_that_is_there(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = command("transplant-tokenizer", f"{pair[0]}+lora", pair[1], tmp_path / "out")
    assert (done.returncode, "merge it into its model first" in done.stderr) == (2, True)
    done = command("transplant-tokenizer", *pair, pair[0], "--overwrite")
    assert done.returncode == 2
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    done = command("transplant-tokenizer", *pair, tmp_path / "out")
    assert (done.returncode, "--overwrite" in done.stderr) == (2, True)


def test_resumed_after_an_interrupt(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ms.transplant_tokenizer(*pair, tmp_path / "whole", k=5)
    monkeypatch.setattr("mergesafe.transplant.new_rows._MOST", 8)  # rows that are made at a time
    seen: list[int] = []

    def stop(what: str, done: int, total: int) -> None:
        seen.append(done)
        if done == 53:  # all rows of the embedding, half of the head's
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"53 of 74 new rows are finished and kept"):
        ms.transplant_tokenizer(*pair, tmp_path / "out", k=5, threads=1, progress=stop)
    refused = command("transplant-tokenizer", *pair, tmp_path / "out", "--resume", "--k", "6")
    assert (refused.returncode, "--method or --k has changed" in refused.stderr) == (2, True)
    seen.clear()
    ms.transplant_tokenizer(
        *pair, tmp_path / "out", k=5, threads=1, resume=True,
        progress=lambda what, done, total: seen.append(done),
    )  # fmt: skip
    assert seen[0] == 61
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"tokens": [23], "digest": ""}, "missing required field `table`"),
        ({"gathered": 5}, "there is no table 5"),
        ({"table": 0, "tokens": [3], "digest": ""}, "token 3 gets no row that is made"),
        ({"table": 0, "tokens": ["23"], "digest": ""}, "Expected `int`"),
        ([], "Expected `object`"),
    ],
)
def test_a_journal_with_another_record(
    pair: tuple[Path, Path], tmp_path: Path, record: Any, why: str
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="finished and kept"):
        ms.transplant_tokenizer(*pair, tmp_path / "out", k=5, progress=stop)
    (journal,) = tmp_path.glob(".out.mergesafe-*/journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines, encode_line(record)]))
    done = command("transplant-tokenizer", *pair, tmp_path / "out", "--resume", "--k", "5")
    assert done.returncode == 2
    assert f"line {len(lines) + 1} of its journal is no record of a transplant" in done.stderr
    assert why in done.stderr
    assert "without --resume to start afresh" in done.stderr


def test_ids_of_other_tokens_follow_them(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model, donor = pair
    config = json.loads((model / "config.json").read_text())
    config |= {"boi_token_id": 1, "image_token_id": 24, "eoi_token_id": 900}
    (model / "config.json").write_text(json.dumps(config))
    done = command("transplant-tokenizer", model, donor, tmp_path / "out", "--method", "zero")
    made = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (made["boi_token_id"], made["image_token_id"]) == (1, 24)
    assert "image_token_id in config.json" in done.stderr
    assert "'v' (24)" in done.stderr
    assert "eoi_token_id in config.json" in done.stderr
    assert "900, which is no token" in done.stderr


def test_hundreds_of_special_tokens_are_few_lines() -> None:
    bytes_ = [Special(f"<0x{i:02X}>", i + 1, None, None) for i in range(256)]
    special = (*bytes_, Special("<s>", 300, "<begin>", 0), Special("</s>", 301, "</s>", 1))
    result = TransplantResult(Path("out"), "omp", 302, 302, 2, 300, 0, special, 3, 10, 1.0)
    *lines, more, _, _ = summary(result)
    assert len(lines) == 16
    assert lines[-1] == "  <s> (300): the row of <begin> (0)"
    assert more == "  and 242 more special tokens, 241 made, 1 with a row of the model: see --json"


def test_float64_copies_take_no_more_than_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--memory`` is shared out in blocks: a whole block of bfloat16 would be four in float64."""
    save_file({"a": torch.randn(12_000, 256).bfloat16()}, tmp_path / "t.safetensors")
    info = read_header(tmp_path / "t.safetensors")[0]["a"]
    sizes, double = [], torch.Tensor.double

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(8 * tensor.numel())
        return double(tensor)

    monkeypatch.setattr(torch.Tensor, "double", counted)
    with Reader() as reader:
        rows = stored_rows.StoredRows(info, np.arange(12_000), reader, resident=True)
    assert max(sizes) <= stored_rows.BLOCK_BYTES
    assert sum(sizes) == 8 * info.shape[0] * info.shape[1]
    assert rows.lengths.min() > 0


def test_a_row_that_its_type_does_not_hold(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """It would be infinite, and so would every answer of the model."""
    model, donor = pair
    tensors = read(model)
    table = "model.embed_tokens.weight"
    donor_rows = read(donor)
    donor_rows[table][-1] *= 1e30
    _saved_again(donor, donor_rows)
    tensors[table] *= 1e30
    _saved_again(model, tensors)
    with pytest.raises(NonFiniteError, match=r"row of token .* holds numbers that BF16"):
        ms.transplant_tokenizer(model, donor, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_threads_share_one_converted_copy(tmp_path: Path) -> None:
    """Memory is counted for one, and threads ask for it at the same time."""
    save_file({"a": torch.randn(20_000, 256)}, tmp_path / "t.safetensors")
    info = read_header(tmp_path / "t.safetensors")[0]["a"]
    begin = Barrier(4)
    with Reader() as reader, ThreadPoolExecutor(4) as pool:
        rows = stored_rows.StoredRows(info, np.arange(20_000), reader, resident=True)

        def place(_: int) -> int:
            begin.wait()
            return next(iter(rows.blocks(torch.bfloat16)))[1].untyped_storage().data_ptr()

        assert len(set(pool.map(place, range(4)))) == 1
