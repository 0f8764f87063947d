"""What the weights of parents tell, alone, against the base and against the pool."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from mergesafe.architecture.layers import layers_of
from mergesafe.results.vet import Finding
from mergesafe.safety.similarity.measures import Sums, add_up, pairs
from mergesafe.safety.similarity.tiles import TensorSums
from mergesafe.safety.vet.findings import amount, listing
from mergesafe.untrusted import show

#: A fine-tuned tensor keeps its size within percents; these are two orders of magnitude beyond.
DEAD: Final = 0.01
EXPLODING: Final = 10.0
#: ‖τ‖/‖base‖. Fine-tuning changes weights by percents, continued pre-training by tenths; two
#: unrelated models of equal norm are √2 = 1.41 apart.
MISMATCH: Final = 0.7
FAR: Final = 0.3
#: Rounding to bfloat16 turns a rescaled task vector by some thousandths; separate runs, even on the
#: same data, by far more.
COPY: Final = 0.99
#: Outliers: a modified z-score beyond 3.5 (Iglewicz and Hoaglin 1993, How to Detect and Handle
#: Outliers), and at least this factor from the pool's median, since small pools vary by chance.
Z_SCORE: Final = 3.5
FACTOR: Final = 3.0
#: Smallest spread of log norms that is believed, about 10 %.
_SPREAD: Final = 0.1
#: Parents from which on a pool has a middle.
_POOL: Final = 3


@dataclass(frozen=True)
class Norms:
    """Of one parent in some tensors: ‖base‖, ‖τ‖ and ‖base + τ‖."""

    base: float
    delta: float
    model: float

    @property
    def relative(self) -> float:
        """‖τ‖ / ‖base‖; 0 where the base is zero."""
        return self.delta / self.base if self.base else 0.0


def check_weights(
    sums: Mapping[str, TensorSums], matrices: set[str], names: Sequence[str]
) -> list[list[Finding]]:
    """Findings of every parent, by number; ``matrices``: tensors of two dimensions or more."""
    total = add_up(sums.values(), len(names))
    found = [
        [
            *_tensors(sums, matrices, number),
            *_distance(sums, matrices, number, total),
        ]
        for number in range(len(names))
    ]
    for number, finding in [*_copies(total, names), *_outliers(sums, names)]:
        found[number].append(finding)
    return found


def norms(sums: Mapping[str, TensorSums], tensors: Sequence[str], number: int) -> Norms | None:
    """None where the parent has none of the tensors, or not in finite numbers.

    ‖base + τ‖² = ‖base‖² + 2⟨base, τ⟩ + ‖τ‖², exactly 0 for a model of zeros.
    """
    base = inner = delta = 0.0
    known = False
    for name in tensors:
        tensor = sums[name]
        if number in tensor.experts:
            at = tensor.experts.index(number)
            base += tensor.base[0]
            inner += tensor.base[1 + at]
            delta += tensor.gram[at][at]
            known = True
    if not known or not math.isfinite(base + inner + delta):
        return None
    return Norms(*(math.sqrt(max(0.0, v)) for v in (base, delta, base + 2 * inner + delta)))


def robust_z(values: Sequence[float]) -> list[float]:
    """(x − median) / max(1.4826 · median |x − median|, 0.1) of logarithms of norms.

    1.4826 makes the median absolute deviation the standard deviation of a normal sample.
    """
    middle = median(values)
    spread = max(1.4826 * median(abs(value - middle) for value in values), _SPREAD)
    return [(value - middle) / spread for value in values]


def _tensors(sums: Mapping[str, TensorSums], matrices: set[str], number: int) -> Iterator[Finding]:
    """NaN and infinity, tensors that died, tensors that exploded."""
    broken, dead, exploding = [], [], []
    for name, tensor in sums.items():
        if number in tensor.nonfinite:
            broken.append(name)
            continue
        found = norms(sums, [name], number)
        if found is None or not found.base:
            continue
        if found.model < DEAD * found.base:
            dead.append(name)
        elif name in matrices and found.model > EXPLODING * found.base:
            exploding.append(f"{name} ({found.model / found.base:.3g} times)")
    zeros = "dead: (nearly) all zeros, where the base has weights"
    for names, one, many in (
        (broken, "tensor holds NaN or infinity", "tensors hold NaN or infinity"),
        (dead, f"tensor is {zeros}", f"tensors are {zeros}"),
        (
            exploding, "tensor has exploded: its norm is many times the base's",
            "tensors have exploded: their norms are many times the base's",
        ),
    ):  # fmt: skip
        if names:
            where = listing([show(name)[1:-1] for name in names])
            yield Finding("unfit", "weights", amount(len(names), one, many), where)


def _distance(
    sums: Mapping[str, TensorSums], matrices: set[str], number: int, total: Sums
) -> Iterator[Finding]:
    """A parent that is not of this base, or that is the base."""
    if not any(number in tensor.experts for tensor in sums.values()):
        return
    if total.gram[number][number] == 0:
        what = "the task vector is zero: it is a copy of the base and adds nothing to a merge"
        yield Finding("warning", "weights", what, "all tensors")
        return
    chosen = [name for name in sums if name in matrices and number not in sums[name].nonfinite]
    found = norms(sums, chosen, number)
    if found is None or not found.base:
        return
    share = f"its task vector is {found.relative:.2f} times as large as the base"
    if found.relative >= MISMATCH:
        what = f"{share}: it was not fine-tuned from this base"
        yield Finding("unfit", "weights", what, "all matrices")
    elif found.relative >= FAR:
        what = f"{share}: is this the base that it was fine-tuned from?"
        yield Finding("warning", "weights", what, "all matrices")


def _copies(total: Sums, names: Sequence[str]) -> Iterator[tuple[int, Finding]]:
    """Task vectors in one direction; the later of two is named."""
    for first, second in pairs(len(names)):
        measures = total.compare(first, second)
        if measures.cosine is None or not abs(measures.cosine) >= COPY:
            continue
        ratio = 1 / measures.norm_ratio if measures.norm_ratio else 0.0
        if measures.l2 == 0:
            what = f"has the same weights as {names[first]}: a merge counts it twice"
        elif measures.cosine > 0:
            what = (
                f"its task vector is that of {names[first]} times {ratio:.2f} (cosine "
                f"{measures.cosine:.4f}): a merge counts the same change twice"
            )
        else:
            what = (
                f"its task vector is that of {names[first]} times -{ratio:.2f} (cosine "
                f"{measures.cosine:.4f}): a merge cancels the two"
            )
        yield second, Finding("warning", "weights", what, "all tensors")


def _outliers(
    sums: Mapping[str, TensorSums], names: Sequence[str]
) -> Iterator[tuple[int, Finding]]:
    """Norms far from the pool's: of the whole, and of layers against their model's median layer."""
    groups = layers_of(sums)
    overall = {
        number: math.log(found.relative)
        for number in range(len(names))
        if (found := norms(sums, list(sums), number)) is not None and found.relative
    }
    for number, ratio in _far(overall):
        what = f"its task vector is {_times(ratio)} the pool's median, relative to the base"
        yield number, Finding("warning", "weights", what, "all tensors")
    layered = {
        number: {
            label: math.log(found.relative)
            for label, tensors in groups.items()
            if (found := norms(sums, tensors, number)) is not None and found.relative
        }
        for number in overall
    }
    far: dict[int, list[tuple[float, str]]] = {}
    for label in groups:
        beside = {
            number: logs[label] - median(logs.values())
            for number, logs in layered.items()
            if label in logs
        }
        for number, ratio in _far(beside):
            far.setdefault(number, []).append((ratio, label))
    for number, layers in far.items():
        layers.sort(key=lambda each: -abs(each[0]))
        changed = amount(len(layers), "layer changes", "layers change")
        factor = _times(layers[0][0])
        what = f"{changed} out of line with the others of the pool, one {factor} the median"
        where = f"layers {listing([label for _, label in layers])}"
        yield number, Finding("warning", "weights", what, where)


def _far(logs: Mapping[int, float]) -> Iterator[tuple[int, float]]:
    """(number, log ratio to the median) of outliers in a pool that has a middle."""
    if len(logs) < _POOL:
        return
    middle = median(logs.values())
    for number, z in zip(logs, robust_z(list(logs.values())), strict=True):
        if abs(z) > Z_SCORE and abs(logs[number] - middle) > math.log(FACTOR):
            yield number, logs[number] - middle


def _times(log: float) -> str:
    return f"{math.exp(log):.3g} times"
