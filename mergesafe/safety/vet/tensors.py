"""Which tensors a parent has, against the base: a merge needs the same names, shapes and kinds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mergesafe.dtypes import FLOATS, MERGEABLE
from mergesafe.outline.alignment import align
from mergesafe.outline.sources import Model, Operand
from mergesafe.results.vet import Finding
from mergesafe.safety.similarity.tiles import TensorInput
from mergesafe.safety.vet.findings import amount, listing
from mergesafe.untrusted import show


@dataclass
class Comparison:
    """Tensors that can be compared with the base's, and what is wrong with the others."""

    shared: dict[str, tuple[Operand, Operand]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def compare_tensors(model: Model, base: Model) -> Comparison:
    """Missing and unexpected tensors, wrong shapes and types that merges do not compute with."""
    result = Comparison()
    missing, unexpected, shapes, kinds = [], [], [], []
    other_dtypes = 0
    aligned = align((base, model), base, whole=False)
    base, model = aligned.models
    result.findings += [Finding("note", "files", note, "-") for note in aligned.notes]
    result.findings += [Finding("warning", "files", each, "-") for each in aligned.warnings]
    for name in aligned.names:
        if name in aligned.copied:
            continue
        ours, theirs = model.source(name), base.source(name)
        if ours is None:
            missing.append(name)
        elif theirs is None:
            unexpected.append(name)
        elif ours.view.shape != theirs.view.shape:
            shapes.append(f"{name} {list(ours.view.shape)} not {list(theirs.view.shape)}")
        elif (ours.view.nominal in FLOATS) != (theirs.view.nominal in FLOATS) or (
            ours.view.nominal in FLOATS and ours.view.nominal not in MERGEABLE
        ):
            kinds.append(f"{name} is {ours.view.nominal}")
        elif ours.view.nominal in FLOATS:
            result.shared[name] = (theirs, ours)
            other_dtypes += ours.view.nominal != theirs.view.nominal
    for names, one, many in (
        (missing, "tensor of the base is missing", "tensors of the base are missing"),
        (unexpected, "tensor that the base has not", "tensors that the base has not"),
        (
            shapes, "tensor has another shape than the base's",
            "tensors have another shape than the base's",
        ),
        (
            kinds, "tensor is of a type that cannot be merged",
            "tensors are of a type that cannot be merged",
        ),
    ):  # fmt: skip
        if names:
            where = listing([show(name)[1:-1] for name in names])
            what = amount(len(names), one, many)
            result.findings.append(Finding("unfit", "files", what, where))
    if other_dtypes:
        count = amount(other_dtypes, "tensor is", "tensors are")
        what = f"{count} stored in another type than the base's"
        result.findings.append(Finding("note", "files", what, "-"))
    return result


def inputs(compared: Sequence[Comparison]) -> list[TensorInput]:
    """Every tensor of the base that some parent can be compared by; parents by their number."""
    found: dict[str, TensorInput] = {}
    for number, name, (theirs, ours) in _all(compared):
        found.setdefault(name, TensorInput(name, theirs, {})).experts[number] = ours
    return list(found.values())


def _all(compared: Sequence[Comparison]) -> Iterator[tuple[int, str, tuple[Operand, Operand]]]:
    for number, each in enumerate(compared):
        for name, sources in each.shared.items():
            yield number, name, sources
