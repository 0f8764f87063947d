"""How long a merge would take, in words and numbers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mergesafe.engine.estimate.seconds import Estimate
from mergesafe.log_lines import duration

_LIMITS = {
    "disk": "the disk that the inputs come from",
    "read": "copying inputs from the page cache",
    "compute": "the computation",
    "write": "copying the output to the page cache",
    "overhead": "the number of tensors",
}


def estimate_as_json(estimate: Estimate) -> dict[str, Any]:
    parts = {name: shortened(value) for name, value in asdict(estimate).items()}
    processor_s = shortened(estimate.processor_s)
    return {**parts, "processor_s": processor_s, "limit": estimate.limit}


def shortened(seconds: float) -> float:
    """Four significant digits: what takes microseconds does not become nothing."""
    return float(f"{seconds:.4g}")


def time_lines(estimate: dict[str, Any] | None, why: str | None) -> list[str]:
    if estimate is None:
        return [f"  time       unknown: {why}"]
    seconds = max(estimate["processor_s"], estimate["disk_s"])
    about = f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
    steps = ("read", "compute", "write", "overhead")
    parts = ", ".join(f"{step} {estimate[f'{step}_s']:.2f}" for step in steps)
    return [
        f"  time       about {about}, from rates measured just now; the limit is "
        f"{_LIMITS[estimate['limit']]}",
        f"             processors {estimate['processor_s']:.2f} s ({parts}) beside disk "
        f"{estimate['disk_s']:.2f} s; {estimate['cached']:.0%} of the inputs are in the page cache",
    ]
