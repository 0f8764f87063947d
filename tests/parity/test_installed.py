"""The installed mergekit on the whole matrix, and on random recipes (skipped where there is none).

`make parity` runs all of it, with more examples.
"""

from __future__ import annotations

import os
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import read

import mergesafe
from mergesafe.errors import MergesafeError

from .compare import (
    assert_equal,
    assert_equal_but_rounding,
    assert_equal_or_nearer,
    assert_rounded,
)
from .differences import HEAD, refused_by_mergekit, refused_on_purpose
from .families import Kind, kinds
from .matrix import product, save_all
from .peer import Mergekit
from .recipes import Recipe, placed, recipes
from .token_recipes import Case, by_token, cases

EXAMPLES = int(os.environ.get("PARITY_EXAMPLES", "40"))
_numbers = count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("installed")
    save_all(made)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("case", list(product()), ids=str)
def test_the_whole_product(case: Any, folder: Path, mergekit: Mergekit) -> None:
    """In float32, and what mergekit rounds when it writes 16 bits of it."""
    ours, theirs = folder / f"{case} ours", folder / f"{case} theirs"
    recipe = case.recipe(folder, dtype="float32")
    assert mergekit.merge(recipe, theirs) is None
    mergesafe.merge(recipe, ours)
    assert_equal(read(ours), read(theirs))
    rounded = folder / f"{case} rounded"
    assert mergekit.merge({**recipe, "out_dtype": "bfloat16"}, rounded) is None
    assert_rounded(read(rounded), read(theirs), torch.bfloat16)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(recipes())
def test_random_recipes(folder: Path, mergekit: Mergekit, recipe: dict[str, Any]) -> None:
    """Both refuse, or both merge to the same, or the difference is on purpose.

    Where both round what then is amplified, mergekit's merge in float64 says who is nearer.
    """
    number = next(_numbers)
    ours, theirs = folder / f"ours {number}", folder / f"theirs {number}"
    written = placed(recipe, str(folder))
    reason = mergekit.merge(written, theirs)
    refusal = refusal_of(written, ours)
    if reason is None and refusal is None:
        found = read(ours), read(theirs)
        try:
            assert_equal(*found)
        except AssertionError:
            exact = folder / f"exact {number}"
            assert mergekit.merge({**written, "dtype": "float64"}, exact) is None
            assert_equal_or_nearer(*found, read(exact))
    elif reason is None:
        assert refused_on_purpose(str(refusal)), refusal
    elif refusal is None:
        assert refused_by_mergekit(reason), reason
    for out in (ours, theirs):
        shutil.rmtree(out, ignore_errors=True)


@settings(
    max_examples=max(EXAMPLES // 4, 10),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(recipes().flatmap(lambda each: st.tuples(st.just(each), kinds(each["merge_method"]))))
def test_random_recipes_of_other_models(
    folder: Path, mergekit: Mergekit, drawn: tuple[Recipe, Kind]
) -> None:
    """Tied and biased models, in 16 bits and in shards, written in 16 bits."""
    recipe, kind = drawn
    written = placed(kind.recipe(recipe), str(kind.save(folder)))
    number = next(_numbers)
    ours, theirs = folder / f"ours {number}", folder / f"theirs {number}"
    reason, refusal = mergekit.merge(written, theirs), refusal_of(written, ours)
    if reason is None and refusal is None:
        found = read(ours), read(theirs)
        if kind.tied and HEAD not in found[1]:  # a stack that ends otherwise than it begins
            found[0].pop(HEAD, None)
        try:
            if kind.out is None:
                assert_equal(*found)
            else:
                assert_equal_but_rounding(*found, kind.dtype)
        except AssertionError:
            exact = folder / f"exact {number}"
            in_full = {key: each for key, each in written.items() if key != "out_dtype"}
            assert mergekit.merge({**in_full, "dtype": "float64"}, exact) is None
            assert_equal_or_nearer(*found, read(exact))
    elif reason is None:
        assert refused_on_purpose(str(refusal)), refusal
    elif refusal is None:
        assert refused_by_mergekit(reason), reason
    for out in (ours, theirs):
        shutil.rmtree(out, ignore_errors=True)


@settings(
    max_examples=max(EXAMPLES // 4, 10),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(cases())
def test_random_tokens(folder: Path, mergekit: Mergekit, case: Case) -> None:
    """Models of other tokenizers: the same tokens, and each has the same row."""
    place = folder / f"tokens {next(_numbers)}"
    recipe = case.save(place)
    reason, refusal = mergekit.merge(recipe, place / "theirs"), refusal_of(recipe, place / "ours")
    if refusal is not None:
        assert reason is not None or refused_on_purpose(refusal), refusal
    else:
        assert reason is None, reason
        assert_equal(by_token(place / "ours"), by_token(place / "theirs"))
    shutil.rmtree(place)


def refusal_of(recipe: dict[str, Any], out: Path) -> str | None:
    """What mergesafe says in place of merging."""
    try:
        mergesafe.merge(recipe, out)
    except MergesafeError as error:
        return str(error)
    return None
