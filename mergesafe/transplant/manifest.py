"""``mergesafe-manifest.json`` of a model with another tokenizer, for ``mergesafe verify``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from mergesafe.checkpoint.format.digest import ALGORITHM
from mergesafe.checkpoint.format.digest import text as digits
from mergesafe.checkpoint.format.model import INDEX_NAME
from mergesafe.checkpoint.output.layout import OutputLayout, OutputTensor
from mergesafe.engine.manifest import FORMAT, describe_shards, encoded
from mergesafe.engine.resume.unfinished import state_of
from mergesafe.transplant.job import Transplant
from mergesafe.version import __version__


def manifest_text(
    job: Transplant, layout: OutputLayout, companions: Mapping[str, str],
    tensors: Mapping[str, OutputTensor], digests: Mapping[str, int], *, warnings: Sequence[str],
    notes: Sequence[str],
) -> str:  # fmt: skip
    """What was made of what. ``companions``: SHA-256 of the files beside the weights, by name;
    ``digests``: of tensors.
    """
    files = dict(sorted(companions.items()))
    if layout.index is not None:
        files[INDEX_NAME] = sha256(layout.index.encode()).hexdigest()
    inputs: dict[str, dict[str, Any]] = {}
    for text, info in job.read():
        state = state_of(info)
        entry = {"size": state["size"], "header_sha256": state["header"]}
        inputs.setdefault(text, {})[info.path.name] = entry
    return encoded({
        "format": FORMAT,
        "mergesafe_version": __version__,
        "command": "transplant-tokenizer",
        "donor": job.donor.text,
        "recipe": _told(job),
        "merge_method": f"transplant-tokenizer ({job.method})",
        "warnings": list(warnings),
        "notes": list(notes),
        "digest": ALGORITHM,
        "files_sha256": files,
        "inputs": inputs,
        "shards": describe_shards(layout),
        "tensors": {
            name: {
                "file": layout.shards[layout.placements[name].shard].name,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "digest": digits(digests[name]),
                "inputs": _sources(job, name),
            }
            for name, tensor in tensors.items()
        },
    })  # fmt: skip


def _told(job: Transplant) -> str:
    """The command in place of a recipe, as a comment of one."""
    k = f" --k {job.k}" if job.method == "omp" else ""
    return (
        f"# mergesafe transplant-tokenizer {job.model.text} {job.donor.text} OUT "
        f"--method {job.method}{k}\n"
    )


def _sources(job: Transplant, name: str) -> list[dict[str, str]]:
    """The tensors that an output tensor is made of."""
    table = next((each for each in job.tables.found if name in each.names), None)
    found = [(job.model.text, job.model.checkpoint.tensors[name])]
    if table is not None and table.kind in job.donors:
        found.append((job.donor.text, job.donors[table.kind]))
    return [{"model": text, "file": info.path.name, "tensor": info.name} for text, info in found]
