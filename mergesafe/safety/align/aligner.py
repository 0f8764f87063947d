"""A trained aligner, which rewrites answers: see :mod:`mergesafe.safety.align.train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mergesafe.chat.conversation import Response, Sampling
from mergesafe.chat.hf import HfModel
from mergesafe.chat.reasoning import part
from mergesafe.errors import ModelError
from mergesafe.safety.align.prompt import aligner_prompt
from mergesafe.safety.align.settings import AlignerSettings, read_settings


@dataclass
class Aligner:
    """``model``: the folder of a whole aligner, or ``BASE+FOLDER`` of one that is an adapter."""

    model: HfModel

    @cached_property
    def settings(self) -> AlignerSettings:
        """What the folder says of it.

        Raises:
            ModelError: the folder is not there, or an adapter is named without its base.
            DataError: it holds no aligner.
        """
        ref = self.model.ref
        base, adapter = ref.resolve(self.model.folder or Path())
        place = base if adapter is None else adapter
        if not isinstance(place, Path):
            raise ModelError(f"{ref.text}: an aligner must be a folder of this machine")
        found = read_settings(place)
        if found.lora and adapter is None:
            raise ModelError(
                f"{place}: this aligner is a LoRA adapter of {found.base}; write "
                f"{found.base}+{place}"
            )
        if adapter is not None and not found.lora:
            raise ModelError(f"{place}: this aligner is a whole model; name it without a base")
        return found

    @property
    def identity(self) -> str:
        """A digest of its weights, settings and prompt."""
        return f"{self.model.identity} {self.settings.criterion} {self.settings.text}"

    def check(self) -> None:
        """Find what is missing before weights are read.

        Raises:
            ModelError, CheckpointError, DataError: it cannot be used, or its base is another model
                than the one that it was trained from.
        """
        settings = self.settings
        self.model.check()
        if not settings.lora:
            return
        base = HfModel(str(self.model.ref.path), folder=self.model.folder)
        if base.identity != settings.base_identity:
            raise ModelError(
                f"{self.model.ref.text}: this aligner was trained from another model than "
                f"{base.name} ({settings.base}, as it was named then). Name that one before the +"
            )

    def rewrite(self, pairs: Sequence[tuple[str, str]], max_new_tokens: int) -> list[Response]:
        """The corrected answer of each (question, answer), greedily; its text may be empty."""
        prompts = [aligner_prompt(self.settings.text, *pair) for pair in pairs]
        said = self.model.respond(prompts, Sampling(max_new_tokens))
        return [Response(part(each.text).answer.strip(), each.finished) for each in said]
