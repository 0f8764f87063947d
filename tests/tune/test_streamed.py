"""Inputs read from the checkpoints in every pass: the same bits, within the budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from mergesafe.chat.conversation import question
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.errors import ArgumentError, CheckpointError
from mergesafe.tune.model.inputs import Resident, resident_bytes
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.model.streamed import InputStream
from tune.models import make_models, plan_of
from tune.test_merged_model import batch_of

#: With 40,000 rows the embeddings of four models take 10 MB, and the least budget is 16 MiB.
VOCABULARY = 40_000
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_models(tmp_path_factory.mktemp("wide"), vocab=VOCABULARY)


@pytest.fixture(scope="module")
def plan(models: list[Path]) -> MergePlan:
    return plan_of("ties", models, {"weight": 0.4, "density": 0.5}, parameters={"normalize": False})


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_resident_inputs_to_the_bit(
    plan: MergePlan, recompute: bool
) -> None:
    space = CoefficientSpace(plan, "layer")
    x, (batch, _) = space.initial(), batch_of()
    whole = MergedModel(plan, space, device="cpu", dtype="float32")
    with MergedModel(
        plan, space, memory="16MiB", device="cpu", dtype="float32", recompute=recompute
    ) as streamed:
        assert streamed.streamed
        assert not whole.streamed
        for _ in range(2):  # in the order of the modules, then in that of the first pass
            ours, theirs = streamed.loss_and_grad(batch, x), whole.loss_and_grad(batch, x)
            assert ours[0] == theirs[0]
            assert torch.equal(ours[1], theirs[1])
        assert streamed.loss(batch, x) == whole.loss(batch, x)


@pytest.mark.parametrize("method", ["iso_c", "tsv"])
def test_what_dense_methods_keep_is_no_memory_of_the_stream(
    method: str, models: list[Path]
) -> None:
    """Its buffers are used again for the next tensors."""
    plan = plan_of(method, models, {"weight": 0.8})
    space = CoefficientSpace(plan, "layer")
    batch, _ = batch_of()
    whole = MergedModel(plan, space, device="cpu", dtype="float32")
    with MergedModel(plan, space, memory="16MiB", device="cpu", dtype="float32") as streamed:
        assert streamed.streamed
        for move in (0.0, 0.1, 0.0):
            x = space.initial() + move
            ours, theirs = streamed.loss_and_grad(batch, x), whole.loss_and_grad(batch, x)
            assert ours[0] == theirs[0]
            assert torch.equal(ours[1], theirs[1])


def test_lora_experts_are_made_from_one_reading_of_the_base(
    models: list[Path], tmp_path: Path
) -> None:
    base = tiny.read(models[0])
    adapters = [tiny.save_adapter(tmp_path / f"adapter{i}", base, i) for i in range(2)]
    plan = plan_of("task_arithmetic", [models[0], *(f"{models[0]}+{a}" for a in adapters)],
                   {"weight": 0.5})  # fmt: skip
    space = CoefficientSpace(plan, "layer")
    # Only the layers are adapted; embeddings, norms and the head have no coefficients.
    assert [group.name for group in space.groups] == [f"model.layers.{i}" for i in range(3)]
    tasks = {task.name: task for task in plan.tasks}
    inputs = InputStream(list(tasks.values()), CPU, 16 << 20, ())
    resident = Resident(plan.tasks, CPU)
    name = "model.layers.1.mlp.down_proj.weight"
    with inputs.open(tasks[name]) as ours, resident.open(tasks[name]) as theirs:
        assert all(map(torch.equal, ours, theirs))
        assert not torch.equal(ours[1], ours[2])
    inputs.close()


@pytest.mark.parametrize("on_host", [False, True])
def test_what_was_foretold_wrongly_is_dropped(plan: MergePlan, on_host: bool) -> None:
    tasks = {task.name: task for task in plan.tasks}
    names = list(tasks)
    resident = Resident(plan.tasks, CPU)
    inputs = InputStream(plan.tasks, CPU, 16 << 20, (), resident if on_host else None)
    for order in (names, names[::-1], names[3:6] + names[:2]):
        inputs.expect(names)
        for name in order:
            with inputs.open(tasks[name]) as ours, resident.open(tasks[name]) as theirs:
                assert all(map(torch.equal, ours, theirs))
    inputs.close()


def test_a_budget_that_does_not_hold_one_tensor_is_refused(plan: MergePlan) -> None:
    largest = max(map(resident_bytes, plan.tasks))
    with pytest.raises(ArgumentError, match="too small for the inputs of tensor"):
        InputStream(plan.tasks, CPU, largest - 1, ())


def test_an_error_of_a_reader_reaches_whoever_waits(tmp_path: Path) -> None:
    models = make_models(tmp_path, vocab=VOCABULARY)
    plan = plan_of("linear", models, {"weight": 0.5})
    inputs = InputStream(plan.tasks, CPU, 16 << 20, ())
    (models[2] / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="expert2"), inputs.open(plan.tasks[0]):
        pass
    inputs.close()


def test_it_scores_the_same_where_the_merged_weights_do_not_fit(plan: MergePlan) -> None:
    space = CoefficientSpace(plan, "layer")
    pairs = [(question("how do i pick a lock"), "sorry no")]
    scores = []
    for memory, kept in (("16MiB", True), ("1GiB", True), ("16MiB", False)):
        with MergedModel(plan, space, memory=memory, device="cpu", dtype="float32") as merged:
            merged._budget = merged._budget if kept else 1 << 20  # the weights take 5 MB
            with merged.at(space.initial()) as chat:
                assert (merged._held is not None) is kept
                scores.append(chat.nll(pairs))
    assert scores[0] == scores[1] == scores[2]
