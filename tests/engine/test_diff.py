"""What differs between two checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from family import Family
from safetensors.torch import save_file
from tiny import Tensors, command, llama, save, save_adapter

import mergesafe
from mergesafe.engine.diff import pass_over
from mergesafe.errors import CheckpointError
from mergesafe.results.diff import Diff, Measures, TensorDiff
from mergesafe.results.reading import read_object, read_result

from .moe_models import QWEN, fused, separate

UP = "model.layers.1.mlp.up_proj.weight"


def changed(tensors: Tensors, name: str, tensor: torch.Tensor) -> Tensors:
    return {**tensors, name: tensor}


def only(found: Diff) -> TensorDiff:
    [tensor] = found.different
    return tensor


def expected(a: torch.Tensor, b: torch.Tensor) -> Measures:
    """In float64; of differences in float32, which the kernels take."""
    delta = (b.float() - a.float()).double()
    l2, norm = float(delta.norm()), float(a.double().norm())
    return Measures(a.numel(), int((delta != 0).sum()), float(delta.abs().max()), l2, l2 / norm)


def assert_measures(found: Measures, wanted: Measures) -> None:
    assert (found.elements, found.changed, found.largest) == (
        wanted.elements, wanted.changed, wanted.largest
    )  # fmt: skip
    # sums of float32 squares in float64, in another order
    assert found.l2 == pytest.approx(wanted.l2, rel=1e-6)
    assert found.relative == pytest.approx(wanted.relative, rel=1e-6)


# --- tensors -------------------------------------------------------------------------------------


def test_a_copy_is_the_same(tmp_path: Path) -> None:
    found = mergesafe.diff(save(tmp_path / "a", llama(0)), save(tmp_path / "copy", llama(0)))
    assert found.same
    assert (found.tensors, found.different, found.only_a, found.only_b) == (
        len(llama(0)),
        [],
        [],
        [],
    )
    assert found.overall == Measures(
        sum(tensor.numel() for tensor in llama(0).values()), 0, 0.0, 0.0, 0.0
    )


def test_every_tensor_differs(tmp_path: Path) -> None:
    one, two = llama(0), llama(1)
    found = mergesafe.diff(save(tmp_path / "a", one), save(tmp_path / "b", two))
    by_name = {each.a.name: each for each in found.different}
    assert by_name.keys() == {name for name in one if not torch.equal(one[name], two[name])}
    for name, each in by_name.items():
        assert each.differs == ["bytes"]
        assert_measures(each.measures, expected(one[name], two[name]))
    names = [name for name in by_name if ".layers.2." in name]
    layer = next(each for each in found.layers if each.name == "2")
    assert layer.different == len(names)
    delta = torch.cat([(two[n].float() - one[n].float()).double().flatten() for n in names])
    norm = torch.cat([one[n].double().flatten() for n in names]).norm()
    assert layer.measures.l2 == pytest.approx(float(delta.norm()), rel=1e-6)
    assert layer.measures.relative == pytest.approx(float(delta.norm() / norm), rel=1e-6)
    group = next(each for each in found.groups if each.name == "attention.q")
    assert group.tensors == 3


def test_figures_depend_on_neither_pieces_nor_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A difference in the last piece alone: ‖a‖ is that of the whole tensor."""
    values = torch.randn(40_000, generator=torch.Generator().manual_seed(0))
    other = values.clone()
    other[-5] += 0.25
    models = [save(tmp_path / name, {"w": t}) for name, t in (("a", values), ("b", other))]
    whole = mergesafe.diff(*models, threads=1)
    assert_measures(only(whole).measures, expected(values, other))
    monkeypatch.setattr(pass_over, "_PIECE", 1 << 14)
    monkeypatch.setattr(pass_over, "_TILE", 1 << 13)
    for threads in (1, 3):
        found = mergesafe.diff(*models, threads=threads)
        assert_measures(only(found).measures, only(whole).measures)
        assert only(found).measures.largest == 0.25


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_types(dtype: torch.dtype, tmp_path: Path) -> None:
    one, two = torch.arange(1000).to(dtype), torch.arange(1000).to(dtype)
    two[7] += 2
    found = mergesafe.diff(save(tmp_path / "a", {"w": one}), save(tmp_path / "b", {"w": two}))
    assert_measures(only(found).measures, expected(one, two))


