"""Inputs that change nothing are not read, and the bytes are those of a merge without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FAMILY, digest, read, recipe, same_bits, save, save_adapter

import mergesafe
from mergesafe import methods
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.errors import NonFiniteError

NAME = "model.layers.0.mlp.up_proj.weight"
SHAPE = (64, 96)


def made(seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Values with zeros of both signs among them."""
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)
    values[0, ::2], values[0, 1::2] = 0.0, -0.0
    return values


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return {name: made(seed) for seed, name in enumerate(("base", "a", "b", "c"))}


@pytest.fixture(scope="module")
def models(
    tensors: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """``nan`` holds nothing else."""
    folder = tmp_path_factory.mktemp("models")
    found = {name: save(folder / name, {NAME: x}) for name, x in tensors.items()}
    found["nan"] = save(folder / "nan", {NAME: torch.full(SHAPE, float("nan")).bfloat16()})
    return found


class Reads:
    """The files that were read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: set[str] = set()
        original = Reader.read_into

        def read_into(reader: Reader, info: Any, begin: int, into: memoryview) -> None:
            self.paths.add(Path(info.path).parent.name)
            original(reader, info, begin, into)

        monkeypatch.setattr(Reader, "read_into", read_into)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def merged(content: dict[str, Any], out: Path, **options: Any) -> torch.Tensor:
    mergesafe.merge(content, out, **options)
    return read(out)[NAME]


def slerp(models: dict[str, Path], first: str, second: str, t: float) -> dict[str, Any]:
    pair = [models[first], models[second]]
    return recipe("slerp", pair, models[first], parameters={"t": t})


def linear(models: dict[str, Path], weights: dict[str, float], **given: Any) -> dict[str, Any]:
    each = [{"weight": weight} for weight in weights.values()]
    return recipe("linear", [models[name] for name in weights], each=each, parameters=given)


def family(
    method: str, models: dict[str, Path], weights: dict[str, float], **given: Any
) -> dict[str, Any]:
    each = [{"weight": weight, **FAMILY[method]} for weight in weights.values()]
    chosen = [models[name] for name in weights]
    return recipe(method, chosen, models["base"], each=each, parameters=given)


#: Recipes of which one input alone is left: which, and the recipe.
COPIES: dict[str, Any] = {
    "slerp 0": ("base", lambda m: slerp(m, "base", "nan", 0.0)),
    "slerp 1": ("a", lambda m: slerp(m, "nan", "a", 1.0)),
    "linear": ("a", lambda m: linear(m, {"a": 1.0, "nan": 0.0})),
    "linear, the last": ("b", lambda m: linear(m, {"nan": 0.0, "a": -0.0, "b": 1.0})),
    "linear, normalised": ("a", lambda m: linear(m, {"nan": 0.0, "a": 0.3})),
    "linear, not normalised": ("a", lambda m: linear(m, {"nan": 0, "a": 1}, normalize=False)),
    **{
        f"{method}, weights": ("base", lambda m, x=method: family(x, m, {"nan": 0.0, "a": 0.0}))
        for method in FAMILY
    },
    "lambda": ("base", lambda m: family("ties", m, {"nan": 0.5, "a": 1.0}, **{"lambda": 0.0})),
}  # fmt: skip


@pytest.mark.parametrize("case", COPIES)
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_what_is_left_is_copied_and_nothing_else_read(
    case: str,
    backend: str,
    models: dict[str, Path],
    tensors: dict[str, torch.Tensor],
    reads: Reads,
    tmp_path: Path,
) -> None:
    name, content = COPIES[case][0], COPIES[case][1](models)
    result = merged(content, tmp_path / "out", backend=backend)
    assert int(((tensors[name] == 0) & tensors[name].signbit()).sum()) > 0
    assert same_bits(result, tensors[name])
    assert reads.paths == {name}
    manifest = json.loads((tmp_path / "out" / "mergesafe-manifest.json").read_text())
    assert [Path(x["model"]).name for x in manifest["tensors"][NAME]["inputs"]] == [name]


def test_casts_still_apply(models: dict[str, Path], tmp_path: Path) -> None:
    """``dtype`` rounds at load and ``out_dtype`` at the end, as where all inputs are read."""
    wide = made(9, torch.float32)
    folder = save(tmp_path / "wide", {NAME: wide})
    content = linear({"a": folder, "b": models["b"]}, {"a": 1.0, "b": 0.0})
    assert same_bits(merged(content, tmp_path / "1"), wide)
    content |= {"dtype": "bfloat16", "out_dtype": "float32"}
    assert same_bits(merged(content, tmp_path / "2"), wide.bfloat16().float())
    # the common type of all inputs is that of the output, whatever the weights
    content = linear({"a": folder, "b": models["b"]}, {"a": 0.0, "b": 1.0})
    assert merged(content, tmp_path / "3").dtype is torch.float32


@pytest.mark.parametrize("method", FAMILY)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("rescale", ["none", "l2"])
def test_the_others_give_the_same_bits(
    method: str,
    normalize: bool,
    rescale: str,
    models: dict[str, Path],
    tensors: dict[str, torch.Tensor],
    reads: Reads,
    tmp_path: Path,
) -> None:
    """An expert of weight 0 between two others: masks, votes and divisors are as with it there.

    The truth is the backend's own merge of all three, which knows nothing of leaving out.
    """
    options = {"normalize": normalize}
    if method != "task_arithmetic":
        options["rescale"] = rescale
    weights = {"a": 0.7, "c": 0.0, "b": 0.5}
    content = family(method, models, weights, **options)
    ours = merged(content, tmp_path / "out", seed=5)
    assert reads.paths == {"base", "a", "b"}
    experts = [tensors[name] for name in weights]
    method_of = methods.__dict__.get(method) or getattr(methods, method)
    with_it = _without_leaving_out(
        method, tensors["base"], experts, list(weights.values()), FAMILY[method] | options
    )
    assert same_bits(ours, with_it)
    in_memory = method_of(
        tensors["base"], experts, weight=list(weights.values()), name=NAME, seed=5,
        **FAMILY[method], **options,
    )  # fmt: skip
    assert same_bits(in_memory, ours)


def _without_leaving_out(
    method: str,
    base: torch.Tensor,
    experts: list[torch.Tensor],
    weights: list[float],
    options: dict[str, Any],
) -> torch.Tensor:
    from mergesafe.methods.driver import steps
    from mergesafe.methods.registry import METHODS
    from mergesafe.methods.spec import TensorContext
    from mergesafe.ops.backends.reference import ReferenceBackend
    from mergesafe.ops.methods import settings_of
    from mergesafe.ops.statistics import combine, drive

    settings = settings_of(METHODS[method], len(experts), {"weight": weights, **options})
    context = TensorContext(NAME, tuple(base.shape), base.numel(), len(experts), 5, base=True)
    flat, backend = [x.reshape(-1) for x in experts], ReferenceBackend()
    how = drive(steps(METHODS[method], context, settings), backend, base.reshape(-1), flat)
    return combine(how, backend, context, base.reshape(-1), flat, base.dtype).view(base.shape)


def test_linear_without_an_input_is_linear_of_the_others(
    models: dict[str, Path], reads: Reads, tmp_path: Path
) -> None:
    ours = merged(linear(models, {"a": 0.3, "nan": 0.0, "b": 0.9}), tmp_path / "out")
    assert reads.paths == {"a", "b"}
    assert same_bits(ours, merged(linear(models, {"a": 0.3, "b": 0.9}), tmp_path / "two"))


def test_weights_that_are_all_zero_keep_every_input(
    models: dict[str, Path], reads: Reads, tmp_path: Path
) -> None:
    content = linear(models, {"a": 0.0, "b": 0.0}, normalize=False)
    assert not merged(content, tmp_path / "out").any()
    assert reads.paths == {"a", "b"}


def test_what_matters_is_still_checked(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="nan"):
        merged(linear(models, {"nan": 1.0, "a": 0.0}), tmp_path / "out")


def test_a_plan_says_what_is_not_read(models: dict[str, Path]) -> None:
    plan = mergesafe.plan(slerp(models, "base", "a", 0.0)).plan
    assert plan.bytes_in == 2 * SHAPE[0] * SHAPE[1]
    assert plan.tasks[0].statistics == ()
    [note] = [note for note in plan.notes if "not read" in note]
    assert str(models["a"]) in note
    assert "for 1 of 1 tensors" in note
    assert "12.3 kB less to read" in note
    assert not mergesafe.plan(slerp(models, "base", "a", 0.5)).plan.notes


def test_layers_of_a_gradient(models: dict[str, Path], reads: Reads, tmp_path: Path) -> None:
    """t = 0 in the first layer and 1 in the last: only the layer between reads both."""
    names = [f"model.layers.{i}.w" for i in range(3)]
    folders = {
        model: save(tmp_path / model, {n: made(i + 7 * k) for i, n in enumerate(names)})
        for k, model in enumerate(("x", "y"))
    }
    content = slerp(folders, "x", "y", 0.0) | {"parameters": {"t": [0, 0.5, 1]}}
    mergesafe.merge(content, tmp_path / "out")
    out, x, y = (read(folder) for folder in (tmp_path / "out", folders["x"], folders["y"]))
    assert same_bits(out[names[0]], x[names[0]])
    assert same_bits(out[names[2]], y[names[2]])
    assert same_bits(out[names[1]], methods.slerp(x[names[1]], y[names[1]], t=0.5))


def test_an_adapter_that_changes_nothing_is_not_read(tmp_path: Path, reads: Reads) -> None:
    from tiny import llama

    tensors = llama(1)
    base = save(tmp_path / "base", tensors)
    adapter = save_adapter(tmp_path / "lora", tensors, 2)
    content = recipe(
        "task_arithmetic", [f"{base}+{adapter}", str(base)], base,
        each=[{"weight": 0.0}, {"weight": 0.5}],
    )  # fmt: skip
    mergesafe.merge(content, tmp_path / "out")
    assert "lora" not in reads.paths
    for name, tensor in read(tmp_path / "out").items():
        assert same_bits(tensor, tensors[name])


def test_resume_and_the_finished_model_know_it(models: dict[str, Path], tmp_path: Path) -> None:
    content = linear(models, {"a": 1.0, "nan": 0.0})
    mergesafe.merge(content, tmp_path / "out")
    before = digest(tmp_path / "out")
    mergesafe.merge(content, tmp_path / "out", resume=True)
    assert digest(tmp_path / "out") == before
