"""A fixed list of merges whose output bytes are stored: what users have merged must not change.

The models are made from SHAKE-256, which no library's random numbers can alter. A failure names the
tensors that changed. After a change on purpose, ``pytest tests/golden --record-golden`` writes
``catalogue.json`` anew, and CHANGELOG.md says which merges change and why.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FAMILY, Tensors, llama, recipe, save, save_adapter

import mergesafe
from mergesafe.methods.registry import METHODS

STORE = Path(__file__).with_name("catalogue.json")
TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
#: With a base and two experts in bfloat16 this does not fit 16 MiB, the least that --memory takes.
LARGE = "model.layers.0.mlp.up_proj.weight"
LARGE_SHAPE = (1531, 2048)


def numbers(label: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Multiples of 2**-20 within 2**-5 of zero: exact in float32, rounded in 16 bits."""
    data = array("H", hashlib.shake_256(label.encode()).digest(2 * prod(shape)))
    whole = torch.tensor(data, dtype=torch.int32).reshape(shape) - 2**15
    return (whole.to(torch.float32) * 2.0**-20).to(dtype)


def weights(seed: str, dtype: torch.dtype = torch.bfloat16, *, tied: bool = False) -> Tensors:
    """The tensors of :func:`tiny.llama` with other numbers; experts lie near the base."""
    made = {}
    for name, tensor in llama(0, tied=tied).items():
        base = numbers(f"base {name}", tuple(tensor.shape), torch.float32)
        delta = numbers(f"{seed} {name}", tuple(tensor.shape), torch.float32)
        made[name] = (base if seed == "base" else base + delta / 4).to(dtype)
    made["model.layers.1.self_attn.steps"] = torch.arange(5)
    return made


def mixture(seed: str) -> Tensors:
    """Experts in one tensor, in matrices of a whole and of a broken number of blocks, and a bias
    that 16-bit models keep in float32.
    """
    shapes = {
        "model.embed_tokens.weight": (50, 16),
        "model.layers.0.mlp.experts.gate_up_proj": (4, 12, 10),
        "model.layers.0.mlp.experts.down_proj": (4, 10, 6),
        "model.layers.1.mlp.experts.gate_up_proj": (2, 128, 64),
        "model.layers.1.mlp.experts.down_proj": (2, 64, 64),
    }
    made = {n: numbers(f"{seed} {n}", shape, torch.bfloat16) for n, shape in shapes.items()}
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    return {**made, bias: 20 + numbers(f"{seed} {bias}", (4,), torch.float32)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders by name: three experts and a base in each type, tied and large ones."""
    folder = tmp_path_factory.mktemp("catalogue")
    made: dict[str, Path] = {}
    for kind, dtype in TYPES.items():
        for seed in ("base", "a", "b", "c"):
            name = f"{seed}-{kind}"
            made[name] = save(folder / name, weights(seed, dtype))
    for seed in ("base", "a"):
        tensors = weights(seed, tied=True)
        made[f"{seed}-tied"] = save(folder / f"{seed}-tied", tensors, {"tie_word_embeddings": True})
    for seed in ("base", "a", "b"):
        tensors = {LARGE: numbers(f"{seed} large", LARGE_SHAPE, torch.bfloat16)}
        made[f"{seed}-large"] = save(folder / f"{seed}-large", tensors)
    for seed in ("base", "a", "b"):
        made[f"{seed}-moe"] = save(
            folder / f"{seed}-moe", mixture(seed), {"model_type": "qwen3_moe"}
        )
    for kind, shapes in (("bf16", weights("base")), ("moe", mixture("base"))):
        for seed in ("a", "b"):
            for score in ("score", "base_score"):
                name = f"{score} {seed}-{kind}"
                made[name] = save(folder / name, _scores(name, shapes))
    adapter = save_adapter(folder / "adapter", weights("base"), 0)
    _fill(adapter)
    names = {name: str(path) for name, path in made.items()}
    return names | {"lora": f"{names['base-bf16']}+{adapter}"}


def _scores(label: str, tensors: Tensors) -> Tensors:
    """Numbers of at least 0 for every tensor that is merged; many are equal."""
    return {
        n: (numbers(f"{label} {n}", tuple(x.shape), torch.float32).abs() * 2**12).floor()
        for n, x in tensors.items()
        if x.is_floating_point()
    }


def _fill(adapter: Path) -> None:
    """Give the adapter's factors our own numbers."""
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    stored = load_file(path)
    save_file({n: numbers(n, tuple(t.shape), t.dtype) * 8 for n, t in stored.items()}, path)


@dataclass(frozen=True)
class Case:
    """A merge of models by name; ``each`` are parameters of every expert, ``all`` of the merge."""

    method: str
    experts: tuple[str, ...] = ("a-bf16", "b-bf16", "c-bf16")
    base: str | None = "base-bf16"
    each: Mapping[str, Any] = field(default_factory=dict)
    all: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    calibration: tuple[str, ...] = ()


WEIGHTS = (0.7, -0.4, 1.3)
#: Methods on elements that a rank, score or magnitude selects: parameters of every expert, of all.
SELECTIVE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "della": ({"density": 0.6, "epsilon": 0.15}, {}),
    "della_linear": ({"density": 0.4, "epsilon": 0.3}, {}),
    "sce": ({}, {"select_topk": 0.3}),
    "magmax": ({}, {"lambda": 0.6}),
    "pcb": ({}, {"density": 0.2}),
    "ram": ({}, {"epsilon": 0.004}),
    "ramplus_tl": ({}, {"epsilon": 0.004, "r": 0.4, "alpha": 0.9}),
    "localize_stitch": ({"density": 0.4}, {"lambda": 0.8}),
    "consensus": ({"threshold": 0.7}, {"lambda": 0.6}),
    "emr": ({}, {"lambda": 0.6}),
}


