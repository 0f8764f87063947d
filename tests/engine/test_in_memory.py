"""Merges of state dicts and modules: the bytes of merges of files, and what is refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import CONFIG, Tensors, llama, read, recipe, same_bits, save
from torch import nn

import mergesafe as ms
from mergesafe.errors import ArgumentError, CheckpointError, NonFiniteError, RecipeError
from mergesafe.methods.reference.cost import example_value, model_count
from mergesafe.methods.registry import METHODS

COUNTER = "model.layers.1.self_attn.rotary_emb.inv_freq"
UP = "model.layers.0.mlp.up_proj.weight"


def models(count: int) -> list[Tensors]:
    """Mixed types, a buffer of integers, and one that models compute."""
    found = [llama(i, dtype=torch.float32 if i == 1 else torch.bfloat16) for i in range(count)]
    for each in found:
        each["model.ids"] = torch.arange(5)
        each["model.scale"] = torch.tensor(0.3)
        each[COUNTER] = torch.arange(4.0)
    return found


def same(ours: Tensors, theirs: Tensors) -> bool:
    return ours.keys() == theirs.keys() and all(same_bits(ours[n], theirs[n]) for n in theirs)


@pytest.mark.parametrize(
    "name", [n for n, m in METHODS.items() if not m.inputs.adapters and not m.inputs.calibration]
)
def test_bytes_are_those_of_a_merge_of_files(name: str, tmp_path: Path) -> None:
    method = METHODS[name]
    takes = method.inputs
    count = max(2, model_count(method)) if takes.most is None else takes.most
    states = models(1 + count + len(takes.references))
    folders = [save(tmp_path / f"m{i}", state) for i, state in enumerate(states)]
    with_base = takes.base in ("required", "member")
    first = 0 if takes.base == "member" else 1
    chosen = slice(1, 1 + count - (takes.base == "member")) if with_base else slice(0, count)
    given = {p.name: example_value(p) for p in method.parameters if p.required or p.example}
    if "weight" in given:  # over the layers, and another for attention
        given["weight"] = [{"filter": "self_attn", "value": [0.2, 0.6]}, 0.4]
    beside = {each.name: -1 - i for i, each in enumerate(takes.references)}
    keys = {"references": {n: str(folders[i]) for n, i in beside.items()}} if beside else {}
    assert first + count <= len(states)
    told = ms.merge(
        recipe(name, folders[chosen], folders[0] if with_base else None, parameters=given, **keys),
        tmp_path / "out", seed=3,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ms.MergesafeWarning)
        merged = ms.merge_state_dicts(
            name, states[0] if with_base else None, states[chosen],
            references={n: states[i] for n, i in beside.items()}, config=CONFIG, seed=3, **given,
        )  # fmt: skip
    assert same(merged, read(tmp_path / "out"))
    assert len(warned) < len(told.warnings), [str(w.message) for w in warned]  # no tokenizer


def test_parameters_of_a_model_calibration_and_types(tmp_path: Path) -> None:
    states = models(2)
    scores = [{n: torch.rand_like(t.float()) for n, t in s.items()} for s in states]
    folders = [save(tmp_path / f"m{i}", state) for i, state in enumerate(states)]
    for i, each in enumerate(scores):
        save_file(each, tmp_path / f"f{i}.safetensors")
    content = recipe("fisher", folders, each=[{"weight": 0.3}, {"weight": 0.7}], dtype="float32")
    for i, entry in enumerate(content["models"]):
        entry["calibration"] = {"fisher": str(tmp_path / f"f{i}.safetensors")}
    ms.merge(content | {"out_dtype": "float16"}, tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ms.MergesafeWarning)
        merged = ms.merge_state_dicts(
            "fisher", None, [(states[0], {"weight": 0.3}), (states[1], {"weight": 0.7})],
            calibration={"fisher": [scores[0], str(tmp_path / "f1.safetensors")]},
            config=CONFIG, dtype=torch.float32, out_dtype="float16",
        )  # fmt: skip
    assert same(merged, read(tmp_path / "out"))


def test_arrays_strides_and_requires_grad_change_nothing() -> None:
    states = [llama(i, dtype=torch.float32) for i in range(3)]
    run = partial(ms.merge_state_dicts, "ties", weight=0.5, density=0.4)
    plain = run(states[0], states[1:])
    arrays = {n: np.asfortranarray(t.numpy()) for n, t in states[1].items()}
    odd = {
        n: t.T.contiguous().T.requires_grad_() if t.ndim == 2 else t for n, t in states[2].items()
    }
    assert same(run(states[0], [arrays, odd], memory="16MiB", threads=1), plain)
    assert not any(t.requires_grad for t in plain.values())


def test_a_list_that_looks_like_one_value_per_model_is_warned_about() -> None:
    states = [llama(i) for i in range(3)]
    run = partial(ms.merge_state_dicts, "task_arithmetic", states[0], states[1:])
    with pytest.warns(ms.MergesafeWarning, match=r"weight=\[0.3, 0.7\] is taken over the layers"):
        over_layers = run(weight=[0.3, 0.7])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(run(weight=[{"value": [0.3, 0.7]}]), over_layers)
        run(weight=[0.3, 0.5, 0.7])
        run(weight=[0.3, 0.3], lambda_=0.5)


def changed(**tensors: torch.Tensor | None) -> Callable[[Tensors], Tensors]:
    """With ``up`` in place of a weight (None: without it), and others added."""

    def change(state: Tensors) -> Tensors:
        names = {UP if name == "up" else name: tensor for name, tensor in tensors.items()}
        return {n: t for n, t in {**state, **names}.items() if t is not None}

    return change


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (changed(up=None), CheckpointError, "models[1]: 1 of the 30 tensors of base ('" + UP),
        (changed(more=torch.ones(2)), CheckpointError, "of models[1] ('more') is missing here"),
        (changed(up=torch.ones(3)), CheckpointError, "[40, 16] in base and [3] in models[1];"),
        (changed(up=torch.ones(40, 16, device="meta")), ArgumentError, f"models[1]['{UP}'] is on "
         "the meta device, so it has a shape and no data. Load the weights first"),
        (changed(up=torch.ones(40, 16).double()), CheckpointError, "models[1]: tensor '" + UP),
        (changed(up=torch.ones(40, 16).to_sparse()), ArgumentError, "is torch.sparse_coo"),
        (changed(up=torch.full((40, 16), torch.nan)), NonFiniteError, "on_nonfinite=\"zero\""),
        (lambda state: {"model": state}, ArgumentError, "models[1]['model'] is a dict; expected a "
         "tensor. If it is the state dict itself, pass that: models[1]['model']"),
        (lambda state: "folder", ArgumentError, "models[1] is a str; expected a state dict"),
        (lambda state: {}, ArgumentError, "models[1] is an empty mapping"),
        (lambda state: (state, 0.3), ArgumentError, "(model, {'weight': 0.3})"),
        (lambda state: (state, {"weigth": 1}), RecipeError, "did you mean 'weight'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_model_is_named(
    change: Callable[[Tensors], Any], error: type[Exception], message: str
) -> None:
    states = [llama(i) for i in range(3)]
    with pytest.raises(error, match=re.escape(message)):
        ms.merge_state_dicts("task_arithmetic", states[0], [states[1], change(states[2])], weight=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weght": 1.0}, "did you mean 'weight'?"),
        ({"dtype": torch.float64}, "use float32"),
        ({"memory": "1B"}, 'memory="1B": expected at least 16MiB'),
        ({"seed": -1}, "seed -1: expected 0 to"),
        ({"on_nonfinite": "zeros"}, "did you mean 'zero'?"),
        ({"references": {"old": {}}}, "references['old'] is an empty mapping"),
        ({"calibration": {"fisher": []}}, "has 0 entries; expected 1, one for each of models"),
        ({"models": {"a": 1}}, "models is a dict; expected a list"),
        ({"base": None}, "needs a 'base_model'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    given = {"base": llama(0), "models": [llama(1)], **arguments}
    with pytest.raises(ms.MergesafeError, match=re.escape(message)):
        ms.merge_state_dicts("task_arithmetic", given.pop("base"), given.pop("models"), **given)


# --- modules -------------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding that the head shares, a buffer, and one that is not stored."""

    def __init__(self, seed: int, *, tied: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_mean += seed
        self.out = nn.Linear(4, 7, bias=False)
        if tied:
            self.out.weight = self.embed.weight
        self.register_buffer("seed", torch.tensor([float(seed)]), persistent=False)


def test_a_merged_module_is_a_copy_with_merged_weights() -> None:
    one, two = Tied(1), Tied(2)
    one.embed.requires_grad_(False)
    before = {n: t.clone() for n, t in one.state_dict().items()}
    merged = ms.merge_modules("linear", None, [one, two], weight=0.5)
    assert isinstance(merged, Tied)
    assert merged.out.weight is merged.embed.weight
    assert not merged.embed.weight.requires_grad
    assert merged.norm.weight.requires_grad
    want = ms.merge_state_dicts("linear", None, [one.state_dict(), two.state_dict()], weight=0.5)
    assert same(dict(merged.state_dict()), want)
    assert torch.allclose(merged.norm.running_mean, torch.full((4,), 1.5))
    assert merged.seed.item() == 1.0
    assert same(before, dict(one.state_dict()))


def test_a_model_of_transformers_gives_the_bytes_of_its_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    keys = {k: v for k, v in CONFIG.items() if k not in ("architectures", "torch_dtype")}
    config = transformers.LlamaConfig(**{**keys, "tie_word_embeddings": True})
    found = [transformers.AutoModelForCausalLM.from_config(config) for _ in range(3)]
    for i, each in enumerate(found):
        each.to(torch.bfloat16).save_pretrained(tmp_path / f"m{i}")
    folders = [tmp_path / f"m{i}" for i in range(3)]
    options = {"weight": 0.5, "density": 0.4}
    ms.merge(recipe("ties", folders[1:], folders[0], parameters=options), tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ms.MergesafeWarning)
        merged = ms.merge_modules("ties", found[0], found[1:], **options)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    state = dict(merged.state_dict())
    del state["lm_head.weight"]
    assert same(state, read(tmp_path / "out"))


def test_modules_that_cannot_be_merged_are_refused() -> None:
    with torch.device("meta"):
        empty = Tied(1)
    adapted = Tied(2)
    adapted.peft_config = {}  # type: ignore[assignment]
    cases: list[tuple[list[Any], str]] = [
        ([Tied(1), empty], "models[1]['embed.weight'] is on the meta device"),
        ([Tied(1), adapted], "models[1] has adapters of PEFT over it"),
        ([Tied(1), Tied(2).state_dict()], "models[1] is a OrderedDict; expected a torch.nn.Module"),
        ([Tied(1), Tied(2, tied=False)], "('out.weight') is missing here"),
    ]
    for given, message in cases:
        with pytest.raises(ms.MergesafeError, match=re.escape(message)):
            ms.merge_modules("linear", None, given, weight=0.5)


def test_a_tensor_that_a_module_makes_for_its_state_is_refused() -> None:
    """There is no place for the merged one, and the module would keep what the base has."""

    class Scaled(torch.nn.Linear):
        def state_dict(self, *args: Any, **options: Any) -> Any:
            found = super().state_dict(*args, **options)
            return {name: 2 * each for name, each in found.items()}

    with pytest.raises(ms.MergesafeError, match="makes 'weight' when its state_dict is asked for"):
        ms.merge_modules("linear", None, [Scaled(2, 2), Scaled(2, 2)], weight=0.5)


def test_tensors_without_data_are_refused() -> None:
    """Their address is zero, or memory ends before they do: reading there would end the process."""
    freed, cut = torch.ones(64, 64), torch.ones(64, 64)
    freed.untyped_storage().resize_(0)
    cut.untyped_storage().resize_(8)
    with torch._subclasses.FakeTensorMode():
        fake = torch.ones(4, 4)
    for tensor in (freed, cut, fake):
        with pytest.raises(ms.MergesafeError, match=r"models\[0\]\['w'\] has no data of its own"):
            ms.merge_state_dicts("linear", None, [{"w": tensor}], weight=0.5)
