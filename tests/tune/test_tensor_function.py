"""Gradients of the declarations themselves: every method whose parameters declare one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import recipe, save

import mergesafe as ms
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.engine.run.whole_model import with_magnitudes
from mergesafe.errors import PointError, TuningError
from mergesafe.methods.registry import METHODS
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.model.tensor_function import TensorFunction, check_differentiable

WRITTEN = "tests.engine.written:summed"
WRITTEN_DENSE = "tests.engine.written:best_rank"
NAME = "model.layers.0.mlp.up_proj.weight"
SHAPE = (24, 16)
OPTIONS: dict[str, dict[str, Any]] = {
    "ties": {"density": 0.5}, "breadcrumbs": {"density": 0.6}, "breadcrumbs_ties": {"density": 0.6},
    "dare_linear": {"density": 0.7}, "dare_ties": {"density": 0.7},
}  # fmt: skip
#: Those of adapters have a function of their own (test_merged_model.py).
WITH_GRADIENT = [
    n for n, m in METHODS.items() if any(p.gradient for p in m.parameters) and not m.inputs.adapters
]


def tensors(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    base = torch.randn(SHAPE, generator=generator)
    return [base, *(base + torch.randn(SHAPE, generator=generator) for _ in range(count))]


def made(method: str, folder: Path) -> tuple[TensorFunction, list[torch.Tensor]]:
    """A tensor of a merge by ``method``, with every coefficient that has a gradient.

    The inputs come as the plan has them, references and then calibration last.
    """
    declared = ms.methods.registry.get_method(method)  # type: ignore[attr-defined]
    count = min(2, declared.inputs.most or 2) - (declared.inputs.base == "member")
    if declared.inputs.base == "none" and declared.inputs.most == 1:
        count = 0  # the one model is the first of the inputs
    inputs = tensors(count)
    paths = [save(folder / str(i), {NAME: x}) for i, x in enumerate(inputs)]
    each = {"weight": 0.6, **OPTIONS.get(method, {})}
    known = {p.name for p in declared.parameters if p.scope != "global"}
    each = {n: v for n, v in each.items() if n in known}
    shared = {p.name: 0.3 for p in declared.parameters if p.scope == "global" and p.required}
    if declared.inputs.base == "none":
        content = recipe(method, paths, each=each, parameters=shared)
    elif declared.inputs.base == "member":
        content = recipe(method, paths, paths[0], each=each, parameters=shared)
    else:
        content = recipe(method, paths[1:], paths[0], each=each, parameters=shared)
    merged = inputs[declared.inputs.base in ("required", "optional") :]
    for reference in declared.inputs.references:
        inputs.append(torch.randn(SHAPE, generator=torch.Generator().manual_seed(len(inputs))))
        beside = save(folder / reference.name, {NAME: inputs[-1]})
        content.setdefault("references", {})[reference.name] = str(beside)
    for number, each in enumerate(declared.inputs.calibration):
        for entry, x in zip(content["models"], merged, strict=True):
            drawn = torch.rand(SHAPE, generator=torch.Generator().manual_seed(len(inputs)))
            inputs.append(drawn if each.shape == "same" else drawn.T @ drawn)
            assert each.shape_for(tuple(x.shape)) == inputs[-1].shape
            beside = save(folder / f"{number}-{len(inputs)}", {NAME: inputs[-1]})
            entry.setdefault("calibration", {})[each.name] = str(beside)
    with Reader() as reader:
        plan = with_magnitudes(
            ms.plan(content).plan, reader, NonFinite("error", reader), memory=1 << 24, threads=1
        )
    [task] = plan.tasks
    names = [p.name for p in declared.parameters if p.gradient and p.tunable]
    low = {p.name: p.minimum for p in declared.parameters if p.minimum is not None}
    high = {p.name: p.maximum for p in declared.parameters if p.maximum is not None}
    bounds = {n: (low.get(n, -10.0), high.get(n, 10.0)) for n in names}
    space = CoefficientSpace(plan, "tensor", names, bounds)
    return TensorFunction(task, space), inputs


@pytest.mark.parametrize("chosen", [False, True], ids=["all rows", "some rows"])
@pytest.mark.parametrize("method", [*WITH_GRADIENT, WRITTEN, WRITTEN_DENSE])
def test_gradients_are_those_of_differences(method: str, chosen: bool, tmp_path: Path) -> None:
    """Merged tensors are smooth in their coefficients but where signs change, which is rare."""
    function, inputs = made(method, tmp_path)
    rows = torch.tensor([3, 0, 20]) if chosen else None
    size = function.space.row_size
    row = torch.linspace(0.45, 0.75, size, dtype=torch.float64)
    slope = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    slope = slope if rows is None else slope[rows]
    found = function.reduce(inputs, row, slope, rows)
    assert found.shape == row.shape

    def loss(at: torch.Tensor) -> float:
        return float((function.make(inputs, at, torch.float32, rows).double() * slope).sum())

    # a decomposition in float32, whose error all raised singular values have, asks for a longer one
    step = 1e-2 if method == "subspace_boosting" else 1e-3
    for i in range(size):
        there = torch.zeros_like(row)
        there[i] = step
        difference = (loss(row + there) - loss(row - there)) / (2 * step)
        # the merged tensor is rounded to float32: 2**-24 * |W| * sqrt(n) / step
        assert abs(difference - float(found[i])) < 5e-3 * max(1.0, abs(difference)), i


@pytest.mark.parametrize("method", ["iso_c", "iso_cts", "star", "subspace_boosting", "tsv", "wudi"])
@pytest.mark.parametrize("case", ["weights of 0", "no task vector", "equal", "opposite"])
def test_there_is_a_gradient_where_nothing_is_left(method: str, case: str, tmp_path: Path) -> None:
    """Bounds reach 0, and a search may stand there."""
    function, (base, one, two) = made(method, tmp_path)
    value = 0.0 if case == "weights of 0" else 0.5
    row = torch.full((function.space.row_size,), value, dtype=torch.float64)
    given = {
        "weights of 0": [base, one, two], "no task vector": [base, base.clone(), base.clone()],
        "equal": [base, one, one.clone()], "opposite": [base, one, 2 * base - one],
    }[case]  # fmt: skip
    assert function.make(given, row, torch.float32).isfinite().all()
    assert function.reduce(given, row, torch.ones(SHAPE)).isfinite().all()


@pytest.mark.parametrize("method", [*WITH_GRADIENT, WRITTEN, WRITTEN_DENSE])
def test_a_model_that_multiplies_in_bfloat16_changes_no_weight(method: str, tmp_path: Path) -> None:
    function, inputs = made(method, tmp_path)
    size = function.space.row_size
    row = torch.linspace(0.45, 0.75, size, dtype=torch.float64)
    expected = function.make(inputs, row, torch.float32)
    again, _ = made(method, tmp_path / "again")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(again.make(inputs, row, torch.float32), expected)


def test_a_function_has_the_gradient_of_the_kernel(tmp_path: Path) -> None:
    """Task arithmetic written in torch, differentiated by autograd, and the fused backward pass."""
    written, inputs = made(WRITTEN, tmp_path / "written")
    fused, _ = made("task_arithmetic", tmp_path / "fused")
    slope = torch.randn(SHAPE, generator=torch.Generator().manual_seed(6))
    ours = written.reduce(inputs, torch.tensor([0.3, 0.8], dtype=torch.float64), slope)
    theirs = fused.reduce(inputs, torch.tensor([0.3, 0.8, 1.0], dtype=torch.float64), slope)
    # a float32 sum of 384 products against one in float64
    assert torch.allclose(ours, theirs[:2], rtol=1e-5)


def test_statistics_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mergesafe.tune.model import tensor_function

    asked: list[object] = []
    answer = tensor_function.answer

    def counting(request: Any, *rest: Any) -> Any:
        asked.append(request)
        return answer(request, *rest)

    monkeypatch.setattr(tensor_function, "answer", counting)
    function, inputs = made("ties", tmp_path)
    for weight in (0.2, 0.5):
        row = torch.tensor([weight, 0.4, 1.0], dtype=torch.float64)
        function.make(inputs, row, torch.float32)
        function.reduce(inputs, row, torch.ones(SHAPE))
    assert len(asked) == 1


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[object]:
    """A list that grows with every call of a decomposition of torch's."""
    calls: list[object] = []
    original = getattr(torch.linalg, name)

    def counting(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return original(*arguments, **options)

    monkeypatch.setattr(torch.linalg, name, counting)
    return calls


def test_what_a_dense_method_prepares_is_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, "svd")
    function, inputs = made("tsv", tmp_path)
    for number in (0.2, 0.9, 1.4):
        row = torch.tensor([number, 0.5, 1.0], dtype=torch.float64)
        function.make(inputs, row, torch.float32)
        function.reduce(inputs, row, torch.ones(SHAPE))
    assert len(calls) == 4  # of two task vectors, and two polar factors


