"""Sentence embeddings by a small encoder of transformers: mean pooling, nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mergesafe.errors import ModelError

if TYPE_CHECKING:
    import torch

BATCH: Final = 32
#: Longest text in tokens; what is beyond is cut off. The value of all-MiniLM-L6-v2.
MAX_TOKENS: Final = 256
_NEEDED: Final = ("torch", "transformers", "safetensors")


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
            batch = self.tokenizer(
                [texts[place] for place in places], padding=True, truncation=True,
                max_length=MAX_TOKENS, return_tensors="pt",
            )  # fmt: skip
            with torch.inference_mode():
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
        require()
        from transformers import AutoTokenizer

        with loading(self.folder):
            return AutoTokenizer.from_pretrained(str(self.folder))

    @cached_property
    def model(self) -> Any:
        """The encoder in float32, for inference."""
        require()
        import torch
        from transformers import AutoModel

        with loading(self.folder):
            return AutoModel.from_pretrained(str(self.folder), dtype=torch.float32).eval()


def require() -> None:
    """Refuse when a package that an encoder needs is missing."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"running an encoder needs {', '.join(missing)}. Install what is missing: "
            "pip install 'mergesafe[models]'"
        )


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


def missing_folder(folder: Path) -> ModelError:
    """The error for a folder that is not there."""
    return ModelError(
        f"{folder}: there is no such folder; expected an encoder's folder with config.json, "
        "tokenizer and weights, such as all-MiniLM-L6-v2's"
    )


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Quietly, and with what transformers raises for a bad folder as one paragraph."""
    from mergesafe.chat.hf import quiet

    if not folder.is_dir():
        raise missing_folder(folder)
    try:
        with quiet():
            yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        why = " ".join(str(error).split())[:400]
        raise ModelError(
            f"{folder}: transformers cannot load the encoder ({type(error).__name__}: {why}). "
            "Expected config.json, tokenizer and weights of an encoder; remote code is not run."
        ) from None
