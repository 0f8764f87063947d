"""Methods as functions: arguments, defaults, names, help, tensors without elements."""

from __future__ import annotations

import inspect
import pydoc
from typing import Any

import pytest
import torch

from mergesafe import methods
from mergesafe.errors import ArgumentError, BackendError
from mergesafe.methods.registry import METHODS
from mergesafe.methods.spec import MergeMethod, Settings
from mergesafe.ops.methods import run, settings_of

#: Those that merge whole tensors; the others merge factors of adapters (test_core_space.py).
OF_TENSORS = [name for name, method in METHODS.items() if not method.inputs.adapters]
X = torch.arange(6.0).view(2, 3)
Y, Z = X * 0.5 + 1.0, X.flip(0)


def _call(method: MergeMethod, *tensors: torch.Tensor, **options: Any) -> torch.Tensor:
    """The method by its function, with values for the parameters that have no default."""
    required = {p.name: 0.5 for p in method.parameters if p.required}
    if method.inputs.base == "required":
        most = method.inputs.most or len(tensors)
        positional: tuple[Any, ...] = (tensors[0], list(tensors[1 : 1 + most]))
    elif method.inputs.most == 1:
        positional = tensors[:1]
    else:
        listed = list(tensors[: method.inputs.most])
        positional = tensors[:2] if method.inputs.base == "member" else (listed,)
        tensors = tuple(listed)
    count = len(positional[1]) if method.inputs.base == "required" else len(tensors)
    beside = {
        c.name: [torch.ones(c.shape_for(tuple(tensors[0].shape)))] * count
        for c in method.inputs.calibration
        if c.shape == "same" or tensors[0].ndim == 2
    }
    if method.inputs.references:
        declared = [each.name for each in method.inputs.references]
        options["references"] = {name: tensors[-1] * i for i, name in enumerate(declared)}
    named = {"name": "w"} | required | beside | options
    merged: torch.Tensor = getattr(methods, method.name)(*positional, **named)
    return merged


@pytest.mark.parametrize("name", OF_TENSORS)
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("shape", [(0,), (4, 0), (), (1,), (3, 5)])
def test_every_method_takes_any_shape(name: str, backend: str, shape: tuple[int, ...]) -> None:
    tensors = [torch.full(shape, float(i), dtype=torch.bfloat16) for i in (1, 2, 4)]
    merged = _call(METHODS[name], *tensors, backend=backend)
    assert merged.shape == shape
    assert merged.dtype is torch.bfloat16
    assert merged.isfinite().all()


@pytest.mark.parametrize("name", OF_TENSORS)
def test_every_method_gives_the_same_bits_on_both_backends(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(5000, generator=generator).to(torch.bfloat16) for _ in range(3)]
    options = {p.name: 0.37 for p in METHODS[name].parameters if p.name == "density"}
    for out_dtype in (torch.bfloat16, torch.float16, torch.float32):
        native, reference = (
            _call(METHODS[name], *tensors, **options, out_dtype=out_dtype, backend=backend)
            for backend in ("native", "reference")
        )
        assert native.dtype is out_dtype
        assert torch.equal(native, reference)


@pytest.mark.parametrize("name", METHODS)
def test_help_is_complete(name: str) -> None:
    method, function = METHODS[name], getattr(methods, name)
    assert function is getattr(methods, name)
    assert (function.__name__, function.__module__) == (name, "mergesafe.methods")
    text = pydoc.plain(pydoc.render_doc(function))
    parameters = inspect.signature(function).parameters
    for parameter in method.parameters:
        python = "lambda_" if parameter.name == "lambda" else parameter.name
        assert parameters[python].kind is inspect.Parameter.KEYWORD_ONLY
        expected = inspect.Parameter.empty if parameter.required else parameter.default
        assert parameters[python].default == expected
        assert f"{python}: {parameter.help}" in text
    assert {"name", "seed", "out_dtype", "backend"} <= set(parameters)
    assert method.paper in text
    assert "out = " in text


def test_signatures_name_what_is_merged() -> None:
    def leading(name: str) -> list[str]:
        parameters = inspect.signature(getattr(methods, name)).parameters.values()
        return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert leading("ties") == ["base", "experts"]
    assert leading("slerp") == ["base", "other"]
    assert leading("linear") == ["tensors"]
    assert leading("passthrough") == ["tensor"]
    assert str(inspect.signature(methods.slerp)).endswith("backend='auto') -> torch.Tensor")


def test_the_package_lists_its_methods() -> None:
    assert dir(methods) == sorted(METHODS)
    with pytest.raises(AttributeError, match=r"no attribute 'tie' \(did you mean 'ties'\?\)"):
        _ = methods.tie
    assert not hasattr(methods, "__wrapped__")


def test_lambda_by_either_name() -> None:
    expected = X + 0.5 * 3.0 * (Y - X)
    for options in ({"lambda_": 3.0}, {"lambda": 3.0}):
        assert torch.equal(methods.task_arithmetic(X, [Y], weight=0.5, **options), expected)
    with pytest.raises(ArgumentError, match="give one of them"):
        methods.task_arithmetic(X, [Y], weight=0.5, lambda_=1.0, **{"lambda": 1.0})


def test_values_for_all_or_for_each() -> None:
    same = [
        methods.ties(X, [Y, Z], weight=w, density=d)
        for w, d in ((0.5, 0.5), ([0.5, 0.5], (0.5, 0.5)), (torch.tensor([0.5, 0.5]), 0.5))
    ]
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2])