def _cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for kind in TYPES:
        experts, base = tuple(f"{x}-{kind}" for x in "abc"), f"base-{kind}"
        for method, each in FAMILY.items():
            cases[f"{method} {kind}"] = Case(method, experts, base, each)
        cases[f"linear {kind}"] = Case("linear", experts, None)
        cases[f"slerp {kind}"] = Case("slerp", experts[:1], base, all={"t": 0.3})
        cases[f"passthrough {kind}"] = Case("passthrough", experts[:1], None, {"scale": 0.75})
    mixed = ("a-bf16", "b-f16", "c-f32")
    for method, each in FAMILY.items():
        cases[f"{method} mixed types"] = Case(method, mixed, each=each)
        for rule in ("l1", "l2", "linf", "inverse_density"):
            # l1 is the default of DARE, and the largest element is kept by TIES
            idle = {"l1": "dare", "linf": "ties"}.get(rule, "none")
            if "density" in each and not method.startswith(idle):
                cases[f"{method} rescale {rule}"] = Case(method, each=each, all={"rescale": rule})
        for normalize in (False, True):
            parameters = {"normalize": normalize, "lambda": 0.6}
            cases[f"{method} normalize {normalize}"] = Case(method, each=each, all=parameters)
    for dtype in ("bfloat16", "float16"):
        cases[f"ties dtype {dtype}"] = Case(
            "ties", mixed, each=FAMILY["ties"], keys={"dtype": dtype}
        )
        keys = {"out_dtype": dtype}
        cases[f"ties out_dtype {dtype}"] = Case("ties", mixed, each=FAMILY["ties"], keys=keys)
        cases[f"linear out_dtype {dtype}"] = Case("linear", mixed, None, keys=keys)
    for method in ("ties", "dare_ties", "breadcrumbs_ties"):
        cases[f"{method} count"] = Case(method, each=FAMILY[method], all={"elect": "count"})
    for seed in (1, 2**63 - 1):
        for method in ("dare_linear", "dare_ties"):
            options = {"seed": seed}
            cases[f"{method} seed {seed}"] = Case(method, each=FAMILY[method], options=options)
    gradient = {"density": [{"filter": "mlp", "value": [0.2, 0.9]}, {"value": 0.5}]}
    for method in ("ties", "dare_ties", "breadcrumbs"):
        cases[f"{method} gradient"] = Case(method, each=FAMILY[method] | gradient)
    cases["slerp gradient"] = Case(
        "slerp",
        ("a-bf16",),
        all={"t": [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"value": 0.3}]},
    )
    for t in (0.0, 1.0):
        cases[f"slerp t {t}"] = Case("slerp", ("a-bf16",), all={"t": t})
    cases["lines"] = Case("lines", all={"alpha": 0.6, "beta": 0.9})
    cases["linear sum"] = Case("linear", base=None, all={"normalize": False})
    cases["linear tied"] = Case("linear", ("base-tied", "a-tied"), None)
    cases["ties tied"] = Case("ties", ("a-tied",), "base-tied", FAMILY["ties"])
    cases["linear tied and untied"] = Case("linear", ("a-tied", "b-bf16"), None)
    for method in ("linear", "ties"):
        base = None if method == "linear" else "base-bf16"
        cases[f"{method} adapter"] = Case(method, ("lora", "a-bf16"), base, FAMILY.get(method, {}))
    for method in (*FAMILY, "linear", "slerp"):
        experts = ("a-large",) if method == "slerp" else ("a-large", "b-large")
        every = {"t": 0.6} if method == "slerp" else {}
        base = None if method == "linear" else "base-large"
        options = {"memory": "16MiB"}
        each = FAMILY.get(method, {})
        cases[f"{method} streamed"] = Case(method, experts, base, each, every, options=options)
    for method in (*FAMILY, "linear", "slerp"):
        experts = ("a-moe",) if method == "slerp" else ("a-moe", "b-moe")
        every = {"t": 0.6} if method == "slerp" else {}
        base = None if method == "linear" else "base-moe"
        for keys in ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "keep_float32": False}):
            kept = "" if len(keys) == 1 else ", all cast"
            each = FAMILY.get(method, {})
            cases[f"{method} mixture{kept}"] = Case(method, experts, base, each, every, keys)
    return cases | _selective_cases() | _safety_cases()


