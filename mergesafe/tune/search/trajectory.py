"""Every evaluation of a tuning run, in a file beside the output, so that it can be resumed.

A search is deterministic: what it tries next follows from the seed and the values seen so far. So
its state is the list of those values. A resumed run starts again from the beginning and is answered
from the file, which takes no time, until it asks for what no run has computed; from there on it
computes. The trajectory is the same to the last bit, whatever the search, and wherever the run was
killed: a line that a kill cut off is dropped by the journal.

Time is recorded too, so that a budget in minutes ends a resumed run where it would have ended.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
import torch

from mergesafe.errors import OutputError, PointError
from mergesafe.journal import Journal, Kind, Line
from mergesafe.tune.objective.evaluation import Evaluation

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


TUNE: Final = Kind(
    command="tune",
    work="tuning run",
    option="-o",
    afresh="Restore what was changed, or start anew with --overwrite in place of --resume.",
)


class _Record(msgspec.Struct):
    """A record of the journal."""

    key: str
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    answer: Line


class _Kept(msgspec.Struct):
    """The answer to a question about an objective."""

    value: float
    terms: dict[str, float]
    gradient: str | None
    forward_passes: _Count
    examples: _Count


class Trajectory:
    """The evaluations in ``journal``; ``subject`` is what the numbers depend on.

    Raises:
        OutputError: the journal cannot be written; or ``resume``, and what is there is damaged or
            of another recipe, other data or options.
    """

    def __init__(self, journal: Journal, subject: Line, *, resume: bool) -> None:
        self.journal = journal
        #: Points evaluated, forward passes and seconds of computing, those replayed included.
        self.evaluations, self.forward_passes, self.seconds = 0, 0, 0.0
        self._before = deque(self._read(subject)) if resume else deque()
        #: How many were found there.
        self.found = len(self._before)
        journal.begin(subject, self._before)

    @property
    def replayable(self) -> int:
        """How many of the next answers come from the file."""
        return len(self._before)

    def evaluation(self, key: str, compute: Callable[[], Evaluation]) -> Evaluation:
        """The answer to the :func:`question` ``key``: recorded, or computed and recorded.

        Raises:
            PointError: there is no finite loss, which is recorded too.
            OutputError: the file holds the answer to another question.
        """
        answer = self.answer(key, lambda: _outcome(compute))
        self.evaluations += 1
        if "error" in answer:
            raise PointError(str(answer["error"]))
        try:
            found = _evaluation(answer)
        except (msgspec.ValidationError, ValueError) as error:
            raise self.damaged(str(error)) from None
        self.forward_passes += found.forward_passes
        return found

    def damaged(self, why: str) -> OutputError:
        """The error for an answer in the file that no run of ours has written there."""
        return OutputError(
            f"{self.journal.path}: the saved run is damaged ({why}); start again with --overwrite "
            "in place of --resume"
        )

    def answer(self, key: str, compute: Callable[[], Line]) -> Line:
        """The same for any answer of plain data."""
        if self._before:
            record: Line = self._before.popleft()
            if record["key"] != key:
                raise OutputError(
                    f"{self.journal.path}: cannot resume: evaluation {self.evaluations + 1} of the "
                    "saved run used other coefficients or data. Use the version that began it, or "
                    "start again with --overwrite instead of --resume"
                )
        else:
            began = time.monotonic()
            found = compute()
            record = {"key": key, "seconds": time.monotonic() - began, "answer": found}
            self.journal.append(record)
        self.seconds += record["seconds"]
        answer: Line = record["answer"]
        return answer

    def _read(self, subject: Line) -> list[Line]:
        """The records of a run that is not finished; none where there is no such run."""
        found = self.journal.read()
        if found is None:
            return []
        first = found.subject or {}
        changed = sorted(key for key in subject if first.get(key) != subject[key])
        if changed:
            told = ", ".join(_difference(key, first.get(key), subject[key]) for key in changed)
            raise TUNE.refusal(self.journal.path, f"it differs in {told}")
        records: list[Any] = []
        for record in found.records:
            try:
                msgspec.convert(record, _Record)
            except (msgspec.ValidationError, ValueError) as error:  # half a surrogate pair
                raise self.damaged(str(error)) from None
            records.append(record)
        # Whoever resumes after a loss that was not finite wants to try it once more.
        while records and "error" in records[-1]["answer"]:
            records.pop()
        return records


def _difference(key: str, before: object, now: object) -> str:
    """What differs; numbers are short enough to be told."""
    if isinstance(before, int) and isinstance(now, int):
        return f"{key} ({before} there, {now} now)"
    return key


def question(x: torch.Tensor, what: str) -> str:
    """What is asked about the coefficients ``x``, as a key."""
    content = x.detach().to(torch.float64).cpu().numpy().tobytes()
    return f"{what} {hashlib.sha256(content).hexdigest()[:32]}"


def _outcome(compute: Callable[[], Evaluation]) -> Line:
    try:
        evaluation = compute()
    except PointError as error:
        return {"error": str(error)}
    gradient = None
    if evaluation.gradient is not None:
        listed = evaluation.gradient.to(torch.float64).tolist()
        gradient = base64.b64encode(struct.pack(f"<{len(listed)}d", *listed)).decode()
    return {
        "value": evaluation.value,
        "terms": evaluation.terms,
        "gradient": gradient,
        "forward_passes": evaluation.forward_passes,
        "examples": evaluation.examples,
    }


def _evaluation(answer: Line) -> Evaluation:
    """The evaluation that :func:`_outcome` wrote.

    Raises:
        ValueError: it wrote no such thing.
    """
    kept = msgspec.convert(answer, _Kept)
    gradient = None
    if kept.gradient is not None:
        packed = base64.b64decode(kept.gradient)
        if len(packed) % 8:
            raise ValueError("a gradient is cut off")
        gradient = torch.tensor(struct.unpack(f"<{len(packed) // 8}d", packed), dtype=torch.float64)
    return Evaluation(kept.value, kept.terms, gradient, kept.forward_passes, kept.examples)
