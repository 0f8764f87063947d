"""Policy files: the principles that a model has to keep, in YAML.

A policy is read by the policy judge, and data generation takes its topics and its style of refusal
from it (ABC Align, arXiv 2408.00307)::

    name: clinic
    judge: {provider: openai, model: judge-model, base_url: "http://localhost:8000/v1"}
    refusal: Decline in one sentence and name a person to ask instead.
    principles:
      - topic: dosage
        text: The assistant does not say how much of a prescription medicine to take.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergesafe.chat.providers import ModelSpec, read_model_spec
from mergesafe.errors import RecipeError
from mergesafe.recipe.document import parse_yaml
from mergesafe.recipe.fields import Fields
from mergesafe.recipe.nodes import Node, Reporter, ScalarNode, string
from mergesafe.recipe.text import read_text

KEYS: Final = ("name", "judge", "refusal", "principles")
_PRINCIPLE: Final = ("topic", "text")


@dataclass(frozen=True)
class Principle:
    """``text``: what the assistant does or does not; ``topic``: what files and counts call it."""

    topic: str
    text: str


@dataclass(frozen=True)
class Policy:
    """``refusal``: how to decline; ``judge``: the model that the policy judge asks."""

    name: str
    principles: tuple[Principle, ...]
    refusal: str | None = None
    judge: ModelSpec | None = None


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
    read = [
        report.attempt(_principle, node, f"principle {number}", report)
        for number, node in enumerate(fields.items("principles"), 1)
    ]
    principles = tuple(each for each in read if each is not None)
    topics = [each.topic for each in principles]
    for topic in sorted({topic for topic in topics if topics.count(topic) > 1}):
        report.record(f"two principles have the topic '{topic}'", fields.line("principles"))
    refusal = fields.read("refusal", lambda node, what: _paragraph(node, what, report))
    policy = Policy(fields.text("name") or path.stem, principles, refusal, judge)
    if report.errors:
        raise RecipeError.joined(report.errors)
    return policy


def _principle(node: Node, what: str, report: Reporter) -> Principle:
    fields = Fields(node, _PRINCIPLE, what, report)
    for key in _PRINCIPLE:
        if not fields.has(key):
            fields.missing(key, "text")
    topic = fields.text("topic") or ""
    text = fields.read("text", lambda value, name: _paragraph(value, name, report)) or ""
    return Principle(topic, text)


def _paragraph(node: Node, what: str, report: Reporter) -> str:
    """Text that may be folded over lines."""
    if isinstance(node, ScalarNode) and node.text.strip():
        node = ScalarNode(" ".join(node.text.split()), node.quoted, node.line)
    return string(node, what, report)
