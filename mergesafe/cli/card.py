"""``mergesafe card``: what was measured goes into the card of a merged model."""

from __future__ import annotations

from pathlib import Path

from mergesafe.cli.shared import print_json, say
from mergesafe.safety.card.api import write_card
from mergesafe.terminal.text import printable


def run(
    out: str,
    *,
    evaluation: Path | None,
    gate: Path | None,
    threads: int | None,
    json: bool,
    quiet: bool,
) -> None:
    """Verify the model, write its card, and say what is in it."""
    written = write_card(out, evaluation=evaluation, gate=gate, threads=threads)
    if json:
        print_json(
            {
                "card": str(written.card), "evidence": str(written.evidence),
                "passed": written.passed,
            }
        )  # fmt: skip
    elif not quiet:
        verdict = {None: "", True: "; the gate was passed", False: "; the gate was NOT passed"}
        say(printable(f"{written.card}: verified and written{verdict[written.passed]}"))
