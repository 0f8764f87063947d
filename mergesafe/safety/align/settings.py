"""``aligner.json``: what an aligner corrects, and how it was made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from mergesafe.errors import DataError, ModelError
from mergesafe.regular_file import read_regular
from mergesafe.strict_json import decode_utf8

SETTINGS: Final = "aligner.json"
_LIMIT: Final = 1 << 20


@dataclass(frozen=True)
class AlignerSettings:
    """``text``: the criterion's, which is part of the prompt. ``base``: what was trained, as it was
    named; ``base_identity``: a digest of its files, which a LoRA aligner must be used with.
    """

    mergesafe: str
    criterion: str
    text: str
    base: str
    base_identity: str
    lora: bool
    max_tokens: int
    seed: int
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    kind: str = "aligner"

    def as_json(self) -> bytes:
        """The file's content."""
        return msgspec.json.format(msgspec.json.encode(asdict(self)), indent=2) + b"\n"


def read_settings(folder: Path) -> AlignerSettings:
    """The settings of the aligner in ``folder``.

    Raises:
        ModelError: the folder is not there.
        DataError: it holds no aligner, or one whose settings are malformed.
    """
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: there is no such folder; expected an aligner that 'mergesafe aligner "
            "train' wrote"
        )
    path = folder / SETTINGS
    try:
        data = read_regular(path, _LIMIT)
        decode_utf8(data)
        settings = msgspec.json.decode(data, type=AlignerSettings)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror}); expected a folder that 'mergesafe aligner train' "
            "wrote",
            source=path,
        ) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DataError(f"is malformed ({error})", source=path) from None
    if settings.kind != "aligner":
        raise DataError(f"expected kind 'aligner', found {settings.kind!r}", source=path)
    return settings
