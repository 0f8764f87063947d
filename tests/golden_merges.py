"""Guard the bytes of every merge that the test suite makes.

After each test that has a ``tmp_path``, every merged model below it that its own manifest confirms
is looked up in ``tests/golden/merges.json``. The key says what a merge's tensors depend on: recipe,
seed, rule for NaN, digests of the input tensors; the folders of the models have no part in it. The
value is a digest of the output's tensors: names, types, shapes, bytes. A known key with another
value fails the test: the same merge gave other bytes. An unknown key (a new test, random inputs)
passes.

``pytest --record-golden`` adds what the run makes to the file, and takes out keys that were given
two values in one run. Bytes are a promise to users, so whoever records a changed value on purpose
also adds a line to CHANGELOG.md that says which merges change and why.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mergesafe.engine.manifest import MANIFEST_NAME
from mergesafe.engine.verify import verify
from mergesafe.errors import MergesafeError
from mergesafe.regular_file import read_regular

STORE = Path(__file__).parent / "golden" / "merges.json"
#: Keys of a recipe that say nothing about tensors.
_SILENT = ("name", "tune")
#: Temporary folders: what follows them is the same in every run.
_TEMPORARY = re.compile(r"/\S*?/pytest-of-[^/\s]+/pytest-\d+/")


@dataclass
class Golden:
    """Known values by key, and what this session found."""

    known: dict[str, str]
    record: bool = False
    seen: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, *, record: bool) -> Golden:
        return cls(json.loads(STORE.read_text()) if STORE.exists() else {}, record)

    def check(self, folder: Path) -> list[str]:
        """Messages about the merged models below ``folder`` whose bytes are not the known ones."""
        problems = []
        for path, manifest in _merged(folder):
            key, value = key_of(manifest), value_of(manifest)
            self.seen.setdefault(key, set()).add(value)
            if not self.record and self.known.get(key, value) != value:
                problems.append(
                    f"{path}: this merge by {manifest['merge_method']} gave other bytes when "
                    "tests/golden/merges.json was recorded. If the change is intended, run the "
                    "tests that merge with --record-golden, and say in CHANGELOG.md which merges "
                    "change and why."
                )
        return problems

    def save(self) -> None:
        """Write the known values and those of this session."""
        values = dict(self.known)
        for key, found in self.seen.items():
            values.pop(key, None)
            if len(found) == 1:
                values[key] = next(iter(found))
        STORE.write_text(json.dumps(values, indent=0, sort_keys=True) + "\n")

    def summary(self) -> str:
        compared = len(self.seen.keys() & self.known.keys())
        return f"golden merges: {compared} compared, {len(self.seen) - compared} unknown"


def key_of(manifest: Mapping[str, Any]) -> str:
    """A digest of everything that the tensors of a merge depend on."""
    tensors = manifest["tensors"]
    inputs = [entry["inputs"] for entry in tensors.values()]
    models = dict.fromkeys(each["model"] for entry in inputs for each in entry)
    names = {model: f"model {i}" for i, model in enumerate(models)}
    content = {
        "recipe": _anonymous(_recipe(manifest["recipe"]), names),
        "seed": manifest["seed"],
        "on_nonfinite": manifest["on_nonfinite"],
        "inputs": {
            name: [[names[each["model"]], *_digests(each)] for each in entry["inputs"]]
            for name, entry in tensors.items()
        },
    }
    return _short(content)


def value_of(manifest: Mapping[str, Any]) -> str:
    """A digest of the output's tensors."""
    return _short(
        {n: [e["dtype"], e["shape"], e["digest"]] for n, e in manifest["tensors"].items()}
    )


def _recipe(text: str) -> Any:
    try:
        return {k: v for k, v in yaml.safe_load(text).items() if k not in _SILENT}
    except yaml.YAMLError:  # a URL whose password is hidden by asterisks
        return text


def _digests(entry: Mapping[str, str]) -> list[str]:
    return [entry[key] for key in ("digest", "lora_A", "lora_B") if key in entry]


def _anonymous(value: Any, names: Mapping[str, str]) -> Any:
    """``value`` with the models' names replaced by their numbers."""
    if isinstance(value, dict):
        return {str(key): _anonymous(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_anonymous(each, names) for each in value]
    if isinstance(value, str):
        return names.get(value, _TEMPORARY.sub("", value))
    return value


def _short(content: object) -> str:
    data = json.dumps(content, sort_keys=True, default=str).encode()
    return hashlib.sha256(data).hexdigest()[:24]


def _merged(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folders with a manifest that describes what is there."""
    for place, _, files in os.walk(folder):
        path = Path(place)
        if MANIFEST_NAME in files and not path.name.startswith("."):
            try:
                manifest = json.loads(read_regular(path / MANIFEST_NAME, 256 << 20))
                verify(path, threads=1)
            except (MergesafeError, OSError, ValueError, KeyError, TypeError):
                continue  # a test has damaged it
            if "command" not in manifest:  # transplant-tokenizer merges nothing
                yield path, manifest
