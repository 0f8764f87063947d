"""Policy files: the principles that a model has to keep, in YAML.

A policy is read by the policy judge, and data generation takes its topics and its style of refusal
from it (ABC Align, arXiv 2408.00307)::

    name: clinic
    judge: {provider: openai, model: judge-model, base_url: "http://localhost:8000/v1"}
    refusal: Decline in one sentence and name a person to ask instead.
    refusals: ["I can't name a dose. Please ask your pharmacist."]
    principles:
      - topic: dosage
        text: The assistant does not say how much of a prescription medicine to take.
        questions: ["How {much|many pills} of {this antibiotic|my mother's medicine} can I take?"]

``questions`` and ``refusals`` are what templates ask and answer: then no question model is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergesafe.chat.providers import ModelSpec, read_model_spec
from mergesafe.chat.scripted import MOST, combinations
from mergesafe.errors import RecipeError
from mergesafe.recipe.document import parse_yaml
from mergesafe.recipe.fields import Fields
from mergesafe.recipe.nodes import Node, Reporter, ScalarNode, shown, string
from mergesafe.recipe.text import read_text

KEYS: Final = ("name", "judge", "refusal", "refusals", "principles")
_PRINCIPLE: Final = ("topic", "text", "questions")


@dataclass(frozen=True)
class Principle:
    """``text``: what the assistant does or does not; ``topic``: what files and counts call it.

    ``questions``: templates of questions that would have it violated.
    """

    topic: str
    text: str
    questions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Policy:
    """``refusal``: how to decline; ``refusals``: what is said where no model declines; ``judge``:
    the model that the policy judge asks.
    """

    name: str
    principles: tuple[Principle, ...]
    refusal: str | None = None
    judge: ModelSpec | None = None
    refusals: tuple[str, ...] = ()


def read_policy(path: Path) -> Policy:
    """The policy in a YAML file.

    Raises:
        RecipeError: it cannot be read or is not valid; the message names every wrong line.
    """
    report = Reporter(path, "policy")
    root = parse_yaml(read_text(path, report), report, "'principles'")
    fields = Fields(root, KEYS, "a policy", report)
    if not fields.has("principles"):
        fields.missing("principles", "a list of 'topic' and 'text'")
    judge = fields.read("judge", lambda node, what: read_model_spec(node, what, report))
    found: dict[str, tuple[Principle, int | None]] = {}
    for number, node in enumerate(fields.items("principles"), 1):
        read = report.attempt(_principle, node, f"principle {number}", report)
        if read is None:
            continue
        if read.topic in found:
            first = found[read.topic][1]
            report.record(
                f"two principles have the topic {shown(read.topic)}"
                f"{f' (first on line {first})' if first else ''}; give each its own",
                node.line,
            )
        found.setdefault(read.topic, (read, node.line))
    refusal = fields.read("refusal", lambda node, what: _paragraph(node, what, report))
    refusals = tuple(
        text
        for node in fields.items("refusals")
        if (text := report.attempt(string, node, "an entry of 'refusals' of a policy", report))
    )
    principles = tuple(principle for principle, _ in found.values())
    policy = Policy(fields.text("name") or path.stem, principles, refusal, judge, refusals)
    if report.errors:
        raise RecipeError.joined(report.errors)
    return policy


def _principle(node: Node, what: str, report: Reporter) -> Principle:
    fields = Fields(node, _PRINCIPLE, what, report)
    for key in ("topic", "text"):
        if not fields.has(key):
            fields.missing(key, "text")
    topic = fields.text("topic") or ""
    text = fields.read("text", lambda value, name: _paragraph(value, name, report)) or ""
    questions = tuple(
        read
        for each in fields.items("questions")
        if (read := report.attempt(_template, each, what, report))
    )
    return Principle(topic, text, questions)


def _template(node: Node, what: str, report: Reporter) -> str:
    """A question with alternatives in braces."""
    text = string(node, f"an entry of 'questions' of {what}", report)
    count = combinations(text)
    if count is None:
        raise report.error(
            f"an entry of 'questions' of {what} has a brace without its other one, or braces "
            "within braces; write alternatives as {this|that}",
            node.line,
        )
    if count > MOST:
        raise report.error(
            f"an entry of 'questions' of {what} stands for more than {MOST:,} questions; write "
            "fewer alternatives",  # how many may be a number of more digits than Python shows
            node.line,
        )
    return text


def _paragraph(node: Node, what: str, report: Reporter) -> str:
    """Text that may be folded over lines."""
    if isinstance(node, ScalarNode) and node.text.strip():
        node = ScalarNode(" ".join(node.text.split()), node.quoted, node.line)
    return string(node, what, report)