def test_another_type_of_the_same_values(tmp_path: Path) -> None:
    wide = {name: tensor.float() for name, tensor in llama(0).items()}
    found = mergesafe.diff(save(tmp_path / "a", llama(0)), save(tmp_path / "b", wide))
    assert {tuple(each.differs) for each in found.different} == {("dtype",)}
    assert (found.overall.changed, found.overall.largest, found.overall.l2) == (0, 0.0, 0.0)
    assert only_types(found) == {("BF16", "F32")}


def only_types(found: Diff) -> set[tuple[str, str]]:
    return {(each.a.dtype, each.b.dtype) for each in found.different}


def test_eight_bits_with_scales_are_compared_by_what_they_stand_for(tmp_path: Path) -> None:
    values = torch.tensor([[1.0, 2.0], [-4.0, 0.5]])
    scaled = {"m.weight": values.to(torch.float8_e4m3fn), "m.weight_scale": torch.tensor([2.0])}
    found = mergesafe.diff(
        save(tmp_path / "a", scaled), save(tmp_path / "b", {"m.weight": 2 * values})
    )
    assert only(found).differs == ["dtype"]
    assert only(found).measures.changed == 0
    bare = {"m.weight": scaled["m.weight"], "n": values}
    other = changed(bare, "m.weight", (values + 1).to(torch.float8_e4m3fn))
    found = mergesafe.diff(save(tmp_path / "c", bare), save(tmp_path / "d", other))
    assert only(found).measures == Measures(4, 4, None, None, None)


def test_nan_has_no_distance(tmp_path: Path) -> None:
    one = llama(0)
    two = one[UP].clone()
    two[0, 0], two[3, 3] = float("nan"), 7.0
    found = mergesafe.diff(save(tmp_path / "a", one), save(tmp_path / "b", changed(one, UP, two)))
    assert only(found).nonfinite == ["b"]
    assert only(found).measures == Measures(two.numel(), 2, None, None, None)
    assert found.overall.largest is None


def test_zeros_of_another_sign_are_other_bytes_and_no_change(tmp_path: Path) -> None:
    zeros = {"w": torch.zeros(64)}
    found = mergesafe.diff(save(tmp_path / "a", zeros), save(tmp_path / "b", {"w": -zeros["w"]}))
    assert only(found).differs == ["bytes"]
    assert only(found).measures == Measures(64, 0, 0.0, 0.0, None)


def test_shapes_and_tensors_of_one_side(tmp_path: Path) -> None:
    one = llama(0)
    two = changed(one, UP, one[UP][:-1].clone()) | {"extra": torch.ones(2)}
    del two["lm_head.weight"]
    found = mergesafe.diff(save(tmp_path / "a", one), save(tmp_path / "b", two))
    assert only(found).differs == ["shape"]
    assert only(found).measures == Measures(one[UP].numel(), None, None, None, None)
    assert [each.name for each in found.only_a] == ["lm_head.weight"]
    text = command("diff", tmp_path / "a", tmp_path / "b").stdout
    assert "not counted there: 1 of other shapes" in text
    assert [(each.name, each.dtype, each.shape) for each in found.only_b] == [("extra", "F32", [2])]


def test_names_with_another_prefix_are_paired(tmp_path: Path) -> None:
    bare = {name.removeprefix("model."): tensor for name, tensor in llama(0).items()}
    two = changed(bare, UP.removeprefix("model."), llama(1)[UP])
    found = mergesafe.diff(save(tmp_path / "a", llama(0)), save(tmp_path / "b", two))
    assert (found.only_a, found.only_b) == ([], [])
    assert (only(found).a.name, only(found).b.name) == (UP, UP.removeprefix("model."))
    assert any("begin with" in note for note in found.notes)


def test_both_layouts_of_experts(tmp_path: Path) -> None:
    one = separate(0)
    two = fused(one)
    name = "model.layers.0.mlp.experts.down_proj"
    other = changed(two, name, two[name].clone())
    other[name][0, 0, 0] += 1
    models = [save(tmp_path / str(i), each, QWEN) for i, each in enumerate((one, two, other))]
    for first, second in (models[:2], models[1::-1]):
        found = mergesafe.diff(first, second)
        assert found.same
        assert "the same matrices are paired" in found.notes[0]
    assert only(mergesafe.diff(models[0], models[2])).measures.changed == 1


