"""Recipes of several documents: the bytes of merges that write every intermediate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import CONFIG, command, llama, read, recipe, save, save_adapter, write_recipe
from tokenizer.files import bpe

import mergesafe
from mergesafe.engine.run.tensor import TensorMerge
from mergesafe.errors import MergesafeError

Document = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    for number in range(4):
        # one of another type, so that every document rounds
        dtype = torch.float32 if number == 3 else torch.bfloat16
        save(made / f"m{number}", llama(number, dtype=dtype))
    save(made / "tied", llama(7, tied=True), {"tie_word_embeddings": True})
    save_adapter(made / "adapter", llama(0), 9)
    return made


def ties(name: str, *models: str, **keys: Any) -> Document:
    each = {"weight": 0.4, "density": 0.5}
    return recipe("ties", models, "m0", each=each, name=name, **keys)


def linear(*models: str, **keys: Any) -> Document:
    return recipe("linear", models, each={"weight": 0.3}, **keys)


def sliced(first: str, second: str) -> Document:
    ranges = ([0, 2], [1, 3])
    slices = [
        {"sources": [{"model": model, "layer_range": layers}]}
        for model, layers in zip((first, second), ranges, strict=True)
    ]
    return {"merge_method": "passthrough", "slices": slices}


#: The last document is the output; models are folders of the fixture, or documents.
CHAINS: dict[str, list[Document]] = {
    "element by element": [linear("m1", "m2", name="a", dtype="float16"), linear("a", "m3")],
    "a base that is merged": [
        ties("a", "m1", "m2", dtype="bfloat16"),
        linear("a", "m3", name="b", out_dtype="float16"),
        recipe("slerp", ["a", "b"], "a", parameters={"t": [0.1, 0.8]}),
    ],
    "a chain": [
        ties("a", "m1", "m2"), ties("b", "a", "m3", dtype="float16"),
        recipe("dare_ties", ["a", "b"], "m0", each={"weight": 0.5, "density": 0.5}),
    ],
    "random masks": [
        recipe("dare_linear", ["m1", "m2"], "m0", each={"weight": 0.5, "density": 0.5}, name="a"),
        recipe("dare_ties", ["a", "m3"], "a", each={"weight": 0.5, "density": 0.3}),
    ],
    "slices": [ties("a", "m1", "m2"), sliced("a", "m3")],
    "slices before": [sliced("m1", "m2") | {"name": "a"}, linear("a", "a-again"),
                      linear("a", name="a-again")],
    "with an adapter": [ties("a", "m1", "m2"), linear("a+adapter", "m3")],
    "an adapter before": [linear("m0+adapter", "m1", name="a"), ties("b", "a"),
                          recipe("model_stock", ["a", "b"], "m0")],
    "whole matrices": [
        recipe("tsv", ["m1", "m2"], "m0", name="a"), recipe("iso_c", ["a", "m2"], "m0"),
    ],
    "a tied base": [
        linear("tied", name="a", dtype="float16"), linear("a", "m1"),
    ],
    "in any order": [linear("a", "m2"), ties("a", "m1")],
    "all with names": [ties("a", "m1"), linear("a", "m2", name="b")],
}  # fmt: skip


def one_by_one(documents: list[Document], out: Path, **options: Any) -> Path:
    """Merge every document into a folder of its name, those that are needed first."""
    left = {document.get("name", "out"): document for document in documents}
    output = next((d for d in documents if "name" not in d), documents[-1])
    done: dict[str, Path] = {}
    while left:
        for name, document in list(left.items()):
            text = json.dumps(document)
            needed = [other for other in left if f'"{other}"' in text or f'"{other}+' in text]
            if [each for each in needed if each != name]:
                continue
            for other, place in done.items():
                text = text.replace(f'"{other}"', f'"{place}"').replace(f'"{other}+', f'"{place}+')
            content = json.loads(text) | {"name": "x"}
            mergesafe.merge(content, out / name, **options)
            done[name] = out / name
            del left[name]
    return done[output.get("name", "out")]


@pytest.mark.parametrize("chain", CHAINS)
def test_equal_to_written_intermediates(
    chain: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = mergesafe.merge(CHAINS[chain], tmp_path / "virtual", seed=3)
    written = one_by_one(CHAINS[chain], tmp_path, seed=3)
    ours, theirs = read(tmp_path / "virtual"), read(written)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype
        assert torch.equal(ours[key], tensor), key
    for name in ("config.json",):
        assert (tmp_path / "virtual" / name).read_text() == (written / name).read_text()
    assert any("is not written" in note for note in result.notes)
    mergesafe.verify(tmp_path / "virtual")
    assert {path.name for path in folder.iterdir()} == {f"m{i}" for i in range(4)} | {
        "tied", "adapter"
    }  # fmt: skip


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_in_tiles(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tensor that the budget does not hold, by both ways to compute an intermediate."""
    generator = torch.Generator().manual_seed(5)
    for name in ("base", "one", "two"):
        tensors = {"model.norm.weight": torch.randn(3_000_017, generator=generator)}
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.chdir(tmp_path)
    each = {"weight": 0.5} | ({"density": 0.4} if method == "ties" else {})
    base = None if method == "linear" else "base"
    documents = [
        recipe(method, ["one", "two"], base, each=each, name="a", dtype="bfloat16"),
        recipe("ties", ["a", "two"], "base", each={"weight": 1, "density": 0.3}),
    ]
    memory = "96MiB" if method == "linear" else "400MiB"
    mergesafe.merge(documents, tmp_path / "virtual", memory=memory)
    written = one_by_one(documents, tmp_path / "w")
    ours, theirs = read(tmp_path / "virtual"), read(written)
    assert torch.equal(ours["model.norm.weight"], theirs["model.norm.weight"])


