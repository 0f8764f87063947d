"""Experts in one tensor merge like experts by themselves, to the bit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from tiny import FAMILY, Tensors, bits, digest, read, recipe, same_bits, save, save_adapter

import mergesafe
from mergesafe import methods
from mergesafe.checkpoint.output.folder import OutputFolder
from mergesafe.engine import memory
from mergesafe.errors import NonFiniteError, OutputError, TuningError

from .moe_models import EXPERTS, MIXTRAL, QWEN, SIZES, fused, save_fused, separate

SMALL, LARGE = (f"model.layers.{layer}.mlp.experts.gate_up_proj" for layer in (0, 1))
DOWN = "model.layers.1.mlp.experts.down_proj"
#: The beginning of a message about all tensors of experts.
ALL = f"4 tensors (model.layers.0.mlp.experts.down_proj, {SMALL}, {DOWN} and 1 more)"
METHODS: dict[str, dict[str, Any]] = {
    **FAMILY,
    "dare_linear": {"density": 0.6, "weight": 0.5},
    "linear": {},
    "slerp": {},
}


def content(method: str, models: list[Path], **parameters: Any) -> dict[str, Any]:
    base, *experts = models
    each = {"weight": 0.4, **METHODS[method]}
    if method == "slerp":
        return recipe(method, experts[:1], base, parameters={"t": 0.3, **parameters})
    if method == "linear":
        return recipe(method, models, each=each, parameters=parameters)
    return recipe(method, experts, base, each=each, parameters=parameters)


def both(
    folder: Path, dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,) * 3, *, mixtral: bool = False
) -> tuple[list[Path], list[Path]]:
    """Base and two experts, by themselves and in one tensor."""
    config = MIXTRAL if mixtral else QWEN
    tensors = [separate(seed, dtype, mixtral=mixtral) for seed, dtype in enumerate(dtypes)]
    return (
        [save(folder / f"s{i}", each, config) for i, each in enumerate(tensors)],
        [
            save(folder / f"f{i}", fused(each, mixtral=mixtral), config)
            for i, each in enumerate(tensors)
        ],
    )


def assert_alike(one: dict[str, Any], all_: dict[str, Any], folder: Path, **options: Any) -> None:
    mergesafe.merge(one, folder / "one", **options)
    mergesafe.merge(all_, folder / "all", **options)
    mixtral = any("block_sparse_moe" in name for name in read(folder / "one"))
    expected, found = fused(read(folder / "one"), mixtral=mixtral), read(folder / "all")
    expected = {n.replace("block_sparse_moe", "mlp"): t for n, t in expected.items()}
    found = {n.replace("block_sparse_moe", "mlp"): t for n, t in found.items()}
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert same_bits(found[name], tensor), name


# --- both layouts --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_both_layouts_merge_alike(method: str, tmp_path: Path) -> None:
    one, all_ = both(tmp_path)
    assert_alike(content(method, one), content(method, all_), tmp_path, seed=3)


@pytest.mark.parametrize("rescale", ["l1", "linf", "inverse_density"])
@pytest.mark.parametrize("method", ["dare_ties", "breadcrumbs"])
def test_rescaling(method: str, rescale: str, tmp_path: Path) -> None:
    one, all_ = both(tmp_path)
    parameters = {"rescale": rescale}
    assert_alike(content(method, one, **parameters), content(method, all_, **parameters), tmp_path)


def test_types_and_gradients(tmp_path: Path) -> None:
    one, all_ = both(tmp_path, (torch.float32, torch.bfloat16, torch.float16))
    density = [{"filter": "experts", "value": [0.2, 0.7]}, {"value": 0.5}]
    keys = {"out_dtype": "float16"}
    recipes = [content("ties", models) | keys for models in (one, all_)]
    for each in recipes:
        for entry in each["models"]:
            entry["parameters"]["density"] = density
    assert_alike(recipes[0], recipes[1], tmp_path)


def test_mixtral(tmp_path: Path) -> None:
    one, all_ = both(tmp_path, mixtral=True)
    assert_alike(content("dare_ties", one), content("dare_ties", all_), tmp_path)


@pytest.mark.parametrize("kind", ["llama4_text", "gpt_oss"])
def test_columns_merge_by_expert(kind: str, tmp_path: Path) -> None:
    """Where gate and up are columns, an expert's both together."""
    stored = [fused(separate(seed)) for seed in range(3)]
    models = [save(tmp_path / f"m{i}", x, {"model_type": kind}) for i, x in enumerate(stored)]
    mergesafe.merge(content("ties", models), tmp_path / "ties")
    mergesafe.merge(content("slerp", models), tmp_path / "slerp")
    for name in (SMALL, LARGE, DOWN):
        base, a, b = (each[name] for each in stored)
        for e in range(EXPERTS):
            ties = methods.ties(base[e], [a[e], b[e]], weight=[0.4, 0.4], density=0.4)
            assert same_bits(read(tmp_path / "ties")[name][e], ties)
            slerp = methods.slerp(base[e], a[e], t=0.3)
            assert same_bits(read(tmp_path / "slerp")[name][e], slerp)


