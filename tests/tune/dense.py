"""The truth about gradients of coefficients: merged weights of the whole model in float64, plain
autograd through transformers' model. Masks and elected signs are constants.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.func import functional_call
from transformers import AutoConfig, AutoModelForCausalLM

from mergesafe import ops
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.methods.definitions.slerp import slerp_angle
from mergesafe.methods.spec import MergeTaskVectors
from mergesafe.ops.backends.registry import get_backend
from mergesafe.ops.statistics import drive
from mergesafe.tune.model.inputs import Resident
from mergesafe.tune.model.space import CoefficientSpace, filled


class DenseModel:
    """The merged model with all of its weights, as a function of the coefficients."""

    def __init__(self, plan: MergePlan, space: CoefficientSpace) -> None:
        self.plan, self.space = plan, space
        self.inputs = Resident(plan.tasks, torch.device("cpu"))
        settings = dict(plan.config)
        config: Any = AutoConfig.for_model(settings.pop("model_type"), **settings)
        self.model: Any = AutoModelForCausalLM.from_config(config).double().eval()

    def weights(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {task.name: self._weight(task, x) for task in self.plan.tasks}

    def cross_entropy(self, x: torch.Tensor, ids: torch.Tensor, start: int) -> torch.Tensor:
        """Mean over rows of the mean over tokens from ``start`` on; rows are of equal length."""
        weights = self.weights(x)
        if self.model.config.tie_word_embeddings:
            embedding = self.model.get_input_embeddings().weight
            name = next(n for n, p in self.model.named_parameters() if p is embedding)
            weights["lm_head.weight"] = weights[name]
        logits = functional_call(self.model, weights, kwargs={"input_ids": ids}).logits
        return torch.nn.functional.cross_entropy(
            logits[:, start - 1 : -1].flatten(0, 1), ids[:, start:].flatten()
        )

    def _weight(self, task: TensorTask, x: torch.Tensor) -> torch.Tensor:
        with self.inputs.open(task) as inputs:
            if self.space.group_of(task.name) is None:
                return inputs[0].double()
            values = self.space.per_tensor(x, task.name)
            if task.method.name == "nearswap":
                base, x = (tensor.double() for tensor in inputs)
                share = (values["t"][0] / (x - base).abs().clamp(min=1e-6)).clamp(0.0, 1.0)
                return base + (x - base) * share
            if task.method.inputs.base == "required":
                return self._task_vectors(task, inputs, values)
            wide = [tensor.double() for tensor in inputs]
            if "t" in values:
                return _slerp(wide, values["t"][0])
            weights = values["weight"]
            if task.settings.shared["normalize"]:
                weights = weights / weights.sum()
            return sum(w * tensor for w, tensor in zip(weights, wide, strict=True))

    def _task_vectors(
        self, task: TensorTask, inputs: list[torch.Tensor], values: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        base, *experts = inputs
        numbers = {name: value.detach() for name, value in values.items()}
        merge = task.method.merge(task.context, filled(task.settings, numbers))
        flat = [tensor.reshape(-1) for tensor in experts]
        how = drive(merge, get_backend("auto", base.device), base.reshape(-1), flat)
        assert isinstance(how, MergeTaskVectors)
        # Against a base of zeros, one task vector at weight 1 comes out sparsified and rescaled.
        zero = torch.zeros_like(base, dtype=torch.float32)
        deltas = [expert.float() - base.float() for expert in experts]
        alone = [
            ops.merge_task_vectors(zero, [delta], [1.0], sparsify=[mask]).double()
            for delta, mask in zip(deltas, how.sparsify, strict=True)
        ]
        weights = values.get("weight", torch.tensor(how.weights, dtype=torch.float64))
        scale = values["lambda"][0] if "lambda" in values else how.scale
        agree = [torch.ones_like(u) for u in alone]
        if how.elect != "none":
            weighted = [w * u for w, u in zip(weights.detach(), alone, strict=True)]
            votes = sum(weighted) if how.elect == "sum" else sum(d.sign() for d in weighted)
            majority = torch.where(votes >= 0, 1.0, -1.0)
            agree = [(d.sign() == majority).double() for d in weighted]
        total = sum(w * a * u for w, a, u in zip(weights, agree, alone, strict=True))
        if how.normalize:
            divisor = sum(w * a for w, a in zip(weights, agree, strict=True))
            total = total / torch.where(divisor == 0, 1.0, divisor)
        return base.double() + scale * total


def _slerp(wide: list[torch.Tensor], t: torch.Tensor) -> torch.Tensor:
    base, other = wide
    products = (float((a * b).sum()) for a, b in ((base, base), (base, other), (other, other)))
    theta = slerp_angle(*products)
    if theta is None:
        return (1 - t) * base + t * other
    angle = torch.tensor(theta, dtype=torch.float64)
    return (torch.sin((1 - t) * angle) * base + torch.sin(t * angle) * other) / torch.sin(angle)