def test_experts_in_one_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged expert by expert in every document."""
    config = {"model_type": "llama4_text", "architectures": ["Llama4ForCausalLM"]}
    for number in range(3):
        tensors = llama(number, dtype=torch.float32)
        generator = torch.Generator().manual_seed(number + 50)
        name = "model.layers.0.feed_forward.experts.gate_up_proj"
        tensors[name] = torch.randn(4, 16, 48, generator=generator)
        save(tmp_path / f"m{number}", tensors, config)
    monkeypatch.chdir(tmp_path)
    each = {"weight": 0.5, "density": 0.5}
    documents = [
        ties("a", "m1", "m2"), recipe("dare_ties", ["a", "m2"], "m0", each=each)
    ]  # fmt: skip
    merged: list[int] = []
    run = TensorMerge.run

    def counted(self: TensorMerge, *args: Any, **keys: Any) -> None:
        merged.append(self.task.numel)
        run(self, *args, **keys)

    monkeypatch.setattr(TensorMerge, "run", counted)
    result = mergesafe.merge(documents, tmp_path / "virtual")
    assert any("expert" in note for note in result.notes)
    # Every expert once in each document, and once more for the manifest: such small ones do not
    # begin with a block of the digest.
    assert merged.count(16 * 48) == 3 * 4
    ours, theirs = read(tmp_path / "virtual"), read(one_by_one(documents, tmp_path / "w"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def damaged(folder: Path, number: int) -> Path:
    tensors = llama(number)
    tensors["model.norm.weight"][3] = float("nan")
    return save(folder / "damaged", tensors)


def test_nan_in_an_input_of_an_intermediate(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(tmp_path, 1)
    monkeypatch.chdir(folder)
    bad = str(tmp_path / "damaged")
    documents = [linear(bad, "m2", name="a"), linear("a", "m3")]
    with pytest.raises(MergesafeError, match=r"damaged.*'model\.norm\.weight' holds 1 value"):
        mergesafe.merge(documents, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = mergesafe.merge(documents, tmp_path / "out", on_nonfinite="zero")
    assert any("are replaced by 0 too" in note for note in result.notes)
    written = one_by_one(documents, tmp_path / "w", on_nonfinite="zero")
    ours, theirs = read(tmp_path / "out"), read(written)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_resume_knows_the_inputs_of_intermediates(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is finished is left as it is, and refused where such an input has changed."""
    monkeypatch.chdir(tmp_path)
    for name in ("m1", "m2", "m3"):
        save(tmp_path / name, read(folder / name))
    documents = [linear("m1", "m2", name="a"), linear("a", "m3")]
    mergesafe.merge(documents, "out")
    result = mergesafe.merge(documents, "out", resume=True)
    assert "finished already" in result.warnings[-1]
    manifest = json.loads(Path("out", "mergesafe-manifest.json").read_text())
    assert manifest["inputs"].keys() == {"m1", "m2", "m3"}
    entry = manifest["tensors"]["model.norm.weight"]["inputs"][0]
    assert (entry["model"], [each["model"] for each in entry["made_of"]]) == ("a", ["m1", "m2"])
    save(tmp_path / "m2", read(folder / "m1"), {**CONFIG, "rope_theta": 5.0})
    with pytest.raises(MergesafeError, match=r"m2.*written to after it"):
        mergesafe.merge(documents, "out", resume=True)


