"""Which commits of the Hub a merge reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mergesafe.checkpoint.places.hub import HubStore
from mergesafe.checkpoint.places.remote import RemotePath
from mergesafe.outline.sources import Model
from mergesafe.recipe.model import Recipe
from mergesafe.references import hub_id


def hub_notes(recipe: Recipe, models: Sequence[Model]) -> list[str]:
    """Which commits what lies on the Hub is read at, from the Hub or from its cache alike."""
    notes = []
    for model in models:
        adapter = (model.ref.adapter, model.adapter.path) if model.adapter else ("", None)
        places = [(model.ref.path, model.checkpoint.path), adapter]
        for name, place in recipe.calibration(model.ref).items():
            places.append((place.path, model.calibration[name].path))
        for text, location in places:
            commit = None
            if isinstance(location, RemotePath) and isinstance(location.store, HubStore):
                commit = location.store.commit
            elif isinstance(location, Path) and location.parent.name == "snapshots":
                commit = location.name if hub_id(text or "") else None
            if commit is not None:
                notes.append(f"{text} is read at commit {commit}")
    return list(dict.fromkeys(notes))