def test_a_dense_direction_is_found_once_for_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factor on it changes nothing; a weight does, and so does a gradient of the weights."""
    calls = counted(monkeypatch, "eigh")
    function, inputs = made("iso_c", tmp_path)
    for alpha in (0.2, 0.9):
        function.make(inputs, torch.tensor([0.3, 0.5, alpha], dtype=torch.float64), torch.float32)
    assert len(calls) == 2  # one to see whether the task vectors have a low rank
    row = torch.tensor([0.4, 0.5, 1.0], dtype=torch.float64)
    function.make(inputs, row, torch.float32)
    assert len(calls) == 3
    function.reduce(inputs, row, torch.ones(SHAPE))
    assert len(calls) == 4


def test_equal_singular_values_have_a_gradient(tmp_path: Path) -> None:
    """Those of a rotation are equal; a derivative of singular vectors would divide by 0."""
    function, inputs = made("iso_c", tmp_path)
    rotation = torch.linalg.qr(inputs[1] - inputs[0]).Q
    inputs = [torch.zeros(SHAPE), rotation, 0.5 * rotation]
    slope = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    found = function.reduce(inputs, torch.tensor([0.6, 0.7, 1.0], dtype=torch.float64), slope)
    # the merged tensor is w_1 R + w_2 R / 2
    along = float((slope.double() * rotation.double()).sum())
    expected = torch.tensor([along, 0.5 * along, 0.95 * along], dtype=torch.float64)
    # a sum of 384 products of float32 numbers
    assert torch.allclose(found, expected, rtol=1e-5)


def test_weights_that_cancel_are_a_point_that_cannot_be(tmp_path: Path) -> None:
    function, inputs = made("linear", tmp_path)
    row = torch.tensor([0.5, -0.25, -0.25], dtype=torch.float64)
    with pytest.raises(PointError, match=r"sum to zero.*bounds that exclude such coefficients"):
        function.make(inputs, row, torch.float32)


def test_methods_without_a_gradient_are_named(tmp_path: Path) -> None:
    folders = [save(tmp_path / n, {NAME: x}) for n, x in zip("abc", tensors(2), strict=True)]
    content = recipe("ties", folders[1:], folders[0], each={"weight": 0.5, "density": 0.5})
    space = CoefficientSpace(ms.plan(content).plan, "tensor", ["density"])
    with pytest.raises(TuningError, match="'density' has no gradient"):
        check_differentiable(space)
