"""What a user would run instead: the same operation on the same tensors by other means.

``torch``: the plain expression, eagerly. ``compile``: the same through ``torch.compile``.
``mergekit``: mergekit's own merge of tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.cases import Case
from bench.data import Data
from bench.peers import mergekit
from bench.peers.plain import EXPRESSIONS

PEERS = ("torch", "compile", "mergekit")
#: Share of elements that may be further from the reference than a rounding of the tensor's scale.
APART = 0.02


class NoPeer(Exception):
    """A peer cannot do this here; the message says why."""


def peer(name: str, case: Case) -> Callable[[Data], Any] | None:
    """``case`` done by a peer, or None if it has no counterpart there. Raises NoPeer.

    Peers are run for three bfloat16 experts, and for one tensor.
    """
    if case.dtype != "bf16" or case.experts != 3 or case.pieces != 1:
        return None
    if name == "mergekit":
        if case.name not in mergekit.METHODS:
            return None
        try:
            return mergekit.merger(case.name)
        except ImportError as error:
            raise NoPeer(f"mergekit cannot be imported ({error})") from error
    expression = EXPRESSIONS.get(case.name)
    if expression is None:
        return None
    if name == "compile":
        expression = torch.compile(expression, dynamic=False)
    return lambda data: expression(data.grad, data.base, data.experts)


def check(case: Case, run: Callable[[Data], Any], data: Data, expected: torch.Tensor) -> None:
    """Raises NoPeer unless the answer is the same but for roundings and ties at a threshold."""
    answer = torch.as_tensor(run(data)).cpu().double().flatten()
    wanted = expected.cpu().double().flatten()
    if answer.shape != wanted.shape:
        raise NoPeer(f"{case.label} has {answer.numel()} values instead of {wanted.numel()}")
    scale = wanted.abs().max()
    apart = float(((answer - wanted).abs() > scale / 128).double().mean())
    if not apart <= APART:
        raise NoPeer(
            f"{apart:.1%} of {case.label} is further than 1/128 of its scale from the reference"
        )
