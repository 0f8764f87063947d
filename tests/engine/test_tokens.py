"""Merges whose rows are aligned by token: mergekit's answers, tokenizers that transformers loads,
and what is refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import command, llama, read, recipe, same_bits, save, save_adapter, write_recipe
from tokenizer.files import bpe, write
from tokenizer.trained import CODE, ENGLISH, train, write_trained

import mergesafe as ms
from mergesafe.errors import CheckpointError, MergesafeError
from mergesafe.methods.registry import METHODS
from mergesafe.methods.spec import (
    Inputs,
    Merge,
    MergeMethod,
    Reference,
    Settings,
    TensorContext,
    WeightedSum,
)
from mergesafe.tokenizer.union import union_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
import mergekit_tokens  # noqa: E402

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
A = ("<unk>", "<s>", "</s>", "one", "two", "<a>")
B = ("<s>", "<unk>", "</s>", "two", "three", "<b>", "<c>")
C = ("</s>", "<s>", "<unk>", "<c>", "two", "four")
#: The union in the order of its ids.
ALL = (*A, "three", "<b>", "<c>", "four")


def ids(folder: Path) -> dict[str, int]:
    """Token -> id of a merged model."""
    found = json.loads((folder / "tokenizer.json").read_text())
    return {**found["model"]["vocab"], **{t["content"]: t["id"] for t in found["added_tokens"]}}


def model(folder: Path, seed: int, tokens: tuple[str, ...], **keys: Any) -> Path:
    """A model with a row for each token; ``keys``: of tiny.llama, and ``padding`` rows."""
    rows = len(tokens) + keys.pop("padding", 0)
    config = {"vocab_size": rows, "tie_word_embeddings": keys.get("tied", False)}
    save(folder, llama(seed, vocab=rows, **keys), config)
    (folder / "tokenizer.json").write_text(json.dumps(bpe(tokens)))
    return folder


def linear(*models: Path, **keys: Any) -> dict[str, Any]:
    return recipe("linear", models, each={"weight": 1}, **keys)


def refused(made: dict[str, Any]) -> str:
    with pytest.raises(MergesafeError) as error:
        ms.plan(made)
    return str(error.value)


@pytest.mark.parametrize("name", mergekit_tokens.CASES)
def test_equals_mergekit(name: str, tmp_path: Path) -> None:
    mergekit_tokens.save_models(tmp_path)
    out = tmp_path / "out"
    ms.merge(mergekit_tokens.recipe(name, tmp_path), out)
    known, merged, vocabulary = (
        load_file(GOLDEN / "mergekit_tokens.safetensors"),
        read(out),
        ids(out),
    )
    order = [vocabulary[token] for token in sorted(vocabulary)]
    for key in (EMBEDDING, HEAD):
        ours = torch.cat([merged[key][order], merged[key][max(order) + 1 :]])
        torch.testing.assert_close(ours, known[f"{name} {key}"], rtol=0, atol=2e-6)


def test_rows_by_hand(tmp_path: Path) -> None:
    """linear of bfloat16 models without a base: absent rows are the owner's, or a mean."""
    a, b, c = (
        model(tmp_path / n, i, t) for i, (n, t) in enumerate(zip("abc", (A, B, C), strict=True))
    )
    out = tmp_path / "out"
    ms.merge(linear(a, b, c, tokenizer_source="union"), out, memory="32MiB")
    assert list(ids(out)) == list(ALL)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == len(ALL)
    for key in (EMBEDDING, HEAD):
        tables = [read(m)[key].float() for m in (a, b, c)]
        for index, token in enumerate(ALL):
            own = [
                t[v.index(token)] if token in v else None
                for t, v in zip(tables, (A, B, C), strict=True)
            ]
            held = [row for row in own if row is not None]
            mean = sum(held[1:], held[0]) / torch.tensor(float(len(held)))
            rows = [mean if row is None else row for row in own]
            expected = (rows[0] + rows[1] + rows[2]) / 3
            torch.testing.assert_close(
                read(out)[key][index].float(), expected, rtol=2**-8, atol=1e-6
            )


