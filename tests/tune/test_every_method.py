"""Every registered method: what can be tuned, by which search, and that tuned is what is merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import read, recipe, same_bits, save, save_adapter

import mergesafe as ms
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.engine.plan.merge_plan import MergePlan, make_plan
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.engine.run.whole_model import with_magnitudes
from mergesafe.errors import RecipeError, TuningError
from mergesafe.methods.registry import METHODS
from mergesafe.methods.spec import MergeMethod
from mergesafe.recipe.load import load_recipe
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.objective.evaluation import Evaluates, Evaluation
from mergesafe.tune.results.tuned import rounded, tuned_text
from mergesafe.tune.search.registry import SEARCHES
from mergesafe.tune.section.coefficients import default_coefficients, tunable
from mergesafe.tune.section.read_section import read_section
from mergesafe.tune.section.sections import Budget, SearchSpec
from tune.models import make_models

from .quadratics import problem
from .test_merged_model import batch_of

TUNED = [name for name, method in METHODS.items() if tunable(method)]
FIXED = [name for name in METHODS if name not in TUNED]
MOST = 2


class Loss(Evaluates):
    """Cross-entropy of a few answers."""

    def __init__(self, merged: MergedModel) -> None:
        self.merged = merged

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        batch, _ = batch_of()
        if not grad:
            return Evaluation(self.merged.loss(batch, x), {}, None, 1, 1)
        value, gradient = self.merged.loss_and_grad(batch, x)
        return Evaluation(value, {}, gradient, 1, 1)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """A recipe for a method, with two models or as many as it takes, and all that it needs."""
    folder = tmp_path_factory.mktemp("every")
    base, *experts = make_models(folder, experts=3)
    adapters = [save_adapter(folder / f"adapter{i}", read(base), i) for i in range(MOST)]
    beside: dict[tuple[str, int], Path] = {}
    for number, path in enumerate((base, *experts)):
        draw = torch.Generator().manual_seed(number)
        same = {n: torch.rand(x.shape, generator=draw) + 0.1 for n, x in read(path).items()}
        grams = {n: x.T @ x for n, x in same.items() if x.ndim == 2 and ".layers." in n}
        beside["same", number] = save(folder / f"same{number}", same)
        beside["columns", number] = save(folder / f"columns{number}", grams)

    def made(name: str) -> dict[str, Any]:
        method = METHODS[name]
        takes = method.inputs
        count = min(MOST, takes.most or MOST)
        models: list[Path | str] = [*experts[:count]]
        if takes.adapters:
            models = [f"{base}+{path}" for path in adapters]
        if takes.base == "member":
            models = [base, *experts[: count - 1]]
        values = {p.name: 0.4 for p in method.parameters if p.required}
        per_model = {p.name for p in method.parameters if p.scope != "global"}
        found = recipe(
            name, models, None if takes.base in ("none", "optional") else base, dtype="float32",
            each={n: v for n, v in values.items() if n in per_model},
            parameters={n: v for n, v in values.items() if n not in per_model},
        )  # fmt: skip
        for each in takes.calibration:
            for number, entry in enumerate(found["models"], 1):
                entry.setdefault("calibration", {})[each.name] = str(beside[each.shape, number])
        if takes.references:
            found["references"] = {each.name: str(experts[2]) for each in takes.references}
        return found

    return made


def plan_of(content: dict[str, Any]) -> MergePlan:
    """Knowing the magnitudes of the whole model that the method asks for."""
    plan = make_plan(load_recipe(content), max_shard_size=1 << 40, seed=0)
    with Reader() as reader:
        return with_magnitudes(plan, reader, NonFinite("error", reader), memory=1 << 26, threads=1)


@contextmanager
def opened(content: dict[str, Any], *, gradient: bool) -> Iterator[MergedModel]:
    plan = plan_of(content)
    names = default_coefficients(plan.recipe.method, gradient=gradient)
    names = names if gradient else tuple(n for n in names if n != "density")
    with MergedModel(plan, CoefficientSpace(plan, "layer", names), dtype="float32") as merged:
        yield merged


def options(search: str, space: CoefficientSpace) -> dict[str, Any]:
    """Few points, within the bounds."""
    low, high = (float(bound[0]) for bound in space.bounds)
    return {
        "gradient": {"rate": 0.01, "patience": 0, "check_every": 1},
        "cmaes": {"sigma": 1 / 6, "population": 2}, "grid": {"values": ((low + high) / 2,)},
        "lm_cocktail": {"temperature": 1.0}, "random": {},
    }[search]  # fmt: skip


def takes(search: str, method: MergeMethod, space: CoefficientSpace) -> bool:
    """Whether the search says that it finds these coefficients."""
    if search == "gradient":
        return space.differentiable
    return search != "lm_cocktail" or bool({"weight", "t"} & set(space.names))


@pytest.mark.parametrize("name", TUNED)
def test_every_search_finds_what_it_says_it_finds(
    name: str, content: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    with opened(content(name), gradient=True) as merged:
        space, start = merged.space, merged.space.initial()
        for search in SEARCHES:
            spec = SearchSpec(search, options(search, space), Budget(steps=2))
            if not takes(search, METHODS[name], space):
                with pytest.raises(TuningError, match=r"has no gradient|neither is among"):
                    SEARCHES[search].check(space, spec)
                continue
            if search == "lm_cocktail" and space.bounds[1].min() < 1:
                with pytest.raises(TuningError, match="must hold 0 and 1"):
                    SEARCHES[search].check(space, spec)
                continue
            SEARCHES[search].check(space, spec)
            folder = tmp_path / search
            folder.mkdir()
            made = problem(folder, Loss(merged), space)
            x = SEARCHES[search].run(made, start, spec)
            assert x.isfinite().all()
            assert torch.equal(x, space.clamp(x))
            assert made.history


@pytest.mark.parametrize("name", TUNED)
def test_the_tuned_recipe_merges_to_the_weights_that_were_tuned(
    name: str, content: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    with opened(content(name), gradient=False) as merged:
        space = merged.space
        low, high = space.bounds
        draw = torch.rand(space.size, generator=torch.Generator().manual_seed(1)).double()
        x = rounded(space, low + (high - low) * draw)
        out = tmp_path / "tuned.yml"
        out.write_text(tuned_text(merged.plan.recipe, space, x, "about"))
        ms.merge(out, tmp_path / "merged")
        written = read(tmp_path / "merged")
        with merged.using(x):
            for tensor, weight in merged._weights.items():
                made = weight.make(torch.float32)
                if weight.task.exact == "bits":
                    assert same_bits(made, written[tensor]), tensor
                else:
                    # linear algebra in float32 on other copies of the same numbers
                    assert torch.allclose(made, written[tensor], rtol=0, atol=1e-4), tensor


@pytest.mark.parametrize("name", FIXED)
def test_methods_with_nothing_to_tune_say_so(
    name: str, content: Callable[[str], dict[str, Any]]
) -> None:
    with pytest.raises(TuningError, match=f"{name} has no coefficient to tune; choose another"):
        CoefficientSpace(plan_of(content(name)))
    section = {"data": [{"path": "s.jsonl", "role": "safety"}]}
    with pytest.raises(RecipeError, match=f"{name} has no parameter that tuning can find"):
        read_section(load_recipe(content(name) | {"tune": section}))
