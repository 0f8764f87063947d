"""Models and judges that are asked only what is not in a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, TypeAlias, TypeVar

from mergesafe.chat.conversation import (
    NLL,
    ChatModel,
    Conversation,
    Response,
    Sampling,
    ScoringModel,
)
from mergesafe.errors import CheckpointError, JudgeError, ModelError
from mergesafe.safety.evaluation.cache import Cache, key
from mergesafe.safety.judges.base import Judge, Verdict

#: Batches between two writes to the cache: what a kill can cost at most.
BATCHES: Final = 4
#: Distance of the seeds of two portions; farther apart than seeds that people choose.
_STRIDE: Final = 1_000_003
#: Told after each portion how many of how many are done.
Progress: TypeAlias = Callable[[int, int], None]
Pair: TypeAlias = "tuple[Conversation, str]"
Request = TypeVar("Request")


def _silent(done: int, total: int) -> None:
    """No progress."""


def tells_likelihood(model: ChatModel) -> bool:
    """Whether ``model`` can tell how likely an answer is."""
    return hasattr(model, "nll")


@dataclass
class CachedModel:
    """``model``, with its answers kept in ``cache``.

    ``portion``: conversations between two writes; a multiple of the model's batch wastes none.
    """

    model: ChatModel
    cache: Cache
    portion: int
    progress: Progress = _silent

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def identity(self) -> str:
        return self.model.identity

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        """As the model's. Equal conversations are asked once.

        Above temperature 0 a response depends on what else is in its batch, so one that is in the
        cache is a draw of the same seed, not always the draw that the whole list would give.
        """

        def ask(part: list[Conversation], number: int) -> list[Any]:
            # Each portion seeds the generator anew: one seed would repeat its random numbers.
            seeded = replace(sampling, seed=sampling.seed + number * _STRIDE)
            return [asdict(each) for each in self.model.respond(part, seeded)]

        keys = [
            key("respond and part once", self.identity, each, asdict(sampling))
            for each in conversations
        ]
        found = self._through(Response, keys, conversations, _size, ask)
        return [Response(**value) for value in found]

    @property
    def scores(self) -> bool:
        """Whether the model can tell how likely an answer is."""
        return tells_likelihood(self.model)

    def nll(self, pairs: Sequence[Pair]) -> list[NLL]:
        """As the model's."""
        model: ScoringModel = self.model  # type: ignore[assignment]  # see `scores`

        def ask(part: list[Pair], number: int) -> list[Any]:
            return [asdict(each) for each in model.nll(part)]

        keys = [key("nll", self.identity, *pair) for pair in pairs]
        return [NLL(**value) for value in self._through(NLL, keys, pairs, _pair_size, ask)]

    def _through(
        self,
        form: type[Any],
        keys: Sequence[str],
        asked: Sequence[Request],
        size: Callable[[Request], int],
        ask: Callable[[list[Request], int], list[Any]],
    ) -> list[Any]:
        return through(self.cache, form, keys, asked, size, ask, self.portion, self.progress)


@dataclass
class CachedJudge:
    """``inner``, with its verdicts kept in ``cache``; undecided ones are asked for again."""

    inner: Judge
    cache: Cache
    portion: int

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def version(self) -> str:
        return self.inner.version

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """As the judge's."""

        def ask(part: list[Pair], number: int) -> list[Any]:
            try:
                return [asdict(each) for each in self.inner.judge(part)]
            except (ModelError, CheckpointError) as error:
                raise JudgeError(f"the judge {self.name} cannot judge: {error}") from None

        keys = [key("judge", self.name, self.version, *pair) for pair in pairs]
        found = through(
            self.cache, Verdict, keys, pairs, _pair_size, ask, self.portion, _silent,
            keep=lambda verdict: verdict["safe"] is not None,
        )  # fmt: skip
        return [Verdict(**value) for value in found]


def through(
    cache: Cache,
    form: type[Any],
    keys: Sequence[str],
    asked: Sequence[Request],
    size: Callable[[Request], int],
    ask: Callable[[list[Request], int], list[Any]],
    portion: int,
    progress: Progress = _silent,
    keep: Callable[[Any], bool] = lambda value: True,
) -> list[Any]:
    """The value of each of ``asked``, from the cache or from ``ask(part, number of the part)``;
    all are as of the dataclass ``form``.

    Equal keys are asked once, the longest first: a portion then holds what is of like length.
    """
    known = cache.get(keys, form)
    distinct = {name: each for name, each in zip(keys, asked, strict=True) if name not in known}
    missing = sorted(distinct.items(), key=lambda item: -size(item[1]))
    progress(len(keys) - len(missing), len(keys))
    for begin in range(0, len(missing), portion):
        part = missing[begin : begin + portion]
        answers = ask([each for _, each in part], begin // portion)
        values = {name: answer for (name, _), answer in zip(part, answers, strict=True)}
        cache.put({name: value for name, value in values.items() if keep(value)})
        known.update(values)
        progress(len(keys) - len(missing) + begin + len(part), len(keys))
    return [known[name] for name in keys]


def _size(conversation: Conversation) -> int:
    return sum(len(turn["content"]) for turn in conversation)


def _pair_size(pair: Pair) -> int:
    return _size(pair[0]) + len(pair[1])
