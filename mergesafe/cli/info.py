"""``mergesafe info``: what is available on this machine, and why something is not."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from typing import Any

from mergesafe.cli.shared import print_json, say
from mergesafe.engine.memory import budget_of, format_size
from mergesafe.methods.registry import METHODS
from mergesafe.native import extension
from mergesafe.ops.backends.isa import apply_environment
from mergesafe.ops.backends.registry import BackendInfo, cuda_problem, describe_backends
from mergesafe.version import __version__


def run(*, json: bool, quiet: bool) -> None:
    """Print the description as text or JSON."""
    described = describe()
    if json:
        print_json(described)
    elif not quiet:
        say(as_text(described))


def describe() -> dict[str, Any]:
    """Version, backends, instruction sets, devices, methods."""
    apply_environment()
    backends = describe_backends()
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "compiler": extension.compiler,
        "isa": {
            "chosen": extension.isa(),
            "available": extension.available_isas(),
            "compiled": extension.compiled_isas(),
        },
        "cuda": {"compiled": extension.cuda_compiled, "compiler": extension.cuda_compiler},
        "backends": {
            each.name: {
                "available": each.available,
                "devices": list(each.devices),
                "reason": each.reason or None,
                "problems": {device: why or None for device, why in each.problems.items()},
                "summary": each.summary,
            }
            for each in backends
        },
        "devices": {
            device: {
                "available": not why,
                "reason": why or None,
                "backend": None if why else serving(device, backends),
            }
            for device, why in (("cpu", ""), ("cuda", cuda_problem()))
        },
        "default_memory": budget_of(None),
        "methods": {name: method.paper for name, method in METHODS.items()},
    }


def serving(device: str, backends: Sequence[BackendInfo]) -> str:
    """The backend that "auto" takes on ``device``: the first that runs there."""
    return next(each.name for each in backends if not each.problems.get(device, "elsewhere"))


def as_text(info: dict[str, Any]) -> str:
    lines = [
        f"mergesafe {info['version']}, Python {info['python']}, {info['platform']}, "
        f"built with {info['compiler']}",
        f"instruction set  {info['isa']['chosen']} (available: "
        f"{', '.join(info['isa']['available'])}; force one with MERGESAFE_ISA)",
    ]
    lines.append(f"CUDA kernels     compiled with {info['cuda']['compiler']}")
    for name, state in info["devices"].items():
        use = f"available, backend {state['backend']}" if state["available"] else _why_not(state)
        lines.append(f"device           {name}: {use}")
    for name, state in info["backends"].items():
        for device, problem in state["problems"].items():
            status = "available" if problem is None else f"not available: {problem}"
            lines.append(f"backend          {name} on {device}: {status}")
    lines.append(f"default memory   {format_size(info['default_memory'])}")
    lines.append(f"merge methods    {len(info['methods'])}; mergesafe methods NAME shows one")
    lines += [f"  {name:<18} {paper}" for name, paper in info["methods"].items()]
    return "\n".join(lines)


def _why_not(state: dict[str, Any]) -> str:
    return f"not available: {state['reason']}"
