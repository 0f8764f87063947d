"""The merged model as a function of its coefficients, without its weights in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch.nn import functional

from mergesafe.chat.hf import HfModel
from mergesafe.chat.weights import lora_factors, read
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.engine.memory import MINIMUM_BUDGET, available_bytes, budget_of
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.errors import (
    ArgumentError,
    BackendError,
    DeviceMemoryError,
    LossError,
    TuningError,
)
from mergesafe.recipe.model import ModelRef
from mergesafe.tune.data.batch import Batch
from mergesafe.tune.model.built_tokenizer import built_tokenizer
from mergesafe.tune.model.core_function import CoreFunction
from mergesafe.tune.model.inputs import Inputs, Resident, distinct, resident_bytes
from mergesafe.tune.model.layers import MergedLinear
from mergesafe.tune.model.low_rank import LowRank, is_low_rank
from mergesafe.tune.model.skeleton import make_skeleton, recompute_layers, set_small, small_values
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.model.streamed import InputStream, Trail
from mergesafe.tune.model.tensor_function import TensorFunction, check_differentiable
from mergesafe.tune.model.weight import MergedWeight

Compute = Callable[[], torch.Tensor]


class MergedModel:
    """A causal language model whose weights are made on demand from a merge's inputs.

    Args:
        plan: the merge.
        space: its coefficients.
        memory: bytes for the inputs of the merge, as a number or text; where they do not fit, they
            are read from the checkpoints in every pass. By default half of the available memory.
            On a GPU inputs lie there if they take less than half of what is free, else in pinned
            memory of the host, within this budget.
        device: ``cpu`` or ``cuda``; ``auto`` takes a GPU where there is one.
        dtype: of the multiplications: ``float32``, or ``bfloat16`` with sums, norms and losses in
            float32 (autocast). ``auto`` takes bfloat16 where the device multiplies it natively.
        recompute: keep the inputs of decoder layers alone, and compute what lies within a layer
            again in backward: a third more time for much less memory. By default where the inputs
            of the merge are streamed.
    """

    def __init__(
        self,
        plan: MergePlan,
        space: CoefficientSpace,
        *,
        memory: str | int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        recompute: bool | None = None,
    ) -> None:
        self.plan, self.space = plan, space
        self.device = _device(device)
        self.dtype = _dtype(dtype, self.device)
        tasks = [task for task in plan.tasks if not task.copied]
        self._weights = {task.name: self._weight(task) for task in tasks}
        self.module, self._small = make_skeleton(plan, self._weights, self.device)
        self._inputs = self._open_inputs([w.task for w in self._weights.values()], memory)
        self._tuned = [name for name, weight in self._weights.items() if weight.combination]
        self._rows_of = space.rows_of(self._tuned)
        if self.streamed if recompute is None else recompute:
            recompute_layers(self.module)
        self._trail = Trail([name for name in self._weights if name not in self._small])
        for weight in self._weights.values():
            weight.inputs, weight.used = self._inputs, self._trail.add
        self._held: torch.Tensor | None = None
        self.module.register_forward_pre_hook(self._foretell)
        cast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        self.module.forward = cast(self.module.forward)

    def close(self) -> None:
        """Give up the inputs; the model cannot be used any more."""
        self._inputs.close()

    def __enter__(self) -> MergedModel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def streamed(self) -> bool:
        """Whether inputs are read from the checkpoints in every pass."""
        return isinstance(self._inputs, InputStream)

    @property
    def head(self) -> MergedLinear:
        """The output embedding."""
        head: MergedLinear = self.module.get_output_embeddings()
        return head

    # --- passes ------------------------------------------------------------------------------

    def loss(self, batch: Batch, x: torch.Tensor) -> float:
        """Mean cross-entropy of the batch's answers at ``x``, from a forward pass alone."""
        return self.value(x, lambda: self.cross_entropy(batch))

    def loss_and_grad(self, batch: Batch, x: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Mean cross-entropy of the batch's answers, and its gradient, like ``x``."""
        return self.gradient(x, lambda: self.cross_entropy(batch))

    def value(self, x: torch.Tensor, compute: Compute) -> float:
        """``compute()`` at ``x``, without gradients. Inside, :meth:`logits` uses ``x``.

        Raises:
            DeviceMemoryError: memory ran out; says what to lower.
            LossError: the value is not finite.
        """
        with self.using(x.detach()), torch.no_grad(), _memory_errors():
            return _finite(compute())

    def gradient(self, x: torch.Tensor, compute: Compute) -> tuple[float, torch.Tensor]:
        """``compute()`` at ``x`` and its gradient, float64, like ``x``.

        Raises:
            DeviceMemoryError: memory ran out; says what to lower.
            LossError: the value is not finite.
            TuningError: method or coefficients have no gradient.
        """
        check_differentiable(self.space)
        leaf = x.detach().to(torch.float64).requires_grad_()
        # First of all: under a caller's no_grad the coefficients would lose their graph.
        with torch.enable_grad(), self.using(leaf), _memory_errors():
            result = compute()
            value = _finite(result)
            if not result.requires_grad:
                raise TuningError("the loss has no graph to the coefficients, so no gradient")
            torch.autograd.backward(result)
        assert leaf.grad is not None  # a result with a graph has reached the only leaf
        return value, leaf.grad

    def logits(self, batch: Batch) -> torch.Tensor:
        """float32 [positions, vocabulary]: predictions at the batch's positions.

        Only within :meth:`value`, :meth:`gradient` and :meth:`at`.
        """
        batch = batch.to(self.device)
        self.head.select = batch.positions
        try:
            out = self.module(input_ids=batch.ids, use_cache=False)
        finally:
            self.head.select = None
        logits: torch.Tensor = out.logits
        return logits.float()

    def cross_entropy(self, batch: Batch) -> torch.Tensor:
        """Nats a token of each answer, averaged over the answers."""
        return self.answer_nll(batch).mean()

    def answer_nll(self, batch: Batch, *, total: bool = False) -> torch.Tensor:
        """[rows]: nats a token of each answer; of the whole answer with ``total``."""
        losses = functional.cross_entropy(
            self.logits(batch), batch.targets.to(self.device), reduction="none"
        )
        rows = batch.rows.to(self.device)
        sums = losses.new_zeros(batch.height).index_add(0, rows, losses)
        return sums if total else sums / rows.bincount(minlength=batch.height)

    @contextmanager
    def at(self, x: torch.Tensor) -> Iterator[MergedChat]:
        """The merged model at ``x``, for generating and scoring, as :meth:`holding` keeps it."""
        with self.holding(x):
            yield MergedChat(self, x.detach().clone())

    @contextmanager
    def holding(self, x: torch.Tensor) -> Iterator[None]:
        """The merged weights at ``x`` are made once for all passes of the block, if there is room:
        half of the memory that is free, or ``memory`` where inputs are streamed. Else anew in each.
        """
        with self.using(x.detach()), torch.no_grad():
            if self._held is not None:  # by a block around this one, at the same coefficients
                yield
                return
            try:
                if self._fits():
                    for weight in self._weights.values():
                        weight.kept = weight.make()
                    self._held = x.detach().clone()
                yield
            finally:
                self._held = None
                for weight in self._weights.values():
                    weight.kept = None

    @contextmanager
    def expert(self, index: int) -> Iterator[None]:
        """The model is one input of the merge, by its number among ``space.experts``."""
        for weight in self._weights.values():
            weight.choice = index
        try:
            with torch.no_grad():
                self._make_small()
                yield
        finally:
            for weight in self._weights.values():
                weight.choice = None

    def _foretell(self, *_: object) -> None:
        if self._held is None:
            self._inputs.expect(self._trail.begin(backward=torch.is_grad_enabled()))

    def _fits(self) -> bool:
        """Whether there is room for the merged weights."""
        size = self.dtype.itemsize * sum(w.task.numel for w in self._weights.values())
        if self.device.type == "cuda":
            return size <= torch.cuda.mem_get_info(self.device)[0] // 2
        limit = self._budget if self.streamed else available_bytes() // 2
        return size <= limit

    def _make_small(self) -> None:
        """Give the model the parameters that are made at the start of a pass."""
        made = {name: weight.differentiable() for name, weight in self._small.items()}
        set_small(self.module, made)

    def _weight(self, task: TensorTask) -> MergedWeight:
        tuned = self.space.group_of(task.name) is not None
        if not tuned:
            return MergedWeight(task, None, self.dtype)
        kind = CoreFunction if task.method.inputs.adapters else TensorFunction
        how = kind(task, self.space)
        factors = LowRank(how, self.dtype, self.device) if is_low_rank(how) else None
        return MergedWeight(task, how, self.dtype, factors)

    def _open_inputs(self, tasks: list[TensorTask], memory: str | int | None) -> Inputs:
        total = sum(map(resident_bytes, tasks))
        if memory is None:
            budget = max(available_bytes() // 2, MINIMUM_BUDGET)
        else:
            budget = budget_of(memory)
        self._budget = budget
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            if total > free // 2:
                host = (
                    Resident(tasks, torch.device("cpu"), pinned=True) if total <= budget else None
                )
                return InputStream(tasks, self.device, budget, self._small, host)
            budget = total
        if total <= budget:
            return Resident(tasks, self.device)
        return InputStream(tasks, self.device, budget, self._small)

    def refuse_broken_inputs(self) -> None:
        """Refuse models with weights that are not finite, with which no loss is.

        Raises:
            TuningError: there is one; names it and the tensor.
        """
        if self._broken is not None:
            model, tensor = self._broken
            raise TuningError(
                f"{model}: the tensor '{tensor}' has values that are not finite, so no loss of the "
                "merged model is; repair it, or merge another model in its place"
            )

    @cached_property
    def _broken(self) -> tuple[str, str] | None:
        """A model, and its first tensor that is not finite; all are read for this."""
        with Reader() as reader:
            for task in self.plan.tasks:
                for source in () if task.copied else distinct(task):
                    pieces = [read(source.view.plain, reader)]
                    if source.view.lora is not None:
                        pieces += lora_factors(source.view.lora, reader)
                    # float8 has no test of its own
                    if not all(bool(piece.float().isfinite().all()) for piece in pieces):
                        return source.model, task.name
        return None

    @contextmanager
    def using(self, x: torch.Tensor) -> Iterator[None]:
        """Coefficients ``x`` for every weight, with their graph; small parameters are made now."""
        if tuple(x.shape) != (self.space.size,):
            raise ArgumentError(
                f"coefficients have shape {tuple(x.shape)}; expected [{self.space.size}]"
            )
        if self._held is not None and (x.requires_grad or not torch.equal(x, self._held)):
            raise ArgumentError(
                "inside at() and holding() the model has the coefficients that were given there, "
                "and no gradient; leave the block first"
            )
        numbers = self._rows_of(x.detach().cpu()).unbind()
        rows = self._rows_of(x.to(self.device)).unbind()
        before = [(weight, weight.numbers, weight.row) for weight in self._weights.values()]
        for name, number, row in zip(self._tuned, numbers, rows, strict=True):
            self._weights[name].numbers, self._weights[name].row = number, row
        small = small_values(self.module, self._small)
        try:
            self._make_small()
            yield
        finally:
            set_small(self.module, small)
            for weight, *coefficients in before:
                weight.numbers, weight.row = coefficients

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that the recipe chooses, padding on the left."""
        if self.plan.built is not None:
            return built_tokenizer(self.plan)
        source = self.plan.tokenizer
        return HfModel(ModelRef(source.ref.path), folder=self.plan.recipe.folder).tokenizer


class MergedChat(HfModel):
    """The merged model at fixed coefficients, to chat with; inside :meth:`MergedModel.at` only."""

    def __init__(self, merged: MergedModel, x: torch.Tensor) -> None:
        super().__init__(merged.plan.reference.ref, label="merged")
        self._merged, self._x = merged, x

    @cached_property
    def plain_tokenizer(self) -> Any:
        return self._merged.tokenizer

    @cached_property
    def model(self) -> Any:
        return self._merged.module

    @cached_property
    def identity(self) -> str:
        """A digest of the recipe and the coefficients."""
        import hashlib

        text = f"{self._merged.plan.recipe.text}\n{self._merged.space.labels}\n{self._x.tolist()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Memory that runs out in a pass, as an error that says what to do."""
    try:
        yield
    except (MemoryError, torch.cuda.OutOfMemoryError, RuntimeError) as error:
        lacks = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
        if not lacks and "can't allocate memory" not in str(error):
            raise
        raise DeviceMemoryError(
            "memory ran out in a pass of the merged model. Lower the tokens of a pass, or give a "
            "smaller --memory, so that inputs are streamed and layers computed again in backward"
        ) from None


def _finite(result: torch.Tensor) -> float:
    value = float(result.detach())
    if not math.isfinite(value):
        raise LossError(f"the loss is {value}, not a finite number")
    return value


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        known = name.partition(":")[0] in ("cpu", "cuda")
        why = f" ({str(error).splitlines()[0]})" if known else ""
        raise BackendError(
            f"device '{name}' is not available{why}; expected auto, cpu, cuda or cuda:N"
        ) from None


def _dtype(name: str, device: torch.device) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name == "auto":
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return torch.bfloat16 if device.type != "cpu" or native() else torch.float32
    if name not in known:
        raise ArgumentError(f"dtype '{name}'; expected auto, {' or '.join(known)}")
    return known[name]
