"""The examples of one loss: encoded, drawn for each step, with what the loss compares them with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch.nn import functional

from mergesafe.chat.conversation import last_question
from mergesafe.chat.records import Record
from mergesafe.chat.tokens import Encoded, encode, encode_prompt
from mergesafe.errors import ArgumentError, DataError, did_you_mean
from mergesafe.tune import losses
from mergesafe.tune.batch import Batch
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


class Examples:
    """A term's records as tokens.

    Args:
        merged: the model whose losses they are for.
        reference: the coefficients of DPO's reference model.
        seed: of the draws, which depend on nothing but it, the term and the step.

    Raises:
        ArgumentError, DataError: the term or one of its records cannot serve.
    """

    def __init__(self, merged: MergedModel, term: Term, reference: torch.Tensor, seed: int) -> None:
        self.merged, self.term, self.reference, self.seed = merged, term, reference, seed
        pad = merged.tokenizer.pad_token_id
        self.pad = int((merged.tokenizer.eos_token_id or 0) if pad is None else pad)
        self._references: dict[int, float] = {}
        self._teachers: dict[int, torch.Tensor] = {}
        self._teacher_bytes = 0
        self._check()
        self.rows = [self._encode(record) for record in term.records]

    def draw(self, step: int, size: int | None) -> list[int]:
        """``size`` examples for a step: each epoch goes through all in an order of its own."""
        count = len(self.rows)
        if size is None or size >= count:
            return list(range(count))
        drawn: list[int] = []
        for position in range(step * size, (step + 1) * size):
            epoch, place = divmod(position, count)
            drawn.append(self._order(epoch)[place])
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

    def given(self, batch: Batch, items: Sequence[int]) -> tuple[torch.Tensor | None, int]:
        """What the losses of ``items`` compare with, and the passes of another model it took."""
        if self.term.kind == "dpo":
            return self._reference(batch, items)
        if self.term.kind == "kl":
            return self._teacher(batch, items)
        return None, 0

    def _check(self) -> None:
        term, experts = self.term, self.merged.space.experts
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
        tokenizer = self.merged.tokenizer
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

    def _reference(self, batch: Batch, items: Sequence[int]) -> tuple[torch.Tensor, int]:
        passes = 0
        if any(item not in self._references for item in items):
            merged = self.merged
            with merged.using(self.reference), torch.no_grad():
                nll = merged.answer_nll(batch, total=True).view(-1, 2)
            passes = 1
            found = (nll[:, 1] - nll[:, 0]).tolist()
            self._references.update(zip(items, found, strict=True))
        return torch.tensor([self._references[item] for item in items]), passes

    def _teacher(self, batch: Batch, items: Sequence[int]) -> tuple[torch.Tensor, int]:
        known = [self._teachers.get(item) for item in items]
        if all(each is not None for each in known):
            return torch.cat([each for each in known if each is not None]), 0
        merged = self.merged
        with merged.expert(int(self.term.expert or 0)):
            logs = functional.log_softmax(merged.logits(batch), dim=-1)
        for item, each in zip(
            items, torch.split(logs, batch.rows.bincount().tolist()), strict=True
        ):
            size = each.nbytes
            if item not in self._teachers and self._teacher_bytes + size <= TEACHER_BYTES:
                self._teachers[item] = each.clone()
                self._teacher_bytes += size
        return logs, 1

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.rows)))
        random.Random(f"{self.seed}/{self.term.name}/{epoch}").shuffle(order)
        return order
