"""What the JSON files hold that mergesafe's commands write: one struct for each kind.

Every file starts with ``{"mergesafe": version, "kind": ...}``. A field that is missing, of another
type, or of a length that does not fit its neighbours is an error; fields not listed are ignored, so
that a file may say more than a report shows. Shares are between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from mergesafe.errors import RecipeError
from mergesafe.recipe.document import parse_yaml
from mergesafe.recipe.nodes import MapNode, Reporter, ScalarNode
from mergesafe.report.numbers import Integer, Number, check_interval
from mergesafe.report.verdicts import Gate, Requirement, Vet


class Measure(msgspec.Struct):
    """A figure with its confidence interval; ``value`` is null when there was nothing to count.

    ``undecided``: verdicts that were none, counted against the model.
    """

    value: Number | None
    low: Number | None = None
    high: Number | None = None
    n: Integer | None = None
    kind: Literal["rate", "mean"] | None = None
    undecided: Integer = 0

    def __post_init__(self) -> None:
        check_interval(self.value, self.low, self.high)
        if self.kind == "rate" and not all(
            0 <= each <= 1 for each in (self.value, self.low, self.high) if each is not None
        ):
            raise ValueError("a rate is no share between 0 and 1")


class JudgeName(msgspec.Struct):
    name: str
    version: str = ""


class QuestionSet(msgspec.Struct):
    name: str
    role: str
    records: Integer
    path: str = ""
    sha256: str = ""


class Example(msgspec.Struct):
    """A question and an answer; ``safe`` is null when no judge was asked or decided it.

    ``correct``: whether the answer to a domain's question is the expected one.
    """

    set: str
    question: str
    response: str
    safe: bool | None = None
    refused: bool | None = None
    correct: bool | None = None


class EvaluatedModel(msgspec.Struct):
    name: str
    metrics: dict[str, Measure]
    reference: str | None = None
    identity: str = ""
    examples: list[Example] = []


class Comparison(msgspec.Struct):
    """``difference``: first minus second; ``p`` of a paired test, ``p_holm`` corrected for all."""

    first: str
    second: str
    metric: str
    difference: Number
    low: Number | None = None
    high: Number | None = None
    p: Number | None = None
    p_holm: Number | None = None


class Agreement(msgspec.Struct):
    """Cohen's kappa of two judges; null when both always say the same one thing."""

    first: str
    second: str
    about: Literal["safe", "refused"]
    kappa: Number | None
    n: Integer


class Settings(msgspec.Struct):
    confidence: Number = 0.95


class Evaluation(msgspec.Struct):
    judges: list[JudgeName]
    sets: list[QuestionSet]
    models: list[EvaluatedModel]
    comparisons: list[Comparison] = []
    agreement: list[Agreement] = []
    settings: Settings = msgspec.field(default_factory=Settings)
    notes: list[str] = []
    meaning: dict[str, str] = {}


class Pair(msgspec.Struct):
    """Two task vectors, layer by layer."""

    first: str
    second: str
    cosine: list[Number | None] | None = None
    l2: list[Number | None] | None = None
    sign_conflict: list[Number | None] | None = None
    norm_ratio: list[Number | None] | None = None
    cka: list[Number | None] | None = None
    kl: Number | None = None
    top1: Number | None = None


PAIR_MEASURES: Final = ("cosine", "sign_conflict", "norm_ratio", "l2", "cka")


class Similarity(msgspec.Struct):
    models: list[str]
    base: str | None
    layers: list[str | int]
    pairs: list[Pair]
    notes: list[str] = []

    def __post_init__(self) -> None:
        for i, pair in enumerate(self.pairs):
            for name in PAIR_MEASURES:
                _same_length(getattr(pair, name), self.layers, f"pairs[{i}].{name}", "layer")


class DataCard(msgspec.Struct):
    path: str
    records: Integer
    name: str = ""
    sha256: str = ""
    asked_by: str | None = None
    topics: dict[str, Integer] = {}
    discarded: dict[str, Integer] = {}
    answered_by: dict[str, Integer] = {}
    judge: str | None = None
    judge_version: str | None = None
    seed: Integer | None = None
    warnings: list[str] = []


