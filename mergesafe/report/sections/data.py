"""Sections about answers, data and origins: examples, data cards, manifests, files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from mergesafe.engine.memory import format_size
from mergesafe.references import redact_text
from mergesafe.report.content import Content
from mergesafe.report.manifest import Manifest
from mergesafe.report.sections.parts import Group, Section
from mergesafe.report.sections.tables import Cell, Table
from mergesafe.results.data_card import DataCard
from mergesafe.results.evaluation import Evaluation, Example, Role

#: Questions shown of each set, and characters of an answer.
MAX_QUESTIONS: Final = 6
MAX_CHARACTERS: Final = 600
#: Characters of an answer that is shown without having been judged for safety.
MAX_BRIEF: Final = 120
#: The role of a set whose questions ask for what must not be told.
UNSAFE: Final[Role] = "unsafe"


@dataclass(frozen=True)
class Answer:
    """What models answered. ``text`` is None when it is masked: then the page does not hold it."""

    text: str | None
    judgement: str
    status: str


@dataclass(frozen=True)
class QuestionAnswers:
    """A question and its answers, each with the models that gave it.

    ``before``: who said what before the question.
    """

    question: str
    answers: dict[Answer, list[str]]
    before: list[tuple[str, str]]

    @property
    def judgements(self) -> int:
        """How many different ones there are."""
        return len({answer.judgement for answer in self.answers})


def examples(content: Content) -> Iterator[Section]:
    """Answers by set and question, masked unless they were found safe."""
    sets = [each for _, value in content.of(Evaluation) for each in value.sets]
    by_set: dict[str, dict[tuple[str, ...], QuestionAnswers]] = {}
    for model in content.models:
        for example in model.examples:
            questions = by_set.setdefault(example.set, {})
            key = (example.question, *(f"{turn.role}: {turn.content}" for turn in example.before))
            asked = questions.setdefault(
                key, QuestionAnswers(cut(example.question), {}, _before(example))
            )
            roles = {each.role for each in sets if each.name == example.set}
            shown = answer(example, harmless=bool(roles) and UNSAFE not in roles)
            models = asked.answers.setdefault(shown, [])
            if model.short not in models:
                models.append(model.short)
    if by_set:
        shown_sets = [
            (name, _telling(questions.values()), len(questions))
            for name, questions in by_set.items()
        ]
        yield Section(
            "examples",
            "Example answers",
            "Only answers that were found safe are in this file: to unsafe questions those that "
            "the judge called safe, to others single lines that refuse or are correct. The rest "
            "was left out when the file was made and cannot be shown from it. Questions on which "
            "the models differ come first.",
            template="examples.html",
            data={"sets": shown_sets},
        )


def _before(example: Example) -> list[tuple[str, str]]:
    """System prompt and questions before the last one. Nobody judged the answers between them."""
    names = {"system": "system prompt", "user": "user", "assistant": "assistant"}
    return [
        (names[turn.role], cut(turn.content) if turn.role != "assistant" else "(an answer, masked)")
        for turn in example.before
    ]


def _telling(asked: Iterable[QuestionAnswers]) -> list[QuestionAnswers]:
    """Those on which the models differ most come first."""
    return sorted(asked, key=lambda each: -each.judgements)[:MAX_QUESTIONS]


def answer(example: Example, *, harmless: bool) -> Answer:
    """The answer as it may be shown.

    To an unsafe question only what a judge called safe. Answers to ``harmless`` questions are not
    judged for safety; one line that refuses or holds the expected answer is shown all the same,
    more lines are not: what follows a refusal or an answer may be anything.
    """
    said = {
        "safe": {True: "judged safe", False: "judged unsafe", None: ""},
        "refused": {True: "refused", False: "did not refuse", None: ""},
        "correct": {True: "correct", False: "not correct", None: ""},
    }
    found = [words[getattr(example, about)] for about, words in said.items()]
    brief = len(example.response) <= MAX_BRIEF and "\n" not in example.response.strip()
    expected = harmless and brief and (example.refused or example.correct)
    is_safe = example.safe or (example.safe is None and expected)
    if example.safe is None and not is_safe:
        found.append("not judged for safety")
    if not is_safe:
        found.append("masked")
    if example.safe is False:
        status = "bad"
    elif harmless and example.refused:
        status = "warn"
    else:
        status = "good" if is_safe else "info"
    text = cut(example.response) if is_safe else None
    return Answer(text, ", ".join(filter(None, found)), status)


def cut(text: str) -> str:
    """At most :data:`MAX_CHARACTERS`, and how many more there were."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]}… ({len(text) - MAX_CHARACTERS:,} more characters)"


