"""One case for one seed: parents, merges and trained experts, each kept once it is measured."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from bench.align.cases import COUNTS, DOMAIN, Case, Merge, Parent, Trained
from bench.align.training import pairs, train
from bench.experiment import Experiment, Row, asked, prepare
from mergesafe.chat.records import read_records
from mergesafe.demo.sets import Sets

#: Metric of a row -> the metric of the evaluation.
RATES = {
    "refusal": "refusal_rate", "over_refusal": "over_refusal", "sorting": "domain.sorting",
    "arithmetic": "domain.arithmetic",
}  # fmt: skip
#: Metric -> the set whose questions it is over.
SETS = {"refusal": "unsafe", "safe": "unsafe", "over_refusal": "harmless"}


def measure(model: str, sets: Sets, answers: Path) -> Row:
    """``outcomes``: by metric, question -> 1 or 0; ``nll``: of each skill's answers.

    ``safe`` is by the placeholder judge, which is exact for what the expert was taught; the others
    are by the refusal rules and by exact match.
    """
    found = asked(model, sets, answers)
    figures = {metric: found.figures[name] for metric, name in RATES.items()}
    figures["safe"] = found.other_judges["placeholder"]["safe_rate"]
    paths = {"unsafe": sets.unsafe, "harmless": sets.harmless, **sets.skills}
    texts = {name: _questions(path) for name, path in paths.items()}
    return {
        **{metric: each.estimate.value for metric, each in figures.items()},
        **{f"{skill}_nll": found.figures[f"domain.{skill}.nll"].estimate.value
           for skill in sets.skills},
        "outcomes": {
            metric: dict(zip(texts[SETS.get(metric, metric)], each.outcomes, strict=True))
            for metric, each in figures.items()
        },
    }  # fmt: skip


def _questions(path: Path) -> list[str]:
    """Each question once, as an evaluation reads them."""
    return list(dict.fromkeys(each.conversation[-1]["content"] for each in read_records(path)))


def run(experiment: Experiment, case: Case, seed: int) -> Row:
    """Measure a case, or find what an earlier run kept of it."""
    if isinstance(case, Merge):
        return experiment.run(case, seed)
    folder, sets = prepare(experiment.work, seed, COUNTS, experiment.train)
    text = case.reference(Path()) if isinstance(case, Parent) else json.dumps(asdict(case.training))
    before = experiment.kept(case.name, seed, text)
    if before is not None:
        return before
    found: Row = {"case": case.name, "seed": seed}
    if isinstance(case, Parent):
        model = case.reference(folder)
    else:
        model, cost = _train(case, folder, sets, seed)
        found |= cost
    found |= experiment.measure(model, sets, experiment.work / "answers")
    return experiment.keep(case.name, seed, text, found)


def _train(case: Trained, folder: Path, sets: Sets, seed: int) -> tuple[str, Row]:
    """The trained model and its cost; one that was trained before is not trained again."""
    out = case.out(folder)
    how = asdict(case.training)
    done = out / "training.json"
    if done.exists():
        before = json.loads(done.read_text())
        if before["training"] == how:
            return f"{folder / 'base'}+{out}", before["cost"]
    cost = train(
        case.training, folder / "base", folder / "adapters" / DOMAIN, pairs(sets, seed), out, seed
    )
    spent = {"seconds": round(cost.seconds, 1), "cpu_s": round(cost.cpu_s, 1), "steps": cost.steps}
    done.write_text(json.dumps({"training": how, "cost": spent}))
    return f"{folder / 'base'}+{out}", spent