def test_the_whole_tensor_would_give_another_merge(tmp_path: Path) -> None:
    """Else the tests above could not fail."""
    stored = [fused(separate(seed)) for seed in range(3)]
    models = [save(tmp_path / f"m{i}", x, QWEN) for i, x in enumerate(stored)]
    mergesafe.merge(content("ties", models), tmp_path / "out")
    base, a, b = (each[LARGE] for each in stored)
    together = methods.ties(base, [a, b], weight=[0.4, 0.4], density=0.4)
    assert not same_bits(read(tmp_path / "out")[LARGE], together)


# --- what is told --------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [save_fused(tmp_path / f"m{i}", i) for i in range(3)]


def test_notes(models: list[Path], tmp_path: Path) -> None:
    result = mergesafe.merge(content("ties", models), tmp_path / "out")
    (note,) = result.notes
    assert note.startswith(f"{ALL} are merged expert by expert")
    assert result.tensors == len(read(tmp_path / "out"))


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_methods_of_single_elements_take_the_tensor_whole(method: str, models: list[Path]) -> None:
    made = mergesafe.plan(content(method, models)).plan
    assert all(task.part is None for task in made.tasks)
    assert made.notes == ()


def test_an_unknown_model_is_warned_about(tmp_path: Path) -> None:
    models = [save(tmp_path / f"m{i}", fused(separate(i)), {"model_type": "x"}) for i in range(3)]
    made = mergesafe.plan(content("ties", models)).plan
    assert all(task.part is None for task in made.tasks)
    (warning,) = [each for each in made.warnings if "experts" in each]
    assert warning.startswith(f"{ALL} are probably")
    assert "models of the type 'x'" in warning
    assert not [w for w in mergesafe.plan(content("linear", models)).plan.warnings if "exp" in w]


def test_broken_numbers_are_told_by_expert(models: list[Path], tmp_path: Path) -> None:
    tensors = read(models[1])
    tensors[LARGE][2, -1, 5] = torch.nan
    save(models[1], tensors, QWEN)
    words = re.escape(
        f"tensor '{LARGE}' (expert 'model.layers.1.mlp.experts.2.up_proj.weight') holds 1 value "
        "that is NaN or infinite"
    )
    with pytest.raises(NonFiniteError, match=words):
        mergesafe.merge(content("ties", models), tmp_path / "out")
    result = mergesafe.merge(content("ties", models), tmp_path / "out", on_nonfinite="zero")
    assert len([each for each in result.warnings if re.search(words, each)]) == 1


def test_tuning_is_refused(models: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from mergesafe.tune.setup import prepare

    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "a", "response": "b"}\n')
    tune = {"data": [{"path": str(data), "role": "domain"}], "coefficients": ["weight"]}
    with pytest.raises(TuningError, match="merged expert by expert by ties, which tuning cannot"):
        prepare(content("ties", models) | {"tune": tune})


