"""The element mathematics compiles for devices, without contraction."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).with_name("device_probe.cu")
NVCC = shutil.which("nvcc")


def compile_ptx(target: Path, *flags: str) -> str:
    assert NVCC is not None
    command = [NVCC, "-ptx", "-std=c++17", "-arch=sm_80", f"-I{ROOT / 'csrc'}", *flags]
    subprocess.run([*command, "-o", str(target), str(PROBE)], check=True, capture_output=True)
    return target.read_text()


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
def test_device_code_contracts_nothing(tmp_path: Path) -> None:
    fused = re.compile(r"\bfma\.rn")
    assert not fused.search(compile_ptx(tmp_path / "exact.ptx", "-fmad=false"))
    # The same source with contraction allowed does contract, so the assertion above can fail.
    assert fused.search(compile_ptx(tmp_path / "fused.ptx", "-fmad=true"))
