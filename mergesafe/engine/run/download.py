"""Bring what a plan needs from the Hugging Face Hub into its cache, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from mergesafe.checkpoint.format.lora import WEIGHTS_NAME
from mergesafe.checkpoint.output.companions import tokenizer_companions
from mergesafe.checkpoint.places.hub import HubStore, check_space, silent_bars
from mergesafe.checkpoint.places.location import Location
from mergesafe.checkpoint.places.remote import RemotePath
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.token_ids import tokenizer_of
from mergesafe.outline.sources import stored_models


def download(plan: MergePlan, *, silent: bool) -> None:
    """Download the missing files of every input on the Hub; from then on they are read locally.

    Raises:
        CheckpointError: they do not fit the cache's disk, or the Hub does not send them.
    """
    wanted: dict[HubStore, dict[str, int]] = {}
    for location in _files(plan):
        if isinstance(location, RemotePath) and isinstance(location.store, HubStore):
            wanted.setdefault(location.store, {}).update(location.store.missing([location.inner]))
    if not wanted:
        return
    check_space(size for names in wanted.values() for size in names.values())
    with silent_bars(silent):
        for store, names in wanted.items():
            store.download(names)


def _files(plan: MergePlan) -> Iterator[Location]:
    for model in stored_models(plan.models):
        if plan.adapter:
            if model.adapter is not None:
                yield model.adapter.path / WEIGHTS_NAME
            continue
        yield from model.checkpoint.shards
        for checkpoint in model.calibration.values():
            yield from checkpoint.shards
        if model.adapter is not None:
            yield model.adapter.path / WEIGHTS_NAME
        # Of every model: without a connection, what ids mean is compared as with one.
        for location, _ in tokenizer_companions(tokenizer_of(model).folder):
            yield location
    for location, _ in plan.carried:
        yield location
