"""What ``mergesafe generate`` writes beside each set, kind ``data_card``."""

from __future__ import annotations

from typing import Literal

import msgspec

from mergesafe.results.gate import FileDigest
from mergesafe.results.numbers import Count, Integer, Number


class DataCard(msgspec.Struct, frozen=True, tag_field="kind", tag="data_card"):
    """What is in a set, where it came from, and what was left out and why.

    ``pool``: by model, how many of its answers were of which kind. ``models``: their identities.
    ``evaluation``: files whose questions were kept apart. ``criteria``: of an alignment set.
    """

    name: str
    set_kind: Literal["safety", "domain", "real", "alignment"]
    format: Literal["messages", "preference"]
    path: str
    sha256: str
    records: Count
    topics: dict[str, Count]
    discarded: dict[str, Count]
    asked_by: str
    answered_by: dict[str, Count]
    pool: dict[str, dict[str, Count]]
    models: dict[str, str]
    judge: str | None
    judge_version: str | None
    seed: Integer
    near_duplicates: Number
    evaluation: list[FileDigest]
    warnings: list[str]
    criteria: dict[str, Count] = {}
