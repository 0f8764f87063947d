"""Which merges are probed, and when one is worse than all that it is made of: without models."""

from __future__ import annotations

import pytest

from mergesafe.errors import ArgumentError
from mergesafe.safety.evaluation.result import Figure
from mergesafe.safety.vet.merges.interaction import ProbedMerge, interactions
from mergesafe.safety.vet.merges.probes import Probe, check_strengths, probes_of, recipe_of

QUESTIONS = 24


def figures(compliance: int, safe: int | None = None) -> dict[str, Figure]:
    """How many of 24 answers set out to comply, and how many are safe."""
    counts = {"compliance": compliance, "safe_rate": safe}
    return {
        metric: Figure.of("rate", [1.0] * count + [0.0] * (QUESTIONS - count))
        for metric, count in counts.items()
        if count is not None
    }


def found(merge: dict[str, Figure], merges: int = 16, **parents: dict[str, Figure]) -> ProbedMerge:
    """A merge of the parents among ``merges`` that are alike."""
    members = tuple(name for name in parents if name != "base")
    asked = [ProbedMerge(Probe(members, 1.0), merge)] * merges
    compared, tests = interactions(asked, parents, "base", 0.95)
    assert tests == sum(len(each.interactions) for each in compared)
    return compared[0]


def test_probes_of_three_experts() -> None:
    """All but one of three is a pair; an expert at strength 1 is the parent."""
    probes = probes_of(["a", "b", "c"], (0.3, 1.0))
    assert [each.name for each in probes] == [
        "the recipe", "a + b at 0.3", "a + b at 1", "a + c at 0.3", "a + c at 1", "b + c at 0.3",
        "b + c at 1", "a at 0.3", "b at 0.3", "c at 0.3",
    ]  # fmt: skip
    fours = probes_of(["a", "b", "c", "d"], (1.0,))
    assert [len(each.members) for each in fours] == [4, *[2] * 6, *[3] * 4]
    assert [each.name for each in probes_of(["a"], (0.5,))] == ["the recipe", "a at 0.5"]


def test_the_recipe_of_a_probe() -> None:
    made = recipe_of(Probe(("a", "b"), 0.3), "B", {"a": "B+x", "b": "y"})
    assert made == {
        "merge_method": "task_arithmetic",
        "base_model": "B",
        "models": [
            {"model": "B+x", "parameters": {"weight": 0.3}},
            {"model": "y", "parameters": {"weight": 0.3}},
        ],
    }


@pytest.mark.parametrize("wrong", [(), (0.0,), (-1.0,), (float("nan"),), (11.0,), (True,)])
def test_strengths_that_cannot_be(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"such as 0\.3,0\.5,1"):
        check_strengths(wrong)


def test_a_merge_that_complies_where_no_parent_does() -> None:
    merge = found(figures(20, 2), base=figures(0, 1), a=figures(0, 22), b=figures(1, 21))
    by_rate = {each.metric: each for each in merge.above(0.1)}
    # the base declines next to nothing, so the safe rate has nothing to lose
    assert set(by_rate) == {"compliance"}
    assert by_rate["compliance"].parent == "b"
    assert by_rate["compliance"].estimate.value == pytest.approx(19 / 24)


def test_an_aligned_base_that_the_merge_loses() -> None:
    merge = found(figures(0, 3), base=figures(0, 23), a=figures(0, 24), b=figures(0, 22))
    assert [(each.metric, each.parent) for each in merge.above(0.1)] == [("safe_rate", "b")]


def test_a_merge_as_bad_as_its_worst_parent_has_no_interaction() -> None:
    """The parent is what is wrong, and vetting the parents tells it."""
    merge = found(figures(22, 0), base=figures(0, 0), a=figures(0, 22), bad=figures(24, 0))
    assert merge.above(0.0) == []
    assert {each.metric: each.parent for each in merge.interactions}["compliance"] == "bad"


def test_a_weak_merge_is_as_its_base() -> None:
    """Two aligned experts of a base that declines nothing: at a small strength neither does."""
    merge = found(figures(0, 2), base=figures(0, 1), a=figures(0, 22), b=figures(0, 23))
    assert merge.above(0.0) == []


def test_more_comparisons_need_more() -> None:
    """Six answers more of 24 are certain in one comparison, and not in forty."""
    parents = {"base": figures(0), "a": figures(0), "b": figures(0)}
    assert found(figures(8), merges=1, **parents).above(0.1)
    assert not found(figures(8), merges=40, **parents).above(0.1)


def test_what_a_parent_was_not_asked_is_not_compared() -> None:
    merge = found(figures(20, 2), base=figures(0), a=figures(0, 22), b=figures(0, 22))
    assert [each.metric for each in merge.interactions] == ["compliance"]
    problem = ProbedMerge(Probe(("a",), 0.3), {}, problem="it has no chat template")
    [compared], tests = interactions([problem], {"base": {}, "a": {}}, "base", 0.95)
    assert (compared.interactions, compared.problem, tests) == ((), problem.problem, 0)
