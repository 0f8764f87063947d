"""Sentence embeddings by a small encoder of transformers: mean pooling, nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mergesafe.chat.pretrained import ENCODER, check_declared, load_model, load_tokenizer, running
from mergesafe.checkpoint.format.model import open_checkpoint
from mergesafe.errors import ModelError

if TYPE_CHECKING:
    import torch

BATCH: Final = 32
#: Longest text in tokens; what is beyond is cut off. The value of all-MiniLM-L6-v2.
MAX_TOKENS: Final = 256


@dataclass
class SentenceEncoder:
    """An encoder with its tokenizer, from a folder such as all-MiniLM-L6-v2's (arXiv 1908.10084).

    The embedding of a text is the mean of the last hidden states over its tokens, scaled to unit
    length, so that the inner product of two is their cosine.
    """

    folder: Path

    @property
    def name(self) -> str:
        """For reports: the folder's name, or its parent's where it is but ``model``."""
        named = self.folder.resolve()
        return named.parent.name if named.name == "model" else named.name

    @cached_property
    def identity(self) -> str:
        """A digest of the weights, the configuration and the tokenizer."""
        return identity_of(self.folder)

    def check(self) -> None:
        """Find what is missing before weights are read.

        Raises:
            ModelError: the folder holds no encoder that transformers can load.
        """
        check_encoder(self.folder)
        self.tokenizer  # noqa: B018

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings as float32, one row for each text.

        Raises:
            ModelError: the folder holds no encoder that transformers can load.
        """
        import torch

        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        rows: list[torch.Tensor] = [torch.empty(0)] * len(texts)
        for begin in range(0, len(order), BATCH):
            places = order[begin : begin + BATCH]  # of like length: little is padding
            with torch.inference_mode(), running(self.folder):
                batch = self.tokenizer(
                    [texts[place] for place in places], padding=True, truncation=True,
                    max_length=MAX_TOKENS, return_tensors="pt",
                )  # fmt: skip
                hidden = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            for place, row in zip(places, torch.nn.functional.normalize(mean, dim=1), strict=True):
                rows[place] = row
        return torch.stack(rows) if rows else torch.empty(0, 0)

    def cosines(self, first: Sequence[str], second: Sequence[str]) -> list[float]:
        """The cosine of each text of ``first`` and that of ``second`` in the same place."""
        products = (self.embed(first) * self.embed(second)).sum(1)
        return [float(value) for value in products.tolist()]

    @cached_property
    def tokenizer(self) -> Any:
        """The encoder's tokenizer."""
        return load_tokenizer(present(self.folder))

    @cached_property
    def model(self) -> Any:
        """The encoder in float32, for inference."""
        import torch

        # The layer that pools is missing from many encoders, and not used here.
        found = load_model(present(self.folder), ENCODER, dtype=torch.float32, complete=False)
        return found.eval()


def identity_of(folder: Path) -> str:
    """A short digest of the weights and JSON files in ``folder``."""
    from mergesafe.chat.model_files import files_digest

    if not folder.is_dir():
        raise missing_folder(folder)
    return hashlib.sha256(files_digest(folder).encode()).hexdigest()[:16]


def check_encoder(folder: Path) -> None:
    """Refuse a folder that lacks the files of an encoder.

    Raises:
        ModelError: it is not there, or without configuration, tokenizer or weights.
    """
    from mergesafe.chat.model_files import check_files

    if not folder.is_dir():
        raise missing_folder(folder)
    check_files(folder)
    open_checkpoint(folder)
    check_declared(folder)


def missing_folder(folder: Path) -> ModelError:
    """The error for a folder that is not there."""
    return ModelError(
        f"{folder}: there is no such folder; expected an encoder's folder with config.json, "
        "tokenizer and weights, such as all-MiniLM-L6-v2's"
    )


def present(folder: Path) -> Path:
    """``folder``, which must be there.

    Raises:
        ModelError: it is not.
    """
    if not folder.is_dir():
        raise missing_folder(folder)
    return folder
