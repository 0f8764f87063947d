"""Random recipes out of what mergekit 0.1.5 understands, of the models in matrix.py."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from mergesafe.methods.registry import METHODS
from mergesafe.recipe.method_names import MERGEKIT_METHODS

from .matrix import ADAPTER, EXPERTS, LAYERS

Recipe = dict[str, Any]

#: In eighths: sums of weights are exact, so none is 0 for one program and 1e-17 for the other.
_RANGES = {
    "weight": (-4, 12), "density": (0, 8), "gamma": (0, 3), "epsilon": (1, 3), "scale": (-8, 16),
    "lambda": (-4, 16), "t": (0, 8), "select_topk": (0, 8), "r": (-8, 16), "alpha": (0, 16),
}  # fmt: skip
#: Of the spherical methods, whose sums of weights divide, and of shares.
_POSITIVE = ("nuslerp", "multislerp")
_COUNTS = {"max_iter": (0, 12)}
#: mergekit's masks are random below density 1.
_RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
#: The adapter changes by multiples of 1/128, of which many are equal: which of equal numbers are
#: kept is a difference on purpose. So it comes with its model, and without that model's original.
SELECTIVE = ("ties", "breadcrumbs", "breadcrumbs_ties", "sce", "ram", "ramplus_tl", "arcee_fusion")
#: Parameters that mergekit does not have, and tolerances.
_OURS = ("elect", "trim_scope", "tol", "eps")
_FILTERS = ("self_attn", "mlp", "down_proj", "layers.1.", "lm_head", "norm", "absent", "*")


def _scalar(method: str, name: str, kind: str) -> st.SearchStrategy[Any]:
    if kind == "bool":
        return st.booleans() | st.sampled_from([0, 1, 1.0, "true", "false"])
    if name in _COUNTS:
        return st.integers(*_COUNTS[name])
    low, high = _RANGES[name]
    if name == "weight" and method in _POSITIVE:
        low = 1
    numbers = st.integers(low, high).map(lambda n: n // 8 if n % 8 == 0 else n / 8)
    return numbers | numbers.map(str)


@st.composite
def _value(draw: st.DrawFn, method: str, name: str, kind: str) -> Any:
    """A number, a list over the layers, one filter or several; every tensor has a value."""
    scalar = _scalar(method, name, kind)
    plain = scalar | st.lists(scalar, min_size=1, max_size=5)
    form = draw(st.sampled_from(["plain", "plain", "filters", "one"]))
    if form == "plain":
        return draw(plain)
    if form == "one":
        return {"value": draw(plain)}
    entry = st.builds(lambda f, v: {"filter": f, "value": v}, st.sampled_from(_FILTERS), plain)
    return [*draw(st.lists(entry, max_size=3)), {"value": draw(plain)}]


@st.composite
def _parameters(draw: st.DrawFn, method: str, *scopes: str, all_required: bool) -> dict[str, Any]:
    """Of these scopes; ``all_required``: those without a default are there."""
    found = {}
    for parameter in METHODS[method].parameters:
        name = parameter.name
        if name in _OURS or parameter.scope not in scopes:
            continue
        if method in _RANDOM and name in ("density", "epsilon"):
            continue
        if (all_required and parameter.required) or draw(st.booleans()):
            found[name] = draw(_value(method, name, parameter.kind))
    return found


@st.composite
def _parameters_of_module(draw: st.DrawFn, method: str) -> Recipe:
    if draw(st.booleans()):
        return {}
    return {"parameters": draw(_parameters(method, "global", "model", "input", all_required=False))}


def _experts(method: str) -> st.SearchStrategy[list[str]]:
    inputs = METHODS[method].inputs
    low, high = inputs.least, min(inputs.most or 3, 3)
    if inputs.base == "member":
        low = high = 1
    adapted = f"{EXPERTS[0]}+{ADAPTER}"
    if method in SELECTIVE:
        names = st.sampled_from([list(EXPERTS), [adapted, *EXPERTS[1:]]])
    else:
        names = st.just([*EXPERTS, adapted, f"base+{ADAPTER}"])
    return names.flatmap(
        lambda each: st.lists(st.sampled_from(each), min_size=low, max_size=high, unique=True)
    )


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """With the names of models in place of their folders: see :func:`placed`."""
    method = draw(st.sampled_from(sorted(MERGEKIT_METHODS)))
    experts = draw(_experts(method))
    takes = METHODS[method].inputs.base
    base = takes in ("required", "member") or (takes == "optional" and draw(st.booleans()))
    shared_weights = draw(st.booleans())
    recipe: Recipe = {"merge_method": method, "dtype": "float32"}
    if base:
        recipe["base_model"] = "base"
    elif takes == "none" and draw(st.booleans()):
        recipe["base_model"] = draw(st.sampled_from(experts))
    own = {
        model: draw(_parameters(method, "model", "input", all_required=not shared_weights))
        for model in experts
    }
    if base:  # which has no task vector, so that its own weight means nothing
        own["base"] = draw(_parameters(method, "model", all_required=False))
    scopes = ("global", "model", "input") if shared_weights else ("global",)
    recipe["parameters"] = draw(_parameters(method, *scopes, all_required=True))
    listed = [*experts]
    if base and draw(st.booleans()):
        listed.insert(draw(st.integers(0, len(listed))), "base")
    whole = recipe
    if draw(st.integers(0, 3)) == 0:  # the form of models of several parts, of one
        whole = draw(_parameters_of_module(method))
        recipe["modules"] = {"default": whole}
    if draw(st.booleans()):
        whole["models"] = [{"model": m, "parameters": own.get(m, {})} for m in listed]
        return recipe
    if base and "base" not in listed:
        listed.append("base")
    lengths = draw(st.lists(st.integers(0, LAYERS), min_size=1, max_size=3).filter(any))
    whole["slices"] = [draw(_slice(method, listed, own, base, length)) for length in lengths]
    return recipe


@st.composite
def _slice(
    draw: st.DrawFn,
    method: str,
    models: list[str],
    own: dict[str, dict[str, Any]],
    base: bool,
    length: int,
) -> dict[str, Any]:
    sources = []
    for model in models:
        first = draw(st.integers(0, LAYERS - length))
        source = {"model": model, "layer_range": [first, first + length]}
        sources.append({**source, "parameters": own.get(model, {})})
    found: dict[str, Any] = {"sources": sources}
    if base and draw(st.integers(0, 3)) == 0:
        found["base_model"] = draw(st.sampled_from(models))
    if draw(st.booleans()):
        found["parameters"] = draw(
            _parameters(method, "global", "model", "input", all_required=False)
        )
    return found


def placed(value: Any, folder: str, key: str = "") -> Any:
    """``value`` with the folders of its models."""
    if isinstance(value, dict):
        return {name: placed(each, folder, name) for name, each in value.items()}
    if isinstance(value, list):
        return [placed(each, folder, key) for each in value]
    if isinstance(value, str) and key in ("model", "base_model"):
        return "+".join(f"{folder}/{part}" for part in value.split("+"))
    return value
