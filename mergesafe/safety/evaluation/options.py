"""How to evaluate: what the command's options and the Python keywords say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Final

from mergesafe.chat.conversation import Sampling
from mergesafe.chat.hf import BATCH, DTYPES
from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.results.evaluation import Settings
from mergesafe.safety.evaluation.harness import check_harness
from mergesafe.safety.evaluation.quantized import check_schemes
from mergesafe.safety.evaluation.sets import SetPaths
from mergesafe.safety.judges.base import Judge
from mergesafe.safety.statistics import CONFIDENCE, check_confidence
from mergesafe.safety.variants import check_variants

MAX_NEW_TOKENS: Final = 256


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation.

    Args:
        unsafe: files of unsafe questions, or name → file.
        harmless: files of harmless questions.
        domain: files of a domain's questions with answers.
        sets: a YAML file that lists sets.
        packs: names of packs of questions (:mod:`mergesafe.safety.packs.table`).
        variants: other forms in which the unsafe and the harmless questions are asked as well
            (:mod:`mergesafe.safety.variants`).
        tuned_on: files of records that the models were tuned or trained on; questions that repeat
            one of them are named.
        labels: a file of responses that people labelled, on which the judges are measured; rates
            are told without the judges' errors, too.
        judges: what :func:`~mergesafe.safety.judges.registry.make_judge` takes, or judges; the
            first decides the figures.
        wordings: prompts of one meaning with which a policy judge is asked; the first decides,
            and a note tells how far the others are from it.
        max_new_tokens: longest response.
        temperature: 0 is greedy.
        seeds: one response a question for each; several need a temperature above 0.
        batch: conversations at a time.
        device: as of :class:`~mergesafe.chat.hf.HfModel`.
        dtype: of the weights; ``auto`` is the checkpoint's.
        limit: questions of each set, drawn by ``limit_seed``.
        limit_seed: seed of that draw; None takes the first ones.
        question_column: what the question is called in the files of the sets; by default the names
            of :mod:`mergesafe.chat.records`.
        answer_column: likewise the answer.
        cache: folder in which answers and verdicts are kept; None keeps nothing.
        quantize: weight formats in which every model is measured again (int8, int4, fp8).
        lm_eval: tasks of lm-evaluation-harness.
        confidence: of the intervals.

    Raises:
        ArgumentError: a value cannot be.
        ModelError: an option needs a package that is missing.
    """

    unsafe: SetPaths = ()
    harmless: SetPaths = ()
    domain: SetPaths = ()
    sets: str | Path | None = None
    packs: Sequence[str] = ()
    variants: Sequence[str] = ()
    tuned_on: Sequence[str | Path] = ()
    labels: str | Path | None = None
    judges: Sequence[str | Judge] = ("rules",)
    wordings: int = 1
    max_new_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.0
    seeds: Sequence[int] = (0,)
    batch: int = BATCH
    device: str = "auto"
    dtype: str = "auto"
    limit: int | None = None
    limit_seed: int | None = 0
    question_column: str | None = None
    answer_column: str | None = None
    cache: str | Path | None = None
    quantize: Sequence[str] = ()
    lm_eval: Sequence[str] = ()
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        for name in ("packs", "variants", "tuned_on", "judges", "seeds", "quantize", "lm_eval"):
            object.__setattr__(self, name, _several(name, getattr(self, name)))
        for name in ("wordings", "max_new_tokens", "batch", "limit"):
            value = getattr(self, name)
            if value is not None or name != "limit":
                self._at_least(name, value, 1)
        if isinstance(self.limit_seed, bool) or not isinstance(self.limit_seed, Integral | None):
            raise ArgumentError(f"limit_seed is {self.limit_seed!r}; expected a whole number")
        for name in ("question_column", "answer_column"):
            if not isinstance(getattr(self, name), str | None):
                raise ArgumentError(f"{name} is {getattr(self, name)!r}; expected text")
        for name in ("temperature", "confidence"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ArgumentError(f"{name} is {value!r}; expected a number")
        for name in ("device", "dtype"):
            if not isinstance(getattr(self, name), str):
                raise ArgumentError(f"{name} is {getattr(self, name)!r}; expected text")
        for name in ("sets", "labels", "cache"):
            if not isinstance(getattr(self, name), str | Path | None):
                raise ArgumentError(f"{name} is {getattr(self, name)!r}; expected a path")
        if not 0 <= self.temperature < float("inf"):
            raise ArgumentError(f"temperature is {self.temperature}; expected a number from 0 up")
        check_confidence(self.confidence)
        whole = all(isinstance(seed, Integral) for seed in self.seeds)
        if not whole or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ArgumentError(f"seeds are {list(self.seeds)}; expected different whole numbers")
        if len(self.seeds) > 1 and not self.temperature:
            raise ArgumentError(
                "several seeds with temperature 0 would give the same greedy responses again; set "
                "a temperature above 0, such as 0.7, or one seed"
            )
        for name in ("packs", "variants", "quantize", "lm_eval"):
            if not all(isinstance(each, str) for each in getattr(self, name)):
                raise ArgumentError(f"{name} is {getattr(self, name)!r}; expected names")
        if not self.judges:
            raise ArgumentError("there is no judge; 'rules' is the one that needs no model")
        if self.dtype not in DTYPES:
            raise ArgumentError(f"unknown dtype {self.dtype!r}{did_you_mean(self.dtype, DTYPES)}")
        object.__setattr__(self, "variants", tuple(dict.fromkeys(self.variants)))
        check_variants(self.variants)
        check_schemes(self.quantize)
        check_harness(self.lm_eval)

    @staticmethod
    def _at_least(name: str, value: int, least: int) -> None:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ArgumentError(f"{name} is {value!r}; expected a whole number")
        if value < least:
            raise ArgumentError(f"{name} is {value}; expected {least} or more")

    @property
    def samplings(self) -> list[Sampling]:
        """One for each seed."""
        return [Sampling(self.max_new_tokens, self.temperature, seed=seed) for seed in self.seeds]

    def document(self) -> Settings:
        """What changes the figures, as results say it."""
        return Settings(
            self.max_new_tokens, self.temperature, list(self.seeds), self.dtype, self.limit,
            None if self.limit is None else self.limit_seed, self.confidence,
        )  # fmt: skip

    @property
    def columns(self) -> dict[str, str]:
        """What fields of records are called, where that was said."""
        named = {"question": self.question_column, "answer": self.answer_column}
        return {field: column for field, column in named.items() if column is not None}


def _several(name: str, value: Any) -> tuple[Any, ...]:
    """What is given for an option of several values: one alone stands for itself."""
    if isinstance(value, str | Path | Integral) or hasattr(value, "judge"):
        return (value,)
    if not isinstance(value, Iterable):
        raise ArgumentError(f"{name} is {value!r}; expected a sequence")
    return tuple(value)


def options_from(keywords: Mapping[str, Any]) -> EvaluationOptions:
    """Options from the keywords of a Python call.

    Raises:
        ArgumentError: a keyword is unknown.
    """
    known = [field.name for field in fields(EvaluationOptions)]
    for name in keywords:
        if name not in known:
            raise ArgumentError(f"unknown option {name!r}{did_you_mean(name, known)}")
    return EvaluationOptions(**keywords)
