"""What tuning minimises: a weighted sum of losses over data sets, and penalties on coefficients.

The objective of safety-aware merging (https://arxiv.org/abs/2406.14563) is
``L_safety + alpha * L_domain`` with the cross-entropy on the answers of both sets: one term of
weight 1 and one of weight alpha.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import torch
from torch.nn import functional

from mergesafe.chat.conversation import last_question
from mergesafe.chat.records import Record
from mergesafe.chat.tokens import Encoded, encode, encode_prompt
from mergesafe.errors import ArgumentError, DataError, LossError, did_you_mean
from mergesafe.tune import losses
from mergesafe.tune.batch import BATCH_TOKENS, Batch, batches
from mergesafe.tune.merged_model import MergedModel

Kind = Literal["cross_entropy", "dpo", "orpo", "kl", "entropy"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
#: Longest question and answer together, in tokens.
MAX_TOKENS: Final = 1024
#: Bytes of teachers' log-probabilities that are kept; beyond, the teacher runs again.
TEACHER_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class Term:
    """One data set and its loss.

    ``kind``: ``cross_entropy`` needs answers; ``dpo`` and ``orpo`` need preferences; ``kl`` (to
    ``expert``, a number among the space's experts) needs answers; ``entropy`` needs questions.
    ``beta``: of dpo and orpo.
    """

    name: str
    records: Sequence[Record]
    kind: Kind = "cross_entropy"
    weight: float = 1.0
    beta: float = 0.1
    expert: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """An objective's value at some coefficients.

    ``terms``: the losses before weighting, and the penalties. ``gradient``: like the
    coefficients, None where it was not asked for. ``forward_passes``: batches that went forward;
    ``examples``: how many examples they held.
    """

    value: float
    terms: dict[str, float]
    gradient: torch.Tensor | None
    forward_passes: int
    examples: int


class Objective:
    """The weighted sum of its terms, to be minimised.

    Args:
        merged: the model.
        terms: at least one; their names differ.
        batch: examples of each term in one evaluation, drawn anew for each step; None for all.
        tokens: of one forward pass; more examples are accumulated over several.
        l1, l2: factors of the mean absolute and the mean squared coefficient.
        reference: the coefficients of DPO's reference model; by default the recipe's.
        seed: of the draws, which depend on nothing but it, the term and the step.
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
    ) -> None:
        names = [term.name for term in terms]
        if not terms or len(set(names)) != len(names):
            raise ArgumentError(f"an objective needs terms with names that differ, got {names}")
        self.merged, self.terms = merged, tuple(terms)
        self.batch, self.tokens, self.l1, self.l2, self.seed = batch, tokens, l1, l2, seed
        self.reference = merged.space.initial() if reference is None else reference
        self._sets = [_Set(self, term) for term in terms]

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        """The value at ``x``, with its gradient if ``grad``; ``step`` chooses the examples.

        Raises:
            TuningError: a loss is not finite; names the term and its examples. Or there is no
                gradient.
        """
        gradient = torch.zeros_like(x, dtype=torch.float64) if grad else None
        found: dict[str, float] = {}
        value, passes, examples = 0.0, 0, 0
        with self._many_passes(x, grad):
            for data in self._sets:
                items = data.draw(step)
                total = 0.0
                for batch in batches(data.examples, items, data.pad, self.tokens):
                    part, slope, extra = data.run(batch, x, len(items), grad=grad)
                    total += part
                    passes += 1 + extra
                    if gradient is not None and slope is not None:
                        gradient += data.term.weight * slope
                found[data.term.name] = total
                value += data.term.weight * total
                examples += len(items)
        for name, factor, penalty, slope in self._penalties(x):
            found[name] = penalty
            value += factor * penalty
            if gradient is not None:
                gradient += factor * slope
        return Evaluation(value, found, gradient, passes, examples)

    def _many_passes(self, x: torch.Tensor, grad: bool) -> AbstractContextManager[None]:
        """Forward passes of one ``x`` share its merged weights, unless others run between them."""
        alone = all(term.kind not in ("dpo", "kl") for term in self.terms)
        return self.merged.holding(x) if alone and not grad else nullcontext()

    def _penalties(self, x: torch.Tensor) -> list[tuple[str, float, float, torch.Tensor]]:
        found = []
        if self.l1:
            found.append(("l1", self.l1, float(x.abs().mean()), x.sign() / len(x)))
        if self.l2:
            found.append(("l2", self.l2, float(x.square().mean()), 2 * x / len(x)))
        return found


