"""The tensors of one measured call, and what else exists before it, as in the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.base import MergeJob

BASE_STD, DELTA_STD = 0.02, 0.001
#: Share of the task vectors that TIES keeps.
DENSITY = 0.5
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass
class Data:
    """Flat tensors of equal size on one device. ``base`` and ``grad`` are empty where the call
    does not read them. ``pieces``: for calls on jobs, the tensors are cut into so many.
    """

    grad: torch.Tensor
    base: torch.Tensor
    experts: list[torch.Tensor]
    out: torch.Tensor
    pieces: int
    #: One row, or number, per piece.
    weights: torch.Tensor = field(init=False)
    scales: torch.Tensor = field(init=False)
    outs: list[torch.Tensor] = field(init=False)
    _jobs: dict[int, list[MergeJob]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        device = self.out.device
        self.weights = torch.tensor([self.numbers] * self.pieces, device=device)
        self.scales = torch.ones(self.pieces, device=device)
        self.outs = list(self.out.tensor_split(self.pieces))

    @property
    def numbers(self) -> list[float]:
        return weights_of(len(self.experts))

    def jobs(self, lo: int) -> list[MergeJob]:
        """One for each piece, keeping magnitudes from ``lo`` on; made once."""
        if lo not in self._jobs:
            vectors = [Sparsify(lo=lo)] * len(self.experts)
            bases = self.base.tensor_split(self.pieces)
            inputs = zip(*(x.tensor_split(self.pieces) for x in self.experts), strict=True)
            self._jobs[lo] = [
                MergeJob(base, experts, vectors)
                for base, experts in zip(bases, inputs, strict=True)
            ]
        return self._jobs[lo]

    def on(self, device: str | torch.device) -> Data:
        """The same inputs on another device (or the same one), with an output of their own."""
        return replace(
            self,
            grad=self.grad.to(device),
            base=self.base.to(device),
            experts=[x.to(device) for x in self.experts],
            out=torch.empty_like(self.out, device=device),
        )


def weights_of(count: int) -> list[float]:
    return [0.3 + 0.1 * i for i in range(count)]


def draw(
    beside: Sequence[str],
    experts: int,
    dtype: torch.dtype,
    elements: int,
    pieces: int,
    device: torch.device,
    seed: int,
) -> Data:
    """A random base, experts a small delta away from it, and a random gradient."""
    generator = torch.Generator(device).manual_seed(seed)

    def noise(std: float) -> torch.Tensor:
        return torch.randn(elements, generator=generator, device=device).mul_(std)

    base = noise(BASE_STD).to(dtype)
    near = [noise(DELTA_STD).add_(base).to(dtype) for _ in range(experts)]
    nothing = torch.empty(0, dtype=dtype, device=device)
    return Data(
        grad=noise(1.0).to(dtype) if "grad" in beside else nothing,
        base=base if "base" in beside else nothing,
        experts=near,
        out=torch.empty(elements, dtype=dtype, device=device),
        pieces=pieces,
    )
