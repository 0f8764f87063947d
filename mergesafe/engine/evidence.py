"""``mergesafe-evidence.json``: what was measured of a merged model, after it was merged.

The manifest says what was merged, and stays as the merge wrote it; the model card is written anew
when figures are added. This file has the digests of both, so that ``verify`` knows the card, and
tells evidence of this merge from that of another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mergesafe.checkpoint.places.location import at, read_json_file
from mergesafe.errors import CheckpointError
from mergesafe.untrusted import show

EVIDENCE_NAME: Final = "mergesafe-evidence.json"
CARD_NAME: Final = "README.md"
FORMAT: Final = 1
_LIMIT: Final = 16 << 20


def read_evidence(folder: Path) -> dict[str, Any] | None:
    """The evidence in ``folder``; None where there is none.

    Raises:
        CheckpointError: it cannot be read, or is of another format.
    """
    path = folder / EVIDENCE_NAME
    if not at(path).present():
        return None
    found = read_json_file(path, _LIMIT)
    if found.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {show(found.get('format'))}; this version knows format {FORMAT}. "
            "Write it again with 'mergesafe card'."
        )
    for key in ("manifest_sha256", "card_sha256", "replaced_card_sha256"):
        if not isinstance(found.get(key), str):
            raise CheckpointError(f"{path}: {key} is {show(found.get(key))}, expected a SHA-256.")
    return found


def check_evidence(
    evidence: dict[str, Any], manifest: bytes, expected: dict[str, Any]
) -> Iterator[str]:
    """What is wrong with it; ``expected``, the digests of files, takes those of the card from it.

    There are two: a crash may lie between this file and the card, which is written after it.
    """
    if evidence["manifest_sha256"] != hashlib.sha256(manifest).hexdigest():
        yield f"the file {EVIDENCE_NAME} is of another merge"
    else:
        expected[CARD_NAME] = (evidence["card_sha256"], evidence["replaced_card_sha256"])
