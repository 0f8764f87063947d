"""``mergesafe gate``: may this model go out?"""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from mergesafe.cli.evaluation import (
    console,
    files_read,
    named_models,
    progress,
    resumable,
    write_document,
)
from mergesafe.cli.shared import print_json
from mergesafe.errors import RequirementError
from mergesafe.outputs import JUNIT, RESULT, check_outputs
from mergesafe.terminal.text import printable
from mergesafe.whole_file import write_whole

if TYPE_CHECKING:
    from mergesafe.safety.gate.api import GateResult


def run(
    model: str,
    require: list[str],
    *,
    baseline: str | None,
    evaluation: Path | None,
    junit: Path | None,
    out: Path | None,
    json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Decide, print and write; raise what is not met.

    Raises:
        RequirementError: names every requirement that is not met, with the reason.
    """
    from mergesafe.safety.gate.api import gate
    from mergesafe.safety.gate.junit import junit_xml

    read = [*files_read(options), *([] if evaluation is None else [evaluation])]
    check_outputs({"--out": (out, RESULT), "--junit": (junit, JUNIT)}, read)
    with resumable(options.get("cache")), progress(quiet or json) as tell:
        result = gate(
            named_models([model]), require, evaluation=evaluation, progress=tell,
            baseline=None if baseline is None else named_models([baseline]), **options,
        )  # fmt: skip
    document = result.as_dict()
    write_document(out, document)
    if junit is not None:
        write_whole(junit, junit_xml(result))
    if json:
        print_json(document)
    elif not quiet:
        show(result)
    failed = [each for each in result.decisions if not each.met]
    if failed:
        # What was printed is not told twice.
        told = (
            f"{e.requirement.text} ({e.reason})" if quiet else e.requirement.text for e in failed
        )
        raise RequirementError(
            f"{result.model}: {len(failed)} of {len(result.decisions)} requirements not met: "
            f"{'; '.join(told)}"
        )


def show(result: GateResult) -> None:
    """Each requirement with the reason under it, what the decisions rest on, and notes."""
    shown = console(False)
    for each in result.decisions:
        mark = "met    " if each.met else "NOT MET"
        shown.print(printable(f"{mark} {each.requirement.text}"), markup=False)
        indent = 8 * " "
        reason = fill(
            printable(each.reason), shown.width, initial_indent=indent, subsequent_indent=indent,
            break_on_hyphens=False,
        )  # fmt: skip
        shown.print(reason, markup=False, soft_wrap=True)
    for line in result.evidence.lines():
        shown.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    for note in result.evaluation.notes:
        shown.print(printable(f"note: {note}"), markup=False)
