"""Guard models as judges: one format, any model that can be asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from itertools import chain

from mergesafe.chat.conversation import (
    ChatModel,
    ChoosingModel,
    CompletionModel,
    Conversation,
    Response,
    Sampling,
    last_question,
)
from mergesafe.chat.hf import HfModel
from mergesafe.chat.reasoning import part
from mergesafe.safety.judges.base import Pair, Verdict, judge_answers
from mergesafe.safety.judges.formats.base import GuardFormat, ScoredFormat
from mergesafe.safety.refusal import RULES_VERSION, rule


class Guard:
    """``format`` asked of ``model``, greedily.

    A model of this process gets the published prompt as it stands. An endpoint gets the turns from
    which the chat template that it serves makes that prompt: what template it has is its operator's
    to get right. Guards that do not say whether a response refuses leave that to the refusal rules.
    """

    def __init__(self, form: GuardFormat, model: ChatModel):
        self.form = form
        self.model = model

    @property
    def name(self) -> str:
        return f"{self.form.name} ({self.model.name})"

    @property
    def version(self) -> str:
        return f"{self.model.identity}, refusal rules {RULES_VERSION}"

    @property
    def last_question_only(self) -> bool:
        """Whether the guard is not shown what came before the last question."""
        return bool(getattr(self.form, "last_question_only", False))

    def check(self) -> None:
        """Find what a model of this process lacks; it continues text, without a chat template."""
        if isinstance(self.model, HfModel):
            self.model.check_plain()

    def judge(self, pairs: Sequence[tuple[Conversation, str]]) -> list[Verdict]:
        """One verdict for each pair; an output that is not of the format is undecided."""
        return judge_answers(pairs, self._judge)

    def _judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        verdicts = self._verdicts(pairs)
        if self.form.says_refused:
            return verdicts
        return [
            replace(verdict, refused=rule(response, last_question(asked)).refused)
            for verdict, (asked, response) in zip(verdicts, pairs, strict=True)
        ]

    def _verdicts(self, pairs: Sequence[Pair]) -> list[Verdict]:
        sampling = Sampling(max_new_tokens=self.form.max_new_tokens)
        if not isinstance(self.model, CompletionModel):
            turns = [self.form.turns(*pair) for pair in pairs]
            said = self.model.respond(list(chain.from_iterable(turns)), sampling)
            return [self.form.verdict(texts) for texts in _grouped(said, turns)]
        prompts = [self.form.prompts(*pair) for pair in pairs]
        flat = list(chain.from_iterable(prompts))
        if isinstance(self.form, ScoredFormat) and isinstance(self.model, ChoosingModel):
            likely = iter(self.model.next_token(flat, self.form.tokens))
            return [self.form.scored([next(likely) for _ in group]) for group in prompts]
        said = self.model.complete(flat, sampling)
        return [self.form.verdict(texts) for texts in _grouped(said, prompts)]


def _grouped(said: Iterable[Response], groups: Iterable[Sized]) -> Iterator[list[str]]:
    """The answers of ``said``, as many at a time as each group has members."""
    left = iter(said)
    for group in groups:
        yield [part(next(left).text).answer for _ in range(len(group))]
