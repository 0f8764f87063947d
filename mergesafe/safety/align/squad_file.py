"""The YAML file of a squad, which ``squad:FILE`` names::

model: models/merged
criteria:
  ethical: {inspector: inspectors/ethical, aligner: models/small+aligners/ethical}
  helpful: {inspector: inspectors/helpful, aligner: models/small+aligners/helpful}
rounds: 3
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from mergesafe.chat.hf import HfModel
from mergesafe.chat.providers import make_model, read_model_spec
from mergesafe.errors import MergesafeError, RecipeError
from mergesafe.recipe.document import parse_yaml
from mergesafe.recipe.fields import Fields
from mergesafe.recipe.nodes import MapNode, Node, Reporter, describe, shown, string
from mergesafe.recipe.text import read_text
from mergesafe.references import SQUAD
from mergesafe.safety.align.aligner import Aligner
from mergesafe.safety.align.squad import Member, Squad
from mergesafe.safety.align.squad_model import SquadModel
from mergesafe.safety.inspector.model import Inspector

_KEYS: Final = ("model", "criteria", "rounds")
_MEMBER: Final = ("inspector", "aligner", "threshold")


def read_squad(reference: str, label: str | None = None) -> SquadModel:
    """The squad that ``squad:FILE`` names; no weights are read yet.

    Relative paths are taken from the current folder if something exists there, else from that of
    the file.

    Raises:
        RecipeError: the file cannot be read or is not valid, a folder that it names is not there or
            holds something else, or an inspector or an aligner was trained for another criterion.
    """
    path = Path(os.path.expanduser(reference.removeprefix(SQUAD)))
    report = Reporter(path, "squad")
    root = parse_yaml(read_text(path, report), report, "'model' and 'criteria'")
    reader = _Reader(Fields(root, _KEYS, "a squad", report), path.absolute().parent)
    found = reader.squad(label or reference)
    if report.errors or found is None:
        raise RecipeError.joined(report.errors)
    return found


class _Reader:
    def __init__(self, fields: Fields, folder: Path) -> None:
        self.fields = fields
        self.report = fields.report
        self.folder = folder

    def squad(self, label: str) -> SquadModel | None:
        fields = self.fields
        if not fields.has("model"):
            fields.missing("model", "the model whose answers are corrected")
        spec = fields.read("model", lambda node, what: read_model_spec(node, what, self.report))
        inspectors: dict[str, Inspector] = {}
        aligners: dict[str, Aligner] = {}
        thresholds: dict[str, float] = {}
        for criterion, node in self._criteria():
            read = self.report.attempt(self._member, criterion, node)
            if read is not None:
                inspectors[criterion], aligners[criterion], thresholds[criterion] = read
        rounds = fields.integer("rounds", 3, low=1, high=100)
        if self.report.errors or spec is None:
            return None
        members = [
            Member(name, inspectors[name], aligners[name], thresholds[name]) for name in inspectors
        ]
        inner = make_model(spec, self.folder)
        return SquadModel(inner, Squad(members, rounds), inspectors, aligners, label)

    def _criteria(self) -> list[tuple[str, Node]]:
        node = self.fields.node.get("criteria")
        expected = "a mapping of criteria to {inspector: ..., aligner: ...}"
        if node is None:
            self.fields.missing("criteria", expected)
        elif not isinstance(node, MapNode) or not node.entries:
            self.report.record(
                f"'criteria' of a squad must be {expected}, got {describe(node)}", node.line
            )
        else:
            return [(name, value) for name, _, value in node]
        return []

    def _member(self, criterion: str, node: Node) -> tuple[Inspector, Aligner, float] | None:
        fields = Fields(node, _MEMBER, f"criterion {shown(criterion)}", self.report)
        for key in _MEMBER[:2]:
            if not fields.has(key):
                fields.missing(key, f"what 'mergesafe {key} train' wrote")
        inspector = fields.read("inspector", lambda n, what: self._inspector(criterion, n, what))
        aligner = fields.read("aligner", lambda n, what: self._aligner(criterion, n, what))
        if inspector is None or aligner is None:
            return None
        learned = inspector.settings.threshold
        return inspector, aligner, fields.number("threshold", learned, low=0.001, high=0.999)

    def _inspector(self, criterion: str, node: Node, what: str) -> Inspector:
        text = os.path.expanduser(string(node, what, self.report))
        beside = os.path.join(self.folder, text)
        found = Inspector(Path(text if os.path.exists(text) else beside))
        try:
            about = found.settings.criterion
        except MergesafeError as error:
            raise self.report.error(f"{what}: {error}", node.line) from None
        if about is not None:
            self._check_criterion(criterion, about, f"{what}, {text},", node)
        return found

    def _aligner(self, criterion: str, node: Node, what: str) -> Aligner:
        spec = read_model_spec(node, what, self.report)
        model = make_model(spec, self.folder)
        if not isinstance(model, HfModel):
            raise self.report.error(
                f"{what} must be a folder that 'mergesafe aligner train' wrote, with its base "
                f"before a + where it is an adapter; got the provider {shown(spec.provider)}",
                node.line,
            )
        found = Aligner(model)
        try:
            about = found.settings.criterion
        except MergesafeError as error:
            raise self.report.error(f"{what}: {error}", node.line) from None
        self._check_criterion(criterion, about, f"{what}, {model.ref.text},", node)
        return found

    def _check_criterion(self, criterion: str, about: str, what: str, node: Node) -> None:
        if about != criterion:
            raise self.report.error(
                f"{what} was trained for the criterion {shown(about)}, not for "
                f"{shown(criterion)}; list it under its own, or train one",
                node.line,
            )
