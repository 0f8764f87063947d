"""What a gate rests on: model, judges, sets, confidence, and the file of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET

from mergesafe.results import gate as schema
from mergesafe.safety.evaluation.result import Evaluation, ModelResult

#: Digits of a digest that a terminal shows; documents hold all of them.
_SHOWN: Final = 12


@dataclass(frozen=True)
class Evidence:
    """``models``: the model, and the baseline if any. ``file``: path and SHA-256 of the evaluation
    that was read. ``requirements``: how many are decided, each at ``confidence``.
    """

    models: Sequence[ModelResult]
    evaluation: Evaluation
    confidence: float
    requirements: int
    file: schema.FileDigest | None = None

    @property
    def joint(self) -> float:
        """With at least this confidence all intervals hold together (Bonferroni 1936): 1 − k·α."""
        return max(0.0, 1 - self.requirements * (1 - self.confidence))

    def document(self) -> schema.Evidence:
        """As it is written."""
        model, *baseline = [
            schema.ModelIdentity(m.name, m.reference, m.identity) for m in self.models
        ]
        return schema.Evidence(
            model=model,
            baseline=baseline[0] if baseline else UNSET,
            judges=list(self.evaluation.judges),
            sets=list(self.evaluation.sets),
            confidence=self.confidence,
            joint_confidence=round(self.joint, 6),
            evaluation=self.file,
        )

    def properties(self) -> Iterator[tuple[str, str]]:
        """Names and values for JUnit, digests in full."""
        for role, model in zip(("model", "baseline"), self.models, strict=False):
            yield role, model.name
            yield f"{role}.identity", model.identity
        yield "judge", self.judges
        for each in self.evaluation.sets:
            yield f"set.{each.name}", f"{each.records} questions, sha256 {each.sha256}"
        yield "confidence", f"{self.confidence:g}"
        yield "joint_confidence", f"{self.joint:g}"
        if self.file is not None:
            yield "evaluation", f"{self.file.path}, sha256 {self.file.sha256}"

    @property
    def judges(self) -> str:
        """The judge that decides, with its version, and the others."""
        named = [f"{each.name} (version {each.version})" for each in self.evaluation.judges]
        if not named:
            return "none"
        others = f"; beside it {', '.join(named[1:])}" if named[1:] else ""
        return f"{named[0]} decides{others}"

    def lines(self) -> Iterator[str]:
        """The same for people, digests shortened."""
        for role, model in zip(("model", "baseline"), self.models, strict=False):
            where = f", {model.reference}" if model.reference not in (None, model.name) else ""
            yield f"{role}: {model.name}{where}, identity {_short(model.identity)}"
        yield f"judge: {self.judges}"
        sets = [
            f"{each.name} ({each.role}, {each.records} questions, sha256 {_short(each.sha256)})"
            for each in self.evaluation.sets
        ]
        yield f"sets: {', '.join(sets) or 'none'}"
        yield f"confidence: {self._confidence()}"
        if self.file is not None:
            path, digest = self.file.path, _short(self.file.sha256)
            yield f"evaluation: read from {path}, sha256 {digest}"

    def _confidence(self) -> str:
        level = f"{100 * self.confidence:g} %"
        if self.requirements == 1:
            return level
        return (
            f"{level} for each of the {self.requirements} requirements on its own; all "
            f"{self.requirements} intervals hold together with at least {100 * self.joint:g} %"
        )


def _short(digest: str) -> str:
    return f"{digest[:_SHOWN]}..." if len(digest) > _SHOWN + 3 else digest
