"""The YAML file that lists evaluation sets.

```yaml
unsafe: {advbench: advbench.jsonl}
harmless: {edgy: edgy.txt}
domain: {sorting: sorting.jsonl, arithmetic: arithmetic.jsonl}
```

Each role maps names to files; relative paths are from the folder of the YAML file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mergesafe.errors import did_you_mean
from mergesafe.recipe.document import parse_yaml
from mergesafe.recipe.nodes import Reporter, mapping, shown, string
from mergesafe.recipe.text import read_text
from mergesafe.results.evaluation import Role
from mergesafe.safety.evaluation.sets import ROLES

_NEEDS: Final = "one of 'unsafe', 'harmless' and 'domain'"


def read_sets_file(path: Path) -> dict[Role, list[tuple[str, Path]]]:
    """Names and paths of the sets, by role.

    Raises:
        RecipeError: the file cannot be read, or is not such a file; names every mistake with its
            line.
    """
    report = Reporter(path, "file of sets")
    root = mapping(parse_yaml(read_text(path, report), report, _NEEDS), "a file of sets", report)
    found: dict[Role, list[tuple[str, Path]]] = {}
    for key, line, node in root:
        role = next((role for role in ROLES if role == key), None)
        if role is None:
            report.record(f"unknown role {shown(key)}{did_you_mean(key, ROLES)}", line)
            continue
        listed = report.attempt(mapping, node, f"'{key}'", report)
        for name, _, value in listed or ():
            file = report.attempt(string, value, f"'{name}' of '{key}'", report)
            if file is not None:
                found.setdefault(role, []).append((name, path.parent / file))
    if report.errors:
        raise type(report.errors[0]).joined(report.errors)
    return found