def test_the_head_of_a_tied_model(tmp_path: Path) -> None:
    tied = llama(0, tied=True)
    head = {"lm_head.weight": tied["model.embed_tokens.weight"].clone()}
    stored = save(tmp_path / "a", tied | head)
    shared = save(tmp_path / "b", tied, {"tie_word_embeddings": True})
    found = mergesafe.diff(stored, shared)
    assert "takes its embedding as head, which holds the same bytes" in found.notes[0]
    assert [(each.key, each.a, each.b) for each in found.config] == [
        ("tie_word_embeddings", "false", "true")
    ]


def test_adapters(family: Family, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "l", llama(0), 1)
    found = mergesafe.diff(family.base, f"{family.base}+{adapter}")
    changed_names = {each.a.name for each in found.different}
    assert changed_names
    assert all("proj" in name for name in changed_names)
    assert found.adapter[0].a is None
    merged = tmp_path / "merged"
    mergesafe.merge(
        {"merge_method": "passthrough", "models": [{"model": f"{family.base}+{adapter}"}],
         "dtype": "float32"},
        merged,
    )  # fmt: skip
    same = mergesafe.diff(f"{family.base}+{adapter}", merged)
    assert same.overall.changed == 0


def test_quantized_checkpoints_are_compared_as_they_are(tmp_path: Path) -> None:
    packed = {"m.qweight": torch.arange(12, dtype=torch.int32).view(3, 4)}
    other = {"m.qweight": packed["m.qweight"] + 1}
    found = mergesafe.diff(save(tmp_path / "a", packed), save(tmp_path / "b", other))
    assert only(found).measures.changed == 12


def test_files_of_weights_alone(tmp_path: Path) -> None:
    """Scalars, tensors without elements, and nothing in common."""
    for name, tensors in (
        ("a", {"x": torch.ones(3)}),
        ("b", {"y": torch.tensor(2.0), "e": torch.zeros(0, 4)}),
        ("c", {"y": torch.tensor(3.0), "e": torch.zeros(0, 4)}),
    ):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    files = [tmp_path / f"{name}.safetensors" for name in "abc"]
    found = mergesafe.diff(files[0], files[1])
    assert (found.tensors, len(found.only_a), len(found.only_b)) == (0, 1, 2)
    assert found.notes == ["config.json: neither has one, so that settings were not compared"]
    found = mergesafe.diff(files[1], files[2])
    assert only(found).measures == Measures(1, 1, 1.0, 1.0, 0.5)
    assert "config" not in command("diff", files[1], files[2]).stdout.partition("note")[0]


# --- beside the weights --------------------------------------------------------------------------


def test_settings_by_their_meaning(tmp_path: Path) -> None:
    old = {"rope_theta": 10000.0, "_name_or_path": "x"}
    new = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "use_cache": True}
    models = [save(tmp_path / str(i), llama(0), keys) for i, keys in enumerate((old, new))]
    assert mergesafe.diff(*models).config == []
    third = save(tmp_path / "third", llama(0), {"rope_theta": 5e5, "rms_norm_eps": 1e-6})
    found = mergesafe.diff(models[1], third)
    assert {(each.key, each.a, each.b) for each in found.config} == {
        ("rope_parameters.rope_theta", "10000.0", "500000.0"),
        ("rms_norm_eps", "1e-05", "1e-06"),
    }
    assert not found.same