def test_embeddings_for_each_layer_follow_their_tokens(tmp_path: Path) -> None:
    """Gemma 3n's table may have fewer rows than there are tokens, which read its first row."""
    name = "model.embed_tokens_per_layer.weight"
    stored = [torch.randn(rows, 6) for rows in (4, 7)]
    folders = []
    for number, (tokens, table) in enumerate(zip((A, B), stored, strict=True)):
        folder = tmp_path / f"m{number}"
        config = {"vocab_size": len(tokens), "vocab_size_per_layer_input": len(table)}
        save(folder, {**llama(number, vocab=len(tokens)), name: table}, config)
        (folder / "tokenizer.json").write_text(json.dumps(bpe(tokens)))
        folders.append(folder)
    out = tmp_path / "out"
    ms.merge(linear(*folders, tokenizer_source="union"), out)
    assert json.loads((out / "config.json").read_text())["vocab_size_per_layer_input"] == 9
    expected = []
    for token in ALL[:9]:
        held = [(t, v.index(token)) for t, v in zip(stored, (A, B), strict=True) if token in v]
        rows = [table[index if index < len(table) else 0] for table, index in held]
        expected.append((rows[0] + rows[-1]) / 2)
    torch.testing.assert_close(read(out)[name], torch.stack(expected), rtol=0, atol=1e-6)
    # Those of one vocabulary stay as they are.
    again = save(tmp_path / "again", {**llama(5, vocab=6), name: stored[0]}, {"vocab_size": 6})
    (again / "tokenizer.json").write_text(json.dumps(bpe(A)))
    ms.merge(linear(folders[0], again, tokenizer_source="base"), tmp_path / "same")
    assert torch.equal(read(tmp_path / "same")[name], stored[0])


@pytest.mark.parametrize("method", ["ties", "dare_linear", "slerp"])
def test_bytes_do_not_depend_on_tiles_and_are_those_of_aligned_copies(
    method: str, tmp_path: Path
) -> None:
    """Against models whose rows were written in the right order by hand."""
    torch.manual_seed(0)
    words = [f"w{i}" for i in range(3000)]
    orders = [torch.randperm(3000) for _ in range(3)]
    folders, copies = [], []
    for number, order in enumerate(orders):
        table = torch.randn(3000, 300).bfloat16()
        tensors = {EMBEDDING: table[order].contiguous(), "model.norm.weight": torch.ones(300)}
        folder = save(tmp_path / f"m{number}", tensors, {"vocab_size": 3000})
        (folder / "tokenizer.json").write_text(json.dumps(bpe([words[i] for i in order])))
        tensors = {EMBEDDING: table[orders[0]].contiguous(), "model.norm.weight": torch.ones(300)}
        copies.append(save(tmp_path / f"c{number}", tensors, {"vocab_size": 3000}))
        folders.append(folder)
    each = {"weight": 0.5} | ({} if method == "slerp" else {"density": 0.3})

    def merged(models: list[Path], out: str, memory: str, **keys: Any) -> torch.Tensor:
        if method == "slerp":
            made = recipe("slerp", models[:2], models[0], parameters={"t": 0.3}, **keys)
        else:
            made = recipe(method, models[1:], models[0], each=each, **keys)
        ms.merge(made, tmp_path / out, memory=memory, threads=2)
        assert ms.verify(tmp_path / out) is not None
        return read(tmp_path / out)[EMBEDDING]

    expected = merged(copies, "copies", "64MiB")
    assert same_bits(merged(folders, "small", "16MiB", tokenizer_source="base"), expected)
    assert same_bits(merged(folders, "large", "64MiB", tokenizer_source="base"), expected)


def test_padding_of_the_base_is_kept_unless_told(tmp_path: Path) -> None:
    a = model(tmp_path / "a", 0, A, padding=4)
    b = model(tmp_path / "b", 1, B, padding=1)
    out = tmp_path / "out"
    ms.merge(recipe("task_arithmetic", [b], a, each={"weight": 1}, tokenizer_source="base"), out)
    merged = read(out)[EMBEDDING]
    assert merged.shape[0] == 10
    table = read(a)[EMBEDDING]
    assert same_bits(merged[8:], table[8:])  # rows that b has no padding for are a's
    for padded, rows in ((1, 6), (8, 8)):
        section = {"source": "base", "pad_to_multiple_of": padded}
        made = recipe("task_arithmetic", [b], a, each={"weight": 1}, tokenizer=section)
        assert ms.plan(made).plan.config["vocab_size"] == rows


