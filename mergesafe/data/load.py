"""Read a data recipe: file or mapping to a checked :class:`DataRecipe`.

As for merge recipes, everything that can be wrong without loading a model is found here, several
mistakes in one run, each with file and line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mergesafe.chat.conversation import question
from mergesafe.chat.providers import ModelSpec, read_model_spec
from mergesafe.chat.records import Record
from mergesafe.data.load_alignment import read_alignment_set
from mergesafe.data.load_shared import NO_MODEL, SetReader
from mergesafe.data.recipe import (
    FORMATS,
    DataRecipe,
    DataSet,
    DomainSet,
    Expert,
    RealSet,
    SafetySet,
)
from mergesafe.data.topics import Topic
from mergesafe.errors import RecipeError, did_you_mean
from mergesafe.recipe.document import parse_yaml
from mergesafe.recipe.fields import Fields
from mergesafe.recipe.nodes import (
    FromPython,
    ListNode,
    MapNode,
    Node,
    Reporter,
    ScalarNode,
    describe,
    shown,
)
from mergesafe.recipe.text import read_text
from mergesafe.safety.policy import Policy, read_policy

KEYS: Final = ("seed", "out", "evaluation", "near_duplicates", "sets")
SET_KEYS: Final = {
    "safety": (
        "kind", "questions", "topics", "policy", "pool", "judge", "count", "format",
        "max_new_tokens", "temperature", "stored_refusals",
    ),
    "domain": ("kind", "experts", "count", "max_new_tokens", "temperature"),
    "real": ("kind", "file", "dataset", "config", "split", "columns", "count"),
    "alignment": (
        "kind", "questions", "topics", "model", "criteria", "criteria_file", "judge", "count",
        "good", "max_new_tokens", "temperature",
    ),
}  # fmt: skip
EXPERT_KEYS: Final = ("name", "model", "examples")
EXAMPLES: Final = 3
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def load_data_recipe(source: str | Path | Mapping[str, Any]) -> DataRecipe:
    """The data recipe in a YAML file, or given as a mapping of the same form.

    Raises:
        RecipeError: it is not valid; every paragraph names file and line.
    """
    if isinstance(source, Mapping):
        report = Reporter(None)
        return _Reader(FromPython(report).node(source), report, Path.cwd()).recipe()
    path = Path(source)
    report = Reporter(path)
    root = parse_yaml(read_text(path, report), report, needs="'sets'")
    return _Reader(root, report, path.absolute().parent).recipe()


def _with_policy(spec: ModelSpec, policy: Policy | None) -> ModelSpec:
    """Templates that ask and answer what the policy says; other models as they are."""
    if policy is None or spec.provider != "template":
        return spec
    templates = {each.topic: each.questions for each in policy.principles if each.questions}
    return replace(
        spec, options={**spec.options, "templates": templates, "refusals": policy.refusals}
    )


class _Reader(SetReader):
    def __init__(self, root: Node, report: Reporter, folder: Path) -> None:
        super().__init__(report, folder)
        self.root = Fields(root, KEYS, "a data recipe", report)

    def recipe(self) -> DataRecipe:
        root = self.root
        out = root.text("out")
        recipe = DataRecipe(
            source=self.report.source,
            folder=self.folder,
            sets=self._sets(),
            seed=root.integer("seed", 0),
            out=None if out is None else self.folder / os.path.expanduser(out),
            evaluation=tuple(
                path
                for node in root.items("evaluation")
                if (path := self.file(node, "an entry of 'evaluation'")) is not None
            ),
            near_duplicates=root.number("near_duplicates", 0.7, low=0.1, high=1),
        )
        if self.report.errors:
            raise RecipeError.joined(self.report.errors)
        return recipe

    def _sets(self) -> tuple[DataSet, ...]:
        node = self.root.node.get("sets")
        if node is None:
            self.root.missing("sets", "a mapping of names to sets")
            return ()
        if not isinstance(node, MapNode) or not node.entries:
            self.report.record("'sets' must be a mapping of names to sets", node.line)
            return ()
        found = []
        for name, line, value in node:
            if not _NAME.fullmatch(name):
                self.report.record(
                    f"the name of a set becomes a file's name: expected letters, digits, '-' and "
                    f"'_', got {shown(name)}",
                    line,
                )
                continue
            made = self.report.attempt(self._set, name, line, value)
            if made is not None:
                found.append(made)
        return tuple(found)

    def _set(self, name: str, line: int | None, node: Node) -> DataSet:
        what = f"set '{name}'"
        every = tuple(dict.fromkeys(key for keys in SET_KEYS.values() for key in keys))
        kinds = Fields(node, every, what, Reporter(self.report.source))
        if not kinds.has("kind"):
            raise self.report.error(f"{what} has no 'kind'; one of {', '.join(SET_KEYS)}", line)
        kind = kinds.text("kind")
        if kind not in SET_KEYS:
            raise self.report.error(
                f"'kind' of {what} is unknown{did_you_mean(str(kind), SET_KEYS)}",
                kinds.line("kind"),
            )
        fields = Fields(node, SET_KEYS[kind], what, self.report)
        if kind == "safety":
            return self._safety(name, line, fields)
        if kind == "domain":
            return self._domain(name, line, fields)
        if kind == "alignment":
            return read_alignment_set(self, name, line, fields)
        count = fields.integer("count", 1, low=1) if fields.has("count") else None
        return RealSet(name, self.source(fields), count, line)

    # --- safety sets -------------------------------------------------------------------------

    def _safety(self, name: str, line: int | None, fields: Fields) -> SafetySet:
        policy = fields.read("policy", self._policy)
        if policy is not None and fields.has("topics"):
            self.report.record(
                f"{fields.what} has both 'topics' and 'policy'; the principles are its topics",
                fields.line("topics"),
            )
        if policy is not None:
            topics = tuple(
                Topic(each.topic, f"what this rule forbids: {each.text.rstrip('.')}")
                for each in policy.principles
            )
        else:
            topics = self.topics(fields)
        questions = self.questions(fields)
        own: tuple[str, ...] = ()
        if policy is not None:
            own = tuple(each.topic for each in policy.principles if each.questions)
        if isinstance(questions, ModelSpec) and questions.provider == "template":
            self.check_templates(fields, topics, questions.line, own)
            questions = _with_policy(questions, policy)
        if not fields.has("pool"):
            fields.missing("pool", "a list of the models that answer the questions")
        pool = tuple(_with_policy(each, policy) for each in self.pool(fields))
        return SafetySet(
            name=name,
            questions=questions,
            pool=pool,
            judge=fields.read("judge", self.judge) or self._default_judge(fields, policy),
            count=fields.integer("count", 200, low=1),
            topics=topics,
            style=None if policy is None else policy.refusal,
            preference=fields.choice("format", FORMATS, "messages") == "preference",
            max_new_tokens=fields.integer("max_new_tokens", 512, low=1),
            temperature=fields.number("temperature", 0.8, low=0, high=2),
            stored_refusals=fields.boolean("stored_refusals", False),
            refusals=() if policy is None else policy.refusals,
            line=line,
        )

    def _policy(self, node: Node, what: str) -> Policy | None:
        path = self.file(node, what)
        if path is None:
            return None
        try:
            return read_policy(path)
        except RecipeError as error:
            self.report.errors.append(error)
            return None

    def _default_judge(self, fields: Fields, policy: Policy | None) -> str:
        """The policy's own judge where it has one."""
        path = fields.read("policy", self.file) if policy is not None and policy.judge else None
        return "rules" if path is None else f"policy:{path}"

    # --- domain sets -------------------------------------------------------------------------

    def _domain(self, name: str, line: int | None, fields: Fields) -> DomainSet:
        if not fields.has("experts"):
            fields.missing("experts", "a list of {name: ..., model: ..., examples: ...}")
        read = (self.report.attempt(self._expert, node, fields) for node in fields.items("experts"))
        experts = tuple(each for each in read if each is not None)
        names = [each.name for each in experts]
        for repeated in sorted({each for each in names if names.count(each) > 1}):
            self.report.record(
                f"two experts of {fields.what} are called {shown(repeated)}", fields.line("experts")
            )
        count = fields.integer("count", 200, low=1)
        if len(experts) > count:
            self.report.record(
                f"'count' of {fields.what} is {count}, fewer than its {len(experts)} experts",
                fields.line("count"),
            )
        return DomainSet(
            name=name,
            experts=experts,
            count=count,
            max_new_tokens=fields.integer("max_new_tokens", 512, low=1),
            temperature=fields.number("temperature", 0.8, low=0, high=2),
            line=line,
        )

    def _expert(self, node: Node, outer: Fields) -> Expert:
        what = f"an expert of {outer.what}"
        fields = Fields(node, EXPERT_KEYS, what, self.report)
        for key, expected in (
            ("name", "the domain, as in 'an exam question on NAME'"),
            ("model", "the expert"),
            ("examples", f"{EXAMPLES} questions or more, or a file of them"),
        ):
            if not fields.has(key):
                fields.missing(key, expected)
        model = fields.read("model", lambda node, what: read_model_spec(node, what, self.report))
        examples = fields.read("examples", self._examples) or ()
        return Expert(fields.text("name") or "", model or NO_MODEL, examples)

    def _examples(self, node: Node, what: str) -> tuple[Record, ...]:
        """Questions as a list of text, or a file of records."""
        if isinstance(node, ListNode):
            texts = [self._line_of_text(each, f"an entry of {what}") for each in node.items]
            records = tuple(Record(question(text)) for text in texts)
        else:
            path = self.file(node, what)
            records = () if path is None else tuple(self.records(path, node))
        if len(records) < EXAMPLES:
            raise self.report.error(
                f"{what}: expected at least {EXAMPLES} questions, got {len(records)}", node.line
            )
        return records

    def _line_of_text(self, node: Node, what: str) -> str:
        if not isinstance(node, ScalarNode) or not node.text.strip():
            raise self.report.error(f"{what} must be a question, got {describe(node)}", node.line)
        return node.text.strip()
