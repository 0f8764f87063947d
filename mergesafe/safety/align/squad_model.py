"""A model with a squad around it, as a chat model: what ``squad:FILE`` names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mergesafe.chat.conversation import Conversation, Response, Sampling, last_question
from mergesafe.chat.providers import Model
from mergesafe.safety.align.aligner import Aligner
from mergesafe.safety.align.squad import THRESHOLD, Squad
from mergesafe.safety.encoder import identity_of
from mergesafe.safety.inspector.model import Inspector


@dataclass
class SquadModel:
    """``inner`` answers, the squad corrects.

    ``inspectors`` and ``aligners`` by criterion are those of the squad, for their files.
    """

    inner: Model
    squad: Squad
    inspectors: dict[str, Inspector]
    aligners: dict[str, Aligner]
    label: str

    @property
    def name(self) -> str:
        return self.label

    @cached_property
    def identity(self) -> str:
        """A digest of the model, the inspectors, the aligners, and how often is rewritten."""
        parts = [self.inner.identity, str(self.squad.rounds)]
        for criterion, inspector in self.inspectors.items():
            parts += [criterion, identity_of(inspector.folder), self.aligners[criterion].identity]
        # Those that are not ½ alone: what was measured before there were others is still of this.
        for member in self.squad.members:
            parts += [str(member.threshold)] * (member.threshold != THRESHOLD)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def check(self) -> None:
        """Find what is missing before weights are read.

        Raises:
            ModelError, CheckpointError, DataError: a model, an inspector or an aligner cannot be
                used.
        """
        self.inner.check()
        for inspector in self.inspectors.values():
            inspector.check()
        for aligner in self.aligners.values():
            aligner.check()

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        """The model's responses, corrected. Inspectors and aligners see the last question alone."""
        said = self.inner.respond(conversations, sampling)
        asked = [last_question(each) for each in conversations]
        return self.squad.correct(asked, said, sampling.max_new_tokens)

    def remarks(self) -> list[str]:
        """What the squad did with the answers that it was given since it was made."""
        tally = self.squad.tally
        if not tally.answers:
            return []
        turns = ", ".join(f"{count} by '{name}'" for name, count in tally.rewritten.most_common())
        lines = [
            f"{self.name}: of {tally.answers} answers that were asked for now, {tally.below} "
            f"scored low and {tally.unsettled} still do; rewritings: {turns or 'none'}"
        ]
        lines += [
            f"{self.name}: the aligner of '{name}' answered nothing {count} times; the former "
            "answers were kept. Train it again, or give it more tokens (--max-new-tokens)"
            for name, count in tally.empty.most_common()
        ]
        return lines
