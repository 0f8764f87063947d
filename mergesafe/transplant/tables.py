"""Which tensors of a model have a row for each token, and which rows of theirs are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mergesafe.architecture.names import is_tower, layer_of
from mergesafe.architecture.tying import embedding_of, head_of, is_embedding
from mergesafe.architecture.vocabulary import reads_first_row
from mergesafe.checkpoint.format.compare import same_bytes
from mergesafe.checkpoint.format.model import Checkpoint
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.views.rows import Run
from mergesafe.dtypes import MERGEABLE
from mergesafe.errors import CheckpointError
from mergesafe.untrusted import show

Kind = Literal["embedding", "head", "bias"]
#: Copies of the tables that predict several tokens (DeepSeek's) keep in layers of their own.
_INNER: Final = (
    (re.compile(r"\.embed_tokens\.weight$"), "embedding"),
    (re.compile(r"\.shared_head\.head\.weight$"), "head"),
)


@dataclass(frozen=True)
class Table:
    """Tensors of equal bytes whose rows (of a bias: elements) belong to tokens."""

    kind: Kind
    names: tuple[str, ...]
    info: TensorInfo


@dataclass(frozen=True)
class Tables:
    """``rows``: of the input embedding; ``own_head``: whether the head is not the embedding."""

    found: tuple[Table, ...]
    rows: int
    own_head: bool

    @property
    def names(self) -> frozenset[str]:
        """Every tensor that has rows for tokens."""
        return frozenset(name for table in self.found for name in table.names)


def tables_of(model: Checkpoint) -> Tables:
    """The embedding and what else has as many rows.

    Raises:
        CheckpointError: there is no embedding, one is not a matrix of numbers that can be computed
            with, or a tensor of as many rows is not known.
    """
    name = embedding_of(model.tensors)
    if name is None:
        raise CheckpointError(
            f"{model.path}: no tensor is known to be the input embedding (a name that ends in "
            "embed_tokens.weight, wte.weight or the like), so there is nothing to give rows for "
            "other tokens. Use the checkpoint of a language model."
        )
    embedding = model.tensors[name]
    rows = _matrix(embedding)
    head = head_of(model.tensors)
    kinds: dict[str, Kind] = {name: "embedding"}
    for other, info in model.tensors.items():
        of_tokens = rows in info.shape or reads_first_row(other)
        if other != name and of_tokens and (kind := _kind(other, info, rows, head)):
            kinds[other] = kind
    tables: list[Table] = []
    for each, kind in kinds.items():
        info = model.tensors[each]
        if kind != "bias":
            _matrix(info)
        # A head that is stored and tied is a copy of the embedding, unless its bytes say otherwise.
        like = ("embedding",) if each == head and model.tied else (kind,)
        twin = next((t for t in tables if t.kind in like and same_bytes(t.info, info)), None)
        if twin is None:
            tables.append(Table(kind, (each,), info))
        else:
            tables[tables.index(twin)] = Table(twin.kind, (*twin.names, each), twin.info)
    own_head = any(head in table.names for table in tables if table.kind == "head")
    return Tables(tuple(tables), rows, own_head)


def donor_table(donor: Checkpoint, kind: Kind) -> TensorInfo:
    """The donor's embedding, or its head where it has one of its own.

    Raises:
        CheckpointError: there is none, or it is not a matrix of numbers that can be computed with.
    """
    name = embedding_of(donor.tensors)
    if kind == "head":
        name = head_of(donor.tensors) or name
    if name is None:
        raise CheckpointError(
            f"{donor.path}: no tensor is known to be the input embedding, whose rows --method omp "
            "needs. Use the checkpoint of a language model, or another --method."
        )
    _matrix(donor.tensors[name])
    return donor.tensors[name]


def runs_of(kept: Mapping[int, int]) -> tuple[Run, ...]:
    """Rows that are copied, new row -> old row, as runs of neighbours."""
    runs: list[list[int]] = []
    for target in sorted(kept):
        source = kept[target]
        if runs and [runs[-1][0] + runs[-1][2], runs[-1][1] + runs[-1][2]] == [source, target]:
            runs[-1][2] += 1
        else:
            runs.append([source, target, 1])
    return tuple(Run(*run) for run in runs)


def new_shape(info: TensorInfo, rows: int, count: int) -> tuple[int, ...]:
    """The shape with ``count`` rows in place of ``rows``."""
    place = info.shape.index(rows)
    return (*info.shape[:place], count, *info.shape[place + 1 :])


def _kind(name: str, info: TensorInfo, rows: int, head: str | None) -> Kind | None:
    """What a tensor is of which a dimension is that of the vocabulary; None: something else."""
    if is_tower(name):
        return None
    if layer_of(name) is not None:
        found = [kind for pattern, kind in _INNER if pattern.search(name)]
        return found[0] if found and info.shape[0] == rows else None  # type: ignore[return-value]
    if name == head:
        return "head"
    if is_embedding(name):
        return "embedding"
    if name.endswith("bias") and _is_row(info.shape):
        return "bias"
    raise CheckpointError(
        f"{info.path}: tensor {show(name)} has the shape {list(info.shape)}, and {rows:,} is the "
        "number of tokens, but what its rows mean is not known, so they cannot be given to other "
        "tokens. Leave the tensor out if the model needs it not."
    )


def _is_row(shape: Sequence[int]) -> bool:
    """Whether all dimensions but the last are 1."""
    return all(each == 1 for each in shape[:-1])


def _matrix(info: TensorInfo) -> int:
    if len(info.shape) != 2 or info.dtype not in MERGEABLE:
        raise CheckpointError(
            f"{info.path}: tensor {show(info.name)} is {info.dtype} {list(info.shape)}, expected a "
            f"matrix of {', '.join(MERGEABLE)} with a row for each token. Convert the checkpoint "
            "to one of these first."
        )
    return info.shape[0]
