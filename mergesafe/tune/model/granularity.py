"""How coarse coefficients are: one for the whole model, blocks of layers, layers, or tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

from mergesafe.errors import ArgumentError

Kind: TypeAlias = Literal["model", "block", "layer", "tensor"]
_WRITTEN: Final = re.compile(r"(model|layer|tensor)|block:([1-9]\d{0,3})", re.ASCII)


@dataclass(frozen=True)
class Granularity:
    """``layers``: how many of a stack share coefficients, where ``kind`` is block or layer."""

    kind: Kind
    layers: int = 1

    @classmethod
    def parse(cls, text: str) -> Granularity:
        """``model``, ``block:K`` with K from 1 to 9,999, ``layer`` or ``tensor``.

        Raises:
            ArgumentError: it is none of these.
        """
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise ArgumentError(
                f"granularity '{text}' is unknown; expected model, block:K with K layers in a "
                "block, layer or tensor"
            )
        if match[2]:
            return cls("block", int(match[2]))
        return cls(cast("Kind", match[1]))
