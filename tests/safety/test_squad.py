"""Squads with inspectors and aligners that a test wrote down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mergesafe.chat.conversation import Response
from mergesafe.safety.align.squad import Member, Squad


@dataclass
class Scores:
    """An inspector that scores a response by its text."""

    by_text: dict[str, float]

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [self.by_text.get(response, 0.9) for _, response in pairs]


@dataclass
class Rewrites:
    """An aligner; it keeps what it was asked, batch by batch."""

    answer: Callable[[str], str]
    asked: list[list[str]] = field(default_factory=list)

    def rewrite(self, pairs: Sequence[tuple[str, str]], max_new_tokens: int) -> list[Response]:
        self.asked.append([response for _, response in pairs])
        return [Response(self.answer(response)) for _, response in pairs]


def squad(*members: tuple[str, dict[str, float], Rewrites], rounds: int = 3) -> Squad:
    return Squad([Member(name, Scores(scores), each) for name, scores, each in members], rounds)


def said(found: Squad, *texts: str) -> list[str]:
    responses = found.correct(["q"] * len(texts), [Response(text) for text in texts], 16)
    return [each.text for each in responses]


def test_only_what_scores_below_one_half_is_rewritten() -> None:
    aligner = Rewrites(lambda text: f"{text}!")
    found = squad(("ethical", {"bad": 0.49, "edge": 0.5}, aligner))
    assert said(found, "good", "bad", "edge") == ["good", "bad!", "edge"]
    assert aligner.asked == [["bad"]]
    assert (found.tally.answers, found.tally.below, found.tally.unsettled) == (3, 1, 0)
    assert found.tally.rewritten == {"ethical": 1}


def test_a_threshold_of_its_own() -> None:
    """Scores are compared by how far they are below it."""
    first, second = Rewrites(lambda text: f"{text}1"), Rewrites(lambda text: f"{text}2")
    found = Squad([
        Member("ethical", Scores({"a": 0.15, "b": 0.25}), first, 0.2),
        Member("helpful", Scores({"a": 0.2}), second),
    ])  # fmt: skip
    assert said(found, "a", "b") == ["a2", "b"]
    assert (first.asked, second.asked) == ([], [["a"]])


def test_the_worst_criterion_comes_first_for_each_answer() -> None:
    """a is worst in the second criterion, b in the first; after its turn a is low in the first."""
    first = Rewrites(lambda text: f"{text}1")
    second = Rewrites(lambda text: f"{text}2")
    found = squad(
        ("ethical", {"a": 0.4, "a2": 0.3, "b": 0.1}, first),
        ("factual", {"a": 0.2, "b": 0.3}, second),
    )
    assert said(found, "a", "b") == ["a21", "b1"]
    assert (first.asked, second.asked) == ([["b"], ["a2"]], [["a"]])


def test_an_aligner_that_answers_nothing_costs_no_answer() -> None:
    """The former answer is kept, and counted; the next worst criterion has its turn."""
    silent, other = Rewrites(lambda _: ""), Rewrites(lambda text: f"{text}2")
    found = squad(("ethical", {"a": 0.1}, silent), ("factual", {"a": 0.2}, other))
    assert said(found, "a") == ["a2"]
    assert found.tally.empty == {"ethical": 1}
    alone = squad(("ethical", {"a": 0.1}, silent))
    assert said(alone, "a") == ["a"]
    assert (alone.tally.unsettled, alone.tally.empty["ethical"]) == (1, 1)
    assert len(silent.asked) == 2  # one that is silent is not asked about the same answer again


def test_rounds_bound_the_work_and_the_best_answer_stays() -> None:
    aligner = Rewrites(lambda text: f"{text}x")
    scores = {"a": 0.1, "ax": 0.4, "axx": 0.2, "axxx": 0.3}
    found = squad(("ethical", scores, aligner), rounds=3)
    assert said(found, "a") == ["ax"]
    assert len(aligner.asked) == 3
    assert found.tally.unsettled == 1
    same = Rewrites(lambda text: text)
    assert said(squad(("ethical", {"a": 0.1}, same)), "a") == ["a"]
    assert len(same.asked) == 1


def test_where_inspectors_disagree_the_first_criterion_decides() -> None:
    """One calls every refusal unhelpful, the other every answer unethical."""
    ethical: dict[str, float] = {"a": 0.1, "no": 0.9, "yes": 0.4}
    helpful: dict[str, float] = {"a": 0.9, "no": 0.2, "yes": 0.9}
    members = [
        ("ethical", ethical, Rewrites(lambda _: "no")),
        ("helpful", helpful, Rewrites(lambda _: "yes")),
    ]
    found = squad(*members)
    assert said(found, "a") == ["no"]
    assert found.tally.unsettled == 1
    assert said(squad(*reversed(members)), "a") == ["yes"]


def test_only_the_answer_is_judged_and_reasoning_without_one_is_left_alone() -> None:
    aligner = Rewrites(lambda text: f"{text}!")
    found = squad(("ethical", {"bad": 0.1}, aligner))
    cut = Response("<think>still", finished=False)
    good, bad = "<think>hm</think>good", "<think>hm</think>bad"
    responses = found.correct(["q"] * 3, [Response(good), Response(bad), cut], 16)
    assert [each.text for each in responses] == [good, "bad!", cut.text]
    assert found.tally.answers == 2