def data_cards(content: Content) -> Iterator[Section]:
    groups = []
    for i, (_, card) in enumerate(content.of(DataCard)):
        facts = [("File", card.path), ("Records", f"{card.records:,}")]
        if card.asked_by:
            facts.append(("Questions by", card.asked_by))
        if card.judge:
            facts.append(("Judge", f"{card.judge} {card.judge_version or ''}"))
        facts += [("Seed", str(card.seed)), ("SHA-256", card.sha256)]
        answered = {content.short(name): count for name, count in card.answered_by.items()}
        counts = (
            ("topics", "Records by topic", "Topic", card.topics),
            ("answered", "Records by the model that answered", "Model", answered),
            ("discarded", "Discarded, by reason", "Reason", card.discarded),
        )
        tables = [
            _counts(f"data-{i}-{name}", caption, head, values)
            for name, caption, head, values in counts
            if values
        ]
        groups.append(Group(heading=card.name, facts=facts, tables=tables))
    if groups:
        yield Section(
            "data", "Data", "What the data sets hold, and what was left out of them.", groups
        )


def _counts(ident: str, caption: str, head: str, values: Mapping[str, int]) -> Table:
    ordered = sorted(values.items(), key=lambda item: -item[1])
    rows = [[name, f"{count:,}"] for name, count in ordered]
    return Table(ident, caption, [head, "Count"], rows, numeric=1)


def manifests(content: Content) -> Iterator[Section]:
    groups = []
    for i, (document, manifest) in enumerate(content.of(Manifest)):
        facts = [
            ("Merge method", manifest.merge_method),
            ("mergesafe", manifest.mergesafe_version),
            ("Tensors", f"{len(manifest.tensors):,}"),
            ("Size", format_size(sum(shard.size for shard in manifest.shards.values()))),
        ]
        if manifest.seed is not None:
            facts.append(("Seed", str(manifest.seed)))
        facts += [
            ("Inputs", ", ".join(map(content.short, manifest.inputs))),
            ("Digests of tensors", manifest.digest),
            ("SHA-256 of the manifest", document.sha256),
        ]
        files = Table(
            f"manifest-{i}",
            "SHA-256 of the files beside the weights",
            ["File", "SHA-256"],
            list(manifest.files_sha256.items()),
            folded=True,
        )
        groups.append(
            Group(
                heading=document.path.parent.name,
                facts=facts,
                tables=[files] if manifest.files_sha256 else [],
                text=redact_text(manifest.recipe),
            )
        )
    if groups:
        yield Section(
            "manifest",
            "Manifest",
            "What was merged into what. The manifest also holds a digest of every input and output "
            "tensor; mergesafe verify checks them.",
            groups,
        )


def files(content: Content) -> Iterator[Section]:
    """What the page was made of."""
    rows = [
        [Cell(str(d.path)), Cell(d.kind.replace("_", " ")), Cell(d.version), Cell(d.sha256)]
        for d in content.documents
    ]
    table = Table("files-table", "Files", ["File", "Kind", "mergesafe", "SHA-256"], rows)
    yield Section("files", "Made from", groups=[Group(tables=[table])])
