"""How coarse coefficients are: one for the whole model, a line over the layers, blocks of layers,
layers, or tensors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

from mergesafe.errors import ArgumentError

Kind: TypeAlias = Literal["model", "lines", "block", "layer", "tensor"]
_WRITTEN: Final = re.compile(r"(model|lines|layer|tensor)|block:([1-9]\d{0,3})", re.ASCII)
#: What may be written, for errors.
EXPECTED: Final = "model, lines, block:K with K layers in a block, layer or tensor"


@dataclass(frozen=True)
class Granularity:
    """``layers``: how many of a stack share coefficients, where ``kind`` is block or layer."""

    kind: Kind
    layers: int = 1

    @classmethod
    def parse(cls, text: str) -> Granularity:
        """``model``, ``lines``, ``block:K`` with K from 1 to 9,999, ``layer`` or ``tensor``.

        Raises:
            ArgumentError: it is none of these.
        """
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise ArgumentError(f"granularity '{text}' is unknown; expected {EXPECTED}")
        if match[2]:
            return cls("block", int(match[2]))
        return cls(cast("Kind", match[1]))
