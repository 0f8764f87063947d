"""The files of a chat model: is anything missing, and is it the same model?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

from mergesafe.chat.declared import loose_object
from mergesafe.checkpoint.format.digest import digest_of_file, text
from mergesafe.checkpoint.format.model import INDEX_NAME
from mergesafe.checkpoint.output.companions import TEMPLATE_FOLDER, TOKENIZER_SUFFIX, VOCABULARIES
from mergesafe.checkpoint.places.location import Location, at, open_regular
from mergesafe.errors import CheckpointError, ModelError
from mergesafe.untrusted import is_text, reason

_WEIGHTS: Final = (".safetensors", ".bin")
PICKLE_INDEX: Final = "pytorch_model.bin.index.json"
#: Files beside a model that change nothing of what it says: text for people, code (which is never
#: run), pictures, signatures, what was measured of the model, and weights of formats that are not
#: loaded.
_SILENT: Final = (
    ".md", ".py", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".pdf", ".ipynb", ".html",
    ".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".tflite", ".pth", ".pt", ".log", ".lock",
    "license", "license.txt", "notice", "notice.txt", "mergesafe-evidence.json", "model.sig",
)  # fmt: skip


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
    """Of weights and of all files that may change what a model says, by their names.

    Files here by their bytes (XXH3-128 of weights, SHA-256 of the others), those of a Hub by the
    hashes that it names: nothing is downloaded to tell whether a model is the same.
    """
    found: dict[str, object] = {}
    for name in sorted(_names(place)):
        file = place / name
        if not isinstance(file, Path):
            found[name] = at(file).fingerprint()
        elif file.is_file():
            weights = name.endswith(_WEIGHTS)
            found[name] = text(digest_of_file(file)) if weights else _sha256(file)
    return json.dumps(found, sort_keys=True)


def _names(place: Location) -> set[str]:
    """The files that count: all but those that nothing reads that answers."""
    listed = at(place).names() or []
    found = {name for name in listed if not name.lower().endswith(_SILENT) and name[:1] != "."}
    if TEMPLATE_FOLDER in listed:
        inner = at(place / TEMPLATE_FOLDER).names() or []
        found |= {f"{TEMPLATE_FOLDER}/{name}" for name in inner}
    return found | {name for name in _indexed(place) if name not in listed}


def _indexed(place: Location) -> Iterator[str]:
    """Weights that an index names, be they in another folder."""
    for index in (INDEX_NAME, PICKLE_INDEX):
        if at(place / index).present():
            listed = loose_object(place / index).get("weight_map")
            names = listed.values() if isinstance(listed, dict) else ()
            yield from sorted({name for name in names if is_text(name) and len(name) < 200})


def _sha256(file: Path) -> str:
    digest = sha256()
    with open_regular(file) as stream:
        try:
            while piece := stream.read(1 << 20):
                digest.update(piece)
        except OSError as error:
            raise CheckpointError(f"{file}: cannot read ({reason(error)}).") from error
    return digest.hexdigest()
