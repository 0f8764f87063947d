"""What planning and merging return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mergesafe.engine.estimate.estimated import estimated
from mergesafe.engine.estimate.seconds import Estimate
from mergesafe.engine.memory import format_size
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.run.trace import TraceSummary
from mergesafe.engine.run.workers import Options, Schedule
from mergesafe.summary import Summarised, Summary, counted


@dataclass(frozen=True, repr=False)
class MergeResult(Summarised):
    """What a merge did. ``seconds`` covers planning to the synced rename, or the upload.

    ``bytes_read`` of inputs (without adapters) and ``bytes_written`` of the output are this run's,
    ``resumed_bytes`` what an earlier one had finished of the output.
    ``path``: the folder, or the URL without what is secret in it. ``notes``: what the merge did
    differently for some tensors, and where inputs came from; see :class:`MergePlan`.
    """

    path: Path | str
    tensors: int
    parameters: int
    bytes_read: int
    bytes_written: int
    resumed_bytes: int
    seconds: float
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    trace: TraceSummary | None = None
    #: Of the intermediate documents that were written before, by their names.
    documents: Mapping[str, MergeResult] = field(default_factory=dict)

    @property
    def gigabytes_per_second(self) -> float:
        """Bytes read and written per second, in 1e9."""
        return (self.bytes_read + self.bytes_written) / self.seconds / 1e9

    def as_dict(self) -> dict[str, Any]:
        """The numbers as plain data."""
        return {
            "path": str(self.path),
            "tensors": self.tensors,
            "parameters": self.parameters,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "resumed_bytes": self.resumed_bytes,
            "seconds": self.seconds,
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "documents": {name: each.as_dict() for name, each in self.documents.items()},
        }

    def summary(self) -> Summary:
        moved = f"{format_size(self.bytes_read)} read, {format_size(self.bytes_written)} written"
        return Summary(
            f"{self.path}: {counted(self.tensors, 'tensor')}, {moved}, {self.seconds:.1f} s"
            f"{_warned(self.warnings)}",
            ("output", "tensors", "parameters", "read", "written", "seconds"),
            [
                (
                    str(each.path), f"{each.tensors:,}", f"{each.parameters:,}",
                    format_size(each.bytes_read), format_size(each.bytes_written),
                    f"{each.seconds:.1f}",
                )
                for each in (*self.documents.values(), self)
            ],
            self.warnings,
        )  # fmt: skip


@dataclass(frozen=True, repr=False)
class PlanReport(Summarised):
    """What a merge would do, and how it would run under a budget.

    ``plan``: every tensor, by what and of what it is made. ``schedule``: memory and threads.
    """

    plan: MergePlan
    schedule: Schedule
    options: Options

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may make the merged model wrong."""
        return self.plan.warnings

    @property
    def notes(self) -> tuple[str, ...]:
        """What is right and yet not what one might expect."""
        return self.plan.notes

    @property
    def tensors(self) -> int:
        """Tensors of the output."""
        return self.plan.tensors

    @property
    def bytes_in(self) -> int:
        """Bytes of the inputs that are read, each once."""
        return self.plan.bytes_in

    @property
    def bytes_read(self) -> int:
        """Bytes that are read: more than :attr:`bytes_in` where memory is too small for a tensor
        that is needed twice.
        """
        return self.schedule.bytes_read

    @property
    def bytes_out(self) -> int:
        """Bytes of tensors that are written."""
        return self.plan.bytes_out

    @property
    def estimate(self) -> Estimate | None:
        """The time, from rates that are measured on the inputs when this is first asked for, which
        takes about a second; None where :attr:`no_estimate` says why.
        """
        return self._estimated[0]

    @property
    def no_estimate(self) -> str | None:
        """Why there is no estimate."""
        return self._estimated[1]

    @property
    def seconds(self) -> float | None:
        """How long the merge would take; see :attr:`estimate`."""
        return None if self.estimate is None else self.estimate.seconds

    @cached_property
    def _estimated(self) -> tuple[Estimate | None, str | None]:
        return estimated(self.plan, self.schedule, self.options)

    def as_dict(self) -> dict[str, Any]:
        """The main numbers as plain data, by the names of ``mergesafe plan --json``."""
        plan, seconds = self.plan, self.seconds
        return {
            "method": plan.recipe.method_names,
            "base": plan.recipe.base_model.text if plan.recipe.base_model else None,
            "models": [ref.text for ref in plan.recipe.inputs],
            "references": {name: ref.text for name, ref in plan.recipe.references.items()},
            "tensors": plan.tensors,
            "parameters": sum(task.numel for task in plan.tasks),
            "exactness": plan.exactness,
            "bytes_in": plan.bytes_in,
            "bytes_read": self.schedule.bytes_read,
            "bytes_out": plan.bytes_out,
            "memory_budget": self.options.memory,
            "memory_buffers": self.schedule.arena,
            "workers": self.schedule.workers,
            # what takes microseconds does not become nothing
            "estimated_seconds": None if seconds is None else float(f"{seconds:.4g}"),
            "no_estimate": self.no_estimate,
            "warnings": list(plan.warnings),
            "notes": list(plan.notes),
        }

    def summary(self) -> Summary:
        recipe = self.plan.recipe
        moved = f"{format_size(self.bytes_read)} to read, {format_size(self.bytes_out)} to write"
        models = [ref.text for ref in recipe.inputs]
        base = recipe.separate_base
        return Summary(
            f"{recipe.method_names} of {counted(len(models), 'model')}, "
            f"{counted(self.tensors, 'tensor')}, {moved}{_warned(self.warnings)}",
            ("", ""),
            [
                ("method", recipe.method_names),
                *([("base", base.text)] if base else []),
                ("models", ", ".join(models)),
                ("tensors", f"{self.tensors:,}"),
                ("read", format_size(self.bytes_read)),
                ("written", format_size(self.bytes_out)),
                ("buffers", format_size(self.schedule.arena)),
                ("exactness", self.plan.exactness),
            ],
            self.warnings,
        )


def _warned(warnings: tuple[str, ...]) -> str:
    return f"; {counted(len(warnings), 'warning')}" if warnings else ""
