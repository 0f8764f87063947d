"""Tokenized answers in padded batches, and the positions whose predictions count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from mergesafe.chat.tokens import IGNORED, TokenizedAnswer, padded

#: Tokens of one batch, padding included, unless one row alone has more.
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Batch:
    """Rows of token ids, padded on the right.

    There is no mask: a causal model's predictions see nothing of the padding that comes after them,
    and without one attention takes its fastest way.

    ``positions``: where in the flattened ids a prediction is wanted; ``targets``: the tokens to
    predict there; ``rows``: the row of each. ``items``: the numbers of the examples, which have
    the same number of rows each.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor
    items: tuple[int, ...]

    @property
    def height(self) -> int:
        """The number of rows."""
        return len(self.ids)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        ids, positions, targets, rows = (
            each.to(device, non_blocking=True)
            for each in (self.ids, self.positions, self.targets, self.rows)
        )
        return Batch(ids, positions, targets, rows, self.items)


def answer_batch(encoded: Sequence[TokenizedAnswer], items: Sequence[int], pad: int) -> Batch:
    """A batch in which every token of the answers is predicted from what comes before it."""
    ids = torch.tensor(padded([each.ids for each in encoded], pad, left=False))
    labels = torch.tensor(padded([each.labels for each in encoded], IGNORED, left=False))
    counted = labels[:, 1:] != IGNORED
    rows, columns = counted.nonzero(as_tuple=True)
    return Batch(ids, rows * ids.shape[1] + columns, labels[:, 1:][counted], rows, tuple(items))


def batches(
    examples: Sequence[Sequence[TokenizedAnswer]],
    items: Sequence[int],
    pad: int,
    tokens: int = BATCH_TOKENS,
) -> Iterator[Batch]:
    """The examples ``items``, of one or more rows each, in batches of like length.

    The longest come first, so that where memory does not suffice the first batch says so.
    """
    widths = [max(len(row.ids) for row in example) for example in examples]
    group: list[int] = []

    def made() -> Batch:
        return answer_batch([row for item in group for row in examples[item]], group, pad)

    for item in sorted(items, key=lambda item: (-widths[item], item)):
        rows = sum(len(examples[member]) for member in group) + len(examples[item])
        if group and widths[group[0]] * rows > tokens:
            yield made()
            group = []
        group.append(item)
    if group:
        yield made()