# --- memory, manifest, crashes -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ties", "dare_ties", "slerp"])
def test_memory_and_threads_change_nothing(
    method: str, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MINIMUM_BUDGET", 1)
    found = set()
    for size, threads in (("1GiB", 1), ("1GiB", 3), ("112KiB", 1), ("112KiB", 3)):
        options: dict[str, Any] = {"memory": size, "threads": threads, "overwrite": True}
        mergesafe.merge(content(method, models), tmp_path / "out", **options)
        found.add(digest(tmp_path / "out"))
    assert len(found) == 1
    report = mergesafe.plan(content("ties", models), memory="112KiB")
    tasks = [task for task in report.plan.tasks if task.stored == LARGE]
    assert len(tasks) == 2 * EXPERTS
    assert any(report.schedule.layouts[task.name].tile < task.numel for task in tasks)


def definition(tensor: torch.Tensor) -> str:
    """The digest, with the xxhash package."""
    data = bytes(bits(tensor).tolist())
    blocks = (data[at : at + 8192] for at in range(0, len(data), 8192))
    total = sum(xxhash.xxh3_128_intdigest(block, seed=i) for i, block in enumerate(blocks))
    return f"{total % 2**128:032x}"


@pytest.mark.parametrize("shard_size", ["5GB", "20kB"])
def test_manifest_describes_whole_tensors(shard_size: str, tmp_path: Path) -> None:
    _, models = both(tmp_path, (torch.bfloat16, torch.float32, torch.bfloat16))
    out = tmp_path / "out"
    mergesafe.merge(content("ties", models), out, max_shard_size=shard_size)
    found = json.loads((out / "mergesafe-manifest.json").read_text())["tensors"]
    merged, stored = read(out), [read(model) for model in models]
    assert found.keys() == merged.keys() == stored[0].keys()
    for name, entry in found.items():
        assert entry["shape"] == list(merged[name].shape)
        assert entry["digest"] == definition(merged[name])
        assert [each["digest"] for each in entry["inputs"]] == [definition(x[name]) for x in stored]
        assert [each["tensor"] for each in entry["inputs"]] == [name] * 3
    assert mergesafe.verify(out).tensors == len(merged)


def interrupted(models: list[Path], out: Path, after: int) -> None:
    """A merge that fails at its write number ``after``, and keeps what is finished."""
    original, calls = OutputFolder.pwrite, 0

    def pwrite(self: OutputFolder, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OutputError("no space")
        original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OutputFolder, "pwrite", pwrite)
        with pytest.raises(OutputError, match="no space"):
            mergesafe.merge(content("dare_ties", models), out, resume=True, threads=1)


@pytest.mark.parametrize("after", [3, 8, 12, 17])
def test_resume(after: int, models: list[Path], tmp_path: Path) -> None:
    mergesafe.merge(content("dare_ties", models), tmp_path / "whole")
    interrupted(models, tmp_path / "out", after)
    result = mergesafe.merge(content("dare_ties", models), tmp_path / "out", resume=True)
    assert result.resumed_bytes > 0
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_damaged_parts_are_made_again(models: list[Path], tmp_path: Path) -> None:
    mergesafe.merge(content("dare_ties", models), tmp_path / "whole")
    interrupted(models, tmp_path / "out", 17)
    (area,) = tmp_path.glob(".out.mergesafe-*")
    made = mergesafe.plan(content("dare_ties", models)).plan
    begin = made.layout.placements[SMALL].offset
    (shard,) = area.rglob("model.safetensors")
    with shard.open("r+b") as file:
        file.seek(begin + 2 * 6 * 10 * 3)  # of the fourth matrix
        file.write(b"\x00\x01\x02\x03")
    mergesafe.merge(content("dare_ties", models), tmp_path / "out", resume=True)
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_resume_refuses_another_way_of_storing_experts(models: list[Path], tmp_path: Path) -> None:
    interrupted(models, tmp_path / "out", 8)
    for model in models:
        save(model, read(model), {"model_type": "llama4_text"})
    with pytest.raises(OutputError, match=r"cannot be resumed"):
        mergesafe.merge(content("dare_ties", models), tmp_path / "out", resume=True)


def test_an_adapter_keeps_the_tensor_whole(models: list[Path], tmp_path: Path) -> None:
    """None changes tensors of experts today; others beside them may have one."""
    base: Tensors = {"model.layers.0.mlp.down_proj.weight": torch.zeros(8, 4)}
    for model in models:
        save(model, {**read(model), **{n: t.bfloat16() for n, t in base.items()}}, QWEN)
    adapter = save_adapter(tmp_path / "adapter", base, 1)
    parents: list[Path | str] = [models[1], f"{models[2]}+{adapter}"]
    each = {"weight": 0.5, "density": 0.5}
    mergesafe.merge(recipe("ties", parents, models[0], each=each), tmp_path / "out")
    assert read(tmp_path / "out").keys() == read(models[0]).keys()


def test_sizes_cover_both_cases() -> None:
    """Matrices that begin with a block of the digest, and such that do not."""
    blocks = [2 * inner * hidden % 8192 == 0 for inner, hidden in SIZES]
    assert blocks == [False, True]
