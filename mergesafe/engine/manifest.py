"""``mergesafe-manifest.json``: what was merged into what, with a digest of every tensor.

Digests are taken of the bytes as they pass through the merge (see
:mod:`mergesafe.checkpoint.format.digest`), so they cost no second reading. The manifest says
nothing that memory, threads or the machine decide: the same recipe and inputs give the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, Final

import msgspec

from mergesafe.checkpoint.format.digest import (
    ALGORITHM,
    BLOCK,
    digest_of_range,
)
from mergesafe.checkpoint.format.model import INDEX_NAME
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.output.folder import OutputFolder, OutputLayout
from mergesafe.checkpoint.views.stored import whole_of
from mergesafe.checkpoint.views.view import digest_of_view
from mergesafe.dtypes import SIZES
from mergesafe.engine.digests import FACTORS, OUTPUT, SCALES, Digests
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.version import __version__

MANIFEST_NAME: Final = "mergesafe-manifest.json"
FORMAT: Final = 1
#: Keys of the digests of what views read as a whole, by their names of it.
_COMPANIONS: Final = {"A": "lora_A", "B": "lora_B", "scale": "scale"}


def manifest_text(
    plan: MergePlan,
    digests: Digests,
    folder: OutputFolder,
    *,
    backend: str,
    on_nonfinite: str,
    inputs: dict[str, Any],
    warnings: Sequence[str] = (),
) -> str:
    """The manifest of a finished merge whose shards and companions were written to ``folder``.

    ``inputs``: size and header of every input file. ``warnings``: those of the plan and of the
    merge itself.
    """
    _complete(plan, digests, folder)
    files = dict(sorted(folder.companions.items()))
    if plan.layout.index is not None:
        files[INDEX_NAME] = _sha256(plan.layout.index.encode())
    content = {
        "format": FORMAT,
        "mergesafe_version": __version__,
        "backend": backend,
        "recipe": plan.recipe.text,
        "merge_method": plan.recipe.method_names,
        **({"method_files": plan.method_files} if plan.method_files else {}),
        "exactness": plan.exactness,
        "seed": plan.seed if plan.random else None,
        "on_nonfinite": on_nonfinite,
        "warnings": list(warnings),
        "notes": list(plan.notes),
        "digest": ALGORITHM,
        "files_sha256": files,
        "inputs": inputs,
        "shards": describe_shards(plan.layout),
        "tensors": {
            name: entry
            for tasks in plan.outputs.values()
            for name, entry in _entries(plan, tasks[0], digests)
        },
    }
    return encoded(content)


def encoded(content: Mapping[str, Any]) -> str:
    """A manifest as it is written."""
    # json.dumps with an indent takes a second for 14,000 tensors
    try:
        data = msgspec.json.encode(content)
    except UnicodeEncodeError:
        data = msgspec.json.encode(_spelt(content))
    return msgspec.json.format(data, indent=1).decode() + "\n"


def _spelt(value: Any) -> Any:
    """With escapes for halves of surrogate pairs, which names that strangers gave may hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_spelt(key): _spelt(each) for key, each in value.items()}
    return [_spelt(each) for each in value] if isinstance(value, list | tuple) else value


def describe_shards(layout: OutputLayout) -> dict[str, dict[str, Any]]:
    """Size and digest of the header of every shard of the output."""
    return {
        shard.name: {"size": shard.size, "header_sha256": _sha256(shard.header)}
        for shard in layout.shards
    }


def _complete(plan: MergePlan, digests: Digests, folder: OutputFolder) -> None:
    """Read once more the tensors of which some part does not begin with a block of the digest:
    digests of their parts do not add up. Experts of real models do begin so.
    """
    with Reader() as reader:
        for tasks in plan.outputs.values():
            task = tasks[0]
            if task.encoding is not None:
                place = plan.placement(task, 1)
                written = partial(folder.pread, place.shard)
                nbytes = task.outputs[1].nbytes
                digests.replace(task, SCALES, digest_of_range(written, place.offset, nbytes))
            if task.factors is not None:
                for part, (key, output) in enumerate(zip(FACTORS, task.outputs, strict=True)):
                    place = plan.placement(task, part)
                    written = partial(folder.pread, place.shard)
                    digest = digest_of_range(written, place.offset, output.nbytes)
                    digests.replace(task, key, digest)
            if all(map(_whole_blocks, tasks)):
                continue
            assert task.part is not None  # a whole tensor begins with its first block
            place = plan.placement(task)
            written = partial(folder.pread, place.shard)
            nbytes = SIZES[task.out_dtype] * prod(task.part.shape)
            digests.replace(task, OUTPUT, digest_of_range(written, place.offset, nbytes))
            for index, source in enumerate(task.sources):
                view = whole_of(source.view, task.part.begin, task.part.shape)
                digests.replace(task, str(index), digest_of_view(reader, view))


def _whole_blocks(task: TensorTask) -> bool:
    sizes = {SIZES[task.out_dtype], *(source.view.stored_size for source in task.sources)}
    return all(task.begin * size % BLOCK == 0 for size in sizes)


def describe_tensors(plan: MergePlan) -> dict[str, dict[str, Any]]:
    """How every output tensor is made: what the manifest says of it but for the digests."""
    tasks = (each[0] for each in plan.outputs.values())
    return {
        output.name: _described(plan, task, part)
        for task in tasks
        for part, output in enumerate(task.outputs if task.factors else task.outputs[:1])
    }


def _described(plan: MergePlan, task: TensorTask, part: int) -> dict[str, Any]:
    inputs: list[dict[str, Any]] = [
        {
            "model": source.model,
            "file": source.view.info.path.name,
            "tensor": source.view.info.name,
            **source.view.described(),
        }
        for source in task.sources
    ]
    scales = [each.scale for each in task.context.adapters if each is not None]
    for number, entry in enumerate(inputs[len(task.members) :]):
        if scales:  # of A and B
            entry["factor_scale"] = scales[number // 2]
    return {
        "file": plan.layout.shards[plan.placement(task, part).shard].name,
        "dtype": task.out_dtype,
        "shape": list(task.outputs[part].shape),
        "inputs": inputs,
    }


def _entries(
    plan: MergePlan, task: TensorTask, digests: Digests
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the manifest says of a tensor and of its scales, or of two factors."""
    if task.factors is not None:
        for part, (output, key) in enumerate(zip(task.outputs, FACTORS, strict=True)):
            yield output.name, _tensor(plan, task, digests, part, key)
        return
    yield task.stored, _tensor(plan, task, digests, 0, OUTPUT)
    for part, output in enumerate(task.outputs[1:], 1):
        yield (
            output.name,
            {
                "file": plan.layout.shards[plan.placement(task, part).shard].name,
                "dtype": output.dtype,
                "shape": list(output.shape),
                "digest": digests.text(task, SCALES),
                "inputs": [],
            },
        )


def _tensor(
    plan: MergePlan, task: TensorTask, digests: Digests, part: int, key: str
) -> dict[str, Any]:
    described = _described(plan, task, part)
    inputs = described.pop("inputs")
    for index, (entry, source) in enumerate(zip(inputs, task.sources, strict=True)):
        entry["digest"] = digests.text(task, str(index))
        for whole in source.view.companions:
            kind, lent, number = whole.partition(".")  # of another input that lends rows
            called = f"{_COMPANIONS[kind]} of input {number}" if lent else _COMPANIONS[kind]
            entry[called] = digests.text(task, f"{index}.{whole}")
    return {**described, "digest": digests.text(task, key), "inputs": inputs}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
