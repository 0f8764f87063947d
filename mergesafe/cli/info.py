"""``mergesafe info``: what is available on this machine, and why something is not."""

from __future__ import annotations

import platform
import sys
from typing import Any

from mergesafe import _native
from mergesafe.cli.shared import print_json
from mergesafe.engine.memory import budget_of, format_size
from mergesafe.methods.registry import METHODS
from mergesafe.ops.backends.isa import apply_environment
from mergesafe.ops.backends.registry import describe_backends
from mergesafe.version import __version__


def run(*, json: bool, quiet: bool) -> None:
    """Print the description as text or JSON."""
    described = describe()
    if json:
        print_json(described)
    elif not quiet:
        print(as_text(described))


def describe() -> dict[str, Any]:
    """Version, backends, instruction sets, devices, methods."""
    apply_environment()
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "compiler": _native.compiler,
        "isa": {
            "chosen": _native.isa(),
            "available": _native.available_isas(),
            "compiled": _native.compiled_isas(),
        },
        "backends": {
            each.name: {
                "available": each.available,
                "devices": list(each.devices),
                "reason": each.reason or None,
                "summary": each.summary,
            }
            for each in describe_backends()
        },
        "devices": {
            "cpu": {"available": True, "reason": None},
            "cuda": {"available": False, "reason": "this version has no CUDA kernels"},
        },
        "default_memory": budget_of(None),
        "methods": {name: method.paper for name, method in METHODS.items()},
    }


def as_text(info: dict[str, Any]) -> str:
    lines = [
        f"mergesafe {info['version']}, Python {info['python']}, {info['platform']}, "
        f"built with {info['compiler']}",
        f"instruction set  {info['isa']['chosen']} (available: "
        f"{', '.join(info['isa']['available'])}; force one with MERGESAFE_ISA)",
    ]
    for kind in ("backends", "devices"):
        for name, state in info[kind].items():
            status = "available" if state["available"] else f"not available: {state['reason']}"
            lines.append(f"{kind[:-1]:<16} {name}: {status}")
    lines.append(f"default memory   {format_size(info['default_memory'])}")
    lines.append("merge methods")
    lines += [f"  {name:<18} {paper}" for name, paper in info["methods"].items()]
    return "\n".join(lines)
