"""Device code: nothing is contracted, and vectors are read and written 16 bytes at a time."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from mergesafe import _native

ROOT = Path(__file__).resolve().parents[2]
FUSED = re.compile(r"\bfma\.rn")
PROBE = Path(__file__).with_name("device_probe.cu")
NVCC = shutil.which("nvcc")


def compile_ptx(target: Path, *flags: str) -> str:
    assert NVCC is not None
    command = [NVCC, "-ptx", "-std=c++17", "-arch=sm_80", f"-I{ROOT / 'csrc'}", *flags]
    subprocess.run([*command, "-o", str(target), str(PROBE)], check=True, capture_output=True)
    return target.read_text()


def cuobjdump() -> str | None:
    """CUDA's, or the one that comes with triton."""
    found = shutil.which("cuobjdump")
    spec = find_spec("triton")
    if found is None and spec is not None and spec.origin is not None:
        beside = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        return str(beside) if beside.exists() else None
    return found


@pytest.fixture(scope="module")
def kernels() -> dict[str, str]:
    """Mangled name -> PTX of every kernel and device function of the extension as it was built."""
    if not _native.cuda_compiled:
        pytest.skip("the extension was built without CUDA")
    tool = cuobjdump()
    if tool is None:
        pytest.skip("cuobjdump is not installed")
    command = [tool, "--dump-ptx", str(_native.__file__)]
    ptx = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    parts = re.split(r"^(?:\.\w+ )*\.(?:entry|func)\b", ptx, flags=re.MULTILINE)[1:]
    return {re.findall(r"_Z\w+", part)[0]: part for part in parts if "_Z" in part}


def test_the_built_kernels_contract_nothing(kernels: dict[str, str]) -> None:
    assert len(kernels) > 40
    assert not [name for name, ptx in kernels.items() if FUSED.search(ptx)]


def test_the_built_kernels_divide_exactly(kernels: dict[str, str]) -> None:
    for name, ptx in kernels.items():
        assert not re.search(r"\b(div\.(full|approx)|rcp\.approx|\w+\.ftz)", ptx), name
    assert any("div.rn.f32" in ptx for name, ptx in kernels.items() if "merge_kernel" in name)


@pytest.mark.parametrize(
    ("kernel", "reads", "writes"),
    [
        ("merge_kernelILb1ELi3", "v4", True),
        ("merge_kernelILb0ELi3", "v4", True),
        ("merge_any_kernel", "v4", True),
        ("sum_kernel", "v4", True),
        ("round_kernel", "v4", False),
        # reductions: four lanes a thread, 8 bytes of 16-bit elements, 16 of float32
        ("gradient_kernelILi3", "v2", False),
        ("dots_kernel", "v2", False),
    ],
)
def test_the_built_kernels_move_vectors(
    kernels: dict[str, str], kernel: str, reads: str, writes: bool
) -> None:
    found = {name: ptx for name, ptx in kernels.items() if kernel in name}
    assert found
    for name, ptx in found.items():
        assert re.search(rf"ld\.global\.cs\.{reads}\.[bu]32", ptx), name
        assert writes == bool(re.search(r"st\.global\.v4\.[bu]32", ptx)), name


def test_no_kernel_copies_its_parameters(kernels: dict[str, str]) -> None:
    """Thirty kilobytes of job descriptions stay in constant memory."""
    sizes = {
        name: [int(size) for size in re.findall(r"\.local[^;]*\[(\d+)\]", ptx)]
        for name, ptx in kernels.items()
    }
    assert {name: size for name, size in sizes.items() if sum(size) > 1000} == {}


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
def test_device_code_contracts_nothing(tmp_path: Path) -> None:
    assert not FUSED.search(compile_ptx(tmp_path / "exact.ptx", "-fmad=false"))
    # The same source with contraction allowed does contract, so the assertion above can fail.
    assert FUSED.search(compile_ptx(tmp_path / "fused.ptx", "-fmad=true"))
