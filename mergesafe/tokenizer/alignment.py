"""Rows of embeddings by token: which row of which model each token of the output takes.

The row of a token in a model is its own; where it has none, what the recipe says; else the base's;
else that of the only model that has the token; else the mean of those that have it; else zeros.
Models of other slices than the tensor's are asked where none of its own has the token. A row that
belongs to no token is padding, kept from the model whose tokenizer the output takes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Final

from mergesafe.checkpoint.views.row_map import MEAN, WHOLE_MEAN, ZERO, RowMap

if TYPE_CHECKING:
    from mergesafe.checkpoint.views.row_map import IntArray

ABSENT: Final = -1


@dataclass(frozen=True)
class Lent:
    """Whose row a token takes by the recipe: row ``row`` of ``model``, or zeros (None).

    ``forced``: in every model, not only in those that lack the token. ``line``: of the recipe.
    """

    model: Hashable | None
    row: int = 0
    forced: bool = False
    line: int | None = None


@dataclass(frozen=True, eq=False)
class TokenTable:
    """The tokens of the output, and the ids that they have in every model.

    ``vocabulary``: token -> id of the output. ``parents``: the same of every model, by its key.
    ``owner``: the model whose padding is kept, and ``padding``: the number of its rows, 0 for none.
    ``multiple``: the number of rows is a multiple of it instead; 0 for none. ``lent``: by id of the
    output.
    """

    vocabulary: Mapping[str, int]
    parents: Mapping[Hashable, Mapping[str, int]]
    owner: Hashable
    padding: int = 0
    multiple: int = 0
    lent: Mapping[int, Lent] = field(default_factory=dict)

    @cached_property
    def end(self) -> int:
        """One more than the largest id."""
        return max(self.vocabulary.values(), default=-1) + 1

    def rows(self, owned: int = 0) -> int:
        """Rows of a table of the output, of which the owner's has ``owned``."""
        if self.multiple:
            return -(-self.end // self.multiple) * self.multiple
        return max(self.end, owned or self.padding)

    @cached_property
    def ids(self) -> Mapping[Hashable, IntArray]:
        """Of every model the id of each token of the output, by the output's id."""
        import numpy as np

        found: dict[Hashable, IntArray] = {}
        known: dict[int, IntArray] = {}
        for key, ids in self.parents.items():
            if id(ids) not in known:
                own = target = self._used[key]
                if key != self.owner:  # whose tokens keep their ids
                    targets = map(self.vocabulary.get, ids, repeat(ABSENT))
                    target = np.fromiter(targets, np.int32, len(ids))
                row = np.full(self.end, ABSENT, np.int32)
                row[target[target >= 0]] = own[target >= 0]
                known[id(ids)] = row
            found[key] = known[id(ids)]
        return found

    @cached_property
    def named(self) -> IntArray:
        """Which ids of the output are a token's: an array of truth values."""
        import numpy as np

        found = np.zeros(self.end, bool)
        found[np.fromiter(self.vocabulary.values(), np.int32, len(self.vocabulary))] = True
        return found

    def maps(
        self,
        models: Sequence[Hashable],
        counts: Sequence[int],
        base: Hashable | None,
        lenders: int = 0,
        *,
        first: bool = False,
        held: bool = False,
    ) -> list[RowMap]:
        """The rows of one tensor of ``models``, each of which stores ``counts`` rows of it.

        ``base``: the base model, whether or not it is among them. The last ``lenders`` models have
        no part in the tensor: their rows are taken for tokens that none of the others has. The maps
        of equal calls are equal objects. ``first``: a token beyond a model's rows has row 0 there.
        ``first`` or ``held``: rows are not made for tokens alone that lie beyond all tables.
        """
        key = tuple(models), tuple(counts), base, lenders, first, first or held
        if key not in self._maps:
            self._maps[key] = self._made(*key)
        return self._maps[key]

    @cached_property
    def _maps(self) -> dict[object, list[RowMap]]:
        return {}

    def _made(
        self,
        models: Sequence[Hashable],
        counts: Sequence[int],
        base: Hashable | None,
        lenders: int,
        first_row: bool,
        held: bool,
    ) -> list[RowMap]:
        import numpy as np

        owned = counts[models.index(self.owner)] if self.owner in models else 0
        total = self.rows(owned)
        pairs = list(zip(models, counts, strict=True))
        if held and not self.multiple:
            total = max(owned, *(self._behind(key, count) for key, count in pairs))
        own = tuple(self._own(key, count, total, first_row) for key, count in pairs)
        has = np.stack([each >= 0 for each in own])
        members = len(models) - lenders
        known = has[:members].any(0)
        for each in own[members:]:
            each[known] = ABSENT
        has[members:] &= ~known
        first = has.argmax(0).astype(np.int16)  # the first that has the token
        table = np.where(has.sum(0) == 1, first, np.int16(MEAN))
        table[~has.any(0)] = ZERO
        if base in models:
            table[has[models.index(base)]] = models.index(base)
        row = _chosen(own, table)
        forced = np.zeros(total, bool)
        lent_rows = {index: lent for index, lent in self.lent.items() if index < total}
        for index, lent in lent_rows.items():
            table[index] = ZERO if lent.model is None else models.index(lent.model)
            row[index], forced[index] = lent.row, lent.forced
        found = []
        for k, each in enumerate(own[:members]):
            mine = (each >= 0) & ~forced
            found.append(
                self._padded(
                    np.where(mine, np.int16(k), table), np.where(mine, each, row),
                    models, counts, k, own,
                )
            )  # fmt: skip
        return found

    def _own(self, key: Hashable, count: int, total: int, first_row: bool) -> IntArray:
        """The rows of a model's table that the output's tokens have."""
        import numpy as np

        row = np.full(total, ABSENT, np.int32)
        ids = self.ids[key][:total]
        beyond = 0 if first_row else ABSENT
        row[: self.end] = np.where(ids < count, ids, beyond)
        return row

    def _behind(self, key: Hashable, count: int) -> int:
        """One more than the largest id of the output whose token has a row in a model's table."""
        import numpy as np

        ids = self.ids[key]
        held = np.flatnonzero((ids >= 0) & (ids < count))
        return int(held[-1]) + 1 if len(held) else 0

    def _padded(
        self,
        table: IntArray,
        row: IntArray,
        models: Sequence[Hashable],
        counts: Sequence[int],
        k: int,
        own: tuple[IntArray, ...],
    ) -> RowMap:
        """The map of model k, with what rows hold that no token has."""
        import numpy as np

        places = np.arange(len(table), dtype=np.int32)
        free = np.ones(len(table), bool)
        free[: self.end] = ~self.named[: len(free)]
        used = self._used[models[k]]
        taken = np.zeros(len(table), bool)
        taken[used[used < len(table)]] = True
        mine = free & (places < counts[k]) & ~taken
        lent = free & ~mine
        table[free], row[free] = ZERO, 0
        table[mine], row[mine] = k, places[mine]
        if self.owner in models:
            lender = models.index(self.owner)
            lent &= places < counts[lender]
            table[lent], row[lent] = lender, places[lent]
        if self.multiple:
            table[self.end :], row[self.end :] = WHOLE_MEAN, 0
        averaged = bool((table == MEAN).any())
        return RowMap(table, row.astype(np.int32), own if averaged else (), self.end)

    @cached_property
    def _used(self) -> Mapping[Hashable, IntArray]:
        """The ids that each model has tokens for."""
        import numpy as np

        every = {id(ids): ids for ids in self.parents.values()}
        found = {each: np.fromiter(ids.values(), np.int32, len(ids)) for each, ids in every.items()}
        return {key: found[id(ids)] for key, ids in self.parents.items()}


def _chosen(own: Sequence[IntArray], table: IntArray) -> IntArray:
    """Of every row that of the table which ``table`` names."""
    import numpy as np

    row = np.zeros(len(table), np.int32)
    for k, each in enumerate(own):
        row[table == k] = each[table == k]
    return row
