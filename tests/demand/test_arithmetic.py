"""What recipes mean: differences of chat models, types, single parts, rotary settings, memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import command, digest, read, recipe, write_recipe

from demand.users import TEXT, check, load, make, merge, state

LLAMA = "LlamaForCausalLM"


def test_a_chat_vector(tmp_path: Path) -> None:
    """arcee-ai/mergekit#248, #438, #400: model + alpha (chat - base), and a vector taken away."""
    base, mine, chat = (state(make(LLAMA, i, tmp_path / f"m{i}", **TEXT)) for i in range(3))
    each = [{"weight": 1.0}, {"weight": 0.3}]
    written = recipe("task_arithmetic", ["m1", "m2"], "m0", each=each, dtype="float32")
    out, _ = merge(tmp_path, written)
    right = {name: mine[name] + 0.3 * (chat[name] - base[name]) for name in base}
    check(load(LLAMA, out), right)
    written = recipe("task_arithmetic", ["m2"], "m0", each={"weight": -1.0}, dtype="float32")
    out, _ = merge(tmp_path, written, "less")
    check(load(LLAMA, out), {name: 2 * base[name] - chat[name] for name in base})


def test_weights_that_do_not_add_up_to_one(tmp_path: Path) -> None:
    """arcee-ai/mergekit#214: linear divides by their sum; ``normalize: false`` does not, and the
    plan shows the numbers that are taken.
    """
    one, two = (state(make(LLAMA, i, tmp_path / f"m{i}", **TEXT)) for i in range(2))
    each = [{"weight": 0.1}, {"weight": 1.0}]
    out, told = merge(tmp_path, recipe("linear", ["m0", "m1"], each=each))
    assert "linear: weight 0.1 m0, 1 m1" in told
    check(load(LLAMA, out), {name: (0.1 * one[name] + two[name]) / 1.1 for name in one})
    plain = recipe("linear", ["m0", "m1"], each=each, parameters={"normalize": False})
    out, told = merge(tmp_path, plain, "plain")
    assert "normalize false" in told
    check(load(LLAMA, out), {name: 0.1 * one[name] + two[name] for name in one})


def test_one_kind_of_tensor_alone(tmp_path: Path) -> None:
    """arcee-ai/mergekit#308, #327, #5: only the queries, or all but the head; a filter that names
    nothing, as ``q_proj`` of a model with fused ``qkv_proj``, is told.
    """
    one, two = (state(make(LLAMA, i, tmp_path / f"m{i}", **TEXT)) for i in range(2))
    weight = [{"filter": "lm_head", "value": 0}, {"value": 1}]
    written = recipe("linear", ["m0", "m1"], each=[{"weight": 1}, {"weight": weight}])
    out, _ = merge(tmp_path, written)
    right = {name: one[name] if "lm_head" in name else (one[name] + two[name]) / 2 for name in one}
    check(load(LLAMA, out), right)
    t = [{"filter": "q_proj", "value": 0.5}, {"value": 0}]
    queries = recipe("slerp", ["m0", "m1"], "m0", parameters={"t": t})
    out, _ = merge(tmp_path, queries, "queries")
    changed = [
        name for name, tensor in read(out).items() if not torch.equal(tensor.double(), one[name])
    ]
    assert changed == [name for name in read(out) if "q_proj" in name]
    for number in (0, 1):
        make("Phi3ForCausalLM", number, tmp_path / f"m{number}", **TEXT)
    _, told = merge(tmp_path, queries, "fused")
    told = " ".join(told.split())
    assert "the filter 'q_proj' is part of no tensor's name, so its value is never used" in told
    assert "(did you mean 'qkv_proj'?)" in told


@pytest.mark.parametrize(("dtype", "wanted"), [("float16", "float16"), (None, "float32")])
def test_types_of_the_output(tmp_path: Path, dtype: str | None, wanted: str) -> None:
    """arcee-ai/mergekit#604, #316: ``dtype`` is what is written; bfloat16 beside float16 is written
    in float32 where the recipe says nothing, and a note says what that costs.
    """
    for name, kind in (("m0", torch.bfloat16), ("m1", torch.float16)):
        make(LLAMA, 0, tmp_path / name, **TEXT).to(kind).save_pretrained(tmp_path / name)
    keys = {} if dtype is None else {"dtype": dtype}
    out, told = merge(tmp_path, recipe("arcee_fusion", ["m1"], "m0", **keys))
    assert {str(tensor.dtype) for tensor in read(out).values()} == {f"torch.{wanted}"}
    assert json.loads((out / "config.json").read_text())["dtype"] == wanted
    note = "written in float32, which holds the numbers of all models (bfloat16, float16)"
    assert (note in " ".join(told.split())) is (dtype is None)


def test_rotary_settings_that_differ(tmp_path: Path) -> None:
    """arcee-ai/mergekit#325, #667: told with both values; the output has the base's."""
    for number, (theta, length) in enumerate([(500000.0, 64), (2000000.0, 512)]):
        rope = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
        shape = {**TEXT, **rope, "max_position_embeddings": length}
        make(LLAMA, number, tmp_path / f"m{number}", **shape)
    out, told = merge(tmp_path, recipe("linear", ["m0", "m1"], each={"weight": 0.5}))
    told = " ".join(told.split())
    assert "config.json differs in max_position_embeddings: 64 in m0, 512 in m1; the merged" in told
    assert "rope_parameters.rope_theta: 500000.0 in m0, 2000000.0 in m1; the merged" in told
    assert load(LLAMA, out).config.rope_parameters["rope_theta"] == 500000.0


def test_memory_is_a_setting_and_changes_nothing(tmp_path: Path) -> None:
    """arcee-ai/mergekit#20, #549, #107: the least that a merge takes, and the same bytes; random
    masks are the same on every run.
    """
    for number in range(3):
        make(LLAMA, number, tmp_path / f"m{number}", **TEXT)
    each = {"weight": 0.5, "density": 0.5}
    file = write_recipe(tmp_path / "r.yml", recipe("dare_ties", ["m1", "m2"], "m0", each=each))
    outs = []
    for memory, threads in (("16MiB", 1), ("1GiB", 2)):
        outs.append(tmp_path / memory)
        done = command(
            "merge", file, outs[-1], "--memory", memory, "--threads", threads, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    assert digest(outs[0]) == digest(outs[1])
