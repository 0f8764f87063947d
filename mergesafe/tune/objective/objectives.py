"""What tuning minimises: a weighted sum of losses over data sets, and penalties on coefficients.

The objective of safety-aware merging (https://arxiv.org/abs/2406.14563) is
``L_safety + alpha * L_domain`` with the cross-entropy on the answers of both sets: one term of
weight 1 and one of weight alpha.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from mergesafe.errors import ArgumentError, LossError
from mergesafe.tune.data.batch import BATCH_TOKENS, Batch, batches
from mergesafe.tune.data.examples import Examples, Term, Tokens
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.objective.evaluation import Evaluates, Evaluation


@dataclass(frozen=True)
class Penalties(Evaluates):
    """``l1`` times the mean absolute coefficient plus ``l2`` times the mean squared one."""

    l1: float = 0.0
    l2: float = 0.0

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        """The value at ``x``, with its gradient if ``grad``; no model is needed."""
        found: dict[str, float] = {}
        value, gradient = 0.0, torch.zeros_like(x, dtype=torch.float64)
        for name, factor, penalty, slope in (
            ("l1", self.l1, x.abs().mean(), x.sign() / len(x)),
            ("l2", self.l2, x.square().mean(), 2 * x / len(x)),
        ):
            if factor:
                found[name] = float(penalty)
                value += factor * found[name]
                gradient += factor * slope
        return Evaluation(value, found, gradient if grad else None, 0, 0)


@dataclass(frozen=True)
class MicroBatch:
    """What goes through the model at once: examples of sets whose losses are of one kind.

    ``owners``: the set of each example; ``factors``: what each example's loss counts in the
    objective; ``shares``: in the mean of its own set.
    """

    batch: Batch
    owners: tuple[Examples, ...]
    items: tuple[int, ...]
    shares: tuple[float, ...]

    @property
    def factors(self) -> torch.Tensor:
        weights = [owner.term.weight for owner in self.owners]
        return torch.tensor(weights) * torch.tensor(self.shares)


@dataclass(frozen=True)
class Outcome:
    """Of one micro-batch: each example's loss, and the gradient of their weighted sum."""

    losses: tuple[float, ...]
    gradient: torch.Tensor | None


