"""The examples of one loss: encoded, drawn for each step, with what the loss compares them with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import torch
from torch.nn import functional

from mergesafe.chat.conversation import last_question
from mergesafe.chat.records import Record
from mergesafe.chat.tokens import TokenizedAnswer, encode, encode_prompt
from mergesafe.errors import ArgumentError, DataError, did_you_mean
from mergesafe.tune.data.batch import Batch, batches
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.objective import losses

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
class Tokens:
    """A term's records as rows of tokens, one or more for each; ``pad``: what fills them up.

    ``cut``: how many records had answers that :data:`MAX_TOKENS` cut short.
    """

    rows: list[list[TokenizedAnswer]]
    pad: int
    cut: int = 0


class Examples:
    """A term's examples.

    Args:
        merged: the model whose losses they are for.
        reference: the coefficients of DPO's reference model.
        seed: of the draws, which depend on nothing but it, the term and the step.
        tokens: the records' tokens, where they are known; else the model's tokenizer makes them.

    Raises:
        ArgumentError, DataError: the term or one of its records cannot serve.
    """

    def __init__(
        self,
        merged: MergedModel,
        term: Term,
        reference: torch.Tensor,
        seed: int,
        tokens: Tokens | None = None,
    ) -> None:
        self.merged, self.term, self.reference, self.seed = merged, term, reference, seed
        self._references: torch.Tensor | None = None
        self._teachers: list[torch.Tensor] | None = None
        if tokens is None:
            _check(term, len(merged.space.experts))
            tokens = _tokens(term, merged.tokenizer)
        self.tokens = tokens

    @property
    def rows(self) -> list[list[TokenizedAnswer]]:
        """The tokens of each example."""
        return self.tokens.rows

    def draw(self, step: int, size: int | None) -> list[int]:
        """``size`` examples for a step: each epoch goes through all in an order of its own."""
        count = len(self.rows)
        if size is None or size >= count:
            return list(range(count))
        begin, end = step * size, (step + 1) * size
        drawn: list[int] = []
        for epoch in range(begin // count, (end - 1) // count + 1):
            first = epoch * count
            drawn += self._order(epoch)[max(0, begin - first) : end - first]
        return list(dict.fromkeys(drawn))

    def loss(self, batch: Batch, given: torch.Tensor | None) -> torch.Tensor:
        """[examples]: the loss of each; ``given`` comes from :meth:`given`."""
        term, merged = self.term, self.merged
        if term.kind == "dpo" and given is not None:
            return losses.dpo(merged, batch, given, term.beta)
        if term.kind == "kl" and given is not None:
            return losses.divergence(merged, batch, given)
        if term.kind == "orpo":
            return losses.orpo(merged, batch, term.beta)
        if term.kind == "entropy":
            return losses.entropy(merged, batch)
        return losses.cross_entropy(merged, batch)

    def given(self, batch: Batch, items: Sequence[int]) -> torch.Tensor | None:
        """What the losses of ``items`` compare with: what another model says of them.

        It is computed once for the whole set, so that it does not depend on which step asks first.
        """
        if self.term.kind == "dpo":
            return self._reference(items)
        if self.term.kind == "kl":
            return self._teacher(batch, items)
        return None

    def _reference(self, items: Sequence[int]) -> torch.Tensor:
        """The reference model's log p(chosen) - log p(rejected)."""
        if self._references is None:
            found = torch.empty(len(self.rows))
            for batch in batches(self.rows, range(len(self.rows)), self.tokens.pad):
                with self.merged.using(self.reference), torch.no_grad():
                    nll = self.merged.answer_nll(batch, total=True).view(-1, 2)
                found[list(batch.items)] = (nll[:, 1] - nll[:, 0]).cpu()
            self._references = found
        return self._references[list(items)]

    def _teacher(self, batch: Batch, items: Sequence[int]) -> torch.Tensor:
        """The expert's log-probabilities [positions, vocabulary]; the first examples' are kept."""
        if self._teachers is None:
            kept = range(self._keepable())
            found: dict[int, torch.Tensor] = {}
            for each in batches(self.rows, kept, self.tokens.pad):
                found |= zip(each.items, self._said(each), strict=True)
            self._teachers = [found[item] for item in kept]
        known = len(self._teachers)
        # As many examples as this batch has, always the same ones for the same batch.
        now = self._said(batch) if any(item >= known for item in items) else ()
        return torch.cat([self._teachers[i] if i < known else now[n] for n, i in enumerate(items)])

    def _said(self, batch: Batch) -> Sequence[torch.Tensor]:
        with self.merged.expert(int(self.term.expert or 0)):
            logs = functional.log_softmax(self.merged.logits(batch), dim=-1)
        return torch.split(logs, batch.rows.bincount().tolist())

    def _keepable(self) -> int:
        """How many examples' log-probabilities, from the first on, fit :data:`TEACHER_BYTES`."""
        total, each = 0, 4 * int(self.merged.module.config.get_text_config().vocab_size)
        for number, [row] in enumerate(self.rows):
            total += each * (len(row.ids) - row.start)
            if total > TEACHER_BYTES:
                return number
        return len(self.rows)

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.rows)))
        random.Random(f"{self.seed}/{self.term.name}/{epoch}").shuffle(order)
        return order


def _check(term: Term, experts: int) -> None:
    if term.kind not in KINDS:
        raise ArgumentError(
            f"term '{term.name}': kind '{term.kind}'{did_you_mean(term.kind, KINDS)}"
        )
    if not term.records:
        raise DataError(f"the data of term '{term.name}' are empty")
    if term.kind == "kl" and (term.expert is None or not 0 <= term.expert < experts):
        raise ArgumentError(
            f"term '{term.name}': kl needs the number of an expert, 0 to {experts - 1}, "
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


def _tokens(term: Term, tokenizer: Any) -> Tokens:
    pad = tokenizer.pad_token_id
    pad = int((tokenizer.eos_token_id or 0) if pad is None else pad)
    rows = [_encode(term, tokenizer, pad, record) for record in term.records]
    # One token more than the limit was asked for, so that what was cut is known.
    cut = sum(any(len(row.ids) > MAX_TOKENS for row in each) for each in rows)
    kept = [[replace(row, ids=row.ids[:MAX_TOKENS]) for row in each] for each in rows]
    return Tokens(kept, pad, cut)


def _encode(term: Term, tokenizer: Any, pad: int, record: Record) -> list[TokenizedAnswer]:
    if term.kind == "entropy":
        # The prediction after the question counts; the token there does not.
        ids = encode_prompt(tokenizer, record.conversation)[-MAX_TOKENS:]
        return [TokenizedAnswer((*ids, pad)[-MAX_TOKENS:], min(len(ids), MAX_TOKENS - 1))]
    answers = [record.answer]
    if term.kind in ("dpo", "orpo"):
        answers.append(record.rejected)
    rows = [encode(tokenizer, record.conversation, str(a), MAX_TOKENS + 1) for a in answers]
    for row in rows:
        if row.start >= min(len(row.ids), MAX_TOKENS):
            asked = last_question(record.conversation)[:60]
            raise DataError(
                f"term '{term.name}': a question of {row.start} tokens or more leaves no "
                f"room for its answer within {MAX_TOKENS} tokens; shorten it, or remove the "
                f"record: {asked!r}",
                source=record.source,
                line=record.line,
            )
    return rows
