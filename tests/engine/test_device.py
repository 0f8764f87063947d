"""Merging through a device, on a stand-in that shows what a real one would get wrong.

Its memory is the host's, filled with NaN. Copies are carried out as late as the streams' order
allows: an upload when a block of kernels begins or at a wait, a download at a wait. Whoever forgets
to wait, or reuses a buffer too early, gets wrong bytes. On a machine with a GPU the same tests
run there too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from ops import emulated
from safetensors.torch import load_file
from tiny import Tensors, command, digest, llama, recipe, save, save_adapter, write_recipe

import mergesafe
from mergesafe.engine import memory
from mergesafe.engine.plan import tiling as layout
from mergesafe.engine.run import devices as choose
from mergesafe.engine.run import gpu as device
from mergesafe.engine.run import workers as stream
from mergesafe.errors import ArgumentError, NonFiniteError
from mergesafe.ops.backends.cuda import CudaBackend
from mergesafe.ops.backends.registry import get_backend

from .moe_models import save_fused

BIG = "model.layers.0.mlp.big.weight"


class LateLane:
    def __init__(self, owner: LateDevice) -> None:
        self._owner = owner
        self._up: list[Callable[[], object]] = []
        self._down: list[Callable[[], object]] = []
        self._inside = False

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self._owner.uploaded += target.numel()
        self._up.append(lambda: target.copy_(source))

    @contextmanager
    def computing(self) -> Iterator[None]:
        self._carry_out(self._up)
        self._inside = True
        yield
        self._inside = False

    def download(self, target: torch.Tensor, source: torch.Tensor) -> None:
        assert self._inside, "no kernels before this copy"
        self._down.append(lambda: target.copy_(source))

    def wait(self) -> None:
        self._carry_out(self._up)
        self._carry_out(self._down)

    def _carry_out(self, copies: list[Callable[[], object]]) -> None:
        while copies:
            copies.pop(0)()


class LateDevice:
    def __init__(self, name: str) -> None:
        self.name = name
        self.uploaded = 0
        self.slabs: list[int] = []

    def free_bytes(self) -> int:
        return 1 << 30

    def allocate(self, nbytes: int) -> torch.Tensor:
        self.slabs.append(nbytes)
        return torch.full((nbytes,), 0xFF, dtype=torch.uint8)

    def lane(self) -> LateLane:
        return LateLane(self)

    def backend(self, name: str) -> Any:
        return get_backend(name, "cpu")


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[LateDevice]:
    """Two stand-ins; budgets may be small, so that small tensors are streamed."""
    found = [LateDevice("cuda:0"), LateDevice("cuda:1")]
    monkeypatch.setattr(device, "cuda_devices", lambda text: found)
    monkeypatch.setattr(device, "pin", lambda address, nbytes: True)
    monkeypatch.setattr(device, "unpin", lambda address: None)
    monkeypatch.setattr(memory, "MINIMUM_BUDGET", 1)
    monkeypatch.setattr(choose, "MINIMUM_VRAM", 1)
    monkeypatch.setattr(layout, "SMALL_TILE", layout.BLOCK)
    small = layout.Sizes(write=3 * 8192, once=100_000, streamed=1, kept=memory.MAXIMUM_SIZE)
    monkeypatch.setattr(stream, "DEVICE_SIZES", small)
    return found


def tensors(seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        **llama(seed, dtype=dtype),
        BIG: torch.randn(310, 301, generator=generator).to(dtype),
        "ids": torch.arange(2000),
    }


@pytest.fixture
def models(tmp_path: Path) -> list[Path | str]:
    base, a, b = (save(tmp_path / n, tensors(i)) for i, n in enumerate(("base", "a", "b")))
    adapter = save_adapter(tmp_path / "adapter", tensors(0), 1)
    return [base, a, b, f"{base}+{adapter}"]


RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"weight": 0.4},
    "ties": {"weight": 0.4, "density": 0.3},
    "dare_ties": {"weight": 0.4, "density": 0.3},
    "breadcrumbs": {"weight": 0.4, "density": 0.5},
    "slerp": {},
}


def content(method: str, models: list[Path | str], **keys: Any) -> dict[str, Any]:
    if method == "slerp":
        return recipe(method, models[:2], models[0], parameters={"t": 0.3}, **keys)
    if method == "linear":
        return recipe(method, models, each=RECIPES[method], **keys)
    return recipe(method, models[1:], models[0], each=RECIPES[method], **keys)


@pytest.mark.parametrize("vram", ["2500kB", "40MB"])
@pytest.mark.parametrize("method", RECIPES)
def test_same_bytes_as_on_the_cpu(
    method: str, vram: str, models: list[Path | str], devices: list[LateDevice], tmp_path: Path
) -> None:
    mergesafe.merge(content(method, models), tmp_path / "cpu")
    mergesafe.merge(content(method, models), tmp_path / "device", device="cuda", vram=vram)
    assert digest(tmp_path / "device") == digest(tmp_path / "cpu")
    assert sum(each.uploaded for each in devices) > 0


@pytest.mark.parametrize("output", ["model", "adapter"])
def test_adapters_by_their_factors(output: str, devices: list[LateDevice], tmp_path: Path) -> None:
    base = save(tmp_path / "base", tensors(0))
    adapters = [save_adapter(tmp_path / f"a{i}", tensors(0), i) for i in range(2)]
    models = [f"{base}+{adapter}" for adapter in adapters]
    each = {"weight": 0.4}
    wanted = recipe("core_space(ties)", models, base, each=each, output=output, dtype="float32")
    mergesafe.merge(wanted, tmp_path / "cpu")
    mergesafe.merge(wanted, tmp_path / "device", device="cuda", vram="40MB")
    name = "model.safetensors" if output == "model" else "adapter_model.safetensors"
    one, two = (load_file(tmp_path / each / name) for each in ("cpu", "device"))
    assert one.keys() == two.keys()
    # decompositions with other numbers of threads
    assert all(torch.allclose(one[key], two[key], rtol=0, atol=1e-5) for key in one)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "slerp"])
def test_experts_in_one_tensor(method: str, devices: list[LateDevice], tmp_path: Path) -> None:
    models: list[Path | str] = [save_fused(tmp_path / f"m{i}", i) for i in range(3)]
    mergesafe.merge(content(method, models), tmp_path / "cpu")
    mergesafe.merge(content(method, models), tmp_path / "device", device="cuda", vram="2500kB")
    assert digest(tmp_path / "device") == digest(tmp_path / "cpu")


@pytest.mark.parametrize(
    ("keys", "vram"),
    [
        ({"dtype": "float16"}, "3MB"),
        ({"out_dtype": "float32"}, "3MB"),
        ({"out_dtype": "float8_e4m3fn"}, "20MB"),
    ],
)
def test_casts(
    keys: dict[str, str],
    vram: str,
    models: list[Path | str],
    devices: list[LateDevice],
    tmp_path: Path,
) -> None:
    mergesafe.merge(content("ties", models, **keys), tmp_path / "cpu")
    out = tmp_path / "device"
    mergesafe.merge(content("ties", models, **keys), out, device="cuda", vram=vram)
    assert digest(out) == digest(tmp_path / "cpu")


def test_every_device_works_within_its_share(
    models: list[Path | str], devices: list[LateDevice], tmp_path: Path
) -> None:
    mergesafe.merge(content("ties", models), tmp_path / "out", device="cuda", vram="4MB")
    for each in devices:
        assert 0 < sum(each.slabs) <= 2_000_000
        assert each.uploaded > 0


@pytest.mark.parametrize("rule", ["zero", "warn"])
def test_nonfinite(
    rule: str, models: list[Path | str], devices: list[LateDevice], tmp_path: Path
) -> None:
    spoiled = tensors(1)
    spoiled[BIG][-1, -1] = float("nan")
    spoiled["model.norm.weight"][0] = float("inf")
    save(Path(models[1]), spoiled)
    options: dict[str, Any] = {"device": "cuda", "vram": "3MB"}
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        mergesafe.merge(content("ties", models), tmp_path / "no", **options)
    mergesafe.merge(content("ties", models), tmp_path / "cpu", on_nonfinite=rule)
    out = tmp_path / "device"
    mergesafe.merge(content("ties", models), out, on_nonfinite=rule, **options)
    assert digest(out) == digest(tmp_path / "cpu")


def test_an_unfinished_merge_goes_on_on_the_other_processor(
    models: list[Path | str], devices: list[LateDevice], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    mergesafe.merge(content("ties", models), tmp_path / "whole")
    out = tmp_path / "out"
    calls = 0
    original = device.DeviceKernels.combine

    def stop(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(device.DeviceKernels, "combine", stop)
    with pytest.raises(KeyboardInterrupt):
        mergesafe.merge(content("ties", models), out, device="cuda", vram="3MB", resume=True)
    mergesafe.merge(content("ties", models), out, resume=True)
    assert digest(out) == digest(tmp_path / "whole")


@pytest.mark.parametrize(
    ("vram", "message"),
    [("2GiB", "only 1.1 GB are free"), ("lots", "expected a size"), ("1kB", "is too small")],
)
def test_vram_that_cannot_be(
    vram: str, message: str, models: list[Path | str], devices: list[LateDevice], tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=message):
        mergesafe.merge(content("ties", models), tmp_path / "out", device="cuda", vram=vram)
    assert not (tmp_path / "out").exists()


def test_a_matrix_that_a_device_has_no_room_for(
    models: list[Path | str], devices: list[LateDevice], tmp_path: Path
) -> None:
    """What is too small is what the option gives a worker, not the memory of the host."""
    made = recipe("iso_c", models[1:], models[0])
    with pytest.raises(ArgumentError, match=r"^vram: 1\.\d MB, .*big.*larger vram in pro"):
        mergesafe.merge(made, tmp_path / "out", device="cuda", vram="12MB")
    with pytest.raises(ArgumentError, match=r"^memory=.*give at least"):
        mergesafe.merge(made, tmp_path / "out", device="cuda", vram="60MB", memory="1MiB")


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vram", "1GiB"), "no use without --device cuda"),
        (("--device", "tpu"), "cuda:NUMBER for one GPU"),
        pytest.param(
            ("--device", "cuda"), "finds no CUDA device; use --device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)  # fmt: skip
def test_the_command_says_why_not(
    options: tuple[str, ...], message: str, models: list[Path | str], tmp_path: Path
) -> None:
    path = write_recipe(tmp_path / "r.yml", content("linear", models))
    done = command("merge", path, tmp_path / "out", *options)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("method", RECIPES)
def test_on_a_gpu(method: str, models: list[Path | str], tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yml", content(method, models))
    for name in ("cpu", "cuda"):
        done = command("merge", path, tmp_path / name, "--device", name, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["tensors"] == len(tensors(0))
    assert digest(tmp_path / "cuda") == digest(tmp_path / "cpu")


@pytest.mark.parametrize("method", RECIPES)
def test_the_cuda_kernels(
    method: str, models: list[Path | str], devices: list[LateDevice], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The compiled device code, run on the host, where it takes one thread at a time."""
    del devices[1:]
    monkeypatch.setattr(device, "WORKERS", 1)
    backend = CudaBackend(emulated.module().cuda)
    monkeypatch.setattr(LateDevice, "backend", lambda self, name: backend)
    mergesafe.merge(content(method, models), tmp_path / "cpu")
    out = tmp_path / "device"
    mergesafe.merge(content(method, models), out, device="cuda", vram="3MB")
    assert digest(out) == digest(tmp_path / "cpu")


@pytest.mark.parametrize("vram", ["60MB", "400MB"])
@pytest.mark.parametrize("method", ["arcee_fusion", "pcb"])
def test_scores_by_functions(
    method: str, vram: str, models: list[Path | str], devices: list[LateDevice], tmp_path: Path
) -> None:
    experts = models[1:2] if method == "arcee_fusion" else models[1:]
    given = recipe(method, experts, models[0])
    mergesafe.merge(given, tmp_path / "cpu")
    mergesafe.merge(given, tmp_path / "device", device="cuda", vram=vram)
    assert digest(tmp_path / "device") == digest(tmp_path / "cpu")
    assert sum(each.uploaded for each in devices) > 0
