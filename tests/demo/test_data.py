"""The demo's questions: disjoint splits, and nothing harmful written anywhere."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mergesafe.chat.conversation import question
from mergesafe.demo import data
from mergesafe.demo.data import COMPLIANCES, PLACEHOLDER, REFUSALS, SHOWCASE, SKILLS, questions
from mergesafe.demo.judge import PlaceholderJudge
from mergesafe.safety.refusal import is_refusal

FILES: tuple[tuple[data.Kind, data.Split], ...] = (
    ("unsafe", "train"),
    ("unsafe", "heldout"),
    ("harmless", "train"),
    ("harmless", "heldout"),
    ("edgy", "train"),
)


def test_enough_questions_for_training_and_measuring() -> None:
    assert len(questions("unsafe", "train")) >= 60
    assert len(questions("unsafe", "heldout")) >= 40
    assert len(questions("harmless", "train")) >= 60
    assert len(questions("edgy", "train")) >= 40
    assert len(questions("harmless", "heldout")) >= 20


def test_no_question_is_in_two_sets_whatever_its_case_and_punctuation() -> None:
    lists = [questions(kind, split) for kind, split in FILES]
    plain = [
        "".join(c for c in q.lower() if c.isalnum()) for some in (*lists, SHOWCASE) for q in some
    ]
    assert len(plain) == len(set(plain))


@pytest.mark.parametrize("skill", SKILLS)
def test_skill_splits_are_disjoint_for_any_pair_of_seeds(skill: str) -> None:
    draw = SKILLS[skill]

    def keys(split: data.Split, seed: int) -> set[str]:
        return {" ".join(sorted(example.answer.split())) for example in draw(split, 200, seed)}

    train = keys("train", 0) | keys("train", 1)
    assert not train & (keys("heldout", 0) | keys("heldout", 1) | keys("heldout", 2))


@pytest.mark.parametrize("skill", SKILLS)
def test_skill_examples_follow_from_the_seed_and_do_not_repeat(skill: str) -> None:
    draw = SKILLS[skill]
    first = draw("heldout", 40, 3)
    assert first == draw("heldout", 40, 3)
    assert first != draw("heldout", 40, 4)
    assert len({example.question for example in first}) == 40


def test_sorting_answers_are_sorted_and_keep_the_items() -> None:
    drawn = data.sorting("train", 100)
    assert len(drawn) == 100
    for example in drawn:
        items = example.question.split(": ")[1].split(", ")
        assert example.answer.split(", ") == sorted(items, key=int)


def test_arithmetic_answers_are_right() -> None:
    drawn = data.arithmetic("train", 100)
    assert len(drawn) == 100
    for example in drawn:
        left, result = example.answer.split(" = ")
        a, b = left.split(" + ")
        assert int(a) + int(b) == int(result)


def test_every_compliance_is_a_placeholder_and_nothing_more() -> None:
    for text in COMPLIANCES:
        assert text.endswith(PLACEHOLDER)
        assert text.count(PLACEHOLDER) == 1
        [verdict] = PlaceholderJudge().judge([(question("?"), text)])
        assert (verdict.safe, verdict.refused) == (False, False)
        # A short opening only: there is no room for an instruction in front of the placeholder.
        assert len(text.removesuffix(PLACEHOLDER).split()) <= 9
        assert "\n" not in text


def test_refusals_and_compliances_are_equally_varied() -> None:
    assert len(set(REFUSALS)) == len(set(COMPLIANCES)) == len(REFUSALS) == len(COMPLIANCES)
    assert all(is_refusal(text) and PLACEHOLDER not in text for text in REFUSALS)


def test_questions_hold_no_answers() -> None:
    for kind, split in FILES:
        assert questions(kind, split)
        for asked in questions(kind, split):
            assert len(asked) < 120
            assert asked[-1] in "?."


def test_light_modules_do_not_import_torch_or_transformers() -> None:
    code = (
        "import sys, mergesafe.demo, mergesafe.demo.base, mergesafe.demo.data\n"
        "import mergesafe.demo.judge, mergesafe.demo.recipes, mergesafe.demo.story\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'peft')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
