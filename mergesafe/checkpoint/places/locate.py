"""From what a recipe calls a model to where its files lie."""

from __future__ import annotations

from pathlib import Path

from mergesafe.checkpoint.places.hub import open_hub
from mergesafe.checkpoint.places.location import Location
from mergesafe.checkpoint.places.url import open_url
from mergesafe.references import hub_id


def locate(reference: Path | str) -> Location:
    """A local path is itself; text is a URL or a Hub id (``ModelRef.resolve`` tells them apart).

    Raises:
        CheckpointError: nothing is there, or it cannot be reached; the message says why.
    """
    if isinstance(reference, Path):
        return reference
    named = hub_id(reference)
    return open_hub(*named, reference) if named else open_url(reference)