class Objective(Evaluates):
    """The weighted sum of its terms, to be minimised.

    Args:
        merged: the model.
        terms: at least one; their names differ.
        batch: examples of each term in one evaluation, drawn anew for each step; None for all.
        tokens: of one forward pass; more examples are accumulated over several.
        l1, l2: factors of the mean absolute and the mean squared coefficient.
        reference: the coefficients of DPO's reference model; by default the recipe's.
        seed: of the draws, which depend on nothing but it, the term and the step.
        encoded: the terms' records as tokens, by the terms' names, where they are known.
    """

    def __init__(
        self,
        merged: MergedModel,
        terms: Sequence[Term],
        *,
        batch: int | None = None,
        tokens: int = BATCH_TOKENS,
        l1: float = 0.0,
        l2: float = 0.0,
        reference: torch.Tensor | None = None,
        seed: int = 0,
        encoded: Mapping[str, Tokens] | None = None,
    ) -> None:
        names = [term.name for term in terms]
        if not terms or len(set(names)) != len(names):
            raise ArgumentError(f"an objective needs terms with names that differ, got {names}")
        self.merged, self.terms = merged, tuple(terms)
        self.batch, self.tokens, self.penalties, self.seed = batch, tokens, Penalties(l1, l2), seed
        self.reference = merged.space.initial() if reference is None else reference
        known = encoded or {}
        self.sets = [
            Examples(merged, term, self.reference, seed, known.get(term.name)) for term in terms
        ]
        self._groups = _grouped(self.sets)

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        """The value at ``x``, with its gradient if ``grad``; ``step`` chooses the examples.

        Raises:
            TuningError: a loss is not finite; names the term and its examples. Or there is no
                gradient.
        """
        micro_batches = self.micro_batches(step)
        return self.combine(micro_batches, self.outcomes(micro_batches, x, grad=grad), x)

    def outcomes(
        self, micro_batches: Sequence[MicroBatch], x: torch.Tensor, *, grad: bool
    ) -> list[Outcome]:
        """Of every micro-batch at ``x``."""
        with self._many_passes(x, grad):
            return [self.compute(micro_batch, x, grad=grad) for micro_batch in micro_batches]

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """The examples of a step, in passes of like length.

        Sets with losses of one kind share passes: what a merged weight costs to make is paid once
        for all of them.
        """
        found: list[MicroBatch] = []
        for group in self._groups:
            drawn = [(data, item) for data in group for item in data.draw(step, self.batch)]
            counts = Counter(data.term.name for data, _ in drawn)
            rows = [data.rows[item] for data, item in drawn]
            for batch in batches(rows, range(len(rows)), group[0].tokens.pad, self.tokens):
                owners, items = zip(*(drawn[number] for number in batch.items), strict=True)
                shares = tuple(1 / counts[owner.term.name] for owner in owners)
                found.append(MicroBatch(batch, owners, items, shares))
        return found

    def compute(self, micro_batch: MicroBatch, x: torch.Tensor, *, grad: bool) -> Outcome:
        """One micro-batch at ``x``.

        Raises:
            LossError: a loss is not finite; names the examples.
            TuningError: it is not, because a model's weights are not; names model and tensor.
        """
        first, factors = micro_batch.owners[0], micro_batch.factors
        given = first.given(micro_batch.batch, micro_batch.items)
        each = torch.empty(0)

        def weighted() -> torch.Tensor:
            nonlocal each
            losses = first.loss(micro_batch.batch, given)
            each = losses.detach()
            return (factors.to(losses) * losses).sum()

        gradient = None
        try:
            if grad:
                _, gradient = self.merged.gradient(x, weighted)
            else:
                self.merged.value(x, weighted)
        except LossError as error:
            self.merged.refuse_broken_inputs()
            raise LossError(
                f"{_named(micro_batch, (~each.isfinite()).tolist())}: {error.args[0]}; the "
                "coefficients are unchanged. Look for an empty or broken example, narrow the "
                "bounds, lower the rate, or compute in float32"
            ) from None
        return Outcome(tuple(each.tolist()), gradient)

    def combine(
        self, micro_batches: Sequence[MicroBatch], outcomes: Sequence[Outcome], x: torch.Tensor
    ) -> Evaluation:
        """The value at ``x`` from that of each micro-batch; sums in the micro-batches' order."""
        found = dict.fromkeys((term.name for term in self.terms), 0.0)
        gradient: torch.Tensor | None = None
        for micro_batch, outcome in zip(micro_batches, outcomes, strict=True):
            for owner, share, loss in zip(
                micro_batch.owners, micro_batch.shares, outcome.losses, strict=True
            ):
                found[owner.term.name] += share * loss
            if outcome.gradient is not None:
                gradient = outcome.gradient if gradient is None else gradient + outcome.gradient
        value = sum(term.weight * found[term.name] for term in self.terms)
        penalty = self.penalties.evaluate(x, grad=gradient is not None)
        value += penalty.value
        found |= penalty.terms
        if gradient is not None and penalty.gradient is not None:
            gradient = gradient + penalty.gradient
        return Evaluation(
            value, found, gradient, len(micro_batches), sum(len(p.items) for p in micro_batches)
        )

    def _many_passes(self, x: torch.Tensor, grad: bool) -> AbstractContextManager[None]:
        """Forward passes of one ``x`` share its merged weights, unless others run between them."""
        alone = all(term.kind not in ("dpo", "kl") for term in self.terms)
        return self.merged.holding(x) if alone and not grad else nullcontext()


def _grouped(sets: Iterable[Examples]) -> list[list[Examples]]:
    """Sets whose losses may share a pass: those that compare with nothing but themselves."""
    groups: dict[tuple[object, ...], list[Examples]] = {}
    for each in sets:
        term = each.term
        alone = term.name if term.kind in ("dpo", "kl") else None
        beta = term.beta if term.kind == "orpo" else None
        groups.setdefault((term.kind, beta, alone), []).append(each)
    return list(groups.values())


def _named(micro_batch: MicroBatch, broken: Sequence[bool]) -> str:
    """The examples whose losses are not finite, or all if each is finite and their sum is not."""
    named: dict[tuple[str, str], list[int]] = {}
    for owner, item, bad in zip(micro_batch.owners, micro_batch.items, broken, strict=True):
        if bad or not any(broken):
            record = owner.term.records[item]
            where = "examples" if record.source is None else f"{record.source}, lines"
            number = item + 1 if record.source is None else record.line or item + 1
            named.setdefault((owner.term.name, where), []).append(number)
    return "; ".join(
        f"term '{name}', {where} {', '.join(map(str, sorted(numbers)))}"
        for (name, where), numbers in named.items()
    )
