"""``mergesafe.evaluate``: several models on the same questions by the same judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from mergesafe.chat.conversation import ChatModel, RemarkingModel
from mergesafe.chat.hf import HfModel
from mergesafe.chat.in_context import InContextModel
from mergesafe.chat.providers import make_model
from mergesafe.chat.runnable import check_device
from mergesafe.errors import ArgumentError
from mergesafe.log_lines import told
from mergesafe.references import redact
from mergesafe.results.evaluation import Agreement, JudgeName, Role
from mergesafe.safety.agreement import agreements
from mergesafe.safety.evaluation.cache import Cache
from mergesafe.safety.evaluation.cached import BATCHES, CachedJudge, CachedModel
from mergesafe.safety.evaluation.compare import compare, disagreements
from mergesafe.safety.evaluation.gather import sets_of
from mergesafe.safety.evaluation.harness import harness_figures
from mergesafe.safety.evaluation.judged_labels import (
    calibrate_judges,
    calibration_notes,
    read_labelled,
)
from mergesafe.safety.evaluation.measure import SetResponses, answers_of, ask, result
from mergesafe.safety.evaluation.notes import meaning, notes, repeated
from mergesafe.safety.evaluation.options import EvaluationOptions, options_from
from mergesafe.safety.evaluation.overlap import check_demonstrations, overlaps
from mergesafe.safety.evaluation.quantized import QuantizedModel
from mergesafe.safety.evaluation.result import Evaluation, Figure, ModelResult
from mergesafe.safety.evaluation.sets import EvaluationSet
from mergesafe.safety.evaluation.shapes import check_templates, unseen
from mergesafe.safety.evaluation.wordings import with_wordings, wording_notes
from mergesafe.safety.judges.base import Judge, Verdict, check_judges
from mergesafe.safety.judges.measured import known_errors
from mergesafe.safety.judges.registry import make_judge
from mergesafe.safety.packs.read import judge_notes
from mergesafe.safety.progress import ProgressCallback, Together
from mergesafe.safety.wrapped import WrappedModel, read_wrapped

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mergesafe.safety.evaluation.keywords import EvaluationKeywords

#: A reference of a model, a spec as of :func:`~mergesafe.chat.providers.make_model`, or the model.
Model: TypeAlias = "str | Path | Mapping[str, Any] | ChatModel"
#: References and models; or by the names that the result gives them.
Models: TypeAlias = "Model | Sequence[Model] | Mapping[str, Model]"
#: Responses that are judged between two writes to the cache.
VERDICTS: Final = 256


def evaluate(
    models: Models,
    *,
    progress: ProgressCallback | bool | None = None,
    **options: Unpack[EvaluationKeywords],
) -> Evaluation:
    """Safe rate, refusal rate, over-refusal and domain scores of ``models``, with intervals.

    Args:
        models: folders or Hub ids (``model+adapter`` too), ``NAME@URL`` of an endpoint,
            ``squad:FILE``, ``in-context:FILE``, or chat models; or a mapping that names them, in
            which a model may also be a spec (``{"provider": "openai", ...}``). One after another,
            so only one is in memory.
        progress: True prints a line now and then; or a function of what is being done.
        options: the fields of :class:`~mergesafe.safety.evaluation.options.EvaluationOptions`.

    Raises:
        ArgumentError: an option is wrong, or two models have one name.
        DataError: a set or the cache cannot be used.
        ModelError: a model cannot answer.
    """
    return run(models, options_from(options), told(progress))


def run(models: Models, options: EvaluationOptions, tell: ProgressCallback) -> Evaluation:
    """As :func:`evaluate`, with options that are checked already."""
    sets = sets_of(options)
    plain = [each for each in sets if not each.variant]
    repeats = list(overlaps(plain, [Path(path) for path in options.tuned_on]))
    labelled = [] if options.labels is None else read_labelled(Path(options.labels))
    cache = Cache(None if options.cache is None else Path(options.cache))
    found_judges = with_wordings(make_judges(options.judges), options.wordings)
    named = named_models(models, options)
    for model in named.values():
        if isinstance(model, HfModel):
            check_device(model.device, model.name)
            check_templates(model, sets)
        elif isinstance(model, WrappedModel):
            model.check()
            if isinstance(model, InContextModel):
                check_demonstrations(model, sets)
    # All of them first: the last model that is missing is told before the first is asked.
    identities = {name: model.identity for name, model in named.items()}
    check_judges(found_judges)
    judges = [CachedJudge(each, cache, VERDICTS) for each in found_judges]
    work = sum(answers_of(model, sets, len(options.samplings)) for model in named.values())
    evaluator = _Evaluator(sets, judges, cache, options, tell, Together(tell, work))
    results, asked, remarks = [], [], []
    for name, identity in identities.items():
        # Taken out, so that the model before it is no longer in memory when this one is loaded.
        found, answers, said = evaluator.measure(name, identity, named.pop(name))
        results.append(found)
        asked += answers
        remarks += said
    calibration = list(
        calibrate_judges(judges, found_judges, labelled, results, options.confidence)
        if labelled
        else ()
    )
    cache.close()
    compared = compare(results, options.confidence, repeated(found_judges[0]))
    return Evaluation(
        options.document(),
        [JudgeName(judge.name, judge.version) for judge in judges],
        [each.document() for each in sets],
        results,
        compared,
        _agreement(asked, [judge.name for judge in judges]),
        [
            *repeats,
            *judge_notes(sets, options.judges),
            *unseen(found_judges, sets),
            *wording_notes(found_judges, results),
            *(
                []
                if options.labels is None
                else calibration_notes(calibration, results, Path(options.labels))
            ),
            *notes(plain, found_judges, results, options.max_new_tokens),
            *remarks,
            *disagreements(compared, options.confidence, repeated(found_judges[0])),
        ],
        meaning(found_judges[0]),
        calibration,
        list(known_errors(found_judges, options.confidence)),
    )


def named_models(models: Models, options: EvaluationOptions) -> dict[str, ChatModel]:
    """The models by name, each followed by its quantised forms.

    Raises:
        ArgumentError: none is given, two have one name, or one that is not read from files is to
            be quantised.
    """
    if isinstance(models, Mapping):
        given = [_model(model, redact(str(name)), options) for name, model in models.items()]
    else:
        listed = (
            models if isinstance(models, Sequence) and not isinstance(models, str) else [models]
        )
        given = [_model(model, None, options) for model in listed]
    if not given:
        raise ArgumentError("there is no model to evaluate")
    named: dict[str, ChatModel] = {}
    for model in given:
        for each in (model, *(_quantized(model, scheme) for scheme in options.quantize)):
            if each.name in named:
                raise ArgumentError(
                    f"two models are called {each.name!r}; name one of them otherwise: NAME=MODEL"
                )
            named[each.name] = each
    return named


def _model(model: Any, name: str | None, options: EvaluationOptions) -> ChatModel:
    served, at, url = str(model).partition("@http") if isinstance(model, str) else ("", "", "")
    if at:
        model = {"provider": "openai", "model": served, "base_url": f"http{url}"}
    if isinstance(model, str) and (wrapped := read_wrapped(model, name)) is not None:
        return wrapped
    if isinstance(model, str | Path):
        return HfModel(
            str(model), device=options.device, dtype=options.dtype, batch=options.batch, label=name
        )
    if isinstance(model, Mapping):
        return make_model({**model, "name": name} if name else model)
    found: ChatModel = model
    return found


def _quantized(model: ChatModel, scheme: str) -> ChatModel:
    if isinstance(model, InContextModel):
        return model.quantized(_quantized(model.inner, scheme), scheme)
    if not isinstance(model, HfModel):
        raise ArgumentError(f"{model.name}: only a model read from files can be quantised")
    return QuantizedModel(
        model.reference, device=model.device, dtype=model.dtype, batch=model.batch,
        folder=model.folder, label=model.label, scheme=scheme,
    )  # fmt: skip


def make_judges(specs: Sequence[str | Judge]) -> list[Judge]:
    """The judges of an evaluation; models are loaded when they first judge.

    Raises:
        ArgumentError: one cannot be made, or is named twice.
    """
    judges = [make_judge(spec) if isinstance(spec, str) else spec for spec in specs]
    names = [judge.name for judge in judges]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(f"the judge {name!r} is named twice")
    return judges


@dataclass(frozen=True)
class _Evaluator:
    """What every model is measured with."""

    sets: Sequence[EvaluationSet]
    judges: Sequence[CachedJudge]
    cache: Cache
    options: EvaluationOptions
    tell: ProgressCallback
    together: Together

    def measure(
        self, name: str, identity: str, model: ChatModel
    ) -> tuple[ModelResult, list[SetResponses], list[str]]:
        """What one model did, and what it says about it."""
        self.tell(f"{name}: reading")
        portion = BATCHES * self.options.batch
        cached = CachedModel(model, self.cache, portion, self.together.of(name))
        asked = ask(cached, self.sets, self.judges, self.options.samplings)
        judges = [judge.name for judge in self.judges]
        found = result(name, identity, asked, judges, self.options.confidence)
        if isinstance(model, HfModel):
            found = replace(found, reference=model.ref.text)
        if self.options.lm_eval:
            figures = {**found.figures, **self._harness(name, model)}
            found = replace(found, figures=figures)
        remarks = model.remarks() if isinstance(model, RemarkingModel) else []
        return found, asked, remarks

    def _harness(self, name: str, model: ChatModel) -> dict[str, Figure]:
        if not isinstance(model, HfModel):
            raise ArgumentError(f"{name}: lm-eval tasks need a model that is read from files")
        self.tell(f"{name}: lm-eval")
        return harness_figures(
            model, self.options.lm_eval, limit=self.options.limit, cache=self.cache,
            confidence=self.options.confidence,
        )  # fmt: skip


def _agreement(asked: Sequence[SetResponses], judges: Sequence[str]) -> list[Agreement]:
    """About refusal over all responses, about safety over those to unsafe questions: whether the
    response to a harmless one is safe was not asked.
    """

    def flat(role: Role | None) -> dict[str, list[Verdict]]:
        return {
            judge: [
                verdict
                for each in asked
                if role in (None, each.set.role)
                for run in each.verdicts.get(judge, [])
                for verdict in run
            ]
            for judge in judges
        }

    about_safety = [each for each in agreements(flat("unsafe")) if each.about == "safe"]
    return about_safety + [each for each in agreements(flat(None)) if each.about == "refused"]
