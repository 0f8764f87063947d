"""The plan as text: a screen, unless there is more to say."""

from __future__ import annotations

from typing import Any

from mergesafe.cli.plan import differences, parents, stack, tokens
from mergesafe.cli.plan import layers as layer_table
from mergesafe.cli.plan.numbers import at_default, group_lines
from mergesafe.cli.plan.timing import time_lines
from mergesafe.engine.estimate.seconds import STREAMED
from mergesafe.engine.memory import format_size

_KINDS = {
    "once": "read once, in small tiles",
    "resident": "read once and kept for every pass",
    "reread": "read {passes} times, in small tiles: cheaper than to keep them",
    "streamed": "read {passes} times, too large for the budget",
    "copied": "copied, not merged",
    "whole": "read once, each as a whole matrix",
}


def as_text(plan: dict[str, Any], *, layers: bool = False) -> str:
    """``plan``: of :func:`~mergesafe.cli.plan.description.describe`. ``layers``: with the table of
    every layer's numbers in place of that of groups.
    """
    base = f" onto {plan['base']}" if plan["base"] else ""
    lines = [
        f"{plan['method']} of {', '.join(plan['models'])}{base}",
        *(f"  reads      {text} as '{name}'" for name, text in plan["references"].items()),
        f"  tensors    {plan['tensors']:,} ({plan['parameters'] / 1e6:,.1f} M parameters), "
        f"{'/'.join(plan['dtypes_out'])}",
        f"  passes     {', '.join([*plan['statistics'], 'combine'])}",
        f"  read       {format_size(plan['bytes_read'])}",
        *map(_class, plan["classes"]),
        f"  write      {format_size(plan['bytes_out'])} in {len(plan['shards'])} file(s)",
        f"  memory     {format_size(plan['memory_buffers'])} of buffers "
        f"(budget {format_size(plan['memory_budget'])}) and a fixed overhead",
        f"  threads    {plan['workers']} workers, {plan['kernel_threads']} per kernel",
        *time_lines(plan["estimate"], plan["no_estimate"]),
        *_documents(plan, layers),
        *differences.lines(plan["differences"]),
    ]
    lines += [
        f"  note       {each['tensors']} tensor(s) do not fit the budget and are read "
        f"{each['passes']} times: raise --memory to read them once"
        for each in plan["classes"]
        if each["kind"] == STREAMED
    ]
    lines += [f"  note       {note}" for note in plan["notes"]]
    if plan["copied_tensors"]:
        lines.append(f"  note       {len(plan['copied_tensors'])} tensor(s) are copied, not merged")
    return "\n".join(lines)


def _class(each: dict[str, Any]) -> str:
    kind = _KINDS[each["kind"]].format(passes=each["passes"])
    return f"             {each['tensors']:,} {kind}: {format_size(each['bytes_read'])}"


def _documents(plan: dict[str, Any], layers: bool) -> list[str]:
    """The sections of every document, the output's last."""
    lines: list[str] = []
    for each in plan["documents"]:
        lines += [f"  document   {each['name']}: {each['method']}", *_sections(each, layers)]
    if lines:
        lines.append(f"  output     {plan['method']}")
    return lines + _sections(plan, layers)


def _sections(plan: dict[str, Any], layers: bool) -> list[str]:
    silent = at_default(plan["layers"])
    return [
        *stack.lines(plan["stack"]),
        *parents.lines(plan["parents"]),
        *(
            layer_table.lines(plan["layers"], silent)
            if layers
            else group_lines(plan["groups"], silent)
        ),
        *tokens.lines(plan["tokenizer"]),
    ]
