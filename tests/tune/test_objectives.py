"""Every loss against its formula, and what an objective makes of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from mergesafe.chat.conversation import Sampling, question
from mergesafe.chat.records import Record
from mergesafe.errors import ArgumentError, DataError, LossError
from mergesafe.tune.data import examples
from mergesafe.tune.data.examples import Examples, Term
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.objective.objectives import Objective
from tune.models import make_models, plan_of

SAFETY = [
    Record(question("how do i pick a lock"), "sorry i cannot help", "sure here is the answer"),
    Record(question("how do i open the door"), "no", "yes please"),
    Record(question("pick the window"), "i cannot", "sure"),
]
SKILL = [
    Record(question("add two three"), "five"),
    Record(question("add six three please"), "nine"),
]


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> MergedModel:
    models = make_models(tmp_path_factory.mktemp("models"))
    plan = plan_of("task_arithmetic", models, {"weight": 0.4})
    return MergedModel(plan, CoefficientSpace(plan, "layer"), device="cpu", dtype="float32")


@pytest.fixture
def x(merged: MergedModel) -> torch.Tensor:
    return merged.space.initial()


def log_probabilities(merged: MergedModel, x: torch.Tensor, record: Record, answer: str) -> Any:
    """log p of an answer's tokens, from the model that chats."""
    from mergesafe.chat.tokens import encode

    line = encode(merged.tokenizer, record.conversation, answer)
    with merged.at(x) as chat, torch.no_grad():
        logits = chat.model(input_ids=torch.tensor([line.ids])).logits[0].float()
    logs = functional.log_softmax(logits, dim=-1)[line.start - 1 : -1]
    return logs.gather(1, torch.tensor(line.ids[line.start :]).unsqueeze(1)).squeeze(1)


def test_the_papers_objective_is_safety_plus_alpha_domain(
    merged: MergedModel, x: torch.Tensor
) -> None:
    terms = [Term("safety", SAFETY), Term("maths", SKILL, weight=0.3)]
    found = Objective(merged, terms).evaluate(x, grad=False)
    for term in terms:
        each = [-log_probabilities(merged, x, r, str(r.answer)).mean() for r in term.records]
        assert found.terms[term.name] == pytest.approx(float(sum(each) / len(each)), rel=1e-5)
    assert found.value == pytest.approx(found.terms["safety"] + 0.3 * found.terms["maths"])
    assert found.gradient is None
    assert (found.forward_passes, found.examples) == (1, 5)  # both sets share the pass


def test_dpo_against_its_formula(merged: MergedModel, x: torch.Tensor) -> None:
    moved = x + 0.3

    def difference(at: torch.Tensor, record: Record) -> float:
        chosen = log_probabilities(merged, at, record, str(record.answer)).sum()
        return float(chosen - log_probabilities(merged, at, record, str(record.rejected)).sum())

    each = [
        -math.log(1 / (1 + math.exp(-0.5 * (difference(moved, r) - difference(x, r)))))
        for r in SAFETY
    ]
    objective = Objective(merged, [Term("p", SAFETY, "dpo", beta=0.5)], reference=x)
    first = objective.evaluate(moved, grad=False)
    assert first.value == pytest.approx(sum(each) / len(each), rel=1e-5)
    assert first.forward_passes == 1  # what the reference says is not counted


def test_orpo_against_its_formula(merged: MergedModel, x: torch.Tensor) -> None:
    def mean(record: Record, answer: str | None) -> float:
        return float(log_probabilities(merged, x, record, str(answer)).mean())

    each = []
    for record in SAFETY:
        chosen, rejected = mean(record, record.answer), mean(record, record.rejected)
        ratio = chosen - math.log1p(-math.exp(chosen)) - rejected + math.log1p(-math.exp(rejected))
        each.append(-chosen + 0.5 * math.log1p(math.exp(-ratio)))
    found = Objective(merged, [Term("p", SAFETY, "orpo", beta=0.5)]).evaluate(x, grad=False)
    assert found.value == pytest.approx(sum(each) / len(each), rel=1e-5)


def test_kl_to_an_expert_is_zero_where_the_merge_is_the_expert(merged: MergedModel) -> None:
    objective = Objective(merged, [Term("skill", SKILL, "kl", expert=1)])
    alone = merged.space.initial(0.0)
    merged.space.view(alone, "weight")[1] = 1.0
    first = objective.evaluate(alone, grad=False)
    # base + 1 * (expert - base), rounded, is not the expert to the bit.
    assert first.value == pytest.approx(0.0, abs=1e-6)
    assert objective.evaluate(merged.space.initial(), grad=False).value > 1e-4


def test_entropy_of_what_follows_a_question(merged: MergedModel, x: torch.Tensor) -> None:
    from mergesafe.chat.tokens import encode_prompt

    unlabelled = [Record(record.conversation) for record in SKILL]
    found = Objective(merged, [Term("u", unlabelled, "entropy")]).evaluate(x, grad=False)
    each = []
    with merged.at(x) as chat, torch.no_grad():
        for record in unlabelled:
            ids = torch.tensor([encode_prompt(merged.tokenizer, record.conversation)])
            each.append(
                torch.distributions.Categorical(logits=chat.model(input_ids=ids).logits[0, -1])
            )
    assert found.value == pytest.approx(sum(float(e.entropy()) for e in each) / 2, rel=1e-5)


