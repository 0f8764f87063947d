"""Results as JSON: the version first, then the kind, then what the struct says."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from mergesafe.results.data_card import DataCard
from mergesafe.results.diff import Diff
from mergesafe.results.evaluation import Evaluation
from mergesafe.results.gate import Gate
from mergesafe.results.similarity import Similarity
from mergesafe.results.tuning import Tuning
from mergesafe.results.vet import Vet
from mergesafe.version import __version__

Result: TypeAlias = Evaluation | Similarity | Vet | Gate | DataCard | Tuning | Diff

#: By kind, the struct and the command that writes it.
KINDS: Final[dict[str, tuple[type[Result], str]]] = {
    "evaluation": (Evaluation, "mergesafe evaluate --out FILE"),
    "similarity": (Similarity, "mergesafe similarity --out FILE"),
    "vet": (Vet, "mergesafe vet --out FILE"),
    "gate": (Gate, "mergesafe gate --out FILE"),
    "data_card": (DataCard, "mergesafe generate"),
    "diff": (Diff, "mergesafe diff A B --json"),
    "tuning": (Tuning, "mergesafe tune --out FILE"),
}


def as_dict(result: Result) -> dict[str, Any]:
    """What ``json.dumps`` takes, the fields in the order of the struct."""
    return {"mergesafe": __version__, **msgspec.to_builtins(result, enc_hook=_plain)}


def _plain(value: object) -> object:
    """A number of NumPy or an answer of a model as what it is a kind of, as ``json`` takes it."""
    for kind in (str, float, int):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"a result holds a {type(value).__name__}")
