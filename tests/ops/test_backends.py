"""The registry, forcing a backend or an instruction set, and the imports that stay light."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

from mergesafe import _native, ops
from mergesafe.errors import BackendError
from mergesafe.ops.backends import registry
from mergesafe.ops.backends.isa import apply_environment, use_isa
from mergesafe.ops.backends.registry import REGISTRY, Registry
from mergesafe.ops.numbers import divisor_of, float32

from .helpers import ISAS

NATIVE, TRITON, REFERENCE = REGISTRY.entries
GPU = torch.cuda.is_available()
no_gpu = pytest.mark.skipif(GPU, reason="needs a machine without a GPU")


def broken(entry: Any, why: str) -> Any:
    return replace(entry, problem=lambda device: why)


def working(entry: Any, load: Any) -> Any:
    return replace(entry, problem=lambda device: None, load=lambda device: load)


def test_auto_takes_the_fastest_for_the_device() -> None:
    assert ops.get_backend().name == "native"
    assert ops.get_backend("auto", torch.device("cpu")).name == "native"
    assert ops.get_backend("reference").name == "reference"


def test_auto_on_a_gpu_takes_native_then_triton_then_the_reference() -> None:
    native, triton = (working(NATIVE, "the CUDA kernels"), working(TRITON, "the Triton kernels"))
    no_cuda, no_triton = broken(NATIVE, "no nvcc"), broken(TRITON, "no triton")
    assert Registry((native, triton, REFERENCE)).get("auto", "cuda") == "the CUDA kernels"
    assert Registry((no_cuda, triton, REFERENCE)).get("auto", "cuda") == "the Triton kernels"
    reference = working(REFERENCE, "plain torch")
    assert Registry((no_cuda, no_triton, reference)).get("auto", "cuda") == "plain torch"


def test_auto_without_the_extension() -> None:
    without = Registry((broken(NATIVE, "it was not built"), REFERENCE))
    assert without.get("auto", "cpu").name == "reference"
    message = "'native' is not available for cpu tensors: it was not built; known"
    with pytest.raises(BackendError, match=message):
        without.get("native", "cpu")
    row = without.describe()[0]
    assert (row.available, row.reason, row.details) == (False, "it was not built", {})
    assert row.problems == {"cpu": "it was not built", "cuda": "it was not built"}


def test_a_backend_may_work_on_some_devices() -> None:
    half = replace(NATIVE, problem=lambda device: "no nvcc" if device == "cuda" else None)
    registry = Registry((half, REFERENCE))
    assert registry.get("native", "cpu").name == "native"
    with pytest.raises(BackendError, match="'native' is not available for cuda tensors: no nvcc"):
        registry.get("native", "cuda")
    row = registry.describe()[0]
    assert (row.available, row.reason) == (True, "")
    assert row.problems == {"cpu": "", "cuda": "no nvcc"}


def test_unknown_backends_and_devices() -> None:
    with pytest.raises(BackendError, match=r"unknown backend 'natve'.*did you mean 'native'"):
        ops.get_backend("natve")
    with pytest.raises(BackendError, match="known backends: auto, native, triton, reference"):
        ops.weighted_sum([torch.ones(1)], [1.0], backend="tpu")
    with pytest.raises(BackendError, match=r"^unknown backend 'cuda', which is a device.*: auto"):
        ops.get_backend("cuda")
    with pytest.raises(BackendError, match="'triton' serves cuda tensors, but these are on 'cpu'"):
        ops.weighted_sum([torch.ones(1)], [1.0], backend="triton")
    with pytest.raises(BackendError, match="no backend serves the device 'meta'"):
        ops.weighted_sum([torch.ones(1, device="meta")], [1.0])


@no_gpu
def test_without_a_gpu_backends_say_why() -> None:
    for name in ("native", "triton", "reference"):
        with pytest.raises(BackendError, match=f"'{name}' is not available for cuda tensors: "):
            ops.get_backend(name, "cuda")
    rows = {row.name: row for row in ops.describe_backends()}
    assert "CUDA" in rows["native"].problems["cuda"]
    assert "finds no CUDA device" in rows["reference"].problems["cuda"]
    assert rows["reference"].available
    assert not rows["triton"].available
    assert rows["triton"].reason


def test_describe_backends() -> None:
    rows = {row.name: row for row in ops.describe_backends()}
    assert list(rows) == ["native", "triton", "reference"]
    assert all(row.summary for row in rows.values())
    assert rows["native"].problems["cpu"] == ""
    assert rows["native"].available
    assert rows["reference"].problems["cpu"] == ""
    assert rows["triton"].devices == ("cuda",)
    assert rows["native"].details["isa"] == _native.isa()
    assert rows["native"].details["available_isas"] == list(ISAS)
    assert rows["reference"].details["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((NATIVE, NATIVE), "two backends are called 'native'"),
        ((replace(NATIVE, name="auto"),), "'auto' cannot name a backend"),
        ((replace(NATIVE, name="a b"),), "'a b' cannot name a backend"),
        ((replace(NATIVE, devices=()),), "backend 'native' serves no device"),
    ],
)
def test_a_registry_checks_itself(entries: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Registry(entries)


def test_the_registry_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        REGISTRY.entries = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        REGISTRY.by_name["mine"] = NATIVE  # type: ignore[index]
    assert registry.get_backend("native").name == "native"


def test_forcing_an_instruction_set() -> None:
    try:
        for isa in ISAS:
            use_isa(isa)
            assert _native.isa() == isa
    finally:
        use_isa("auto")
    assert _native.isa() == ISAS[-1]
    with pytest.raises(BackendError, match=f"'x86-64-v9'.* is unknown.*has auto, .*{ISAS[-1]}"):
        use_isa("x86-64-v9")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets MERGESAFE_ISA as if for a new process."""

    def set_isa(name: str) -> None:
        monkeypatch.setenv("MERGESAFE_ISA", name)
        apply_environment.cache_clear()

    yield set_isa
    apply_environment.cache_clear()
    use_isa("auto")


