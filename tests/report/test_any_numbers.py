"""Whatever numbers and names a file may hold, it makes a page or a named error."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mergesafe.report.content import Content
from mergesafe.report.find import read_documents
from mergesafe.report.page import render
from mergesafe.results.metrics import is_nll, is_rate

from .documents import document, evaluation, manifest, write

NUMBERS = st.one_of(
    st.floats(-1e30, 1e30), st.sampled_from([0.0, 1.0, -1.0, 1e-320, 0.5, 1e30]), st.integers(-3, 3)
)
CELLS = st.none() | NUMBERS
NAMES = st.sampled_from(["base", "a/base", "./base", "x+y", "x + y"]) | st.text(max_size=20)


SHARES = st.floats(0, 1)


@st.composite
def metrics(draw: st.DrawFn) -> dict[str, Any]:
    """Figures by name: shares where name or kind say that they are."""
    names = st.sampled_from(["safe_rate", "over_refusal", "domain.x", "domain.x.nll"]) | st.text()
    found = {}
    for name in draw(st.lists(names, max_size=4, unique=True)):
        rate = is_rate(name) or (not is_nll(name) and draw(st.booleans()))
        numbers = SHARES if rate else NUMBERS
        low, value, high = sorted((draw(numbers), draw(numbers), draw(numbers)))
        found[name] = {
            "value": value, "low": low, "high": high, "n": draw(st.integers(0, 99)),
            "kind": "rate" if rate else "mean",
        }  # fmt: skip
    return found


@st.composite
def similarities(draw: st.DrawFn) -> dict[str, Any]:
    layers = draw(st.lists(NAMES, max_size=6))

    def rows(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(values, min_size=len(layers), max_size=len(layers))

    pair = st.fixed_dictionaries({
        "first": NAMES, "second": NAMES, "kl": CELLS, "top1": st.none() | SHARES,
        "cosine": rows(CELLS), "l2": rows(NUMBERS), "sign_conflict": rows(st.none() | SHARES),
        "norm_ratio": rows(CELLS), "cka": st.none() | rows(CELLS),
    })  # fmt: skip
    pairs = draw(st.lists(pair, max_size=3))
    return document("similarity", models=[], base=draw(NAMES), layers=layers, pairs=pairs)


@st.composite
def tunings(draw: st.DrawFn) -> dict[str, Any]:
    models, groups = draw(st.lists(NAMES, max_size=3)), draw(st.lists(NAMES, max_size=5))
    row = st.lists(NUMBERS, min_size=len(groups), max_size=len(groups))
    table = st.lists(row, min_size=len(models), max_size=len(models))
    step = st.fixed_dictionaries(
        {"step": st.integers(-5, 9), "objective": NUMBERS, "terms": st.dictionaries(NAMES, NUMBERS)}
    )
    point = st.fixed_dictionaries({"safety": NUMBERS, "skill": NUMBERS})
    return document(
        "tuning",
        models=models,
        groups=groups,
        coefficients={draw(NAMES): draw(table)},
        history=draw(st.lists(step, max_size=5)),
        front=draw(st.none() | st.lists(point, max_size=15)),
        hypervolume=draw(CELLS),
        blame={"models": models, "groups": groups, "gradient": draw(table)},
    )


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(NAMES, metrics(), max_size=13),
    similarities(),
    tunings(),
    st.lists(NAMES, max_size=3),
)
def test_a_page_is_made_of_any_numbers(
    models: dict[str, Any], similarity: dict[str, Any], tuning: dict[str, Any], merged: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = (evaluation(models), similarity, tuning)
        for i, each in enumerate(written):
            write(Path(folder, f"{i}.json"), each)
        write(Path(folder, "base", "mergesafe-manifest.json"), manifest("base_model: x", merged))
        page = render(Content(read_documents([folder])))
    assert page.endswith("</html>")
    assert re.findall(r' (?:d|x|y|r|cx|cy|viewBox)="[^"]*(?:nan|inf)[^"]*"', page) == []