def _selective_cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for method, (each, shared) in SELECTIVE.items():
        for kind in TYPES:
            experts = tuple(f"{x}-{kind}" for x in "abc")
            cases[f"{method} {kind}"] = Case(method, experts, f"base-{kind}", each, shared)
        mixed = ("a-bf16", "b-f16", "c-f32")
        cases[f"{method} mixed types"] = Case(method, mixed, each=each, all=shared)
        large, options = ("a-large", "b-large"), {"memory": "16MiB"}
        cases[f"{method} streamed"] = Case(
            method, large, "base-large", each, shared, options=options
        )
        cases[f"{method} mixture"] = Case(method, ("a-moe", "b-moe"), "base-moe", each, shared)
    for rule in ("l2", "linf", "none"):
        for method in ("della", "della_linear"):
            each = SELECTIVE[method][0]
            cases[f"{method} rescale {rule}"] = Case(method, each=each, all={"rescale": rule})
    large = ("a-large", "b-large")
    cases["della seed 1"] = Case(
        "della", large, "base-large", SELECTIVE["della"][0], options={"seed": 1}
    )
    cases["della count"] = Case("della", each=SELECTIVE["della"][0], all={"elect": "count"})
    for kind in TYPES:
        cases[f"arcee_fusion {kind}"] = Case("arcee_fusion", (f"a-{kind}",), f"base-{kind}")
    cases["arcee_fusion mixed types"] = Case("arcee_fusion", ("b-f16",))
    cases["arcee_fusion streamed"] = Case(
        "arcee_fusion", ("a-large",), "base-large", options={"memory": "16MiB"}
    )
    cases["arcee_fusion mixture"] = Case("arcee_fusion", ("a-moe",), "base-moe")
    cases["sce all"] = Case("sce", all={"select_topk": 1.0})
    return cases


