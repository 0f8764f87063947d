"""What lies under a like name where a model of the recipe is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mergesafe.checkpoint.format.model import similar
from mergesafe.errors import CheckpointError
from mergesafe.recipe.model import exists_locally
from mergesafe.references import hub_id, is_url, local_path


@contextmanager
def hints(place: str, folder: Path) -> Iterator[None]:
    """Errors within say what resembles ``place``, as the recipe writes it, if nothing is there.

    A relative path may be meant from the current directory or from ``folder``, the recipe's; the
    error of what reads it knows one of them, and that of a Hub id none.
    """
    try:
        yield
    except CheckpointError as error:
        if not is_url(place) and not exists_locally(place, folder):
            error.reword(lambda text: _with_hint(text, place, folder))
        raise


def _with_hint(text: str, place: str, folder: Path) -> str:
    if "Did you mean" in text:
        return text
    path = Path(os.path.expanduser(local_path(place)))
    close = similar(path) or similar(folder / path)
    if close is not None:
        return f"{text} Did you mean {close}?"
    if path.is_absolute() or hub_id(place) or folder.absolute() == Path().absolute():
        return text
    return f"{text} The current directory has nothing of that name either."
