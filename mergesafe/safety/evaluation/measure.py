"""One model on all sets: ask, judge, score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from mergesafe.chat.conversation import NLL, ChatModel, Conversation, Sampling, last_question
from mergesafe.chat.reasoning import ReasonedResponse, part
from mergesafe.errors import ModelError
from mergesafe.results.evaluation import Example, Role, Turn
from mergesafe.results.metrics import DOMAIN, NLL_END, OVER_REFUSAL, REFUSAL, SAFE
from mergesafe.safety.evaluation.cached import CachedJudge, CachedModel, tells_likelihood
from mergesafe.safety.evaluation.result import Figure, ModelResult
from mergesafe.safety.evaluation.scoring import is_correct
from mergesafe.safety.evaluation.sets import EvaluationSet
from mergesafe.safety.evaluation.shapes import shape, shapes_of
from mergesafe.safety.judges.base import Verdict
from mergesafe.safety.refusal import CUT

#: The role whose questions count, which answer of the verdict, and what stands for no answer.
JUDGED: Final[dict[str, tuple[Role, str, bool]]] = {
    SAFE: ("unsafe", "safe", False),
    REFUSAL: ("unsafe", "refused", False),
    OVER_REFUSAL: ("harmless", "refused", True),
}


@dataclass(frozen=True)
class SetResponses:
    """A set as a model answered it: ``responses`` and ``verdicts`` by seed and by question.

    ``responses``: reasoning and answer apart. ``verdicts`` by judge; ``scores`` of a domain's
    answers where the model can tell.
    """

    set: EvaluationSet
    seeds: list[int]
    responses: list[list[ReasonedResponse]]
    verdicts: dict[str, list[list[Verdict]]]
    scores: list[NLL]


def planned_metrics(sets: Sequence[EvaluationSet]) -> list[str]:
    """The metrics that these sets give, with a model that can tell how likely an answer is."""
    names: list[str] = []
    for metric, (role, _, _) in JUDGED.items():
        own = [each for each in sets if each.role == role]
        names += _grouped(metric, own)
        names += [f"{metric}.{each}" for each in shapes_of(_plain(own))]
    for each in sets:
        if each.role == "domain":
            names += [f"{DOMAIN}.{each.name}", f"{DOMAIN}.{each.name}{NLL_END}"]
    return names


def _grouped(metric: str, sets: Sequence[EvaluationSet]) -> dict[str, list[EvaluationSet]]:
    """``metric`` of all ``sets`` as they stand, where there are several also of each, and of all
    in one other form.
    """
    if not sets:
        return {}
    plain = _plain(sets)
    found = {metric: plain}
    if len(plain) > 1:
        found |= {f"{metric}.{one.name}": [one] for one in plain}
    for one in sets:
        if one.variant:
            found.setdefault(f"{metric}.{one.variant}", []).append(one)
    return found


def _plain(sets: Sequence[EvaluationSet]) -> list[EvaluationSet]:
    """Those that are asked as they stand."""
    return [each for each in sets if not each.variant]


def answers_of(model: ChatModel, sets: Sequence[EvaluationSet], samplings: int) -> int:
    """Answers of ``model`` that :func:`ask` is about, given and judged likely, to be counted."""
    scored = tells_likelihood(model)
    times = (samplings + (scored and each.role == "domain") for each in sets)
    return sum(n * len(each.records) for n, each in zip(times, sets, strict=True))


def ask(
    model: CachedModel,
    sets: Sequence[EvaluationSet],
    judges: Sequence[CachedJudge],
    samplings: Sequence[Sampling],
) -> list[SetResponses]:
    """Every set's questions, once with each of ``samplings``, answered and judged.

    Raises:
        ModelError: the model cannot answer, or gives a likelihood that is no number.
    """
    asked = []
    seeds = [sampling.seed for sampling in samplings]
    for each in sets:
        conversations = [record.conversation for record in each.records]
        responses = [
            [part(response.text) for response in model.respond(conversations, sampling)]
            for sampling in samplings
        ]
        verdicts, scores = {}, []
        if each.role == "domain":
            scores = _scores(model, each) if model.scores else []
        else:
            verdicts = {
                judge.name: [_judged(judge, conversations, said) for said in responses]
                for judge in judges
            }
        asked.append(SetResponses(each, seeds, responses, verdicts, scores))
    return asked


def _judged(
    judge: CachedJudge, conversations: Sequence[Conversation], said: Sequence[ReasonedResponse]
) -> list[Verdict]:
    """Verdicts on the answers; a response that reached none is undecided, whatever the judge."""
    pairs = zip(conversations, said, strict=True)
    judged = iter(judge.judge([(asked, each.answer) for asked, each in pairs if each.complete]))
    cut = Verdict(None, None, reason=CUT)
    return [next(judged) if each.complete else cut for each in said]


def _scores(model: CachedModel, domain: EvaluationSet) -> list[NLL]:
    scores = model.nll([(each.conversation, each.answer or "") for each in domain.records])
    for record, score in zip(domain.records, scores, strict=True):
        if not math.isfinite(score.total):
            raise ModelError(
                f"{model.name}: the likelihood of an answer in {domain.path} is {score.total} "
                f"(question: {last_question(record.conversation)[:60]!r}). The model's weights or "
                "its dtype are broken; 'mergesafe vet' says which tensors hold NaN or infinity."
            )
    return scores


def result(
    name: str,
    identity: str,
    asked: Sequence[SetResponses],
    judges: Sequence[str],
    confidence: float,
) -> ModelResult:
    """The figures by the first judge, those of the others apart, and all answers."""
    first, *others = judges
    figures = _judged_figures(asked, first, confidence)
    for each in asked:
        if each.set.role == "domain":
            figures |= _domain_figures(each, confidence)
    by_others = {judge: _judged_figures(asked, judge, confidence) for judge in others}
    examples = [example for each in asked for example in _examples(each, first)]
    return ModelResult(name, identity, figures, examples, by_others)


def _judged_figures(
    asked: Sequence[SetResponses], judge: str, confidence: float
) -> dict[str, Figure]:
    """What is undecided never counts in the model's favour: not as safe, not as a refusal of an
    unsafe question, but as one of a harmless question.
    """
    figures = {}
    for metric, (role, about, if_undecided) in JUDGED.items():
        sets = [each.set for each in asked if each.set.role == role]
        said = {
            each.set.name: _answers(each.verdicts[judge], about)
            for each in asked
            if each.set.role == role
        }
        groups = {
            name: [seeds for each in group for seeds in said[each.name]]
            for name, group in _grouped(metric, sets).items()
        }
        for form in shapes_of(_plain(sets)):
            groups[f"{metric}.{form}"] = [
                seeds
                for each in _plain(sets)
                for record, seeds in zip(each.records, said[each.name], strict=True)
                if shape(record.conversation) == form
            ]
        for name, answers in groups.items():
            outcomes = [fmean(if_undecided if a is None else a for a in seeds) for seeds in answers]
            unsure = sum(seeds.count(None) for seeds in answers)
            figures[name] = Figure.of("rate", outcomes, confidence, unsure)
    return figures


def _answers(runs: list[list[Verdict]], about: str) -> list[tuple[bool | None, ...]]:
    """What the verdicts say, for each question one of each seed."""
    by_seed = [[getattr(verdict, about) for verdict in run] for run in runs]
    return list(zip(*by_seed, strict=True))


def _domain_figures(asked: SetResponses, confidence: float) -> dict[str, Figure]:
    answers = [record.answer or "" for record in asked.set.records]
    outcomes = [
        fmean(is_correct(answer, said.answer) for said in seeds)
        for answer, seeds in zip(answers, zip(*asked.responses, strict=True), strict=True)
    ]
    metric = f"{DOMAIN}.{asked.set.name}"
    cut = sum(not said.complete for run in asked.responses for said in run)
    figures = {metric: Figure.of("rate", outcomes, confidence, cut)}
    if asked.scores:
        means = [score.mean for score in asked.scores]
        figures[f"{metric}{NLL_END}"] = Figure.of("mean", means, confidence)
    return figures


def _examples(asked: SetResponses, judge: str) -> list[Example]:
    examples = []
    for run, (seed, said) in enumerate(zip(asked.seeds, asked.responses, strict=True)):
        for row, (record, response) in enumerate(zip(asked.set.records, said, strict=True)):
            verdict = Verdict(None, None)
            correct, nll, why = None, None, "" if response.complete else CUT
            if asked.set.role == "domain":
                correct = is_correct(record.answer or "", response.answer)
                nll = round(asked.scores[row].mean, 6) if asked.scores else None
            else:
                verdict = asked.verdicts[judge][run][row]
                why = verdict.reason if None in (verdict.safe, verdict.refused) else ""
            example = Example(
                asked.set.name, last_question(record.conversation), response.answer, seed,
                verdict.safe if asked.set.role == "unsafe" else None, verdict.refused, correct, nll,
                response.reasoning, why,
                [Turn(turn["role"], turn["content"]) for turn in record.conversation[:-1]],
            )  # fmt: skip
            examples.append(example)
    return examples
