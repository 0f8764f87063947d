"""The weight of a task vector, as methods of whole matrices have it."""

from __future__ import annotations

from typing import Final

from mergesafe.methods.spec import Parameter

WEIGHT: Final = Parameter(
    "weight", "float", "weight of the task vector", scope="model", default=1.0,
    tunable=(0.0, 2.0), gradient=True,
)  # fmt: skip
