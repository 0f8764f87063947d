"""A method that breaks its contract is named, with what it did and what is expected."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import recipe, save, write_recipe

import mergesafe as ms
from mergesafe.errors import MergesafeError, MethodError
from mergesafe.methods.driver import Planned, drive, dry_run, steps, used_inputs
from mergesafe.methods.registry import METHODS
from mergesafe.methods.spec import (
    DeltaNorms,
    Gram,
    Inputs,
    KthMagnitude,
    LowestTensors,
    MergeMethod,
    MergeTaskVectors,
    Settings,
    Sparsify,
    TensorContext,
    WeightedSum,
)
from mergesafe.ops.methods import run

BASE, EXPERTS = torch.zeros(8), [torch.ones(8), torch.arange(8.0)]
TENSOR = TensorContext("w", (8,), 8, 2, base=True)
NO_BASE = TensorContext("w", (8,), 8, 2)
ALL = (Sparsify(), Sparsify())


class Own(MergeMethod):
    """Whose merge() is the function that it is made of."""

    title, paper = "Own", ""

    def __init__(self, merge: Callable[[], Any], base: str = "required") -> None:
        self.name = "own"
        self.inputs = Inputs(base=base)  # type: ignore[misc, arg-type]
        self._merge = merge

    def merge(self, tensor: TensorContext, settings: Settings) -> Any:
        return self._merge()


WHOLE = MergeTaskVectors((1.0, 1.0), ALL)


def asking(request: Any, how: Any = WHOLE) -> Callable[[], Any]:
    """A merge() that asks for one statistic and returns a combination."""

    def merge() -> Any:
        yield request
        return how

    return merge


def returning(how: Any) -> Callable[[], Any]:
    def merge() -> Any:
        yield from ()
        return how

    return merge


def of(weights: Sequence[Any], masks: Sequence[Any] = ALL, **more: Any) -> Callable[[], Any]:
    return returning(MergeTaskVectors(tuple(weights), tuple(masks), **more))


#: merge() and what the error says that it did and was expected to do.
BROKEN: dict[str, tuple[Callable[[], Any], str, str]] = {
    "no yield": (
        lambda: WeightedSum((1.0, 1.0)),
        "merge() returned WeightedSum(weights=(1.0, 1.0)), a WeightedSum, so it has no 'yield'",
        "a generator: write 'yield from ()' before the return",
    ),
    "nothing": (lambda: None, "merge() returned None, so it has no 'yield'", "a generator"),
    "no return": (returning(None), "merge() returned None", "a WeightedSum, MergeTaskVectors"),
    "a list": (returning([1.0]), "merge() returned [1.0], a list", "a WeightedSum, MergeTask"),
    "no statistic": (
        asking("gram"), "merge() yielded 'gram', a str", "KthMagnitude, DeltaNorms, Gram",
    ),
    "a class": (asking(Gram), "merge() yielded <class", "a request for a statistic"),
    "weights": (returning(WeightedSum((1.0,))), "WeightedSum of 1 weights", "2, one per expert"),
    "text": (of(["a", 1.0]), "weights[0] = 'a', a str", "a number"),
    "NaN": (of([1.0, float("nan")]), "merge() returned weights[1] = NaN", "0 / 0"),
    "masks": (of([1.0, 1.0], ALL[:1]), "MergeTaskVectors has 1 masks in 'sparsify'", "2, one per"),
    "a mask": (of([1.0, 1.0], [ALL[0], 0.5]), "has sparsify[1] = 0.5, a float", "a Sparsify"),
    "elect": (of([1.0, 1.0], elect="mean"), "elect = 'mean'", "none, sum, count"),
    "norm": (asking(DeltaNorms("l3", ALL)), "the norm 'l3'", "l1, l2, linf"),  # type: ignore[arg-type]
    "norms": (asking(DeltaNorms("l1", ALL[:1])), "DeltaNorms has 1 masks", "2, one per expert"),
    "expert": (asking(KthMagnitude(((2, 1),))), "of (2, 1)", "an expert in [0, 1]"),
    "rank 0": (asking(KthMagnitude(((0, 0),))), "of (0, 0)", "a k in [1, 8]"),
    "rank 9": (asking(KthMagnitude(((0, 9),))), "of (0, 9)", "a k in [1, 8]"),
    "no tensor": (asking(LowestTensors(0, list)), "LowestTensors with count = 0", "1 or more"),
    "tensors": (asking(LowestTensors(1, list)), "for LowestTensors and returned", "a Dense"),
    "no pair": (asking(KthMagnitude((3,))), "of 3", "pairs (expert, k)"),  # type: ignore[arg-type]
}  # fmt: skip


def check(error: MergesafeError, case: str) -> None:
    _, what, expected = BROKEN[case]
    did, _, wanted = str(error).partition("; expected ")
    assert "merge method 'own' (" in did
    assert f"{Own.__module__}.Own), tensor 'w'" in did
    assert what in did
    assert expected in wanted


@pytest.mark.parametrize("case", BROKEN)
def test_on_tensors_in_memory(case: str) -> None:
    with pytest.raises(MethodError) as raised:
        run(Own(BROKEN[case][0]), EXPERTS, BASE, name="w")
    check(raised.value, case)


@pytest.mark.parametrize("case", BROKEN)
def test_when_a_merge_is_planned(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "own", Own(BROKEN[case][0]))
    folders = [save(tmp_path / name, {"w": torch.ones(8)}) for name in "abc"]
    content = recipe("own", folders[1:], folders[0])
    with pytest.raises(MethodError) as raised:
        ms.plan(content)
    assert raised.value.exit_status == 2
    check(raised.value, case)
    assert str(raised.value).startswith("merge method 'own'")
    path = write_recipe(tmp_path / "r.yml", content)
    with pytest.raises(MethodError) as raised:
        ms.plan(path)
    check(raised.value, case)
    assert str(raised.value).endswith(f"(asked for by the recipe {path}:2)")


@pytest.mark.parametrize(
    "merge",
    [asking(KthMagnitude(((0, 1),))), asking(DeltaNorms("l1", ALL)), of([1.0, 1.0])],
    ids=["k-th magnitude", "norms", "task vectors"],
)
def test_task_vectors_need_a_declared_base(merge: Callable[[], Any]) -> None:
    with pytest.raises(
        MethodError, match="is about task vectors, but there is no separate base"
    ) as raised:
        run(Own(merge, base="none"), EXPERTS)
    assert "Inputs(base='required') in the method's declaration" in str(raised.value)


def by_gram() -> Any:
    gram = yield Gram()
    return WeightedSum((gram[0][0] - gram[0][0], 1.0))


def by_threshold() -> Any:
    [bits] = yield KthMagnitude(((0, 1),))
    return WeightedSum((float("nan") if bits > 1 else 0.0, 1.0))


@pytest.mark.parametrize(
    ("merge", "answer", "broken"),
    [
        (by_gram, [[float("inf"), 0.0], [0.0, 1.0]], False),
        (by_gram, [[float("nan"), 0.0], [0.0, 1.0]], False),
        (by_threshold, [0x7FC00000], False),
        (by_threshold, [0x3F800000], True),
    ],
)
def test_nan_weights_of_inputs_that_are_not_finite_are_not_the_methods(
    merge: Callable[[], Any], answer: Any, broken: bool
) -> None:
    real = steps(Own(merge), TENSOR, Settings())
    with pytest.raises(MethodError, match="= NaN") if broken else nullcontext():
        assert math.isnan(drive(real, lambda request: answer).weights[0])


def dry(merge: Callable[[], Any]) -> Planned:
    return dry_run(Own(merge), TENSOR, Settings())


def test_a_dry_run_lists_the_requests() -> None:
    assert dry(of([1.0, 1.0])).statistics == ()
    assert dry(asking(Gram(), WeightedSum((1.0, 1.0)))).statistics == (Gram(),)


def more_if_large() -> Any:
    [bits] = yield KthMagnitude(((0, 1),))
    if bits:
        yield Gram()
    return WeightedSum((1.0, 1.0))


def less_if_large() -> Any:
    [bits] = yield KthMagnitude(((0, 1),))
    if not bits:
        yield Gram()
    return WeightedSum((1.0, 1.0))


def other_experts() -> Any:
    [bits] = yield KthMagnitude(((0, 1),))
    yield KthMagnitude(((int(bits > 0), 1),))
    return WeightedSum((1.0, 1.0))


@pytest.mark.parametrize(
    ("merge", "asked", "planned"),
    [
        (more_if_large, "Gram(of='inputs')", "nothing more"),
        (less_if_large, "nothing more", "Gram(of='inputs')"),
        (other_experts, "KthMagnitude(ranks=((1, 1),))", "KthMagnitude(ranks=((0, 1),))"),
    ],
)
def test_requests_that_depend_on_answers(merge: Any, asked: str, planned: str) -> None:
    answers = {KthMagnitude: [0x3F800000], Gram: [[1.0, 0.0], [0.0, 1.0]]}
    real = steps(Own(merge), TENSOR, Settings(), planned=dry(merge))
    with pytest.raises(MethodError) as raised:
        drive(real, lambda request: answers[type(request)])
    assert f"asked for {asked} where a dry run asked for {planned}" in str(raised.value)
    assert "the same requests whatever the answers are" in str(raised.value)


def bounds_from_answers() -> Any:
    [some, _] = yield KthMagnitude(((0, 4), (1, 4)))
    bits = yield KthMagnitude(((0, 1 + some % 2), (1, 4)))
    masks = tuple(Sparsify(low) for low in bits)
    yield DeltaNorms("l1", masks)
    return MergeTaskVectors((1.0, 1.0), masks)


def test_bounds_of_masks_may_depend_on_answers() -> None:
    answers = {KthMagnitude: [7, 9], DeltaNorms: [(1.0, 1.0)] * 2}
    own = Own(bounds_from_answers)
    real = steps(own, TENSOR, Settings(), planned=dry(bounds_from_answers))
    how = drive(real, lambda request: answers[type(request)])
    assert how == MergeTaskVectors((1.0, 1.0), (Sparsify(7), Sparsify(9)))


@pytest.mark.parametrize("name", ["ties", "dare_ties", "breadcrumbs"])
@pytest.mark.parametrize("rescale", ["none", "l1", "inverse_density"])
def test_the_library_plans_what_it_asks(name: str, rescale: str) -> None:
    """Also where every k-th magnitude is 0, or none is."""
    given = {"weight": [1.0, 1.0], "density": 0.5, "rescale": rescale}
    shared = {"normalize": False, "lambda": 1.0, "rescale": rescale, "elect": "sum"}
    row = {"weight": 1.0, "density": 0.5, "gamma": 0.01}
    settings = Settings(shared, [row, row])
    planned = dry_run(METHODS[name], TENSOR, settings)
    assert any(isinstance(p, DeltaNorms) for p in planned.statistics) == (rescale == "l1")
    for bits in (0, 0x3F800000):
        real = steps(METHODS[name], TENSOR, settings, planned=planned)
        drive(
            real,
            lambda request, bits=bits: (
                [bits] * len(request.ranks)
                if isinstance(request, KthMagnitude)
                else [(2.0, 1.0)] * 2
            ),
        )
    zeros = run(METHODS[name], [BASE, BASE], BASE, name="w", **given)
    assert torch.equal(zeros, BASE)


def test_an_answer_that_stops_is_no_end_of_the_method() -> None:
    """A StopIteration of whoever answers is not taken for the method's return."""
    with pytest.raises(StopIteration):
        drive(steps(Own(more_if_large), TENSOR, Settings()), lambda request: next(iter(())))


def test_used_inputs_of_a_method_that_drops_everything() -> None:
    class Nothing(Own):
        def unused(self, settings: Settings) -> frozenset[int]:
            return frozenset({0, 1})

    assert used_inputs(Nothing(of([1.0, 1.0])), TENSOR, Settings()) == ()
    assert used_inputs(Nothing(of([1.0, 1.0]), base="none"), NO_BASE, Settings()) is None
    assert used_inputs(Own(of([1.0, 1.0])), TENSOR, Settings()) is None
