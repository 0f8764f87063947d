"""Models that are another model and something around it, each in a file that a reference names."""

from __future__ import annotations

from typing import TypeAlias

from mergesafe.chat.in_context import InContextModel
from mergesafe.chat.in_context_file import read_in_context
from mergesafe.references import IN_CONTEXT, SQUAD
from mergesafe.safety.align.squad_file import read_squad
from mergesafe.safety.align.squad_model import SquadModel

WrappedModel: TypeAlias = SquadModel | InContextModel


def read_wrapped(reference: str, label: str | None = None) -> WrappedModel | None:
    """The model that ``squad:FILE`` or ``in-context:FILE`` names; None for any other reference.

    Raises:
        RecipeError: the file cannot be read or is not valid.
    """
    if reference.startswith(SQUAD):
        return read_squad(reference, label)
    if reference.startswith(IN_CONTEXT):
        return read_in_context(reference, label)
    return None