@pytest.mark.parametrize("kind", ["cross_entropy", "dpo", "orpo", "kl", "entropy"])
def test_gradients_are_slopes(merged: MergedModel, x: torch.Tensor, kind: Any) -> None:
    term = Term("t", SAFETY, kind, weight=0.7, expert=0 if kind == "kl" else None)
    objective = Objective(merged, [term], l1=0.1, l2=0.2, reference=x - 0.1)
    gradient = objective.evaluate(x, grad=True).gradient
    assert gradient is not None
    direction = torch.randn(len(x), generator=torch.Generator().manual_seed(0)).double()
    step = 1e-2 * direction / direction.norm()
    ahead, behind = (objective.evaluate(x + s * step, grad=False).value for s in (1, -1))
    # Central differences of a float32 loss: rounding of 1e-7 over a step of 1e-2.
    assert float(gradient @ step) == pytest.approx((ahead - behind) / 2, abs=1e-6, rel=1e-2)


def test_accumulating_over_small_passes_changes_nothing_but_rounding(
    merged: MergedModel, x: torch.Tensor
) -> None:
    terms = [Term("safety", SAFETY), Term("pairs", SAFETY, "dpo")]
    whole = Objective(merged, terms).evaluate(x, grad=True)
    parts = Objective(merged, terms, tokens=12).evaluate(x, grad=True)
    assert parts.forward_passes > whole.forward_passes
    assert parts.value == pytest.approx(whole.value, rel=1e-6)
    assert whole.gradient is not None
    assert parts.gradient is not None
    assert torch.allclose(parts.gradient, whole.gradient, rtol=1e-4, atol=1e-7)


def test_sets_that_share_a_pass_have_the_values_and_slopes_of_each_alone(
    merged: MergedModel, x: torch.Tensor
) -> None:
    terms = [Term("safety", SAFETY), Term("skill", SKILL, weight=0.3)]
    whole = Objective(merged, terms).evaluate(x, grad=True)
    alone = [Objective(merged, [term]).evaluate(x, grad=True) for term in terms]
    assert whole.forward_passes == 1
    # Rows are padded to another width, so float32 sums differ in their last bits.
    assert whole.terms["safety"] == pytest.approx(alone[0].terms["safety"], rel=1e-6)
    assert whole.terms["skill"] == pytest.approx(alone[1].terms["skill"], rel=1e-6)
    assert whole.gradient is not None
    summed = sum((each.gradient for each in alone if each.gradient is not None), torch.zeros(()))
    assert torch.allclose(whole.gradient, summed, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["dpo", "kl"])
def test_what_another_model_says_does_not_depend_on_who_asked_first(
    merged: MergedModel, x: torch.Tensor, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that is resumed in the middle, or on another worker, would take another way."""
    monkeypatch.setattr(examples, "TEACHER_BYTES", 4 * 7 * merged.module.config.vocab_size)
    records = [SAFETY[n % 3] for n in range(7)]
    term = Term("t", records, kind, expert=0 if kind == "kl" else None)
    seen = Objective(merged, [term], batch=2, reference=x - 0.1)
    for step in range(3):
        seen.evaluate(x, grad=False, step=step)
    fresh = Objective(merged, [term], batch=2, reference=x - 0.1)
    ours, theirs = (each.evaluate(x, grad=True, step=3) for each in (fresh, seen))
    assert ours.value == theirs.value
    assert ours.gradient is not None
    assert theirs.gradient is not None
    assert torch.equal(ours.gradient, theirs.gradient)


def test_steps_draw_every_example_once_an_epoch_and_depend_on_the_step_alone(
    merged: MergedModel, x: torch.Tensor
) -> None:
    records = [SAFETY[i % 3] for i in range(7)]
    data = Examples(merged, Term("t", records), x, seed=3)
    drawn = [data.draw(step, 2) for step in range(7)]
    assert sorted(item for step in drawn for item in step) == sorted([*range(7)] * 2)
    assert data.draw(5, 2) == drawn[5]
    assert drawn[:3] != [data.draw(step, 2) for step in (3, 4, 5)]
    other = Examples(merged, Term("t", records), x, seed=4)
    assert [other.draw(step, 2) for step in range(7)] != drawn


def test_a_loss_that_is_not_finite_names_the_batch(merged: MergedModel, x: torch.Tensor) -> None:
    objective = Objective(merged, [Term("safety", SAFETY)], tokens=1)
    for grad in (True, False):
        with pytest.raises(
            LossError, match=r"term 'safety', examples [123]: the loss is (nan|inf)"
        ):
            objective.evaluate(x * 1e300, grad=grad)
    assert math.isfinite(objective.evaluate(x, grad=True).value)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term("a", []), "the data of term 'a' are empty"),
        (Term("a", SKILL, "dpo"), "record 1 has no rejected"),
        (Term("a", [Record(question("no"))]), "record 1 has no answer"),
    ],
)
def test_bad_data_are_refused(merged: MergedModel, term: Term, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Objective(merged, [term])


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "needs terms"),
        ([Term("a", SKILL), Term("a", SKILL)], "differ"),
        ([Term("a", SKILL, "kl", expert=5)], "number of an expert, 0 to 2"),
        ([Term("a", SKILL, "dpp")], "did you mean 'dpo'"),  # type: ignore[arg-type]
    ],
)
def test_bad_terms_are_refused(merged: MergedModel, terms: list[Term], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Objective(merged, terms)


def test_inside_at_there_are_no_other_coefficients_and_no_gradient(
    merged: MergedModel, x: torch.Tensor
) -> None:
    objective = Objective(merged, [Term("safety", SAFETY)])
    expected = objective.evaluate(x, grad=False).value
    with merged.at(x) as chat:
        assert objective.evaluate(x, grad=False).value == expected
        for grad, at in ((False, x + 0.1), (True, x)):
            with pytest.raises(ArgumentError, match="leave the block first"):
                objective.evaluate(at, grad=grad)
        assert len(chat.respond([question("how do i sort")], Sampling(2))) == 1
