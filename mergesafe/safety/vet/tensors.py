"""Which tensors a parent has, against the base: a merge needs the same names, shapes and kinds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mergesafe.checkpoint._parse import show
from mergesafe.dtypes import FLOATS, MERGEABLE
from mergesafe.engine.sources import Model, Source, output_names
from mergesafe.safety.similarity.statistics import TensorInput
from mergesafe.safety.vet.findings import Finding, listing


@dataclass
class Comparison:
    """Tensors that can be compared with the base's, and what is wrong with the others."""

    shared: dict[str, tuple[Source, Source]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def compare_tensors(model: Model, base: Model) -> Comparison:
    """Missing and unexpected tensors, wrong shapes and types that merges do not compute with."""
    result = Comparison()
    missing, unexpected, shapes, kinds = [], [], [], []
    other_dtypes = 0
    for name in output_names((base, model))[0]:
        ours, theirs = model.source(name), base.source(name)
        if ours is None:
            missing.append(name)
        elif theirs is None:
            unexpected.append(name)
        elif ours.info.shape != theirs.info.shape:
            shapes.append(f"{name} {list(ours.info.shape)} not {list(theirs.info.shape)}")
        elif (ours.info.dtype in FLOATS) != (theirs.info.dtype in FLOATS) or (
            ours.info.dtype in FLOATS and ours.info.dtype not in MERGEABLE
        ):
            kinds.append(f"{name} is {ours.info.dtype}")
        elif ours.info.dtype in FLOATS:
            result.shared[name] = (theirs, ours)
            other_dtypes += ours.info.dtype != theirs.info.dtype
    for names, what in (
        (missing, "tensors of the base are missing"),
        (unexpected, "tensors that the base has not"),
        (shapes, "tensors have another shape than the base's"),
        (kinds, "tensors are of a type that cannot be merged"),
    ):
        if names:
            where = listing([show(name)[1:-1] for name in names])
            result.findings.append(Finding("unfit", "files", f"{len(names)} {what}", where))
    if other_dtypes:
        what = f"{other_dtypes} tensors are stored in another type than the base's"
        result.findings.append(Finding("note", "files", what, "-"))
    return result


def inputs(compared: Sequence[Comparison]) -> list[TensorInput]:
    """Every tensor of the base that some parent can be compared by; parents by their number."""
    found: dict[str, TensorInput] = {}
    for number, name, (theirs, ours) in _all(compared):
        found.setdefault(name, TensorInput(name, theirs, {})).experts[number] = ours
    return list(found.values())


def _all(compared: Sequence[Comparison]) -> Iterator[tuple[int, str, tuple[Source, Source]]]:
    for number, each in enumerate(compared):
        for name, sources in each.shared.items():
            yield number, name, sources