def test_run_takes_a_name_or_a_method() -> None:
    expected = methods.ties(X, [Y, Z], weight=0.5, density=0.4)
    assert torch.equal(run("ties", [Y, Z], X, weight=0.5, density=0.4), expected)
    assert torch.equal(run(METHODS["ties"], [Y, Z], X, weight=0.5, density=0.4), expected)
    with pytest.raises(ArgumentError, match="unknown merge method 'tie'"):
        run("tie", [Y], X)


def test_seed_and_name_choose_the_mask() -> None:
    base, expert = torch.zeros(1000), torch.ones(1000)

    def merged(**options: Any) -> torch.Tensor:
        return methods.dare_linear(base, [expert], weight=1.0, density=0.5, **options)

    assert torch.equal(merged(seed=1, name="a"), merged(seed=1, name="a"))
    assert not torch.equal(merged(seed=1, name="a"), merged(seed=2, name="a"))
    assert not torch.equal(merged(seed=1, name="a"), merged(seed=1, name="b"))


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.random])
def test_without_a_name_masks_differ_between_tensors(name: str) -> None:
    """Else all tensors of a size would lose the same elements."""
    method, base = METHODS[name], torch.zeros(4096)
    weights = {"weight": 1.0} if any(p.name == "weight" for p in method.parameters) else {}
    options = {"density": 0.5, "name": None, **weights}
    found = []
    for seed in range(3):
        expert = torch.randn(4096, generator=torch.Generator().manual_seed(seed))
        merged = _call(method, base, expert, **options)
        assert torch.equal(merged, _call(method, base, expert, **options))
        found.append(merged != 0)
    for one, two in ((0, 1), (0, 2), (1, 2)):
        same = (found[one] == found[two]).float().mean()
        assert 0.4 < same < 0.6  # six standard deviations of independent masks are 0.05
    with pytest.raises(ArgumentError, match="by the tensor's name in its model, got name=7"):
        _call(method, X, Y, **{**options, "name": 7})
    assert methods.ties(X, [Y], weight=1.0, density=0.5).shape == X.shape


def test_settings_fill_in_defaults() -> None:
    settings = settings_of(METHODS["breadcrumbs"], 2, {"weight": [1, 2]})
    assert isinstance(settings, Settings)
    assert settings.column("weight") == [1.0, 2.0]
    assert settings.column("gamma") == [0.01, 0.01]
    assert settings.shared["normalize"] is False


def test_weights_that_require_grad_are_refused() -> None:
    weight = torch.tensor([0.5], requires_grad=True)
    with pytest.raises(BackendError, match="weight requires grad"):
        methods.ties(X, [Y], weight=weight)
    with pytest.raises(BackendError, match="t requires grad"):
        methods.slerp(X, Y, t=torch.tensor(0.5, requires_grad=True))
    assert methods.slerp(X, Y, t=torch.tensor(0.5)).shape == X.shape


BAD: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], str]] = {
    "unknown": ("ties", (X, [Y]), {"weight": 1.0, "densty": 0.5}, "did you mean 'density'"),
    "missing": ("ties", (X, [Y]), {}, "ties needs 'weight': weight of this task vector"),
    "range": (
        "ties", (X, [Y]), {"weight": 1.0, "density": 1.2},
        r"density\[0\] is 1.2; expected a number in \[0, 1\]",
    ),
    "t": ("slerp", (X, Y), {"t": -0.5}, r"t is -0.5; expected a number in \[0, 1\]"),
    "count": ("ties", (X, [Y, Z]), {"weight": [1.0]}, "weight has 1 values; expected 2"),
    "not a bool": (
        "ties", (X, [Y]), {"weight": 1.0, "normalize": "True"},
        "normalize is 'True'; expected True or False",
    ),
    "not a bool either": ("linear", ([X],), {"weight": 1.0, "normalize": 1}, "normalize is 1"),
    "rescale": (
        "ties", (X, [Y]), {"weight": 1.0, "rescale": "l3"},
        "rescale is 'l3'; expected True or False or l1",
    ),
    "elect": ("ties", (X, [Y]), {"weight": 1.0, "elect": "none"}, "expected sum or count"),
    "elect unknown": ("dare_linear", (X, [Y]), {"weight": 1.0, "elect": "sum"}, "no parameter"),
    "no experts": ("ties", (X, []), {"weight": 1.0}, "experts is empty"),
    "no base": ("ties", (None, [X]), {"weight": 1.0}, "needs a base tensor"),
    "shape": ("ties", (X, [Y, Z.t()]), {"weight": 1.0}, r"experts\[1\] has shape \(3, 2\)"),
    "zero sum": ("linear", ([X, Y],), {"weight": [1.0, -1.0]}, "sum to zero"),
    "weights": ("linear", ([X, Y],), {"weight": [1.0, "a"]}, r"weight\[1\] must be a number"),
    "backend dtype": ("linear", ([X.long()],), {"weight": 1.0}, "has dtype torch.int64"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case: str) -> None:
    method, positional, options, message = BAD[case]
    with pytest.raises(ArgumentError, match=message):
        getattr(methods, method)(*positional, **options)


def test_counts_of_inputs() -> None:
    with pytest.raises(ArgumentError, match="slerp got 3 tensors; expected 2"):
        run("slerp", [X, Y, Z], t=0.5)
    with pytest.raises(ArgumentError, match="passthrough got 2 tensors; expected 1"):
        run("passthrough", [X, Y])
    with pytest.raises(ArgumentError, match="linear has no separate base"):
        run("linear", [X, Y], Z, weight=1.0)