class Step(msgspec.Struct):
    step: Integer
    objective: Number | None
    terms: dict[str, Number | None] = {}
    search: str = ""


class FrontPoint(msgspec.Struct):
    """Held-out log-likelihoods, nats a token; ``dominated`` by another point in both."""

    safety: Number
    skill: Number
    dominated: bool = False


class Blame(msgspec.Struct):
    """How much each parent's group of tensors costs safety, by two measures."""

    models: list[str]
    groups: list[str | int]
    gradient: list[list[Number | None]] | None = None
    leave_one_out: list[list[Number | None]] | None = None

    def __post_init__(self) -> None:
        for name in ("gradient", "leave_one_out"):
            _table(getattr(self, name), self.models, self.groups, name)


class Tuning(msgspec.Struct):
    """``coefficients``: a row for each model, or one row for a coefficient that they share.

    ``objective``: what was minimised, at the result; ``start``: before. ``terms`` and ``heldout``:
    its terms at the result, on the data that it was optimised on and on data kept apart;
    ``start_terms`` and ``start_heldout``: before.
    """

    models: list[str]
    groups: list[str | int]
    coefficients: dict[str, list[list[Number | None]]]
    recipe: str | None = None
    granularity: str = ""
    start: Number | None = None
    objective: Number | None = None
    terms: dict[str, Number | None] = {}
    heldout: dict[str, Number | None] = {}
    start_terms: dict[str, Number | None] = {}
    start_heldout: dict[str, Number | None] = {}
    evaluations: Integer | None = None
    history: list[Step] = []
    front: list[FrontPoint] | None = None
    hypervolume: Number | None = None
    blame: Blame | None = None
    constraints: list[str | Requirement] = []
    warnings: list[str] = []

    def __post_init__(self) -> None:
        for name, rows in self.coefficients.items():
            models = self.models if len(rows) != 1 else ["all"]
            _table(rows, models, self.groups, f"coefficients.{name}")


class ManifestInput(msgspec.Struct):
    model: str


class ManifestTensor(msgspec.Struct):
    dtype: str
    shape: list[Integer]
    digest: str
    inputs: list[ManifestInput]


class ManifestShard(msgspec.Struct):
    size: Integer


class Manifest(msgspec.Struct):
    """``mergesafe-manifest.json``, as far as a report shows it."""

    format: Integer
    mergesafe_version: str
    recipe: str
    merge_method: str
    digest: str
    tensors: dict[str, ManifestTensor]
    backend: str = ""
    seed: Integer | None = None
    files_sha256: dict[str, str] = {}
    shards: dict[str, ManifestShard] = {}

    @property
    def inputs(self) -> list[str]:
        """The models that were merged."""
        names = (i.model for tensor in self.tensors.values() for i in tensor.inputs)
        return list(dict.fromkeys(names))

    @property
    def base(self) -> str | None:
        """The base model as the recipe names it; None where it names none or cannot be read."""
        try:
            tree = parse_yaml(self.recipe, Reporter(None))
        except RecipeError:
            return None
        base = tree.get("base_model") if isinstance(tree, MapNode) else None
        return base.text if isinstance(base, ScalarNode) else None


Kind = Evaluation | Similarity | Vet | Gate | DataCard | Tuning

KINDS: Final[dict[str, type[Kind]]] = {
    "evaluation": Evaluation,
    "similarity": Similarity,
    "vet": Vet,
    "gate": Gate,
    "data_card": DataCard,
    "tuning": Tuning,
}


def _same_length(
    values: Sequence[object] | None, named: Sequence[object], field: str, each: str
) -> None:
    if values is not None and len(values) != len(named):
        raise ValueError(
            f"'{field}' has {len(values)} values; expected {len(named)}, one for each {each}"
        )


def _table(
    rows: Sequence[Sequence[object]] | None,
    models: Sequence[str],
    groups: Sequence[object],
    field: str,
) -> None:
    """``rows``: one for each model, with a value for each group."""
    _same_length(rows, models, field, "model")
    for i, row in enumerate(rows or ()):
        _same_length(row, groups, f"{field}[{i}]", "group")
