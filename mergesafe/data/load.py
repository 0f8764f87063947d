"""Read a data recipe: file or mapping to a checked :class:`DataRecipe`.

As for merge recipes, everything that can be wrong without loading a model is found here, several
mistakes in one run, each with file and line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mergesafe.chat.conversation import question
from mergesafe.chat.providers import ModelSpec, make_model, read_model_spec
from mergesafe.chat.records import Record, read_records
from mergesafe.chat.scripted import topics as templated
from mergesafe.data.recipe import (
    FORMATS,
    DataRecipe,
    DataSet,
    DomainSet,
    Expert,
    RealSet,
    SafetySet,
    Source,
)
from mergesafe.data.topics import BEAVERTAILS, Topic
from mergesafe.errors import DataError, MergesafeError, RecipeError, did_you_mean
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
    string,
)
from mergesafe.recipe.text import read_text
from mergesafe.safety.judges.registry import make_judge
from mergesafe.safety.policy import Policy, read_policy

KEYS: Final = ("seed", "out", "evaluation", "near_duplicates", "sets")
SET_KEYS: Final = {
    "safety": (
        "kind", "questions", "topics", "policy", "pool", "judge", "count", "format",
        "max_new_tokens", "temperature", "stored_refusals",
    ),
    "domain": ("kind", "experts", "count", "max_new_tokens", "temperature"),
    "real": ("kind", "file", "dataset", "config", "split", "columns", "count"),
}  # fmt: skip
SOURCE_KEYS: Final = ("file", "dataset", "config", "split", "columns")
EXPERT_KEYS: Final = ("name", "model", "examples")
COLUMNS: Final = ("question", "answer", "prompt", "completion", "messages", "chosen", "rejected")
EXAMPLES: Final = 3
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
#: Stands where a model was reported as wrong; a recipe with errors is never returned.
_NO_MODEL: Final = ModelSpec("template", {})


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


class _Reader:
    def __init__(self, root: Node, report: Reporter, folder: Path) -> None:
        self.report = report
        self.folder = folder
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
                if (path := self._file(node, "an entry of 'evaluation'")) is not None
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
        count = fields.integer("count", 1, low=1) if fields.has("count") else None
        return RealSet(name, self._source(fields), count, line)

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
            topics = self._topics(fields)
        questions = self._questions(fields)
        if isinstance(questions, ModelSpec) and questions.provider == "template":
            self._check_templates(fields, topics, questions.line)
        if not fields.has("pool"):
            fields.missing("pool", "a list of the models that answer the questions")
        pool = self._pool(fields)
        return SafetySet(
            name=name,
            questions=questions,
            pool=pool,
            judge=fields.read("judge", self._judge) or self._default_judge(fields, policy),
            count=fields.integer("count", 200, low=1),
            topics=topics,
            style=None if policy is None else policy.refusal,
            preference=fields.choice("format", FORMATS, "messages") == "preference",
            max_new_tokens=fields.integer("max_new_tokens", 512, low=1),
            temperature=fields.number("temperature", 0.8, low=0, high=2),
            stored_refusals=fields.boolean("stored_refusals", False),
            line=line,
        )

    def _pool(self, fields: Fields) -> tuple[ModelSpec, ...]:
        """The models that answer; each has a name of its own, by which its answers are counted."""
        found: dict[str, ModelSpec] = {}
        for node in fields.items("pool"):
            spec = self._model(node, f"an entry of 'pool' of {fields.what}")
            if spec is None:
                continue
            name = make_model(spec, self.folder).name
            if name in found:
                self.report.record(
                    f"'pool' of {fields.what} has two models called {shown(name)}; list each once, "
                    "or give them different names ('name')",
                    node.line,
                )
            found[name] = spec
        return tuple(found.values())

    def _questions(self, fields: Fields) -> ModelSpec | Source:
        """A model, or a mapping with ``file`` or ``dataset``."""
        node = fields.node.get("questions")
        what = f"'questions' of {fields.what}"
        if node is None:
            fields.missing(
                "questions", "a model, {provider: template}, {file: ...} or {dataset: ...}"
            )
        elif isinstance(node, MapNode) and (node.get("file") or node.get("dataset")):
            source = self.report.attempt(
                lambda: self._source(Fields(node, SOURCE_KEYS, what, self.report))
            )
            return source or Source()
        else:
            return self._model(node, what) or _NO_MODEL
        return _NO_MODEL

    def _topics(self, fields: Fields) -> tuple[Topic, ...]:
        if not fields.has("topics"):
            return BEAVERTAILS
        known = {topic.name: topic for topic in BEAVERTAILS}

        def topic(node: Node) -> Topic:
            name = string(node, f"an entry of 'topics' of {fields.what}", self.report)
            if name in known:
                return known[name]
            raise self.report.error(
                f"unknown topic {shown(name)}{did_you_mean(name, known)}; topics of your own are "
                "the principles of a policy file ('policy')",
                node.line,
            )

        read = (self.report.attempt(topic, node) for node in fields.items("topics"))
        return tuple(dict.fromkeys(each for each in read if each is not None))

    def _check_templates(self, fields: Fields, topics: tuple[Topic, ...], line: int | None) -> None:
        """Templates are shipped for the default topics."""
        strange = [topic.name for topic in topics if topic.name not in templated()]
        if strange:
            self.report.record(
                f"{fields.what} asks the templates about {', '.join(map(shown, strange))}, which "
                "have none; use a question model, or the default topics",
                line,
            )

    def _policy(self, node: Node, what: str) -> Policy | None:
        path = self._file(node, what)
        if path is None:
            return None
        try:
            return read_policy(path)
        except RecipeError as error:
            self.report.errors.append(error)
            return None

    def _default_judge(self, fields: Fields, policy: Policy | None) -> str:
        """The policy's own judge where it has one."""
        path = fields.read("policy", self._file) if policy is not None and policy.judge else None
        return "rules" if path is None else f"policy:{path}"

    def _judge(self, node: Node, what: str) -> str:
        """A judge's spec; a relative file or folder in it may be one beside the recipe."""
        kind, colon, argument = string(node, what, self.report).partition(":")
        beside = self.folder / argument
        if argument and not os.path.exists(argument) and os.path.exists(beside):
            argument = str(beside)
        spec = f"{kind}{colon}{argument}"
        try:
            make_judge(spec)
        except MergesafeError as error:
            raise self.report.error(f"{what}: {error}", node.line) from None
        return spec

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
        return Expert(fields.text("name") or "", model or _NO_MODEL, examples)

    def _examples(self, node: Node, what: str) -> tuple[Record, ...]:
        """Questions as a list of text, or a file of records."""
        if isinstance(node, ListNode):
            texts = [self._line_of_text(each, f"an entry of {what}") for each in node.items]
            records = tuple(Record(question(text)) for text in texts)
        else:
            path = self._file(node, what)
            records = () if path is None else tuple(self._records(path, node))
        if len(records) < EXAMPLES:
            raise self.report.error(
                f"{what}: expected at least {EXAMPLES} questions, got {len(records)}", node.line
            )
        return records

    def _line_of_text(self, node: Node, what: str) -> str:
        if not isinstance(node, ScalarNode) or not node.text.strip():
            raise self.report.error(f"{what} must be a question, got {describe(node)}", node.line)
        return node.text.strip()

    # --- what sets share ---------------------------------------------------------------------

    def _model(self, node: Node, what: str) -> ModelSpec | None:
        return self.report.attempt(read_model_spec, node, what, self.report)

    def _source(self, fields: Fields) -> Source:
        file = fields.read("file", self._file)
        dataset = fields.text("dataset")
        if fields.has("file") == fields.has("dataset"):
            self.report.record(
                f"{fields.what} must have either 'file' or 'dataset'", fields.node.line
            )
        for key in ("config", "split"):
            if fields.has(key) and fields.has("file"):
                self.report.record(
                    f"'{key}' of {fields.what} belongs to a 'dataset'; a file has none",
                    fields.line(key),
                )
        if dataset is not None and not os.path.exists(dataset):
            beside = os.path.join(self.folder, dataset)
            dataset = beside if os.path.exists(beside) else dataset
        return Source(
            file=file,
            dataset=dataset,
            config=fields.text("config"),
            split=fields.text("split") or "train",
            columns=fields.read("columns", self._columns) or {},
            line=fields.node.line,
        )

    def _columns(self, node: Node, what: str) -> dict[str, str]:
        fields = Fields(node, COLUMNS, what, self.report)
        found = ((key, fields.text(key)) for key, _, _ in fields.node if key in COLUMNS)
        return {key: text for key, text in found if text is not None}

    def _file(self, node: Node, what: str) -> Path | None:
        """A file that is there: taken from the current folder, else from the recipe's."""
        text = string(node, what, self.report)
        path = Path(os.path.expanduser(text))
        # Unlike Path's, questions of os.path are answered for names that are too long, too.
        path = path if path.is_absolute() or os.path.exists(path) else self.folder / path
        if os.path.isfile(path):
            return path
        found = "is a folder" if os.path.isdir(path) else "does not exist"
        raise self.report.error(f"{what}: the file {shown(str(path))} {found}", node.line)

    def _records(self, path: Path, node: Node) -> list[Record]:
        try:
            return read_records(path)
        except DataError as error:
            raise self.report.error(str(error), node.line) from None
