"""A squad: inspectors score an answer, and the aligner of the worst criterion rewrites it.

Of each answer y to a question x, for criteria c with inspectors p_c and thresholds t_c, ½ as a rule
(arXiv 2403.04224, per sample):

1. s_c = p_c(good | x, y) / t_c for all c;
2. where min s_c < 1, the aligner of argmin s_c turns (x, y) into y', which is scored as in 1;
3. again from 2, ``rounds`` times at most.

An aligner that gives no answer, or the same one, leaves y as it is and is not asked about that y
again: the next worst criterion has its turn. What comes out is, of all answers that a sample had,
the one that is best by (min(s_c, 1) for all c in the order of the members), compared from the first
c on: an aligner cannot make an answer worse to inspectors, and where inspectors disagree, the
criterion that is listed first decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from mergesafe.chat.conversation import Response
from mergesafe.chat.reasoning import part

#: An answer is rewritten where a score is below it, unless the criterion has another threshold.
THRESHOLD: Final = 0.5


class Scorer(Protocol):
    """An inspector: p(good | question, answer)."""

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One for each pair."""
        ...


class Rewriter(Protocol):
    """An aligner."""

    def rewrite(self, pairs: Sequence[tuple[str, str]], max_new_tokens: int) -> list[Response]:
        """The corrected answer of each (question, answer); an empty text is no answer."""
        ...


@dataclass(frozen=True)
class Member:
    """The inspector and the aligner of one criterion; an answer whose score is below ``threshold``
    is rewritten.
    """

    criterion: str
    inspector: Scorer
    aligner: Rewriter
    threshold: float = THRESHOLD


@dataclass
class Tally:
    """What a squad did with the answers that it was given.

    ``rewritten`` and ``empty`` by criterion, counted by turns: an answer may be rewritten more than
    once. ``unsettled``: answers that a criterion still scores below its threshold in the end.
    """

    answers: int = 0
    below: int = 0
    unsettled: int = 0
    rewritten: Counter[str] = field(default_factory=Counter)
    empty: Counter[str] = field(default_factory=Counter)


@dataclass
class _Sample:
    """An answer on its way. ``scores``: over their thresholds; ``passed``: criteria whose aligner
    changed nothing in it.
    """

    question: str
    response: Response
    scores: dict[str, float] = field(default_factory=dict)
    passed: set[str] = field(default_factory=set)
    best: tuple[tuple[float, ...], Response] | None = None

    @property
    def worst(self) -> str | None:
        """The criterion whose aligner has its turn, None where none has."""
        low = [
            (score, name)
            for name, score in self.scores.items()
            if score < 1 and name not in self.passed
        ]
        return min(low)[1] if low else None


@dataclass
class Squad:
    """``members``: the most important criterion first. ``rounds``: how often one answer is
    rewritten at most.
    """

    members: Sequence[Member]
    rounds: int = 3
    tally: Tally = field(default_factory=Tally)

    def correct(
        self, questions: Sequence[str], responses: Sequence[Response], max_new_tokens: int
    ) -> list[Response]:
        """The answers after their rewriting, in order; what was thought before an answer that is
        rewritten goes with it. A response that ended inside its reasoning is left as it is.
        """
        parts = [part(each.text) for each in responses]
        samples = {
            row: _Sample(asked, Response(each.answer, response.finished))
            for row, (asked, each, response) in enumerate(
                zip(questions, parts, responses, strict=True)
            )
            if each.complete
        }
        first = {row: sample.response for row, sample in samples.items()}
        active = list(samples.values())
        self._score(active)
        self.tally.answers += len(active)
        self.tally.below += sum(sample.worst is not None for sample in active)
        for _ in range(self.rounds):
            active = [sample for sample in active if sample.worst is not None]
            if not active:
                break
            self._round(active, max_new_tokens)
        corrected = list(responses)
        for row, sample in samples.items():
            scores, best = sample.best or ((0.0,), sample.response)
            self.tally.unsettled += min(scores) < 1
            if best is not first[row]:
                corrected[row] = best
        return corrected

    def _round(self, samples: Sequence[_Sample], max_new_tokens: int) -> None:
        """Each sample's worst criterion rewrites it; those of one criterion in one batch."""
        changed = []
        turns = [(sample.worst, sample) for sample in samples]
        for member in self.members:
            own = [sample for criterion, sample in turns if criterion == member.criterion]
            if not own:
                continue
            pairs = [(sample.question, sample.response.text) for sample in own]
            for sample, said in zip(
                own, member.aligner.rewrite(pairs, max_new_tokens), strict=True
            ):
                if not said.text:
                    self.tally.empty[member.criterion] += 1
                if not said.text or said.text == sample.response.text:
                    sample.passed.add(member.criterion)
                    continue
                self.tally.rewritten[member.criterion] += 1
                sample.response, sample.passed = said, set()
                changed.append(sample)
        self._score(changed)

    def _score(self, samples: Sequence[_Sample]) -> None:
        """All inspectors on all samples."""
        pairs = [(sample.question, sample.response.text) for sample in samples]
        for member in self.members:
            scores = member.inspector.probabilities(pairs) if pairs else []
            for sample, score in zip(samples, scores, strict=True):
                sample.scores[member.criterion] = score / member.threshold
        for sample in samples:
            found = tuple(min(sample.scores[each.criterion], 1.0) for each in self.members)
            if sample.best is None or found > sample.best[0]:
                sample.best = found, sample.response
