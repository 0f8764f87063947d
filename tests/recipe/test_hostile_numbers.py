"""Numbers that are too long, and what is told of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mergesafe.errors import ArgumentError, RecipeError
from mergesafe.recipe.load import load_recipe
from mergesafe.recipe.nodes import NUMBER
from mergesafe.safety.gate.requirement import parse_requirement

DIGITS = "9" * 100_000


def test_forms() -> None:
    for text in ("1", "-1.", "+.5", "1.5e-3", "1e5", "0.1E+2"):
        assert NUMBER.fullmatch(text)
    for text in ("", ".", "1e", "e5", "1.2.3", "--1", "1_0", "٣", "0x1"):
        assert not NUMBER.fullmatch(text)


def test_long_numbers_take_no_time() -> None:
    began = time.process_time()
    assert NUMBER.fullmatch(DIGITS)
    for text in (DIGITS + "x", f"{DIGITS}.{DIGITS}x", f"1e{DIGITS}x"):
        assert not NUMBER.fullmatch(text)
        with pytest.raises(ArgumentError):
            parse_requirement(f"safe_rate>={text}")
    assert time.process_time() - began < 2


@pytest.mark.parametrize("key", ["weight: {}", "weight: -{}", "weight: [{}, 1]", "normalize: {}"])
def test_messages_stay_short(key: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    parameters = key.format(DIGITS)
    path.write_text(f"merge_method: linear\nmodels: [a, b]\nparameters: {{{parameters}}}\n")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert len(str(error.value)) < 1000


def test_the_name_of_a_file_with_a_zero_byte(tmp_path: Path) -> None:
    from mergesafe.safety.policy import read_policy

    with pytest.raises(RecipeError, match="cannot be read: embedded null byte"):
        read_policy(Path("a\0b"))
