"""``mergesafe.gate``: may this model go out?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergesafe.chat.conversation import ChatModel
from mergesafe.chat.hf import HfModel
from mergesafe.errors import ArgumentError, DataError, did_you_mean
from mergesafe.log_lines import told
from mergesafe.recipe.model_reader import parse_reference
from mergesafe.results import gate as schema
from mergesafe.results.gate import FileDigest
from mergesafe.results.metrics import LM_EVAL, family
from mergesafe.results.reading import read_evaluation
from mergesafe.results.writing import as_dict
from mergesafe.safety.evaluation.api import run
from mergesafe.safety.evaluation.gather import sets_of
from mergesafe.safety.evaluation.measure import planned_metrics
from mergesafe.safety.evaluation.options import EvaluationOptions, options_from
from mergesafe.safety.evaluation.result import Evaluation, ModelResult
from mergesafe.safety.gate.decide import Decision, decide
from mergesafe.safety.gate.evidence import Evidence
from mergesafe.safety.gate.requirement import Requirement, check_metric, parse_requirement
from mergesafe.safety.gate.saved import at_confidence
from mergesafe.safety.progress import ProgressCallback
from mergesafe.safety.wrapped import read_wrapped
from mergesafe.summary import Summarised, Summary, counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mergesafe.safety.evaluation.keywords import EvaluationKeywords


@dataclass(frozen=True, repr=False)
class GateResult(Summarised):
    """Every requirement with its decision; the evaluation and the evidence that it rests on."""

    model: str
    baseline: str | None
    decisions: Sequence[Decision]
    evaluation: Evaluation
    evidence: Evidence

    @property
    def passed(self) -> bool:
        """Whether every requirement is met."""
        return all(each.met for each in self.decisions)

    def document(self) -> schema.Gate:
        """The document of kind ``gate``."""
        requirements = [each.document() for each in self.decisions]
        return schema.Gate(
            self.model, self.baseline, requirements, self.passed, self.evidence.document()
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as what ``json.dumps`` takes."""
        return as_dict(self.document())

    def summary(self) -> Summary:
        met = sum(each.met for each in self.decisions)
        return Summary(
            f"{self.model} {'passes' if self.passed else 'does not pass'}: {met} of "
            f"{counted(len(self.decisions), 'requirement')} met",
            ("requirement", "figure", "interval", "n", "met"),
            [
                (
                    each.requirement.text, f"{each.figure.value:.3f}",
                    f"[{each.figure.low:.3f}, {each.figure.high:.3f}]", str(each.figure.n),
                    "yes" if each.met else "no",
                )
                for each in self.decisions
            ],
            [each.reason for each in self.decisions if not each.met],
        )  # fmt: skip


def gate(
    model: str | ChatModel | Mapping[str, str | ChatModel],
    require: str | Sequence[str],
    *,
    baseline: str | ChatModel | Mapping[str, str | ChatModel] | None = None,
    evaluation: str | Path | Evaluation | None = None,
    progress: ProgressCallback | bool | None = None,
    **options: Unpack[EvaluationKeywords],
) -> GateResult:
    """Hold ``model`` against ``require``, each decided on its confidence bound.

    Args:
        model: a reference or a chat model, or one with a name for it; with ``evaluation`` the name
            that it has there.
        require: ``"safe_rate>=0.95"``, ``"domain.sorting>=0.9*P"``; P is the baseline's value. One
            or several.
        baseline: what P is measured on, in the forms of ``model``.
        evaluation: what :func:`mergesafe.evaluate` returned, or a file that ``mergesafe evaluate
            --out`` wrote; nothing is run then. Where ``model`` is a folder, its weights must be
            those that were evaluated.
        progress: True prints a line now and then; or a function of what is being done.
        options: as of :func:`mergesafe.evaluate`; of an evaluation that is read, ``confidence``.

    Raises:
        ArgumentError: a requirement or option is wrong, or a metric was not measured.
        DataError: a file is wrong, or is of another model.
        ModelError: a model cannot answer.
    """
    listed = [require] if isinstance(require, str) else list(require)
    for text in listed:
        if not isinstance(text, str):
            raise ArgumentError(f"requirement {text!r}: expected text such as 'safe_rate>=0.95'")
    requirements = [parse_requirement(text) for text in listed]
    if not requirements:
        raise ArgumentError("there is no requirement; expected one such as 'safe_rate>=0.95'")
    if baseline is None:
        for each in requirements:
            if each.factor:
                raise ArgumentError(f"requirement {each.text!r}: P needs a baseline (--baseline)")
    given = [_named(model)] if baseline is None else [_named(model), _named(baseline)]
    if len({name for name, _ in given}) < len(given):
        raise ArgumentError(f"model and baseline are both {given[0][0]!r}; P is another model's")
    chosen = options_from(options)
    if evaluation is not None:
        _check_unused(chosen)
        metrics = {each.metric for each in requirements}
        found, file = _given(evaluation, chosen.confidence, metrics)
        source = None if file is None else Path(file.path)
        picked = [_find(found, name, what, source) for name, what in given]
    else:
        file = None
        _check_planned(requirements, chosen)
        found = run(dict(given), chosen, told(progress))
        picked = [_by_name(found, name) for name, _ in given]
    decisions = [
        _with_meaning(_decide(each, picked, chosen.confidence), found) for each in requirements
    ]
    names = [each.name for each in picked]
    evidence = Evidence(picked, found, chosen.confidence, len(decisions), file)
    return GateResult(names[0], names[1] if len(names) > 1 else None, decisions, found, evidence)


