"""A merge that answers questions and is written nowhere.

The merge engine computes every tensor as it would be written, from the same plan, with the same
kernels, into one model of transformers that all merges share: only its weights are replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from typing import Any, Final

from mergesafe.chat.declared import GENERATION_NAME, loose_object
from mergesafe.chat.generation import generation_settings
from mergesafe.chat.hf import HfModel
from mergesafe.chat.pretrained import model_without_weights
from mergesafe.chat.runnable import require
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.view import View
from mergesafe.engine.plan.documents import document_of, plan_documents
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.engine.run.whole_model import with_model_answers
from mergesafe.errors import ModelError
from mergesafe.recipe.model import Recipe

#: What is not written has no shards.
_ONE_SHARD: Final = 1 << 60


class Workbench:
    """One model of transformers whose weights are those of one merge after another.

    Args:
        memory: bytes for what a method asks about the whole model.
        threads: for the same.
        device: as of :class:`~mergesafe.chat.hf.HfModel`.
        batch: conversations at a time.
    """

    def __init__(self, *, memory: int, threads: int, device: str, batch: int) -> None:
        self.memory, self.threads, self.device, self.batch = memory, threads, device, batch
        self._module: Any = None
        self._config: dict[str, Any] = {}

    def plan(self, recipe: Recipe) -> MergePlan:
        """The merge, from headers alone.

        Raises:
            MergesafeError: the recipe or an input is wrong.
            ModelError: its output is no whole model, or its tokenizer is made of several.
        """
        if recipe.output == "adapter":
            raise ModelError(
                "the recipe writes an adapter (output: adapter), and vet probes whole models. "
                "Leave 'output' out to vet it: the merge is the same"
            )
        plan = plan_documents(recipe, max_shard_size=_ONE_SHARD, seed=0)
        if plan.built is not None:
            raise ModelError(
                "the recipe adds tokens to a tokenizer, and vet probes merges with a tokenizer of "
                "their parents. Take 'tokenizer_source: base' to vet it, or merge it and evaluate "
                "the result"
            )
        return plan

    def chat(self, label: str, recipe: Recipe, identity: str) -> ProbedModel:
        """The merge of a recipe as a model that answers; its weights are made when it first does.

        Raises:
            MergesafeError: as :meth:`plan`.
        """
        return ProbedModel(self, label, self.plan(recipe), identity)

    def made(self, plan: MergePlan) -> Any:
        """The model of transformers with the weights of a merge; those before are gone.

        Raises:
            CheckpointError, NonFiniteError: an input cannot be read, or holds NaN or infinity.
            ModelError: transformers calls a parameter otherwise than the checkpoint.
        """
        import torch

        if self._module is None or plan.config != self._config:
            self._module, self._config = self._empty(plan), plan.config
        module: Any = self._module
        tied = _tied_head(module)
        with Reader() as reader:
            plan = with_model_answers(
                plan, reader, NonFinite("error", reader), memory=self.memory, threads=self.threads
            )
            views = document_of("probe", plan, "error").views
            for name in [name for name, _ in module.named_parameters() if name != tied]:
                tensor = _read(views, name, plan, reader).to(_device(self.device))
                owner, _, key = name.rpartition(".")
                parameter = torch.nn.Parameter(tensor, requires_grad=False)
                setattr(module.get_submodule(owner), key, parameter)
        if tied is not None:
            module.get_output_embeddings().weight = module.get_input_embeddings().weight
        return module

    def _empty(self, plan: MergePlan) -> Any:
        require()
        import torch
        from accelerate import init_empty_weights
        from transformers import GenerationConfig

        place = plan.reference.checkpoint.path
        with init_empty_weights(include_buffers=False):
            module = model_without_weights(
                plan.config, torch.float32, f"{place}/config.json", plan.reference.checkpoint
            )
        stored = plan.generation or loose_object(place / GENERATION_NAME)
        settings = generation_settings(stored or plan.config, place)
        generation: Any = GenerationConfig
        module.generation_config = generation(**settings)
        for each in module.modules():
            for key, buffer in each.named_buffers(recurse=False):
                setattr(each, key, buffer.to(_device(self.device)))
        return module.eval()


class ProbedModel(HfModel):
    """A merge to chat with, by the tokenizer that it would be written with."""

    def __init__(self, bench: Workbench, label: str, plan: MergePlan, identity: str) -> None:
        super().__init__(
            plan.reference.ref, device=bench.device, batch=bench.batch, label=label,
            folder=plan.recipe.folder,
        )  # fmt: skip
        self._bench, self._plan, self._identity = bench, plan, identity

    @property
    def identity(self) -> str:
        """A digest of the recipe and of the models that it merges."""
        return self._identity

    @cached_property
    def plain_tokenizer(self) -> Any:
        source = self._plan.tokenizer
        return HfModel(source.ref, folder=self._plan.recipe.folder).plain_tokenizer

    @cached_property
    def model(self) -> Any:
        return self._bench.made(self._plan)


def _tied_head(module: Any) -> str | None:
    """The parameter of a head that is the embedding's, under its own name."""
    head = module.get_output_embeddings()
    if head is None or not module.config.get_text_config().tie_word_embeddings:
        return None
    return next((f"{name}.weight" for name, each in module.named_modules() if each is head), None)


def identity_of(what: Mapping[str, Any], parents: Mapping[str, str]) -> str:
    """A digest of a probe and the identities of the models that it is made of."""
    text = json.dumps([what, sorted(parents.items())], sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()[:32]


def _read(views: Mapping[str, View], name: str, plan: MergePlan, reader: Reader) -> Any:
    from mergesafe.chat.weights import read

    view = views.get(name)
    if view is None:
        raise ModelError(
            f"{plan.reference.checkpoint.path}: the model has the parameter '{name}', which no "
            f"merged tensor is called ({len(views)} tensors such as '{next(iter(views))}'). This "
            "version of transformers names this architecture's parameters differently, so its "
            "merges cannot be probed in memory: merge the recipe and evaluate the result."
        )
    return read(view, reader)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
