"""The languages that the refusal rules know, one table each, by their names in English."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mergesafe.safety.refusals.engine import Table
from mergesafe.safety.refusals.tables.arabic import ARABIC
from mergesafe.safety.refusals.tables.chinese import CHINESE
from mergesafe.safety.refusals.tables.english import ENGLISH
from mergesafe.safety.refusals.tables.french import FRENCH
from mergesafe.safety.refusals.tables.german import GERMAN
from mergesafe.safety.refusals.tables.hindi import HINDI
from mergesafe.safety.refusals.tables.italian import ITALIAN
from mergesafe.safety.refusals.tables.japanese import JAPANESE
from mergesafe.safety.refusals.tables.portuguese import PORTUGUESE
from mergesafe.safety.refusals.tables.russian import RUSSIAN
from mergesafe.safety.refusals.tables.spanish import SPANISH

#: Of the languages in Latin letters, English first: most responses are, or begin, in it.
LATIN: Final = (ENGLISH, GERMAN, FRENCH, SPANISH, PORTUGUESE, ITALIAN)
TABLES: Final[Mapping[str, Table]] = {
    each.language: each for each in (*LATIN, CHINESE, JAPANESE, RUSSIAN, HINDI, ARABIC)
}
