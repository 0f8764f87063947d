"""What calibration says it is about: the file beside its tensors, and which model it was made of.

A model is told from others of its shapes by a digest of a part of every tensor: its name, type and
shape and the :data:`SAMPLED` bytes in its middle. Fine-tuned models differ in nearly all of them,
and a model of 70 billion parameters takes a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from mergesafe.checkpoint.format.model import Checkpoint
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.places.location import at, read_json_file
from mergesafe.errors import CheckpointError
from mergesafe.methods.spec import Calibration
from mergesafe.outline.sources import Model
from mergesafe.untrusted import show

PROVENANCE_NAME: Final = "mergesafe-calibration.json"
#: Bytes in the middle of every tensor that tell a model from others.
SAMPLED: Final = 1024
_LIMIT: Final = 1_000_000


def identity_of(model: Model, reader: Reader) -> str:
    """A digest of parts of all tensors, an adapter's included; that of a copy is the same.

    Raises:
        CheckpointError: a tensor cannot be read.
    """
    digest = sha256()
    infos = sorted(model.checkpoint.tensors.items())
    if model.adapter is not None:
        for name, pair in sorted(model.adapter.pairs.items()):
            digest.update(f"{name} {pair.scale!r}\0".encode())
            infos += [(f"{name} A", pair.a), (f"{name} B", pair.b)]
    for name, info in infos:
        digest.update(f"{name}\0{info.dtype}\0{list(info.shape)}\0".encode())
        digest.update(_middle(info, reader))
    return digest.hexdigest()


def provenance_of(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What the file beside calibration says; empty where there is none.

    Raises:
        CheckpointError: the file is malformed.
    """
    file = checkpoint.path / PROVENANCE_NAME
    if not at(checkpoint.path).is_dir() or not at(file).exists():
        return {}
    return read_json_file(file, _LIMIT)


def check_kind(declared: Calibration, checkpoint: Checkpoint, model: Model) -> None:
    """Refuse numbers that are of another kind than the recipe says.

    Raises:
        CheckpointError: they are, by the account of the file beside them.
    """
    said = provenance_of(checkpoint)
    if said.get("kind", declared.made_by) != declared.made_by:
        raise CheckpointError(
            f"{checkpoint.path}/{PROVENANCE_NAME}: the numbers here are of the kind "
            f"{show(said['kind'])}, but the recipe names them as '{declared.name}'. Name the "
            f"folder that 'mergesafe calibrate --kind {declared.made_by}' made of {model.text}."
        )


def data_warning(model: Model) -> str | None:
    """What to say where the numbers beside one model were found with different records.

    A method that takes several kinds about a model, such as ``led``, compares them element by
    element, which means something on the same records alone.
    """
    first: tuple[str, str, object] | None = None
    for name, checkpoint in model.calibration.items():
        said = provenance_of(checkpoint)
        data, options = said.get("data"), said.get("options")
        if not isinstance(data, Mapping):
            continue
        drawn = (data.get("sha256"), data.get("records"), options)
        if first is None:
            first = name, str(checkpoint.path), drawn
        elif first[2] != drawn:
            return (
                f"{checkpoint.path}/{PROVENANCE_NAME}: the '{name}' of {model.text} was made from "
                f"other records than its '{first[0]}' ({first[1]}); make both with the same "
                "--data, --limit, --seed and --tokens"
            )
    return None


def provenance_warnings(
    declared: Calibration, checkpoint: Checkpoint, model: Model, reader: Reader
) -> Iterator[str]:
    """What to say where calibration was made of another model than ``model``.

    Models that are not on this machine are not looked at: that would fetch a part of every tensor.

    Raises:
        CheckpointError: it is of another kind than the recipe says.
    """
    check_kind(declared, checkpoint, model)
    said = provenance_of(checkpoint)
    file = f"{checkpoint.path}/{PROVENANCE_NAME}"
    about = said.get("model")
    if not isinstance(about, Mapping) or not isinstance(model.checkpoint.path, Path):
        return
    known = about.get("identity")
    if isinstance(known, str) and known != identity_of(model, reader):
        yield (
            f"{file}: the '{declared.name}' here, which must be of {model.text}, was made of "
            f"another model ({show(about.get('name'))}), or that model has changed since; make it "
            "again with 'mergesafe calibrate'"
        )


def _middle(info: TensorInfo, reader: Reader) -> bytes:
    count = min(SAMPLED, info.nbytes)
    piece = bytearray(count)
    reader.read_into(info, (info.nbytes - count) // 2, memoryview(piece))
    return bytes(piece)