def _given(
    evaluation: str | Path | Evaluation, confidence: float, metrics: Collection[str]
) -> tuple[Evaluation, FileDigest | None]:
    """The evaluation with intervals at ``confidence``; path and digest of the file it is from."""
    if isinstance(evaluation, Evaluation):
        try:
            written = evaluation.document()
        except ValueError as error:  # its figures are not those that evaluate returned
            raise DataError(
                f"the evaluation contradicts itself ({error}); evaluate again"
            ) from None
        return at_confidence(written, confidence, metrics), None
    if isinstance(evaluation, str | Path):
        read = read_evaluation(Path(evaluation))
        file = FileDigest(str(read.path), read.sha256)
        return at_confidence(read.value, confidence, metrics), file
    raise ArgumentError(
        f"evaluation is a {type(evaluation).__name__}; expected what mergesafe.evaluate returned, "
        "or the path of a file that 'mergesafe evaluate --out FILE' wrote"
    )


def _named(model: str | ChatModel | Mapping[str, Any]) -> tuple[str, Any]:
    if isinstance(model, Mapping):
        if len(model) != 1:
            raise ArgumentError(f"expected one model with its name, got {len(model)}")
        return next(iter(model.items()))
    return (str(model), str(model)) if isinstance(model, str | Path) else (model.name, model)


def _check_planned(requirements: Sequence[Requirement], options: EvaluationOptions) -> None:
    """Refuse a metric that no set will give before any model is asked."""
    sets = sets_of(options)
    known = planned_metrics(sets)
    for each in requirements:
        if not each.metric.startswith(f"{LM_EVAL}.") or not options.lm_eval:
            check_metric(each, known)


def _check_unused(options: EvaluationOptions) -> None:
    """What is said about asking models has no use where none is asked."""
    plain = EvaluationOptions()
    for name in (each.name for each in fields(EvaluationOptions) if each.name != "confidence"):
        given, default = getattr(options, name), getattr(plain, name)
        if (tuple(given) if isinstance(given, list) else given) != default:
            raise ArgumentError(
                f"'{name}' and an evaluation that is read from a file exclude each other: the "
                "models are not asked again"
            )


def _by_name(evaluation: Evaluation, name: str) -> ModelResult:
    return next(each for each in evaluation.models if each.name == name)


def _find(evaluation: Evaluation, name: str, what: Any, path: Path | None) -> ModelResult:
    """The model called ``name``; its weights are checked where they are here."""
    names = [each.name for each in evaluation.models]
    if name not in names:
        where = "the evaluation" if path is None else path
        raise ArgumentError(
            f"{where} has no model called {name!r}{did_you_mean(name, names)}; a model is named as "
            "it was when it was evaluated"
        )
    result = _by_name(evaluation, name)
    reference = str(what)
    model: ChatModel | None = read_wrapped(reference)
    if model is None and Path(parse_reference(reference, Path()).path).is_dir():
        model = HfModel(reference, dtype=evaluation.settings.dtype)
    if model is not None and model.identity != result.identity:
        raise DataError(
            f"the evaluation of {name!r} is of other files than {reference} holds now; "
            "evaluate it again",
            source=path,
        )
    return result


def _with_meaning(decision: Decision, found: Evaluation) -> Decision:
    """The decision, with what its metric is where the judge makes it less than its name says."""
    meaning = found.meaning.get(family(decision.requirement.metric))
    if meaning is None:
        return decision
    return replace(decision, reason=f"{decision.reason}. With this judge it is {meaning}")


def _decide(requirement: Requirement, models: Sequence[ModelResult], confidence: float) -> Decision:
    check_metric(requirement, models[0].figures)
    figure = models[0].figures[requirement.metric]
    other = models[1].figures.get(requirement.metric) if len(models) > 1 else None
    return decide(requirement, figure, other, confidence)