def test_a_killed_merge_is_resumed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mergesafe.engine.run.merged import OpenMerged

    monkeypatch.chdir(folder)
    documents = [ties("a", "m1", "m2"), linear("a", "m3")]
    opened: Callable[..., None] = OpenMerged.__init__
    count = 0

    def failing(self: OpenMerged, *args: Any) -> None:
        nonlocal count
        count += 1
        if count > 12:
            raise MergesafeError("the lights went out")
        opened(self, *args)

    monkeypatch.setattr(OpenMerged, "__init__", failing)
    with pytest.raises(MergesafeError, match="finished and kept"):
        mergesafe.merge(documents, tmp_path / "out", resume=True, threads=1)
    monkeypatch.setattr(OpenMerged, "__init__", opened)
    result = mergesafe.merge(documents, tmp_path / "out", resume=True)
    assert result.resumed_bytes > 0
    ours, theirs = read(tmp_path / "out"), read(one_by_one(documents, tmp_path / "w"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_plan_and_card_name_what_is_stored(folder: Path, tmp_path: Path) -> None:
    text = "\n---\n".join(json.dumps(each) for each in (ties("a", "m1", "m2"), linear("a", "m3")))
    path = write_recipe(folder / "recipe.yml", text)
    done = command("plan", path)
    assert done.returncode == 0, done.stderr
    assert "document 'a' (ties) is not written" in done.stdout
    assert command("merge", path, tmp_path / "out").returncode == 0
    path.unlink()
    card = (tmp_path / "out" / "README.md").read_text()
    assert [line for line in card.splitlines() if line.startswith("- `")] == [
        "- `m0`", "- `m1`", "- `m2`", "- `m3`"
    ]  # fmt: skip
    assert (tmp_path / "out" / "mergesafe-recipe.yml").read_text() == text


def test_rows_of_an_intermediate_are_aligned_by_token(tmp_path: Path) -> None:
    """One intermediate is computed row by row, the other as a whole."""
    ours = ("<unk>", "one", "two", "three")
    others = ("two", "<unk>", "four", "one", "five")
    for number, tokens in enumerate((ours, ours, others)):
        tensors = llama(number, vocab=len(tokens))
        folder = save(tmp_path / f"m{number}", tensors, {"vocab_size": len(tokens)})
        (folder / "tokenizer.json").write_text(json.dumps(bpe(tokens)))
    models = [str(tmp_path / f"m{number}") for number in range(3)]
    for method, base in (("linear", None), ("ties", models[0])):
        each = {"weight": 0.5} | ({} if base is None else {"density": 0.5})
        first = recipe(method, models[:2], base, each=each, name="a", dtype="float16")
        last = recipe("linear", [models[2], "a"], each={"weight": 0.5}, tokenizer_source="union")
        mergesafe.merge([first, last], tmp_path / method)
        written = one_by_one([first, last], tmp_path / f"w-{method}")
        theirs = read(written)
        assert theirs["lm_head.weight"].shape[0] == 6
        assert all(torch.equal(each, theirs[k]) for k, each in read(tmp_path / method).items())
        for name in ("tokenizer.json", "config.json"):
            assert (tmp_path / method / name).read_text() == (written / name).read_text()
        again = mergesafe.merge([first, last], tmp_path / method, resume=True)
        assert "finished already" in again.warnings[-1]
    inner = recipe("linear", models, each={"weight": 1}, name="inner")
    last = recipe("linear", ["inner", models[0]], each={"weight": 1}, tokenizer_source="union")
    file = tmp_path / "recipe.yml"
    file.write_text("---\n".join(json.dumps(each) + "\n" for each in (inner, last)))
    with pytest.raises(MergesafeError, match=r"document 'inner' \(line 1\): the embedding of"):
        mergesafe.plan(file)


#: Sections of the intermediate, and of the output.
UNIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "then a model's": ({"tokenizer_source": "union"}, {"tokenizer_source": "m3"}),
    "then another": ({"tokenizer_source": "union"}, {"tokenizer_source": "union"}),
    "then its own": ({"tokenizer_source": "union"}, {"tokenizer_source": "a"}),
    "a new token": (
        {"tokenizer": {"source": "base", "tokens": {"<new>": {"source": {"kind": "zero"}}}},
         "chat_template": "chatml"},
        {"tokenizer": {"source": "union", "pad_to_multiple_of": 4, "tokens": {
            "six": {"source": {"kind": "model_token", "model": "a", "token": "<new>"}}}}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("union", UNIONS)
def test_an_intermediate_with_more_tokens_than_its_models(
    union: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokenizer lies nowhere; all files of the output are those of written intermediates."""
    words = [
        ("<unk>", "one", "two"), ("two", "<unk>", "four", "one"), ("<unk>", "two", "five"),
        ("six", "<unk>", "one", "four", "five"),
    ]  # fmt: skip
    for number, tokens in enumerate(words):
        tensors = llama(number, vocab=len(tokens))
        place = save(tmp_path / f"m{number}", tensors, {"vocab_size": len(tokens)})
        (place / "tokenizer.json").write_text(json.dumps(bpe(tokens)))
        settings = {"unk_token": "<unk>", "chat_template": f"{{{{ {number} }}}}"}
        (place / "tokenizer_config.json").write_text(json.dumps(settings))
        (place / "special_tokens_map.json").write_text(json.dumps({"unk_token": "<unk>"}))
    monkeypatch.chdir(tmp_path)
    inner, outer = UNIONS[union]
    documents = [
        ties("a", "m1", "m2", **inner), recipe("linear", ["a", "m3"], each={"weight": 1}, **outer)
    ]  # fmt: skip
    result = mergesafe.merge(documents, tmp_path / "virtual")
    written = one_by_one(documents, tmp_path / "w")
    ours, theirs = read(tmp_path / "virtual"), read(written)
    assert all(torch.equal(each, theirs[key]) for key, each in ours.items())
    names = {path.name for path in written.iterdir()} - {"model.safetensors", "README.md"}
    assert names == {path.name for path in (tmp_path / "virtual").iterdir()} - {
        "model.safetensors", "README.md"
    }  # fmt: skip
    for name in names - {"mergesafe-manifest.json", "mergesafe-recipe.yml"}:
        assert (tmp_path / "virtual" / name).read_text() == (written / name).read_text(), name
    assert not any("tokens of a were not" in each for each in result.warnings)
    again = mergesafe.merge(documents, tmp_path / "virtual", resume=True)
    assert "finished already" in again.warnings[-1]
    assert mergesafe.plan(documents).plan.tensors == len(ours)


@pytest.mark.parametrize("chain", ["element by element", "a base that is merged", "slices before"])
def test_a_plan_says_how_long_it_takes(
    chain: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With intermediates that are computed in tiles, as a whole, and with others within them."""
    monkeypatch.chdir(folder)
    report = mergesafe.plan(CHAINS[chain])
    found, why = report.estimate, report.no_estimate
    assert why is None
    assert found is not None
    assert 0 < found.processor_s < 100
    assert 0 <= found.cached <= 1


def test_matrix_methods_of_intermediates_are_not_timed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    report = mergesafe.plan(CHAINS["whole matrices"])
    assert report.seconds is None
    assert report.no_estimate == (
        "an intermediate is merged by tsv, which takes whole matrices, and no part of one can time "
        "that"
    )


def test_intermediates_are_written_where_that_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each as a recipe of its own, and the output is the same to the byte."""
    monkeypatch.chdir(folder)
    documents = [
        ties("a", "m1", "m2", dtype="bfloat16"), linear("a", "m3", name="b"),
        recipe("slerp", ["a", "b"], "a", parameters={"t": 0.3}),
    ]  # fmt: skip
    mergesafe.merge(documents, tmp_path / "virtual")
    folders = {"b": tmp_path / "w" / "b", "a": tmp_path / "w" / "a"}
    result = mergesafe.merge(documents, tmp_path / "out", write_documents=folders)
    assert list(result.documents) == ["a", "b"]
    assert "document 'a' is read from the folder that it was written to" in result.notes
    for name in ("model.safetensors", "config.json", "mergesafe-recipe.yml"):
        theirs = (tmp_path / "virtual" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == theirs
    for name in ("a", "b", "../out"):
        mergesafe.verify(tmp_path / "w" / name)
    again = mergesafe.merge(tmp_path / "w" / "b" / "mergesafe-recipe.yml", tmp_path / "again")
    same = (tmp_path / "again" / "model.safetensors", tmp_path / "w" / "b" / "model.safetensors")
    assert same[0].read_bytes() == same[1].read_bytes()
    assert again.documents == {}
    manifest = json.loads((tmp_path / "out" / "mergesafe-manifest.json").read_text())
    assert manifest["inputs"].keys() == {"a", "b"}
    again = mergesafe.merge(documents, tmp_path / "out", write_documents=folders, resume=True)
    for each in (*again.documents.values(), again):
        assert "finished already" in each.warnings[-1]


def test_a_merge_that_writes_intermediates_is_resumed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    documents = [ties("a", "m1", "m2"), linear("a", "m3")]
    run: Callable[..., None] = TensorMerge.run
    count = 0

    def failing(self: TensorMerge, *args: Any, **keys: Any) -> None:
        nonlocal count
        count += 1
        if count > 12:
            raise MergesafeError("the lights went out")
        run(self, *args, **keys)

    monkeypatch.setattr(TensorMerge, "run", failing)
    options: dict[str, Any] = {"write_documents": {"a": tmp_path / "a"}, "threads": 1}
    with pytest.raises(MergesafeError, match="finished and kept"):
        mergesafe.merge(documents, tmp_path / "out", resume=True, **options)
    assert not (tmp_path / "a").exists()
    count = -30
    with pytest.raises(MergesafeError, match="finished and kept"):
        mergesafe.merge(documents, tmp_path / "out", resume=True, **options)
    mergesafe.verify(tmp_path / "a")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(TensorMerge, "run", run)
    result = mergesafe.merge(documents, tmp_path / "out", resume=True, **options)
    assert "finished already" in result.documents["a"].warnings[-1]
    assert result.resumed_bytes > 0
    mergesafe.merge(documents, tmp_path / "virtual")
    ours, theirs = (tmp_path / name / "model.safetensors" for name in ("out", "virtual"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_what_cannot_be_computed_can_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    scoped = ties("a", "m1", "m2")
    scoped["parameters"] = {"trim_scope": "model"}
    path = write_recipe(
        folder / "scoped.yml", "\n---\n".join(map(json.dumps, (scoped, linear("a", "m3"))))
    )
    refused = command("merge", path, tmp_path / "out")
    assert refused.returncode == 2
    assert "--write-document a=FOLDER" in refused.stderr
    done = command("merge", path, tmp_path / "out", "--write-document", f"a={tmp_path / 'a'}")
    assert done.returncode == 0, done.stderr
    theirs = read(one_by_one([scoped, linear("a", "m3")], tmp_path / "w"))
    assert all(torch.equal(each, theirs[key]) for key, each in read(tmp_path / "out").items())


WRONG_FOLDERS = {
    "b=w": "the output needs no document of that name (known: a)",
    "a": "expected NAME=FOLDER",
    "=w": "expected NAME=FOLDER",
    "a=out/a": "one lies inside the other; give each a folder of its own",
    "a=out": "are the same folder",
    "a=m1": "m1: the output folder is not empty",
    "a=s3://bucket/a": "expected a local folder",
}


@pytest.mark.parametrize("written", WRONG_FOLDERS)
def test_wrong_folders_for_intermediates(
    written: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    text = "\n---\n".join(json.dumps(each) for each in (ties("a", "m1", "m2"), linear("a", "m3")))
    path = write_recipe(folder / "recipe.yml", text)
    before = set(folder.rglob("*"))
    done = command("merge", path, "out", "--write-document", written)
    assert done.returncode == 2
    assert WRONG_FOLDERS[written] in " ".join(done.stderr.split())
    assert set(folder.rglob("*")) == before


FIRST = "name: a\nmerge_method: passthrough\nmodels: [{model: m1}]\n"
#: A recipe, and what is said of it.
WRONG_RECIPES = {
    "another spelling": (
        f"{FIRST}---\nmerge_method: passthrough\nmodels: [{{model: a@main}}]\n",
        ":6: 'a@main' is no document of the recipe, and nothing of that name is there (did you "
        "mean 'a'?)",
    ),
    "no line between": (
        f"{FIRST}merge_method: passthrough\nmodels: [{{model: a}}]\n",
        ":4: duplicate key 'merge_method' (first on line 2); a further document begins with a line "
        "'---'",
    ),
    "a list": ("- {name: a}\n- {name: b}\n", "several documents in one file have a line '---'"),
    "an adapter of a document": (
        f"{FIRST}---\nmerge_method: core_space\nbase_model: a\noutput: adapter\n"
        "models: [{model: a+adapter, parameters: {weight: 1}}]\n",
        ":7: 'output: adapter' is made of stored adapters, and the document 'a' would be computed. "
        "Merge that as a recipe of its own, and name its folder here",
    ),
}


@pytest.mark.parametrize("case", WRONG_RECIPES)
def test_wrong_recipes_of_several_documents(
    case: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    text, told = WRONG_RECIPES[case]
    done = command("merge", write_recipe(tmp_path / "r.yml", text), tmp_path / "out")
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_what_takes_one_document_says_how_to_write_the_others(folder: Path, tmp_path: Path) -> None:
    text = f"{FIRST}---\nmerge_method: linear\nmodels: [{{model: a}}, {{model: m2}}]\ntune: {{}}\n"
    done = command("tune", write_recipe(folder / "tune.yml", text), "-o", tmp_path / "tuned.yml")
    assert done.returncode == 2
    assert "--write-document NAME=FOLDER, with any values for those that tuning" in done.stderr
