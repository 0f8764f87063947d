"""The sections of the page: each is there when its data is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from mergesafe.report.content import Content
from mergesafe.report.sections.checks import gates, vetting
from mergesafe.report.sections.data import data_cards, examples, files, manifests
from mergesafe.report.sections.measures import agreement, measures, safety_and_skill
from mergesafe.report.sections.parts import Section
from mergesafe.report.sections.similarity import similarity
from mergesafe.report.sections.tuning import blame, tuning

_ORDER: Final[tuple[Callable[[Content], Iterator[Section]], ...]] = (
    gates, safety_and_skill, measures, examples, agreement, vetting, similarity, tuning, blame,
    data_cards, manifests, files,
)  # fmt: skip


def sections(content: Content) -> list[Section]:
    """The sections that have data, in reading order."""
    return [section for build in _ORDER for section in build(content)]