def _safety_cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for kind in ("bf16", "f32", "moe", "large"):
        beside = {"aligned": f"b-{kind}", "unaligned": f"base-{kind}"}
        options = {"memory": "16MiB"} if kind == "large" else {}
        for density in (1.0, 0.4):
            shared = {"gamma": 0.6, "density": density}
            cases[f"resta {kind} density {density}"] = Case(
                "resta", (f"a-{kind}",), None, all=shared, options=options, references=beside
            )
        two = (f"a-{kind}", f"b-{kind}")
        cases[f"merge_align {kind}"] = Case(
            "merge_align", two, f"base-{kind}", {"gamma": 0.3}, options=options
        )
        cases[f"interpolate {kind}"] = Case(
            "interpolate", two[:1], f"b-{kind}", all={"t": 0.3}, options=options
        )
    for kind in ("bf16", "moe"):
        cases[f"led {kind}"] = Case(
            "led", (f"a-{kind}", f"b-{kind}"), f"base-{kind}", {"density": 0.6},
            calibration=("score", "base_score"),
        )  # fmt: skip
    return cases


CASES = _cases()


def merge(case: Case, models: Mapping[str, str], out: Path) -> dict[str, str]:
    """Merge, and return eight digits of every output tensor, of its type and bytes."""
    each = [dict(case.each) for _ in case.experts]
    if any(p.name == "weight" for p in METHODS[case.method].parameters):
        each = [{**x, "weight": w} for x, w in zip(each, WEIGHTS, strict=False)]
    content = recipe(
        case.method, [models[x] for x in case.experts], case.base and models[case.base],
        each=each, parameters=dict(case.all), **case.keys,
        references={name: models[x] for name, x in case.references.items()},
    )  # fmt: skip
    for entry, expert in zip(content["models"], case.experts, strict=True):
        entry["calibration"] = {kind: models[f"{kind} {expert}"] for kind in case.calibration}
    mergesafe.merge(content, out, **case.options)
    manifest = json.loads((out / "mergesafe-manifest.json").read_text())
    return {n: _digits(f"{e['dtype']} {e['digest']}") for n, e in manifest["tensors"].items()}


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@pytest.fixture(scope="module")
def stored() -> dict[str, str]:
    """Digits of every tensor in the order of names, by case."""
    found: dict[str, str] = json.loads(STORE.read_text()) if STORE.exists() else {}
    return found


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_the_recorded_ones(
    name: str,
    models: dict[str, str],
    stored: dict[str, str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    found = merge(CASES[name], models, tmp_path / "out")
    if request.config.getoption("--record-golden"):
        stored[name] = " ".join(found[tensor] for tensor in sorted(found))
        kept = {each: stored[each] for each in CASES if each in stored}
        STORE.write_text(json.dumps(kept, indent=0) + "\n")
    assert found == dict(zip(sorted(found), stored[name].split(), strict=True))


def test_every_case_is_recorded(stored: dict[str, str]) -> None:
    assert list(stored) == list(CASES)


def test_the_large_tensor_is_streamed(models: dict[str, str]) -> None:
    each = {"weight": 0.5, "density": 0.4}
    content = recipe(
        "ties", [models["a-large"], models["b-large"]], models["base-large"], each=each
    )
    report = mergesafe.plan(content, memory="16MiB")
    assert report.schedule.layouts[LARGE].tile < prod(LARGE_SHAPE)


def test_cases_differ(stored: dict[str, str]) -> None:
    """A parameter that changes nothing would guard nothing."""
    same: dict[str, list[str]] = {}
    for name, digests in stored.items():
        same.setdefault(digests, []).append(name)
    alike = sorted(names for names in same.values() if len(names) > 1)
    assert alike == []
