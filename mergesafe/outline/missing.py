"""What lies under a like name where a model of the recipe is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from mergesafe.checkpoint.format.model import refuse_missing, similar
from mergesafe.errors import CheckpointError
from mergesafe.recipe.model import exists_locally
from mergesafe.references import hub_id, is_url, local_path


@contextmanager
def hints(place: str, folder: Path) -> Iterator[None]:
    """Errors within say what resembles ``place``, as the recipe writes it, if nothing is there.

    A relative path may be meant from the current directory or from ``folder``, the recipe's.

    Raises:
        CheckpointError: nothing is there, and it is neither a URL nor the id of a model on the Hub.
    """
    if is_url(place) or exists_locally(place, folder):
        yield
        return
    path = Path(os.path.expanduser(local_path(place)))
    if hub_id(place) is None:
        _refuse(place, path, folder)
    try:
        yield
    except CheckpointError as error:
        close = similar(path, folder / path)
        if close is not None:
            error.reword(lambda text: f"{text} Did you mean {close}?")
        raise


def _refuse(place: str, path: Path, folder: Path) -> NoReturn:
    name, at, revision = place.rpartition("@")
    if at and exists_locally(name, folder):
        raise CheckpointError(
            f"{place}: no such file or folder. {name} is there, and has no revisions: leave "
            f"'@{revision}' (or 'revision') out."
        )
    here = path.is_absolute() or folder.absolute() == Path().absolute()
    refuse_missing(folder / path, None if here else path)