def test_types_adapters_and_tied_heads_go_together(tmp_path: Path) -> None:
    """A float32 base that is tied, a bfloat16 expert with an adapter on what is not aligned."""
    a = tmp_path / "a"
    save(a, llama(0, tied=True, dtype=torch.float32, vocab=len(A)),
         {"vocab_size": len(A), "tie_word_embeddings": True})  # fmt: skip
    (a / "tokenizer.json").write_text(json.dumps(bpe(A)))
    b = model(tmp_path / "b", 1, B)
    adapter = save_adapter(tmp_path / "ad", read(b), 3)
    out = tmp_path / "out"
    ms.merge(linear(a, Path(f"{b}+{adapter}"), tokenizer_source="union"), out)
    merged, one, two = read(out), read(a), read(b)
    assert merged[HEAD].shape == merged[EMBEDDING].shape == (9, 16)
    row = (one[EMBEDDING][4] + two[HEAD][3].float()) / 2  # "two"
    torch.testing.assert_close(merged[HEAD][4], row)
    torch.testing.assert_close(merged[HEAD][5], one[EMBEDDING][5])  # "<a>" is a's alone
    torch.testing.assert_close(merged[HEAD][8], two[HEAD][6].float())  # "<c>" is b's alone


@pytest.mark.parametrize("kind", ["byte", "Unigram", "WordPiece"])
def test_transformers_loads_the_union(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models = []
    for seed, (text, added) in enumerate(
        ((ENGLISH, ["<|user|>"]), (CODE, ["<|tool|>", "<|user|>"]))
    ):
        folder = tmp_path / f"m{seed}"
        listed = {"added_tokens_decoder": {}} if seed == 0 else {}
        vocabulary = write_trained(folder, train(kind, text), added, **listed)
        rows = len(vocabulary)
        save(folder, llama(seed, vocab=rows), {"vocab_size": rows, "head_dim": 8})
        models.append(folder)
    out = tmp_path / "out"
    ms.merge(linear(*models, tokenizer_source="union"), out)
    one, two, union = (AutoTokenizer.from_pretrained(path) for path in (*models, out))
    vocabulary = union.get_vocab()
    assert set(vocabulary) == {*one.get_vocab(), *two.get_vocab()}
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert all(vocabulary[token] == index for token, index in one.get_vocab().items())
    assert all(union.convert_ids_to_tokens(i) == token for token, i in vocabulary.items())
    text = "the cat sat on the mat"
    if kind != "Unigram":  # whose pieces compete by their scores
        assert union(text)["input_ids"] == one(text)["input_ids"]
    for line in (text, *CODE[:2], "<|user|>a hat<|tool|> the cat</s>"):
        found = union(line)["input_ids"]
        assert max(found) < len(vocabulary)
        plain = (
            one.decode(one(line)["input_ids"])
            if "cat" in line
            else two.decode(two(line)["input_ids"])
        )
        if "<|" in line:
            assert union.convert_tokens_to_ids("<|tool|>") in found
            plain = None
        assert plain is None or union.decode(found) == plain
        assert "<|" not in union.decode(found, skip_special_tokens=True)
    merged = AutoModelForCausalLM.from_pretrained(out)
    assert merged.config.vocab_size == merged.get_input_embeddings().num_embeddings
    assert merged.get_input_embeddings().num_embeddings == len(vocabulary)
    merged(**union(text, return_tensors="pt"))


def test_tokens_that_nobody_has_and_that_lie_beyond_a_table(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 0, A), model(tmp_path / "b", 1, B)
    (b / "tokenizer.json").write_text(json.dumps(bpe((*B, "<far>"))))
    tokens = {"<new>": {"source": {"kind": "zero"}}, "<nobody>": {}}
    plan = ms.plan(linear(a, b, tokenizer={"source": "union", "tokens": tokens})).plan
    beyond, nobody = plan.warnings
    assert f"the embedding of {b} has 7 rows and none for '<far>' (7)" in beyond
    assert "'<nobody>' (10)" in nobody
    assert plan.config["vocab_size"] == 11


def test_what_is_refused(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 0, A), model(tmp_path / "b", 1, B)

    def tokens(**settings: Any) -> dict[str, Any]:
        return linear(a, b, tokenizer={"source": "base", "tokens": settings})

    assert "tokenizer_source: union" in refused(linear(a, b))
    assert f"from {b}, whose tokenizer has no token 'one'" in refused(
        tokens(one={"source": str(b)})
    )
    source = {"kind": "model_token", "model": str(a), "token_id": 6}
    assert f"takes row 6 of {a}, whose embedding has 6 rows" in refused(
        tokens(x={"source": source})
    )
    zeros = {"source": {"kind": "zero"}}
    assert "a token under 'tokens' is empty" in refused(tokens(**{"": zeros}))
    told = ms.plan(tokens(**{"<a>": zeros, "<x>": zeros, "<y>": zeros})).plan.notes
    assert "'tokens' adds 2 tokens that the tokenizer lacks: '<x>' (6), '<y>' (7)" in told
    union = linear(a, b, tokenizer_source="union")
    twice = bpe(B)
    twice["model"]["vocab"]["<c>"] = 5
    (b / "tokenizer.json").write_text(json.dumps(twice))
    assert f"'<b>' and '<c>' of {b} both have the id 5" in refused(union)
    twice["model"]["vocab"]["<c>"] = 1 << 40
    (b / "tokenizer.json").write_text(json.dumps(twice))
    assert "'<c>' has the id 1099511627776, expected a number from 0 to 2,097,152" in refused(union)
    (b / "tokenizer.json").write_text(
        json.dumps({**bpe(B), "model": {"type": "Unigram", "vocab": [[t, 0] for t in B]}})
    )
    assert f"{a} has a BPE tokenizer and {b} a Unigram tokenizer" in refused(union)
    (b / "tokenizer.json").write_text(json.dumps({**bpe(B), "decoder": {"type": "ByteLevel"}}))
    assert f"{b} spells tokens as bytes (ByteLevel), {a} as text" in refused(union)


@pytest.mark.parametrize(
    "merges", [[1], ["a b c"], ["ab"], {"a": 1}, [["a"]], [[1, 2]], [["a", {}]]]
)
def test_merges_that_are_no_pairs(merges: object, tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 0, A), model(tmp_path / "b", 1, B)
    for folder, tokens in ((b, B), (a, A)):
        made = bpe(tokens)
        made["model"]["merges"] = merges
        (folder / "tokenizer.json").write_text(json.dumps(made))
        text = refused(linear(a, b, tokenizer_source="union"))
        assert f"{folder / 'tokenizer.json'}: no tokenizer.json that can be read" in text


@pytest.mark.parametrize("levels", [101, 900])
def test_a_tokenizer_that_could_not_be_written_is_refused_by_the_plan(
    levels: int, tmp_path: Path
) -> None:
    """Python can read some of these and not write them: that would end a merge at its last file."""
    a, b = model(tmp_path / "a", 0, A), model(tmp_path / "b", 1, B)
    deep = "[" * levels + "]" * levels
    for folder, tokens in ((b, B), (a, A)):
        text = json.dumps({**bpe(tokens), "post_processor": "deep"}).replace('"deep"', deep)
        (folder / "tokenizer.json").write_text(text)
        assert "no tokenizer.json that can be read" in refused(
            linear(a, b, tokenizer_source="union")
        )


def test_merges_as_text_and_as_pairs_go_together(tmp_path: Path) -> None:
    first = {"model": {"vocab": {}, "merges": ["a b", ["c", "d"]]}}
    other = {"model": {"vocab": {}, "merges": [["a", "b"], ["c", "e"], "x y", ["c", "e"]]}}
    tokens = dict.fromkeys("abcdexy", 0) | {"ab": 0, "ce": 0}
    new = frozenset({"ab", "ce", "xy"})
    made = union_tokenizer(first, tokens, [(other, new)])["model"]["merges"]
    assert made == ["a b", "c d", "c e", "x y"]
    spaced = {"model": {"vocab": {}, "merges": [["c", " e"]]}}
    made = union_tokenizer(first, tokens | {" e": 0}, [(spaced, frozenset({"c e"}))])
    assert made["model"]["merges"] == [["a", "b"], ["c", "d"], ["c", " e"]]


def test_kinds_and_names_that_are_no_text(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 0, A), model(tmp_path / "b", 1, B)
    (b / "tokenizer.json").write_text(json.dumps({**bpe(B), "decoder": {"type": [1]}}))
    (a / "chat_template.jinja").write_text("{{ 1 }}")
    templates = [{"name": [], "template": "x"}]
    (a / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    ms.merge(linear(a, b, tokenizer_source="union"), tmp_path / "out")
    ms.transplant_tokenizer(a, b, tmp_path / "new", method="mean")


def test_integers_of_tokens_have_no_mean(tmp_path: Path) -> None:
    models = [
        model(tmp_path / name, i, tokens)
        for i, (name, tokens) in enumerate(zip("abc", (A, B, C), strict=True))
    ]
    for each in models:
        tensors = load_file(each / "model.safetensors")
        numbers = torch.full((len(tensors[EMBEDDING]),), 7)
        save_file({**tensors, "token_map": numbers}, each / "model.safetensors")
    text = refused(linear(*models, tokenizer_source="union"))
    assert "'token_map' is I64 and has numbers for every token" in text
    ms.merge(linear(*models[:2], tokenizer_source="union"), tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["token_map"].tolist() == [7] * 9


class _Aside(MergeMethod):
    """The mean of models without a base, beside a model that is only read."""

    name, title, paper = "aside", "Aside", ""
    inputs = Inputs(references=(Reference("aside", "a model that is read"),))

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        return WeightedSum((1 / tensor.inputs,) * tensor.inputs)


def test_integers_of_a_reference_have_no_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The models' own rows are no mean; what the reference lacks would be one of both."""
    monkeypatch.setitem(METHODS, "aside", _Aside())
    one, two = model(tmp_path / "one", 0, A), model(tmp_path / "two", 1, A)
    lacking = model(tmp_path / "lacking", 2, B)
    for each in (one, two, lacking):
        tensors = load_file(each / "model.safetensors")
        numbers = torch.full((len(tensors[EMBEDDING]),), 7)
        save_file({**tensors, "token_map": numbers}, each / "model.safetensors")
    made = recipe("aside", [one, two], tokenizer_source="base", references={"aside": str(lacking)})
    assert "'token_map' is I64 and has numbers for every token" in refused(made)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("tokenizer.model", "tokenizer.model but no tokenizer.json"),
        ("tekken.json", "tekken.json but no tokenizer.json"),
        ("spiece.model", "spiece.model does not say which ids"),
        (None, "there is no tokenizer"),
    ],
)
def test_files_that_no_union_can_be_made_of(kind: str | None, part: str, tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 0, A), model(tmp_path / "b", 1, B)
    (b / "tokenizer.json").unlink()
    if kind is not None:
        write(b, kind, B)
    assert part in refused(linear(a, b, tokenizer_source="union"))
    if kind in ("tokenizer.model", "tekken.json"):  # the rows of common tokens are aligned
        assert ms.plan(linear(a, b, tokenizer_source="base")).plan.config["vocab_size"] == 6


def test_a_tokenizer_that_needs_code(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 0, A), model(tmp_path / "b", 1, B)
    (b / "tokenizer.json").unlink()
    write(b, ".tiktoken", B)
    (b / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["x.X", null]}}')
    message = refused(linear(a, b, tokenizer_source="union"))
    assert "needs code from the checkpoint (auto_map" in message
    assert "AutoTokenizer.from_pretrained" in message


