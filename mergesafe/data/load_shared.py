"""What reading one set of a data recipe shares with reading others: models, questions, files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from mergesafe.chat.providers import ModelSpec
from mergesafe.chat.records import Record, read_records
from mergesafe.chat.scripted import topics as templated
from mergesafe.data.models import make_any_model, read_any_model
from mergesafe.data.recipe import Source
from mergesafe.data.topics import BEAVERTAILS, Topic
from mergesafe.errors import DataError, MergesafeError, did_you_mean
from mergesafe.recipe.fields import Fields
from mergesafe.recipe.nodes import MapNode, Node, Reporter, shown, string
from mergesafe.safety.judges.registry import make_judge

SOURCE_KEYS: Final = ("file", "dataset", "config", "split", "columns")
COLUMNS: Final = ("question", "answer", "prompt", "completion", "messages", "chosen", "rejected")
#: Stands where a model was reported as wrong; a recipe with errors is never returned.
NO_MODEL: Final = ModelSpec("template", {})


class SetReader:
    """``report`` is told what is wrong; relative paths may be beside the recipe, in ``folder``."""

    def __init__(self, report: Reporter, folder: Path) -> None:
        self.report = report
        self.folder = folder

    def questions(self, fields: Fields) -> ModelSpec | Source:
        """A model, or a mapping with ``file`` or ``dataset``."""
        node = fields.node.get("questions")
        what = f"'questions' of {fields.what}"
        if node is None:
            fields.missing(
                "questions", "a model, {provider: template}, {file: ...} or {dataset: ...}"
            )
        elif isinstance(node, MapNode) and (node.get("file") or node.get("dataset")):
            source = self.report.attempt(
                lambda: self.source(Fields(node, SOURCE_KEYS, what, self.report))
            )
            return source or Source()
        else:
            return self.model(node, what) or NO_MODEL
        return NO_MODEL

    def topics(self, fields: Fields) -> tuple[Topic, ...]:
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

    def check_templates(
        self, fields: Fields, topics: tuple[Topic, ...], line: int | None, own: tuple[str, ...] = ()
    ) -> None:
        """Templates are shipped for the default topics; a policy has those of ``own`` topics."""
        known = {*templated(), *own}
        strange = [topic.name for topic in topics if topic.name not in known]
        if strange:
            self.report.record(
                f"{fields.what} asks the templates about {', '.join(map(shown, strange))}, which "
                "have none; use a question model, the default topics, or give the policy's "
                "principles 'questions'",
                line,
            )

    def pool(self, fields: Fields) -> tuple[ModelSpec, ...]:
        """The models that answer; each has a name of its own, by which its answers are counted."""
        found: dict[str, ModelSpec] = {}
        for node in fields.items("pool"):
            spec = self.model(node, f"an entry of 'pool' of {fields.what}")
            if spec is None:
                continue
            name = make_any_model(spec, self.folder).name
            if name in found:
                self.report.record(
                    f"'pool' of {fields.what} has two models called {shown(name)}; list each once, "
                    "or give them different names ('name')",
                    node.line,
                )
            found[name] = spec
        return tuple(found.values())

    def judge(self, node: Node, what: str) -> str:
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

    def model(self, node: Node, what: str) -> ModelSpec | None:
        return self.report.attempt(read_any_model, node, what, self.report, self.folder)

    def source(self, fields: Fields) -> Source:
        file = fields.read("file", self.file)
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
            columns=fields.read("columns", self.columns) or {},
            line=fields.node.line,
        )

    def columns(self, node: Node, what: str) -> dict[str, str]:
        fields = Fields(node, COLUMNS, what, self.report)
        found = ((key, fields.text(key)) for key, _, _ in fields.node if key in COLUMNS)
        return {key: text for key, text in found if text is not None}

    def file(self, node: Node, what: str) -> Path | None:
        """A file that is there: taken from the current folder, else from the recipe's."""
        text = string(node, what, self.report)
        path = Path(os.path.expanduser(text))
        # Unlike Path's, questions of os.path are answered for names that are too long, too.
        path = path if path.is_absolute() or os.path.exists(path) else self.folder / path
        if os.path.isfile(path):
            return path
        found = "is a folder" if os.path.isdir(path) else "does not exist"
        raise self.report.error(f"{what}: the file {shown(str(path))} {found}", node.line)

    def records(self, path: Path, node: Node) -> list[Record]:
        try:
            return read_records(path)
        except DataError as error:
            raise self.report.error(str(error), node.line) from None
