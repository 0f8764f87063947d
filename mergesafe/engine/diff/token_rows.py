"""Embeddings and heads with different numbers of rows, compared by the tokens that both know."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from mergesafe.checkpoint.views.gathered import Gathered
from mergesafe.checkpoint.views.row_map import RowMap
from mergesafe.dtypes import MERGEABLE
from mergesafe.engine.diff.sums import Pair
from mergesafe.engine.plan.token_ids import tokenizer_of
from mergesafe.errors import CheckpointError, UnreadableError
from mergesafe.outline.sources import Model, Operand
from mergesafe.outline.vocabulary import token_axis
from mergesafe.tokenizer.compare import vocabularies

if TYPE_CHECKING:
    from mergesafe.checkpoint.views.row_map import IntArray


class TokenRows:
    """The rows of ``a`` and ``b`` that belong together. Tokenizers are read when they are needed.

    ``notes``: how rows were paired, and which tensors so.
    """

    def __init__(self, a: Model, b: Model) -> None:
        self._a, self._b = a, b
        self._told: dict[str, list[str]] = {}

    @property
    def notes(self) -> list[str]:
        return [f"rows of {', '.join(names)}: {how}" for how, names in self._told.items()]

    def pair(self, name: str, one: Operand, two: Operand) -> Pair | None:
        """The rows of a tensor that belong to the same tokens, in a's order; None where the shapes
        differ in more than rows of tokens, or no row has a partner.

        Raises:
            UnreadableError: a tokenizer's file is there and cannot be read.
        """
        axis = token_axis(name, (self._a, self._b), (one, two))
        shapes = one.view.shape, two.view.shape
        if axis is None or not {one.view.dtype, two.view.dtype} <= set(MERGEABLE):
            return None
        if len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) > 1:
            return None
        counts = [shape[axis] for shape in shapes]
        ours, theirs, how = self._rows(counts[0], counts[1])
        if not len(ours):
            return None
        self._told.setdefault(how, []).append(name)
        return Pair(name, _taken(one, ours, axis), _taken(two, theirs, axis))

    def _rows(self, here: int, there: int) -> tuple[IntArray, IntArray, str]:
        """Rows of a and of b that are one token's, and how they were found."""
        import numpy as np

        known = self._vocabularies
        if isinstance(known, str):
            rows = np.arange(min(here, there), dtype=np.int32)
            how = f"the first {len(rows):,} of both are compared, in their order, since {known}"
            return rows, rows, how
        ours, theirs = (
            {token: row for token, row in ids.items() if 0 <= row < count}
            for ids, count in zip(known, (here, there), strict=True)
        )
        common = ours.keys() & theirs.keys()
        pairs = sorted({(ours[token], theirs[token]) for token in common})
        paired = np.array(pairs, np.int32).reshape(-1, 2)
        how = (
            f"those of the {len(common):,} tokens that have one in both are compared, token by "
            f"token; {len(ours) - len(common):,} tokens have one in a alone, "
            f"{len(theirs) - len(common):,} in b alone"
        )
        return paired[:, 0].copy(), paired[:, 1].copy(), how

    @cached_property
    def _vocabularies(self) -> tuple[dict[str, int], dict[str, int]] | str:
        """Token -> id of both, or why they are not known."""
        one, two = tokenizer_of(self._a), tokenizer_of(self._b)
        lacking = [side for side, each in (("a", one), ("b", two)) if not each.kinds]
        if lacking:
            return f"{' and '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} no tokenizer"
        try:
            return vocabularies(one, two)
        except UnreadableError:
            raise
        except CheckpointError as error:
            return f"tokens are not known ({error})"


def _taken(operand: Operand, rows: IntArray, axis: int) -> Operand:
    """The operand with these rows alone."""
    import numpy as np

    table = RowMap(np.zeros(len(rows), np.int16), rows, ())
    if table.is_identity(0, operand.view.shape[axis]):
        return operand
    return replace(operand, view=Gathered((operand.view,), 0, table, axis > 0))
