"""What every kind of calibration is made from: a model by layers, records, a folder, memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from mergesafe.calibration.examples import Examples
from mergesafe.calibration.layers import Layered
from mergesafe.calibration.parameters import Weights
from mergesafe.calibration.states import States, state_bytes
from mergesafe.engine.memory import format_size
from mergesafe.errors import ArgumentError

#: Told of what is done, how much of it, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Task:
    """Numbers about the model ``weights`` from ``examples``, within ``memory`` bytes.

    ``spill``: the folder for hidden states that do not fit. ``among``: how many tasks share the
    memory for them.
    """

    model: Layered
    weights: Weights
    examples: Examples
    memory: int
    spill: Path
    progress: Progress
    among: int = 1

    @cached_property
    def ids(self) -> list[torch.Tensor]:
        """[1, tokens] of every record."""
        device = self.model.device
        return [torch.tensor([row.ids], device=device) for row in self.examples.rows]

    @cached_property
    def width(self) -> int:
        """Numbers of a token between layers."""
        return self.model.shapes[self.model.embedding][1]

    @cached_property
    def chosen(self) -> list[int]:
        """The tokens of the records, ascending."""
        return sorted({token for row in self.examples.rows for token in row.ids})

    def states(self, slots: int) -> States:
        """Room for ``slots`` sets of hidden states: in memory where an eighth of it suffices."""
        lengths = [len(row.ids) for row in self.examples.rows]
        held = state_bytes(self.examples.tokens, self.width, slots) <= self.memory // (
            8 * self.among
        )
        return States(lengths, self.width, slots, None if held else self.spill)

    def fixed_bytes(self, names: Sequence[str], *, backward: bool = False) -> int:
        """What a pass takes with these parameters: them, hidden states, and activations of the
        longest record, of which each matrix makes one for each of its rows and is given one for
        each of its columns. With ``backward`` they are kept, and have gradients.
        """
        matrices = [s for n in names if len(s := self.model.shapes[n]) > 1]
        values = 16 * self.width + sum(shape[-1] + shape[-2] for shape in matrices)
        activations = 4 * self.examples.longest * values * (3 if backward else 1)
        loaded = {*names, *self.model.outside}
        return self.model.bytes_of([*loaded]) + self.memory // 8 + activations

    def shares(self, needs: Sequence[int], fixed: int, what: str) -> list[list[int]]:
        """The numbers of ``needs`` in shares whose bytes fit beside ``fixed`` bytes.

        Raises:
            ArgumentError: one of them does not.
        """
        if not needs:
            return []
        room = self.memory - fixed
        if max(needs) > room:
            # An eighth of the budget is for hidden states, which `fixed` holds.
            least = (fixed - self.memory // 8 + max(needs)) * 8 // 7
            raise ArgumentError(
                f"--memory {format_size(self.memory)} is too small for {what}: its weights, one "
                f"of its results and what is computed meanwhile take more; give at least "
                f"{-(-least >> 20)}MiB"
            )
        found: list[list[int]] = [[]]
        used = 0
        for index, need in enumerate(needs):
            if found[-1] and used + need > room:
                found.append([])
                used = 0
            found[-1].append(index)
            used += need
        return found


def embed_all(task: Task, states: States, weights: Weights | None = None) -> None:
    """Keep what the first layer gets of every record; ``weights``: those of another model."""
    model = task.model
    weights = weights or task.weights
    with (
        torch.no_grad(),
        model.loaded(model.outside, weights),
        model.some_rows(task.chosen, weights),
    ):
        for record, ids in enumerate(task.ids):
            states.put(0, record, model.embed(ids))