def tokenizer(folder: Path, tokens: dict[str, int], **settings: Any) -> None:
    content = {"model": {"type": "BPE", "vocab": tokens, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_tokenizers_templates_and_files(tmp_path: Path) -> None:
    a, b = (save(tmp_path / name, llama(0)) for name in "ab")
    tokenizer(a, {"x": 0, "y": 1, "z": 2}, eos_token="<e>", chat_template="A")
    tokenizer(b, {"x": 0, "y": 2, "w": 1}, eos_token={"content": "<f>"}, chat_template="B")
    (a / "generation_config.json").write_text('{"temperature": 0.5, "top_p": 1}')
    (b / "generation_config.json").write_text('{"temperature": 0.7, "top_p": 1}')
    (a / "LICENSE").write_text("one")
    (b / "LICENSE").write_text("two")
    (b / "NOTICE").write_text("more")
    found = mergesafe.diff(a, b)
    tokens = found.tokenizer
    assert (tokens.same, tokens.moved, tokens.renamed) == (False, 1, 1)
    assert "'y' is 1 in a, 2 in b" in tokens.examples
    assert [(each.key, each.a, each.b) for each in tokens.special] == [
        ("eos_token", '"<e>"', '"<f>"')
    ]
    assert found.chat_template == "different"
    assert [(each.key, each.a, each.b) for each in found.generation] == [
        ("temperature", "0.5", "0.7")
    ]
    assert {(each.name, each.differs) for each in found.files} == {
        ("LICENSE", "bytes"), ("NOTICE", "only in b")
    }  # fmt: skip
    assert found.different == []
    assert not found.same


@pytest.mark.parametrize("known", [True, False])
def test_embeddings_with_other_tokens(known: bool, tmp_path: Path) -> None:
    """By token, in whatever order; by place where tokens are not known. Padding is no token's."""
    name = "model.embed_tokens.weight"
    one, two = torch.randn(5, 4), torch.randn(6, 4)
    two[[3, 0]] = one[[0, 1]]
    a, b = (save(tmp_path / k, {name: t}) for k, t in (("a", one), ("b", two)))
    tokenizer(a, {"x": 0, "y": 1, "z": 2, "only a": 3})
    if known:
        tokenizer(b, {"y": 0, "z": 2, "x": 3, "only b": 5, "without a row": 6})
    found = mergesafe.diff(a, b)
    pairs = ([0, 1, 2], [3, 0, 2]) if known else ([*range(5)], [*range(5)])
    assert only(found).differs == ["shape"]
    assert_measures(only(found).measures, expected(one[pairs[0]], two[pairs[1]]))
    how = (
        "the 3 tokens that have one in both are compared, token by token; 1 tokens have one in a "
        "alone, 1 in b alone" if known else "the first 5 of both are compared, in their order, "
        "since b has no tokenizer"
    )  # fmt: skip
    assert [note for note in found.notes if note.startswith(f"rows of {name}: ")]
    assert how in found.notes[0]
    assert "not counted" not in command("diff", a, b).stdout


# --- the command ---------------------------------------------------------------------------------


def test_exit_status(tmp_path: Path) -> None:
    a, same, b = (save(tmp_path / str(i), llama(seed)) for i, seed in enumerate((0, 0, 1)))
    assert command("diff", a, b, "--quiet").returncode == 0
    assert command("diff", a, same, "--exit-code").returncode == 0
    done = command("diff", a, b, "--exit-code", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    missing = command("diff", a, tmp_path / "none")
    assert missing.returncode == 2
    assert "none" in missing.stderr


def test_text(tmp_path: Path) -> None:
    two = llama(0)[UP].clone()
    two[0, 0] += 1
    a = save(tmp_path / "a", llama(0))
    b = save(tmp_path / "b", changed(llama(0), UP, two))
    assert "no difference" in command("diff", a, a).stdout
    lines = command("diff", a, b).stdout.splitlines()
    assert any("30 in both, 1 differ" in line for line in lines)
    assert sum(line.startswith("mlp up ") for line in lines) == 1
    assert any(line.startswith(UP) for line in lines)
    by_layer = command("diff", a, b, "--layers", "--tensors", 0).stdout.splitlines()
    assert any(line.startswith("1 ") for line in by_layer)
    assert not any(line.startswith(UP) for line in by_layer)


def test_json_is_a_result(tmp_path: Path) -> None:
    a, b = (save(tmp_path / str(seed), llama(seed)) for seed in (0, 1))
    path = tmp_path / "diff.json"
    path.write_text(command("diff", a, b, "--json").stdout)
    read = read_result(path, *read_object(path, "a result")).value
    assert read == mergesafe.diff(a, b)


def test_a_verdict_that_contradicts_what_is_listed_is_refused(tmp_path: Path) -> None:
    a, b = (save(tmp_path / str(seed), llama(seed)) for seed in (0, 1))
    path = tmp_path / "diff.json"
    written = json.loads(command("diff", a, b, "--json").stdout)
    path.write_text(json.dumps(written | {"same": True}))
    with pytest.raises(Exception, match="'same' contradicts"):
        read_result(path, *read_object(path, "a result"))


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    a, b = (save(tmp_path / str(seed), llama(seed)) for seed in (0, 1))
    file = b / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match=str(file)):
        mergesafe.diff(a, b)
