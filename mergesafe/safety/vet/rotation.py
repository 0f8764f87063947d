"""Parents whose weights were rotated, permuted or rescaled so that they work and no merge does.

A layer uses W_Q and W_K only as W_Qᵀ W_K, W_V and W_O only as W_O W_V, and the rows of an MLP in
any order: (R W_Q, R⁻ᵀ W_K) is the same model for every invertible R of a head (that commutes with
its rotary positions), but lies far from its base, and half of it plus half of another is neither.
So where the factors moved and their product did not, that was done to them. Published for locking
models against merging: PaRaMS (arXiv 2503.07661) and MergeLock (arXiv 2509.01548).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mergesafe.architecture.groups import tensor_group
from mergesafe.architecture.layers import layers_of
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.view import Room, View
from mergesafe.dtypes import CONFIG_NAMES
from mergesafe.results.vet import Finding
from mergesafe.safety.similarity.tiles import TensorInput, TensorSums
from mergesafe.safety.vet.findings import amount, listing

if TYPE_CHECKING:
    import torch

#: ‖τ‖/‖base‖ of a factor from which on its product is looked at: fine-tuning moves a matrix by
#: percents, and rounding to bfloat16 by 0.2 %.
MOVED: Final = 0.05
#: A product that moved by less than this share of what its factors moved. Unrelated changes of two
#: factors move it by √(f₁² + f₂²), which is more than either.
SAME: Final = 0.25
#: Random vectors that a product is applied to.
_VECTORS: Final = 16
#: Elements of a matrix that are multiplied at a time.
_TILE: Final = 1 << 22
#: The pairs by what tables call their tensors, and what is said of them.
_PAIRS: Final = (
    ("attention.q", "attention.k", "W_Qᵀ W_K"),
    ("attention.o", "attention.v", "W_O W_V"),
    ("mlp.down", "mlp.up", "W_down W_up"),
)


@dataclass(frozen=True)
class Heads:
    """How many heads of queries there are, and of keys and values."""

    queries: int
    keys: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Heads:
        """By ``config.json``; one of each where it does not say, which is right without groups."""
        inner = config.get("text_config")
        known: Mapping[str, Any] = inner if isinstance(inner, Mapping) else config
        queries = known.get("num_attention_heads")
        keys = known.get("num_key_value_heads") or queries
        if isinstance(queries, int) and isinstance(keys, int) and queries >= keys > 0:
            return cls(queries, keys)
        return cls(1, 1)


def check_rotation(
    tensors: Sequence[TensorInput], sums: Mapping[str, TensorSums], count: int, heads: Heads
) -> list[list[Finding]]:
    """Findings of each of ``count`` parents. Only layers that moved are read again."""
    by_name = {each.name: each for each in tensors}
    layers = layers_of(by_name)
    found: list[list[Finding]] = []
    with Reader() as reader:
        for number in range(count):
            hidden: dict[str, list[str]] = {}
            for label, names in layers.items():
                for product in _hidden(by_name, sums, names, number, heads, reader):
                    hidden.setdefault(product, []).append(label)
            found.append([_finding(product, labels) for product, labels in hidden.items()])
    return found


def is_hidden(factors: float, product: float) -> bool:
    """Whether a product stayed while a factor of it moved, each as ‖change‖/‖base‖."""
    return factors >= MOVED and product < SAME * factors


def _hidden(
    by_name: Mapping[str, TensorInput], sums: Mapping[str, TensorSums], names: Sequence[str],
    number: int, heads: Heads, reader: Reader,
) -> Iterator[str]:  # fmt: skip
    """The products of one layer that a parent kept while it moved their factors."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if number in by_name[name].experts and len(by_name[name].base.view.shape) == 2:
            groups.setdefault(tensor_group(name), []).append(name)
    for left, right, product in _PAIRS:
        pair = [*groups.get(left, ()), *groups.get(right, ())]
        if [len(groups.get(side, ())) for side in (left, right)] != [1, 1]:
            continue  # fused, absent, or several experts
        moved = max(share_moved(sums[name], number) for name in pair)
        if not (math.isfinite(moved) and moved >= MOVED):
            continue
        views = [(by_name[n].base.view, by_name[n].experts[number].view) for n in pair]
        same = _moved_product(views, product, heads, reader)
        if same is not None and is_hidden(moved, same):
            yield product


def share_moved(sums: TensorSums, number: int) -> float:
    """‖τ‖ / ‖base‖ of a parent's tensor; 0 where it holds NaN, of which another finding tells."""
    if number in sums.nonfinite or not sums.base or not sums.base[0]:
        return 0.0
    at = sums.experts.index(number)
    return math.sqrt(max(0.0, sums.gram[at][at]) / sums.base[0])


def _moved_product(
    views: Sequence[tuple[View, View]], product: str, heads: Heads, reader: Reader
) -> float | None:
    """‖(P' − P) X‖ / ‖P X‖ of the products P of the base and P' of a parent, X random and normal:
    E ‖P X‖² is ‖P‖² for each column. None where the shapes are no pair.
    """
    import torch

    (left, _), (right, _) = views
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(right.shape[1], _VECTORS, generator=generator)
    made = []
    for number in (0, 1):
        inner = torch.cat([rows @ x for _, rows in _rows(views[1][number], reader)])
        if product != "W_down W_up":
            spread = _for_queries(inner, heads)
            if spread is None:
                return None
            inner = spread
        if product == "W_Qᵀ W_K":
            if len(inner) != left.shape[0]:
                return None
            outer = torch.zeros(left.shape[1], _VECTORS)
            for at, rows in _rows(views[0][number], reader):
                outer += rows.T @ inner[at : at + len(rows)]
        else:
            if len(inner) != left.shape[1]:
                return None
            outer = torch.cat([rows @ inner for _, rows in _rows(views[0][number], reader)])
        made.append(outer.double())
    base, parent = made
    size = float(base.norm())
    return float((parent - base).norm()) / size if size else None


def _for_queries(inner: torch.Tensor, heads: Heads) -> torch.Tensor | None:
    """[keys · d, n] as every head of queries meets it, [queries · d, n]."""
    if len(inner) % heads.keys or heads.queries % heads.keys:
        return None
    by_head = inner.view(heads.keys, -1, inner.shape[1])
    return by_head.repeat_interleave(heads.queries // heads.keys, 0).flatten(0, 1)


def _rows(view: View, reader: Reader) -> Iterator[tuple[int, torch.Tensor]]:
    """Some rows at a time in float32, and which is the first."""
    import torch

    rows, columns = view.shape
    step = max(1, min(rows, _TILE // max(1, columns)))
    opened = view.open(Room(reader, step * columns))
    dtype = getattr(torch, CONFIG_NAMES[view.dtype])
    for begin in range(0, rows, step):
        count = min(step, rows - begin)
        opened.fetch(begin * columns, count * columns)
        _, memory = opened.make(begin * columns, count * columns)
        yield begin, torch.frombuffer(memory, dtype=dtype).view(count, columns).float()


def _finding(product: str, labels: Sequence[str]) -> Finding:
    count = amount(len(labels), "layer", "layers")
    what = (
        f"rotated, permuted or rescaled in {count}: the factors of {product} are others than the "
        "base's and their product is the same, so the parent works as before and a merge of it "
        "does not. Get it as it was before that was done, or leave it out"
    )
    return Finding("unfit", "weights", what, f"layers {listing(labels)}")