@dataclass
class _Set:
    """A term with its encoded examples and what is cached about them."""

    objective: Objective
    term: Term
    examples: list[list[Encoded]] = field(init=False)
    pad: int = field(init=False)
    _references: dict[int, float] = field(init=False, default_factory=dict)
    _teachers: dict[int, torch.Tensor] = field(init=False, default_factory=dict)
    _teacher_bytes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        tokenizer = self.objective.merged.tokenizer
        pad = tokenizer.pad_token_id
        self.pad = int((tokenizer.eos_token_id or 0) if pad is None else pad)
        self._check()
        self.examples = [self._encode(record) for record in self.term.records]

    def draw(self, step: int) -> list[int]:
        """The examples of a step: each epoch goes through all of them in an order of its own."""
        count, size = len(self.examples), self.objective.batch
        if size is None or size >= count:
            return list(range(count))
        drawn: list[int] = []
        for position in range(step * size, (step + 1) * size):
            epoch, place = divmod(position, count)
            drawn.append(self._order(epoch)[place])
        return list(dict.fromkeys(drawn))

    def run(
        self, batch: Batch, x: torch.Tensor, count: int, *, grad: bool
    ) -> tuple[float, torch.Tensor | None, int]:
        """The batch's share of the mean over ``count`` examples, its gradient, further passes."""
        merged, term = self.objective.merged, self.term
        given, extra = self._given(batch)

        def compute() -> torch.Tensor:
            return _loss(term, merged, batch, given).sum() / count

        try:
            if not grad:
                return merged.value(x, compute), None, extra
            value, slope = merged.gradient(x, compute)
        except LossError as error:
            items = ", ".join(str(item + 1) for item in sorted(batch.items))
            raise LossError(
                f"term '{term.name}': {error.args[0]}, for the batch of examples {items}; the "
                "coefficients are unchanged. Look for an empty or broken example, narrow the "
                "bounds, lower the rate, or compute in float32"
            ) from None
        return value, slope, extra

    def _check(self) -> None:
        term, experts = self.term, self.objective.merged.space.experts
        if term.kind not in KINDS:
            raise ArgumentError(
                f"term '{term.name}': kind '{term.kind}'{did_you_mean(term.kind, KINDS)}"
            )
        if not term.records:
            raise DataError(f"the data of term '{term.name}' are empty")
        if term.kind == "kl" and (term.expert is None or not 0 <= term.expert < len(experts)):
            raise ArgumentError(
                f"term '{term.name}': kl needs the number of an expert, 0 to {len(experts) - 1}, "
                f"got {term.expert}"
            )
        needs = {"cross_entropy": ("answer",), "kl": ("answer",), "entropy": ()}
        for number, record in enumerate(term.records, 1):
            for part in needs.get(term.kind, ("answer", "rejected")):
                if getattr(record, part) is None:
                    named = "an answer" if part == "answer" else "a rejected answer"
                    raise DataError(
                        f"term '{term.name}': record {number} has no {part}; {term.kind} needs "
                        f"{named} in every record"
                    )

    def _encode(self, record: Record) -> list[Encoded]:
        tokenizer = self.objective.merged.tokenizer
        if self.term.kind == "entropy":
            # The prediction after the question counts; the token there does not.
            ids = encode_prompt(tokenizer, record.conversation)[-MAX_TOKENS:]
            return [Encoded((*ids, self.pad), len(ids))]
        answers = [record.answer]
        if self.term.kind in ("dpo", "orpo"):
            answers.append(record.rejected)
        rows = [encode(tokenizer, record.conversation, str(a), MAX_TOKENS) for a in answers]
        for row in rows:
            if row.start >= len(row.ids):
                asked = last_question(record.conversation)[:60]
                raise DataError(
                    f"term '{self.term.name}': a question of {row.start} tokens or more leaves no "
                    f"room for its answer within {MAX_TOKENS} tokens: {asked!r}"
                )
        return rows

    def _given(self, batch: Batch) -> tuple[torch.Tensor | None, int]:
        """What a loss compares with, from a pass of another model where it is not known yet."""
        if self.term.kind == "dpo":
            return self._reference(batch)
        if self.term.kind == "kl":
            return self._teacher(batch)
        return None, 0

    def _reference(self, batch: Batch) -> tuple[torch.Tensor, int]:
        passes = 0
        if any(item not in self._references for item in batch.items):
            merged = self.objective.merged
            with merged.using(self.objective.reference), torch.no_grad():
                nll = merged.answer_nll(batch, total=True).view(-1, 2)
            passes = 1
            found = (nll[:, 1] - nll[:, 0]).tolist()
            self._references.update(zip(batch.items, found, strict=True))
        return torch.tensor([self._references[item] for item in batch.items]), passes

    def _teacher(self, batch: Batch) -> tuple[torch.Tensor, int]:
        known = [self._teachers.get(item) for item in batch.items]
        if all(each is not None for each in known):
            return torch.cat([each for each in known if each is not None]), 0
        merged = self.objective.merged
        with merged.expert(int(self.term.expert or 0)):
            logs = functional.log_softmax(merged.logits(batch), dim=-1)
        for item, each in zip(
            batch.items, torch.split(logs, batch.rows.bincount().tolist()), strict=True
        ):
            size = each.nbytes
            if item not in self._teachers and self._teacher_bytes + size <= TEACHER_BYTES:
                self._teachers[item] = each.clone()
                self._teacher_bytes += size
        return logs, 1

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.examples)))
        random.Random(f"{self.objective.seed}/{self.term.name}/{epoch}").shuffle(order)
        return order


def _loss(
    term: Term, merged: MergedModel, batch: Batch, given: torch.Tensor | None
) -> torch.Tensor:
    if term.kind == "dpo" and given is not None:
        return losses.dpo(merged, batch, given, term.beta)
    if term.kind == "kl" and given is not None:
        return losses.divergence(merged, batch, given)
    if term.kind == "orpo":
        return losses.orpo(merged, batch, term.beta)
    if term.kind == "entropy":
        return losses.entropy(merged, batch)
    return losses.cross_entropy(merged, batch)
