"""Every input that is kept is read without a fault, and so are hundreds of changes of them."""

from __future__ import annotations

from random import Random

import pytest

from . import parts, trees
from .driver import fuzz
from .mutate import mutate
from .target import CORPUS, all_targets

TARGETS = all_targets()
#: Of each target; `make fuzz` runs thousands.
CASES, SECONDS = 20, 0.2


def test_every_target_has_seeds() -> None:
    assert len(TARGETS) > 30
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(each.entries for each in TARGETS.values())


def test_kept_and_changed_inputs() -> None:
    """Those that were findings once are among the kept ones; the changes are always the same."""
    found = list(fuzz(list(TARGETS), SECONDS, "tests", CASES))
    assert [each.target for each in found] == list(TARGETS)
    assert {each.target: list(each.findings) for each in found if each.findings} == {}
    assert all(each.cases >= len(TARGETS[each.target].entries) for each in found)


def test_changes_follow_from_the_seed() -> None:
    for each in TARGETS.values():
        first, last = each.seeds[0], each.seeds[-1]
        made = [mutate(Random(f"1 {i % 8}"), first, last, each.kind) for i in range(16)]
        assert made[:8] == made[8:]
        assert len(set(made)) > 4


def test_parts() -> None:
    files = {"a.json": b"{}", "b/c.yml": b"x: 1\n\ny", "empty": b""}
    assert parts.split(parts.join(files)) == files
    assert parts.split(b"nothing") == {}


def test_trees() -> None:
    text = b'{"a": [1, 2.5, null, "x"], "a": {"b": true}}'
    assert trees.dump(trees.parse(text)) == text
    with pytest.raises(ValueError, match="too deep"):
        trees.parse(b"[" * 100_000)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "memory", "error", "exit"])
def test_faults_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is another process, which knows the targets of the package: see faulty.py."""
    monkeypatch.setenv("MERGESAFE_FUZZ_FAULT", fault)
    [result] = fuzz(["faulty"], 3.0, "1")
    assert result.findings


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "error"])
def test_faults_are_found_by_coverage(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("atheris")
    monkeypatch.setenv("MERGESAFE_FUZZ_FAULT", fault)
    [result] = fuzz(["faulty"], 3.0, "1", guided=True)
    assert result.findings
