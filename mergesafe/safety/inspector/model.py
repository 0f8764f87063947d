"""An inspector on disk and in memory: an encoder with one output, and its temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec

from mergesafe.chat.pretrained import CLASSIFIER, load_model, load_tokenizer, running
from mergesafe.errors import DataError, ModelError
from mergesafe.regular_file import read_regular
from mergesafe.safety.encoder import check_encoder, missing_folder, present
from mergesafe.safety.inspector.metrics import sigmoid
from mergesafe.strict_json import decode_utf8

SETTINGS: Final = "inspector.json"
_LIMIT: Final = 1 << 20
BATCH: Final = 32


@dataclass(frozen=True)
class Settings:
    """``inspector.json``: how to read the encoder's output, and how the inspector was made.

    ``criterion``: what responses are held to, where the data named it. ``threshold``: a squad
    rewrites what scores below it.
    """

    mergesafe: str
    temperature: float
    max_tokens: int
    encoder: str
    seed: int
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    kind: str = "inspector"
    criterion: str | None = None
    threshold: float = 0.5

    def as_json(self) -> bytes:
        """The file's content."""
        return msgspec.json.format(msgspec.json.encode(asdict(self)), indent=2) + b"\n"


def read_settings(folder: Path) -> Settings:
    """The settings of the inspector in ``folder``.

    Raises:
        ModelError: the folder is not there.
        DataError: it holds no inspector, or one whose settings are malformed.
    """
    if not folder.is_dir():
        raise missing_folder(folder)
    path = folder / SETTINGS
    try:
        data = read_regular(path, _LIMIT)
        decode_utf8(data)
        settings = msgspec.json.decode(data, type=Settings)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror}); expected a folder that "
            "'mergesafe inspector train' wrote",
            source=path,
        ) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DataError(f"is malformed ({error})", source=path) from None
    fits = settings.temperature > 0 and settings.max_tokens >= 8 and 0 < settings.threshold < 1
    if settings.kind != "inspector" or not fits:
        raise DataError(
            "expected kind 'inspector', a temperature above 0, max_tokens of at least 8 and a "
            "threshold between 0 and 1",
            source=path,
        )
    return settings


@dataclass
class Inspector:
    """p(safe | question, response) = sigmoid(logit / temperature).

    The encoder reads question [SEP] response; beyond ``max_tokens`` together, the longer of the two
    loses its end.
    """

    folder: Path

    @cached_property
    def settings(self) -> Settings:
        return read_settings(self.folder)

    def check(self) -> None:
        """Find what is missing before weights are read.

        Raises:
            ModelError, DataError: the folder holds no inspector.
        """
        self.settings  # noqa: B018
        check_encoder(self.folder)
        self.tokenizer  # noqa: B018

    @cached_property
    def model(self) -> Any:
        """The encoder with its one output, for inference."""
        import torch

        model: Any = load_model(present(self.folder), CLASSIFIER, dtype=torch.float32)
        if model.config.num_labels != 1:
            raise ModelError(
                f"{self.folder}: the encoder has {model.config.num_labels} outputs, expected one; "
                "it is no inspector"
            )
        return model.eval()

    @cached_property
    def tokenizer(self) -> Any:
        """The encoder's tokenizer."""
        return load_tokenizer(present(self.folder))

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """p(safe) of each (question, response)."""
        settings = self.settings
        with running(self.folder):
            scores = logits(self.model, self.tokenizer, pairs, settings.max_tokens)
        return [sigmoid(logit / settings.temperature) for logit in scores]


def encode_pairs(tokenizer: Any, pairs: Sequence[tuple[str, str]], max_tokens: int) -> Any:
    """A padded batch of question [SEP] response; the longer of the two is cut."""
    questions, responses = ([pair[side] for pair in pairs] for side in (0, 1))
    return tokenizer(
        questions, responses, padding=True, truncation="longest_first", max_length=max_tokens,
        return_tensors="pt",
    )  # fmt: skip


def logits(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], max_tokens: int
) -> list[float]:
    """The encoder's output for each pair, in batches of like length."""
    import torch

    order = sorted(range(len(pairs)), key=lambda row: -sum(map(len, pairs[row])))
    scores = [0.0] * len(pairs)
    for begin in range(0, len(order), BATCH):
        rows = order[begin : begin + BATCH]
        batch = encode_pairs(tokenizer, [pairs[row] for row in rows], max_tokens)
        with torch.inference_mode():
            output = model(**batch.to(model.device)).logits.float().squeeze(-1).tolist()
        for row, score in zip(rows, output, strict=True):
            scores[row] = float(score)
    return scores
