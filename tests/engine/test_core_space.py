"""Core space as a merge: a model or an adapter, from adapters of one base."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import Tensors, command, digest, read, recipe, save

import mergesafe as ms
from mergesafe.checkpoint.format.lora import open_adapter
from mergesafe.checkpoint.format.model import open_checkpoint
from mergesafe.errors import MergesafeError, OutputError

from .core_space_adapters import WEIGHTS, WEIGHTS_FILE, Adapters, config_of, read_file
from .crashing import Merges


@pytest.fixture
def given(tmp_path: Path) -> Adapters:
    return Adapters(tmp_path)


def deltas(base: Path, adapter: Path) -> Tensors:
    """``scale * B A`` of every tensor that an adapter changes, in float64."""
    pairs = open_adapter(adapter, open_checkpoint(base)).pairs
    stored = read_file(adapter / "adapter_model.safetensors")
    return {
        name: pair.scale * stored[pair.b.name].double() @ stored[pair.a.name].double()
        for name, pair in pairs.items()
    }


def test_a_model_is_the_dense_merge(given: Adapters, tmp_path: Path) -> None:
    ms.merge(given.recipe(), tmp_path / "core")
    dense = recipe(
        "task_arithmetic", given.models, given.base, each=[{"weight": w} for w in WEIGHTS]
    )
    ms.merge(dense, tmp_path / "dense")
    one, two = read(tmp_path / "core"), read(tmp_path / "dense")
    assert one.keys() == two.keys()
    for name in one:
        assert (one[name].double() - two[name].double()).abs().max() < 1e-6


def test_an_adapter_is_the_dense_merge(given: Adapters, tmp_path: Path) -> None:
    result = ms.merge(given.recipe(output="adapter"), tmp_path / "out")
    found = deltas(given.base, tmp_path / "out")
    each = [deltas(given.base, place) for place in given.places]
    assert found.keys() == each[0].keys()
    for name, delta in found.items():
        exact = sum(w * d[name] for w, d in zip(WEIGHTS, each, strict=True))
        assert (delta - exact).norm() < 3e-7 * exact.norm()
    read_bytes = sum(x.nbytes for p in given.places for x in read_file(p / WEIGHTS_FILE).values())
    assert result.bytes_read == read_bytes  # nothing of the base
    assert result.tensors == 2 * len(found)
    assert ms.verify(tmp_path / "out").tensors == 2 * len(found)


@pytest.mark.parametrize(
    "method", ["core_space(ties)", "core_space(tsv)", "core_space(dare_linear)"]
)
def test_model_and_adapter_are_one_merge(given: Adapters, tmp_path: Path, method: str) -> None:
    ms.merge(given.recipe(method), tmp_path / "model")
    ms.merge(given.recipe(method, output="adapter"), tmp_path / "adapter")
    added = recipe("passthrough", [f"{given.base}+{tmp_path / 'adapter'}"])
    ms.merge(added, tmp_path / "added")
    one, two = read(tmp_path / "model"), read(tmp_path / "added")
    for name in one:
        assert (one[name] - two[name]).abs().max() < 1e-6
        assert name.endswith(("o_proj.weight", "down_proj.weight")) == (
            not torch.equal(one[name], given.tensors[name])
        )


def test_peft_loads_the_adapter(given: Adapters, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import LlamaForCausalLM

    ms.merge(given.recipe("core_space(ties)", output="adapter"), tmp_path / "out")
    ms.merge(given.recipe("core_space(ties)"), tmp_path / "model")
    ids = torch.arange(12).view(1, -1)
    with torch.no_grad():
        base = LlamaForCausalLM.from_pretrained(given.base, dtype=torch.float32)
        adapted = peft.PeftModel.from_pretrained(base, tmp_path / "out")
        ours = adapted(ids).logits
        merged = LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
        assert torch.allclose(ours, merged(ids).logits, rtol=0, atol=1e-5)


def test_layers_that_only_some_adapters_change(given: Adapters, tmp_path: Path) -> None:
    """They count as zeros; ranks differ by layer, which PEFT reads from patterns."""
    path = given.places[1] / WEIGHTS_FILE
    kept = {n: x for n, x in read_file(path).items() if "layers.0." not in n or "o_proj" in n}
    save_file(kept, path)
    result = ms.merge(given.recipe(output="adapter"), tmp_path / "out")
    assert any(
        note.startswith("1 tensor (model.layers.0.mlp.down_proj.weight) is not changed by")
        for note in result.notes
    )
    config = config_of(tmp_path / "out")
    layer = "model.layers.0.mlp.down_proj"
    assert (config["r"], config["rank_pattern"], config["alpha_pattern"]) == (
        9,
        {layer: 6},
        {layer: 6},
    )
    found = deltas(given.base, tmp_path / "out")
    each = [deltas(given.base, place) for place in given.places]
    for name, delta in found.items():
        exact = sum(w * d[name] for w, d in zip(WEIGHTS, each, strict=True) if name in d)
        assert (delta - exact).norm() < 3e-7 * exact.norm()


def test_targets_name_no_other_layer(given: Adapters, tmp_path: Path) -> None:
    ms.merge(given.recipe(output="adapter"), tmp_path / "out")
    assert config_of(tmp_path / "out")["target_modules"] == ["down_proj", "o_proj"]
    for place in given.places:
        path = place / WEIGHTS_FILE
        save_file({n: x for n, x in read_file(path).items() if "layers.1." in n}, path)
    ms.merge(given.recipe(output="adapter"), tmp_path / "part")
    assert config_of(tmp_path / "part")["target_modules"] == [
        "model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj",
    ]  # fmt: skip


def test_settings_of_the_inputs_are_kept_where_they_agree(given: Adapters, tmp_path: Path) -> None:
    for number, place in enumerate(given.places):
        settings = {
            "task_type": "CAUSAL_LM", "base_model_name_or_path": "org/base",
            "revision": f"r{number}", "use_rslora": True,
        }  # fmt: skip
        (place / "adapter_config.json").write_text(json.dumps(config_of(place) | settings))
    ms.merge(given.recipe(output="adapter"), tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] == "org/base"
    assert "revision" not in config
    assert config["use_rslora"] is False
    other = given.places[2] / "adapter_config.json"
    other.write_text(json.dumps(config_of(given.places[2]) | {"base_model_name_or_path": "org/b"}))
    result = ms.merge(given.recipe(output="adapter"), tmp_path / "other")
    assert config_of(tmp_path / "other")["base_model_name_or_path"] == str(given.base)
    assert any("names different bases" in warning for warning in result.warnings)


@pytest.mark.parametrize("value", [{"a": 1}, ["org/base"], 3, "", None])
def test_settings_that_are_no_text_are_not_taken_over(
    given: Adapters, tmp_path: Path, value: object
) -> None:
    for place in given.places:
        settings = dict.fromkeys(("task_type", "base_model_name_or_path", "revision"), value)
        (place / "adapter_config.json").write_text(json.dumps(config_of(place) | settings))
    ms.merge(given.recipe(output="adapter"), tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert config["base_model_name_or_path"] == str(given.base)
    assert config["task_type"] is None
    assert "revision" not in config


def test_a_password_in_the_name_of_the_base_is_not_written(given: Adapters, tmp_path: Path) -> None:
    for place in given.places:
        settings = {"base_model_name_or_path": "https://me:secret@host/base"}
        (place / "adapter_config.json").write_text(json.dumps(config_of(place) | settings))
    ms.merge(given.recipe(output="adapter"), tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert b"secret" not in path.read_bytes(), path


def test_types(tmp_path: Path) -> None:
    given = Adapters(tmp_path, torch.bfloat16)
    for place in given.places:
        path = place / WEIGHTS_FILE
        save_file({n: x.bfloat16() for n, x in read_file(path).items()}, path)
    wanted = {"stored": {}, "half": {"dtype": "float16"}, "wide": {"out_dtype": "float32"}}
    kinds = {"stored": torch.bfloat16, "half": torch.float16, "wide": torch.float32}
    for name, keys in wanted.items():
        ms.merge(given.recipe(output="adapter", **keys), tmp_path / name)
        assert {x.dtype for x in read_file(tmp_path / name / WEIGHTS_FILE).values()} == {
            kinds[name]
        }
        ms.merge(given.recipe(**keys), tmp_path / f"{name}-model")
        assert {x.dtype for x in read(tmp_path / f"{name}-model").values()} == {kinds[name]}


def test_transposed_weights(tmp_path: Path) -> None:
    """Of GPT-2, whose linear layers are stored [in, out]."""
    draw = torch.Generator().manual_seed(0)
    name = "h.0.mlp.c_fc"
    base = save(
        tmp_path / "base", {f"{name}.weight": torch.randn(12, 48, generator=draw)},
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
    )  # fmt: skip
    models = []
    for i in range(2):
        folder = tmp_path / f"a{i}"
        folder.mkdir()
        prefix = f"base_model.model.{name}.lora_"
        factors = {
            f"{prefix}A.weight": torch.randn(3, 12, generator=draw),
            f"{prefix}B.weight": torch.randn(48, 3, generator=draw),
        }
        save_file(factors, folder / WEIGHTS_FILE)
        config = {"peft_type": "LORA", "r": 3, "lora_alpha": 3, "fan_in_fan_out": True}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        models.append(f"{base}+{folder}")
    plain = recipe("core_space(ties)", models, base, each={"weight": 0.5})
    ms.merge(plain, tmp_path / "model")
    ms.merge({**plain, "output": "adapter"}, tmp_path / "adapter")
    assert config_of(tmp_path / "adapter")["fan_in_fan_out"] is True
    ms.merge(recipe("passthrough", [f"{base}+{tmp_path / 'adapter'}"]), tmp_path / "added")
    one, two = (read(tmp_path / each)[f"{name}.weight"] for each in ("model", "added"))
    assert (one - two).abs().max() < 1e-5


def test_slices_of_adapted_models(given: Adapters, tmp_path: Path) -> None:
    models = [str(given.base), *given.models]
    content = {
        "merge_method": "core_space", "base_model": str(given.base), "dtype": "float32",
        "parameters": {"weight": 0.4},
        "slices": [
            {"sources": [{"model": model, "layer_range": [i, i + 1]} for model in models]}
            for i in (1, 0)
        ],
    }  # fmt: skip
    ms.merge(content, tmp_path / "core")
    ms.merge({**content, "merge_method": "task_arithmetic"}, tmp_path / "dense")
    one, two = read(tmp_path / "core"), read(tmp_path / "dense")
    assert all((one[name] - two[name]).abs().max() < 1e-6 for name in two)


def test_memory_and_threads_change_nothing(given: Adapters, tmp_path: Path) -> None:
    content = given.recipe("core_space(ties)", output="adapter")
    ms.merge(content, tmp_path / "one", threads=1, memory="16MiB")
    ms.merge(content, tmp_path / "two", threads=2, memory="64MiB", max_shard_size=1000)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_a_budget_that_is_too_small_is_refused_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mergesafe.engine import memory

    monkeypatch.setattr(memory, "MINIMUM_BUDGET", 1)
    given = Adapters(tmp_path)
    with pytest.raises(MergesafeError, match=r"unit: group.*give at least"):
        ms.merge(given.recipe(output="adapter"), tmp_path / "out", memory="30KiB")
    assert not (tmp_path / "out").exists()


# --- killed, resumed, replaced ------------------------------------------------------------------


def test_killed_and_resumed(tmp_path: Path) -> None:
    given = Adapters(tmp_path)
    merges = Merges(tmp_path, given.recipe("core_space(ties)", output="adapter"))
    for at in range(3, merges.calls, max(1, merges.calls // 3)):
        merges.remove()
        killed = merges.run("kill", at)
        assert killed.returncode == -signal.SIGKILL, (at, killed.stderr)
        merges.finished()


def test_a_changed_scale_is_not_resumed(given: Adapters, tmp_path: Path) -> None:
    content = given.recipe(output="adapter")
    out = tmp_path / "out"
    ms.merge(content, out)
    assert ms.merge(content, out, resume=True).bytes_read == 0
    path = given.places[0] / "adapter_config.json"
    status = path.stat()
    path.write_text(json.dumps(config_of(given.places[0]) | {"lora_alpha": 60}))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(OutputError, match="was made with the LoRA scale"):
        ms.merge(content, out, resume=True)
    before = digest(out)
    ms.merge(content, out, overwrite=True)
    assert digest(out) != before


def test_damage_is_found(given: Adapters, tmp_path: Path) -> None:
    ms.merge(given.recipe(output="adapter"), tmp_path / "out")
    path = tmp_path / "out" / WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        MergesafeError, match=r"lora_[AB]\.weight' in adapter_model\.safetensors has"
    ):
        ms.verify(tmp_path / "out")


# --- the plan ---------------------------------------------------------------------------------


def test_the_plan_says_what_will_be_written(given: Adapters) -> None:
    made = ms.plan(given.recipe("core_space(iso_c)", output="adapter")).plan
    assert [shard.name for shard in made.layout.shards] == [WEIGHTS_FILE]
    assert (made.tensors, made.exactness, made.adapter) == (12, "numerics", True)
    assert made.bytes_in == made.bytes_out  # rank 9 of ranks 2, 3 and 4
    assert "a LoRA adapter of rank 9 of 6 layers" in made.notes[0]


def test_the_command_plan(given: Adapters, tmp_path: Path) -> None:
    path = tmp_path / "r.yml"
    path.write_text(json.dumps(given.recipe("core_space(ties)", output="adapter")))
    done = command("plan", path)
    assert done.returncode == 0, done.stderr
    assert "time       unknown" not in done.stdout
    assert "12 (0.0 M parameters), F32" in done.stdout


@pytest.mark.parametrize("output", ["model", "adapter"])
def test_the_plan_says_how_long_it_takes(given: Adapters, output: str) -> None:
    for method in ("core_space(ties)", "core_space(tsv)"):
        report = ms.plan(given.recipe(method, output=output))
        asked = [task.operations for task in report.plan.tasks if task.unit.is_whole]
        assert asked
        assert all(each is not None and each.wide_product > 0 for each in asked if each)
        estimate, why = report.estimate, report.no_estimate
        assert why is None
        assert estimate is not None
        assert estimate.compute_s > 0