def test_the_environment_forces_an_instruction_set(environment: Callable[[str], None]) -> None:
    environment(ISAS[0])
    ops.get_backend()
    assert _native.isa() == ISAS[0]
    use_isa(ISAS[-1])
    ops.get_backend()
    assert _native.isa() == ISAS[-1], "the variable is read once, a later choice stays"


def test_a_wrong_instruction_set_in_the_environment(environment: Callable[[str], None]) -> None:
    environment("avx9")
    for _ in range(2):
        with pytest.raises(BackendError, match=f"'avx9'.*this machine has auto, {ISAS[0]}"):
            ops.get_backend()
    row = ops.describe_backends()[0]
    assert not row.available
    assert "'avx9'" in row.reason
    environment("")
    assert ops.get_backend().name == "native"


def test_torch_is_imported_only_where_it_is_needed() -> None:
    light = (
        "import sys, mergesafe.ops.numbers, mergesafe.ops.backends.isa, mergesafe.methods\n"
        "import mergesafe.methods.registry, mergesafe.ops.backends.registry\n"
        "print(dir(mergesafe.methods)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", light], check=True, stdout=subprocess.DEVNULL)


def test_coefficients_are_rounded_to_float32() -> None:
    assert float32(0.1) == float(torch.tensor(0.1))
    assert float32(1e300) == float("inf")
    assert divisor_of([0.1, 0.2, 0.3], True) == float(
        torch.tensor(0.1) + torch.tensor(0.2) + torch.tensor(0.3)
    )
    assert divisor_of([0.1, 0.2], False) == 1.0
    assert divisor_of([0.5, -0.5], True) == 1.0
    assert divisor_of([0.5, -0.5 + 2**-25], True) == 2**-25