def test_calibration_follows_its_rows(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    models, fishers = [], []
    for seed, (name, tokens) in enumerate((("a", A), ("b", B))):
        models.append(model(tmp_path / name, seed, tokens, dtype=torch.float32))
        fisher = {key: torch.ones_like(value) for key, value in read(models[-1]).items()}
        fisher[EMBEDDING] *= 3 - 2 * seed
        (tmp_path / f"f{name}").mkdir()
        save_file(fisher, tmp_path / f"f{name}" / "model.safetensors")
        fishers.append(tmp_path / f"f{name}")
    made = linear(*models, tokenizer_source="union")
    made["merge_method"] = "fisher"
    for entry, place in zip(made["models"], fishers, strict=True):
        entry["calibration"] = {"fisher": str(place)}
    ms.merge(made, tmp_path / "out")
    merged, one, two = (read(p)[EMBEDDING] for p in (tmp_path / "out", *models))
    torch.testing.assert_close(merged[4], (3 * one[4] + two[3]) / 4)  # "two"
    torch.testing.assert_close(merged[5], one[5])  # "<a>" is a's alone
    torch.testing.assert_close(merged[6], two[4])  # "three" is b's alone


def test_plan_shows_where_special_tokens_come_from(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    mergekit_tokens.save_models(folder)
    content = mergekit_tokens.recipe("tokens", folder)
    path = write_recipe(tmp_path / "r.yml", content)
    base, left, right = (str(folder / name) for name in ("base", "left", "right"))
    found = json.loads(command("plan", path, "--json").stdout)["tokenizer"]
    assert (found["source"], found["tokenizer"], found["rows"]) == ("union", base, 14)
    assert found["models"][1] == {"model": left, "own_rows": 7, "other_rows": 7}
    special = {each["token"]: each for each in found["special_tokens"]}
    assert special["<s>"]["roles"] == ["bos_token"]
    assert special["<s>"]["rows"][1] == {"model": left, "kind": "own", "row": 2}
    assert special["<|user|>"]["rows"][0] == {"model": base, "kind": "zero"}
    assert special["<|own|>"]["rows"][1] == {
        "model": left, "kind": "lent", "from": right, "row": 9
    }  # fmt: skip
    text = command("plan", path).stdout
    assert "tokens     union: 14 tokens" in text
    assert "left: 7 rows of its own, 7 of others" in text
    assert "'<|own|>': base as right's row 9; left as right's row 9; right row 9" in text
    assert "'<s>' (bos_token): base row 1; left row 2; right row 0" in text


@pytest.mark.parametrize("tied", [False, True])
def test_slices_take_rows_of_their_sources_else_of_other_slices(tied: bool, tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 0, A, tied=tied), model(tmp_path / "b", 1, B, tied=tied)
    parts = [{"sources": [{"model": str(m), "layer_range": [0, 2]}]} for m in (a, b)]
    made = {"merge_method": "passthrough", "slices": parts}
    ms.merge({**made, "tokenizer_source": "union"}, tmp_path / "out")
    merged, one, two = (read(path) for path in (tmp_path / "out", a, b))
    owned = EMBEDDING if tied else HEAD
    for token, index in ids(tmp_path / "out").items():
        own = one[EMBEDDING][A.index(token)] if token in A else two[EMBEDDING][B.index(token)]
        assert same_bits(merged[EMBEDDING][index], own)
        own = two[owned][B.index(token)] if token in B else one[owned][A.index(token)]
        assert same_bits(merged[HEAD][index], own)
    ms.merge({**made, "tokenizer_source": str(b)}, tmp_path / "chosen")
    assert same_bits(read(tmp_path / "chosen")[HEAD], two[owned])
    made["tokenizer"] = {"tokens": {"<c>": {"source": str(b), "force": True}}}
    done = command("plan", write_recipe(tmp_path / "r.yml", made))
    assert "'<c>': a as b's row 6" in done.stdout, done


def test_ids_in_the_configuration_follow_their_tokens(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 0, A), model(tmp_path / "b", 1, B)
    config = json.loads((a / "config.json").read_text())
    config |= {
        "video_token_index": 4, "image_token_id": 5, "decoder_start_token_id": 1,
        "suppress_tokens": [0, 4], "audio_token_id": -1, "vision_config": {"boi_token_id": 4},
        "talker_config": {"vocab_size": 9, "codec_token_id": 4},
    }  # fmt: skip
    (a / "config.json").write_text(json.dumps(config))
    result = ms.merge(linear(a, b, tokenizer_source=str(b)), tmp_path / "out")
    made = json.loads((tmp_path / "out" / "config.json").read_text())
    assert made == {
        **config, "vocab_size": 7, "video_token_index": 3, "decoder_start_token_id": 0,
        "suppress_tokens": [1, 3], "vision_config": {"boi_token_id": 3},
    }  # fmt: skip
    [lost] = [text for text in result.warnings if "lacks" in text]
    assert "image_token_id in config.json" in lost
    assert "'<a>' (5)" in lost
    assert any("video_token_index 3 in place of 4" in note for note in result.notes)


def test_a_merge_that_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mergesafe.checkpoint.views.gathered import _OpenGathered

    a, b, c = (model(tmp_path / f"{i}", i, tokens) for i, tokens in enumerate((A, B, C)))
    made = recipe("ties", [b, c], a, each={"weight": 0.5, "density": 0.5}, tokenizer_source="union")
    ms.merge(made, tmp_path / "whole", threads=1)
    fetch, count = _OpenGathered.fetch, 0

    def failing(self: _OpenGathered, begin: int, n: int) -> Any:
        nonlocal count
        count += 1
        if count == 4:
            raise CheckpointError("the disk is gone")
        return fetch(self, begin, n)

    monkeypatch.setattr(_OpenGathered, "fetch", failing)
    with pytest.raises(CheckpointError, match="the disk is gone"):
        ms.merge(made, tmp_path / "out", threads=1)
    ms.merge(made, tmp_path / "out", threads=1, resume=True)
    whole = read(tmp_path / "whole")
    assert all(same_bits(t, whole[name]) for name, t in read(tmp_path / "out").items())
    assert ids(tmp_path / "out") == ids(tmp_path / "whole")
