"""Real data with the filters and the provenance of generated data."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from mergesafe.chat.conversation import asked_text
from mergesafe.data.questions import NO_TOPIC
from mergesafe.data.recipe import RealSet
from mergesafe.data.run import Built, Run, duplicate, prompt_hash
from mergesafe.data.sources import read_source
from mergesafe.errors import DataError


def build_real(wanted: RealSet, run: Run) -> Built:
    """The records of a source without duplicates and overlap; ``count`` of them drawn by seed.

    Raises:
        DataError: the source cannot be read, or nothing is left of it.
    """
    built = Built([], asked_by=wanted.source.text)
    seen = run.seen()
    for number, record in enumerate(read_source(wanted.source, need_answer=True), 1):
        text, topic = asked_text(record.conversation), record.extra.get("topic")
        if reason := duplicate(text, seen, run.evaluation):
            built.discarded[reason] += 1
            continue
        seen.add(text)
        provenance: dict[str, Any] = {
            "set": wanted.name,
            "kind": "real",
            "topic": topic if isinstance(topic, str) else NO_TOPIC,
            "asked_by": wanted.source.text,
            "answered_by": wanted.source.text,
            "judge": None,
            "record": number,
            "seed": run.recipe.seed,
            "prompt_sha256": prompt_hash(record.conversation),
        }
        if "provenance" in record.extra:
            provenance["before"] = record.extra["provenance"]
        built.records.append(replace(record, extra={**record.extra, "provenance": provenance}))
    if not built.records:
        raise DataError(
            f"set '{wanted.name}': no record of {wanted.source.text} is left; all are duplicates "
            "or in an evaluation set",
            source=run.recipe.source,
            line=wanted.line,
        )
    if wanted.count is not None and wanted.count > len(built.records):
        built.warnings.append(
            f"set '{wanted.name}': {len(built.records)} of {wanted.count} records found"
        )
    if wanted.count is not None and wanted.count < len(built.records):
        rng = random.Random(run.seed(wanted.name, "sample"))
        drawn = sorted(rng.sample(range(len(built.records)), wanted.count))
        built.discarded["not drawn"] = len(built.records) - wanted.count
        built.records = [built.records[i] for i in drawn]
    return built
