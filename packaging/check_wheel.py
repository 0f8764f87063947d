"""Merges two models of one tensor with the installed package, by the command, and compares bytes.

For wheels, which are tried where neither torch nor the tests are installed. With a folder as its
argument, the package must lie there.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

VALUES = {"base": (1.0, -2.0, 0.5, 4.0), "one": (2.0, -2.0, 0.0, 4.0), "two": (1.0, -4.0, 0.5, 8.0)}
#: base + 0.5 (one − base) + 0.25 (two − base)
MERGED = (1.5, -2.5, 0.25, 5.0)


def save(folder: Path, values: tuple[float, ...]) -> None:
    """A checkpoint in the format of safetensors."""
    data = struct.pack(f"<{len(values)}f", *values)
    entry = {"dtype": "F32", "shape": [len(values)], "data_offsets": [0, len(data)]}
    header = json.dumps({"model.norm.weight": entry}).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    (folder / "config.json").write_text('{"model_type": "llama"}')


def merge(folder: Path) -> bytes:
    """The output's tensor."""
    for name, values in VALUES.items():
        save(folder / name, values)
    weights = {"one": 0.5, "two": 0.25}
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": n, "parameters": {"weight": w}} for n, w in weights.items()],
        "dtype": "float32",
    }
    (folder / "recipe.yml").write_text(json.dumps(recipe))
    command = [sys.executable, "-m", "mergesafe.cli"]
    subprocess.run([*command, "merge", "recipe.yml", "out"], cwd=folder, check=True)
    subprocess.run([*command, "verify", "out"], cwd=folder, check=True)
    [shard] = (folder / "out").glob("*.safetensors")
    return shard.read_bytes()[-4 * len(MERGED) :]


if __name__ == "__main__":
    import mergesafe
    from mergesafe.native import extension

    where = Path(mergesafe.__file__)
    for folder in sys.argv[1:]:
        assert where.is_relative_to(Path(folder).resolve()), where
    with tempfile.TemporaryDirectory() as folder:
        found = struct.unpack(f"<{len(MERGED)}f", merge(Path(folder)))
    assert found == MERGED, (found, MERGED)
    print(f"{where}: merged and verified by {extension.isa()}")
