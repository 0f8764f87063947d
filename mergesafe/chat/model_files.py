"""The files of a chat model: is anything missing, and is it the same model?"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Final

from mergesafe.checkpoint.carry import TOKENIZER_SUFFIX, VOCABULARIES
from mergesafe.checkpoint.digest import digest_of_file, text
from mergesafe.checkpoint.location import Location, at
from mergesafe.errors import ModelError

_WEIGHTS: Final = (".safetensors", ".bin")


def check_files(place: Location) -> None:
    """Refuse a model's folder in which a kind of file is missing; nothing of it is loaded.

    Raises:
        ModelError: it has no configuration, no tokenizer or no weights.
    """
    names = at(place).names()
    if names is None:  # a server that lists nothing
        return
    kinds = {
        "config.json": any(name == "config.json" for name in names),
        "tokenizer": any(
            name in VOCABULARIES or name.endswith((".model", TOKENIZER_SUFFIX, "tekken.json"))
            for name in names
        ),
        "weights": any(name.endswith(_WEIGHTS) for name in names),
    }
    missing = [kind for kind, found in kinds.items() if not found]
    if missing:
        told = ", no ".join(missing[:-1]) + (" and no " if missing[1:] else "") + missing[-1]
        raise ModelError(
            f"{place}: there is no {told} in the folder; expected a model "
            "with config.json, tokenizer and weights"
        )


def files_digest(place: Location) -> str:
    """Of weights and of the small files that change what a model says, by their names.

    Files here by their bytes (XXH3-128 of weights, SHA-256 of the others), those of a Hub by the
    hashes that it names: nothing is downloaded to tell whether a model is the same.
    """
    found: dict[str, object] = {}
    names = at(place).names() or []
    for name in sorted(names):
        weights = name.endswith(_WEIGHTS)
        if not weights and not name.endswith((".json", ".jinja")):
            continue
        file = place / name
        if not isinstance(file, Path):
            found[name] = at(file).fingerprint()
        elif file.is_file():
            content = file.read_bytes() if not weights else b""
            found[name] = text(digest_of_file(file)) if weights else sha256(content).hexdigest()
    return json.dumps(found, sort_keys=True)
