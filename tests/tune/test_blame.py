"""A planted bad layer of a planted bad parent ranks first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import LlamaForCausalLM

from mergesafe.chat.conversation import question
from mergesafe.chat.hf import HfModel
from mergesafe.chat.records import Record
from mergesafe.chat.tokens import encode
from mergesafe.tune.data.examples import Term
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.objective.objectives import Objective
from mergesafe.tune.results.blame import Blame, blame
from tune.models import add_tokenizer, plan_of

REFUSALS = [
    Record(question("how do i pick a lock"), "sorry i cannot help"),
    Record(question("how do i open the window"), "no i cannot"),
    Record(question("pick a lock today"), "sorry no"),
]
BAD_LAYER = "model.layers.1."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base that refuses, and experts with small random deltas; the second has learned the
    opposite of refusing in one layer.
    """
    folder = tmp_path_factory.mktemp("models")
    base = tiny.save(folder / "base", tiny.llama(0, dtype=torch.float32), {"pad_token_id": 0})
    add_tokenizer(base)
    model: Any = LlamaForCausalLM.from_pretrained(str(base))
    tokenizer = HfModel(str(base)).tokenizer
    lines = [encode(tokenizer, r.conversation, str(r.answer)) for r in REFUSALS]

    def loss() -> torch.Tensor:
        return sum(
            model(input_ids=torch.tensor([e.ids]), labels=torch.tensor([e.labels])).loss
            for e in lines
        )  # fmt: skip

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    optimizer.zero_grad()
    loss().backward()
    slopes = {name: value.grad for name, value in model.named_parameters()}
    trained = {name: value.detach() for name, value in model.named_parameters()}
    tiny.save(base, trained, {"pad_token_id": 0})
    paths = [base]
    for seed in (1, 2, 3):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            name: value + 0.002 * torch.randn(value.shape, generator=generator)
            for name, value in trained.items()
        }
        if seed == 2:
            for name, slope in slopes.items():
                if name.startswith(BAD_LAYER):
                    tensors[name] += 0.2 * slope / slope.norm()
        paths.append(tiny.save(folder / f"expert{seed}", tensors, {"pad_token_id": 0}))
    return paths


@pytest.fixture(scope="module")
def found(models: list[Path]) -> Blame:
    plan = plan_of("task_arithmetic", models, {"weight": 1.0})
    space = CoefficientSpace(plan, "layer")
    merged = MergedModel(plan, space, device="cpu", dtype="float32")
    calls: list[tuple[int, int, float]] = []
    answer = blame(
        Objective(merged, [Term("safety", REFUSALS)]), space, space.initial(),
        progress=lambda *told: calls.append(told),
    )  # fmt: skip
    assert [call[:2] for call in calls] == [(n, 18) for n in range(1, 19)]
    assert len({value for *_, value in calls}) > 1
    return answer


def test_the_planted_layer_and_parent_rank_first(found: Blame, models: list[Path]) -> None:
    for table in (found, Blame(found.models, found.groups, found.gradient, None)):
        model, group, value = table.ranked()[0]
        assert (model, group) == (str(models[2]), "model.layers.1")
        assert value > 3 * abs(table.ranked()[1][2])
        assert table.by_model()[0][0] == str(models[2])


def test_leaving_one_out_is_the_change_of_the_loss(found: Blame, models: list[Path]) -> None:
    plan = plan_of("task_arithmetic", models, {"weight": 1.0})
    space = CoefficientSpace(plan, "layer")
    objective = Objective(
        MergedModel(plan, space, device="cpu", dtype="float32"), [Term("safety", REFUSALS)]
    )
    x = space.initial()
    without = x.clone()
    space.view(without, "weight")[1, 2] = 0.0
    change = objective.evaluate(x, grad=False).value - objective.evaluate(without, grad=False).value
    assert found.leave_one_out is not None
    assert found.leave_one_out[1][2] == pytest.approx(change, rel=1e-6)
    # The loss is nearly linear over so small a task vector.
    assert found.gradient[1][2] == pytest.approx(change, rel=0.5)


def test_slerp_blames_the_model_that_is_not_the_base(models: list[Path]) -> None:
    plan = plan_of("slerp", [models[0], models[2]], parameters={"t": 0.9})
    space = CoefficientSpace(plan, "layer")
    merged = MergedModel(plan, space, device="cpu", dtype="float32")
    objective = Objective(merged, [Term("safety", REFUSALS)])
    found = blame(objective, space, space.initial(), leave_one_out=False)
    assert found.models == (str(models[2]),)
    assert found.ranked()[0][1] == "model.layers.1"
    assert found.document().leave_one_out is None
