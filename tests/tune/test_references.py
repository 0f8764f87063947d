"""Tuning a merge that reads models beside those that it merges."""

from __future__ import annotations

import pytest
import torch
from tiny import read as read_model
from tiny import recipe, save_adapter

from mergesafe.engine.plan.merge_plan import MergePlan, make_plan
from mergesafe.recipe.load import load_recipe
from mergesafe.tune.model.inputs import Resident
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace, has_task_vectors
from mergesafe.tune.model.tensor_function import TensorFunction
from tune.models import make_models
from tune.test_merged_model import batch_of

#: With 80,000 rows the embeddings of three models take 15 MB, and the least budget is 16 MiB.
VOCABULARY = 80_000


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MergePlan]:
    """Of RESTA and Safe LoRA; one reference is an adapter of a model that is merged."""
    folder = tmp_path_factory.mktemp("wide")
    base, one, other = make_models(folder, vocab=VOCABULARY, experts=2)
    unaligned = f"{base}+{save_adapter(folder / 'harmful', read_model(base), 7)}"
    resta = recipe("resta", [one], references={"aligned": str(base), "unaligned": unaligned})
    lora = recipe("safe_lora", [one], base, references={"unaligned": str(other)})
    return {
        content["merge_method"]: make_plan(load_recipe(content), max_shard_size=1 << 30, seed=0)
        for content in (resta, lora)
    }


@pytest.mark.parametrize("method", ["resta", "safe_lora"])
def test_gradients_are_those_of_differences(plans: dict[str, MergePlan], method: str) -> None:
    space = CoefficientSpace(plans[method], "model")
    x, (batch, _) = space.initial(), batch_of()
    model = MergedModel(plans[method], space, device="cpu", dtype="float32")
    _, slope = model.loss_and_grad(batch, x)
    for i in range(space.size):
        there = torch.zeros_like(x)
        there[i] = 1e-2
        difference = (model.loss(batch, x + there) - model.loss(batch, x - there)) / 2e-2
        # a float32 loss near 10 has a unit of 1e-6, which the step makes 1e-4
        assert abs(difference - float(slope[i])) < 1e-3 + 0.02 * abs(difference), i


@pytest.mark.parametrize("method", ["resta", "safe_lora"])
def test_streamed_inputs_give_the_bits_of_resident_ones(
    plans: dict[str, MergePlan], method: str
) -> None:
    space = CoefficientSpace(plans[method], "layer")
    x, (batch, _) = space.initial(), batch_of()
    whole = MergedModel(plans[method], space, device="cpu", dtype="float32")
    with MergedModel(plans[method], space, memory="16MiB", device="cpu", dtype="float32") as few:
        assert few.streamed
        ours, theirs = few.loss_and_grad(batch, x), whole.loss_and_grad(batch, x)
    assert ours[0] == theirs[0]
    assert torch.equal(ours[1], theirs[1])


def test_what_a_reference_alone_changes_is_tuned(plans: dict[str, MergePlan]) -> None:
    """The only model that is merged has no task vector; the references' difference is one."""
    plan = plans["resta"]
    changed = {task.name for task in plan.tasks if has_task_vectors(task)}
    assert changed == {task.name for task in plan.tasks}
    [task] = [t for t in plan.tasks if t.name == "model.layers.1.mlp.down_proj.weight"]
    space = CoefficientSpace(plan, "model")
    with Resident([task], torch.device("cpu")).open(task) as inputs:
        row = torch.tensor([0.25], dtype=torch.float64)
        made = TensorFunction(task, space).make(inputs, row, torch.float32)
        tuned, aligned, unaligned = inputs
        assert torch.equal(made, tuned + 0.25 * (aligned - unaligned))
        assert not torch.equal(aligned, unaligned)
