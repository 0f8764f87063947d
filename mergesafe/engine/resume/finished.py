"""Whether an output is there already: what ``--resume`` leaves as it is, and what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mergesafe.checkpoint.format.lora import CONFIG_NAME as ADAPTER_CONFIG_NAME
from mergesafe.checkpoint.format.model import CONFIG_NAME
from mergesafe.checkpoint.format.safetensors import HEADER_LIMIT
from mergesafe.checkpoint.places.location import Location, at, read_json_file
from mergesafe.engine.manifest import MANIFEST_NAME, describe_shards, describe_tensors
from mergesafe.engine.plan.chat_template import TEMPLATE_NAME
from mergesafe.engine.plan.companions import stored_reference
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.resume.unfinished import describe_inputs, input_files, input_states
from mergesafe.errors import CheckpointError, OutputError, UnreadableError
from mergesafe.outline.sources import stored_models
from mergesafe.untrusted import show
from mergesafe.version import __version__

#: What the manifest says of an input of a tensor, and what messages call it.
_OF_INPUTS: Final = {
    "file": "file",
    "tensor": "tensor",
    "lora_scale": "LoRA scale",
    "factor_scale": "LoRA scale",
}
_AGAIN: Final = "Merge with --overwrite to make it again, or give another folder."


def is_finished(plan: MergePlan, out: Location, on_nonfinite: str, *, overwrite: bool) -> bool:
    """Whether ``out`` holds the output of this plan, by its manifest, sizes, headers and times.

    Raises:
        OutputError: what is finished there is something else, or it was damaged, or an input was
            written to since; not with ``overwrite``, which replaces it.
        CheckpointError: an input or a file there cannot be asked.
    """
    manifest = _manifest(out)
    if manifest is None:
        return False
    why = next(_differences(plan, out, manifest, on_nonfinite), None)
    if why is None:
        return True
    if overwrite:
        return False
    raise OutputError(f"{out}: a merge is finished there, but {why}. {_AGAIN}")


def _manifest(out: Location) -> dict[str, Any] | None:
    path = out / MANIFEST_NAME
    if not at(path).exists():
        return None
    try:
        return read_json_file(path, HEADER_LIMIT)
    except UnreadableError:
        raise
    except CheckpointError:  # not one of ours: the folder is merely not empty
        return None


def _differences(
    plan: MergePlan, out: Location, manifest: dict[str, Any], on_nonfinite: str
) -> Iterator[str]:
    version = manifest.get("mergesafe_version")
    if version != __version__:
        yield f"it was made by mergesafe {show(version)}, this is {__version__}"
    if manifest.get("recipe") != plan.recipe.text:
        yield "the recipe has changed since that merge"
    if manifest.get("method_files", {}) != plan.method_files:
        yield f"the file of a merge method ({', '.join(plan.method_files)}) has changed since"
    if manifest.get("seed") != (plan.seed if plan.random else None):
        yield f"that merge had --seed {show(manifest.get('seed'))}"
    if manifest.get("on_nonfinite") != on_nonfinite:
        yield f"that merge had --on-nonfinite {show(manifest.get('on_nonfinite'))}"
    yield from _changed_inputs(plan, out, manifest.get("inputs"))
    yield from _changed_tensors(plan, manifest.get("tensors"))
    if json.dumps(manifest.get("shards")) != json.dumps(describe_shards(plan.layout)):
        yield "its shards are cut otherwise: that merge had another --max-shard-size"
    sizes = {shard.name: shard.size for shard in plan.layout.shards}
    files = manifest.get("files_sha256", {})
    if not isinstance(files, dict):
        yield "its manifest is damaged (files_sha256)"
        return
    template = plan.template.text
    if template is not None and files.get(TEMPLATE_NAME) != sha256(template.encode()).hexdigest():
        yield "the chat template that the recipe names has changed since"
    for name in (*sizes, *files):
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            yield f"its manifest names the file {show(name)} outside the folder"
        elif not at(out / name).exists():
            yield f"its {show(name)} is missing"
        elif name in sizes and (size := at(out / name).fingerprint()["size"]) != sizes[name]:
            yield f"its {name} has {size:,} bytes instead of {sizes[name]:,}"


def _changed_inputs(plan: MergePlan, out: Location, known: Any) -> Iterator[str]:
    for model, files in describe_inputs(plan, input_states(plan)).items():
        for name, state in files.items():
            if _in(_in(known, model), name) != state:
                yield f"the input {name} of {model} has another size or header than at that merge"
    if not isinstance(out, Path):
        return  # clocks of other machines are not compared
    finished = (out / MANIFEST_NAME).stat().st_mtime_ns
    reference = stored_reference(plan.reference)
    inputs = [*input_files(plan).values(), reference.checkpoint.path / CONFIG_NAME]
    inputs += [path for path, _ in plan.carried]
    inputs += [each.file for each in plan.built.others] if plan.built is not None else []
    adapters = [model.adapter for model in stored_models(plan.models) if model.adapter is not None]
    inputs += [adapter.path / ADAPTER_CONFIG_NAME for adapter in adapters]
    for path in inputs:
        if isinstance(path, Path) and at(path).exists() and _written_after(path, finished):
            yield f"the input {path} was written to after it"


def _written_after(path: Path, finished: int) -> bool:
    """Whether a file was written to after that time. What is dated in the future was so before, as
    tools that keep times make it: there, the time of change tells, if that is not to come, too.
    """
    status, now = path.stat(), time.time_ns()
    if status.st_mtime_ns <= now:
        return status.st_mtime_ns > finished
    return finished < status.st_ctime_ns <= now


def _in(mapping: Any, key: str) -> Any:
    """The value of a key in what a manifest holds, which may be anything, or None."""
    return mapping.get(key) if isinstance(mapping, dict) else None


def _changed_tensors(plan: MergePlan, known: Any) -> Iterator[str]:
    """Tensors that the plan makes of other inputs or by another scale than the manifest says.

    What a manifest of an earlier version leaves out is not compared.
    """
    for name, wanted in describe_tensors(plan).items():
        before = known.get(name) if isinstance(known, dict) else None
        inputs = before.get("inputs") if isinstance(before, dict) else None
        if not isinstance(inputs, list):
            continue  # its shards are compared, which name every tensor
        if len(inputs) != len(wanted["inputs"]):
            yield f"its '{name}' is of {len(inputs)} inputs, not {len(wanted['inputs'])}"
            continue
        for was, now in zip(inputs, wanted["inputs"], strict=True):
            yield from _changed_input(name, was if isinstance(was, dict) else {}, now)


def _changed_input(name: str, was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    if ("lora_A" in was) != ("lora_scale" in now):
        has = "no adapter changed" if "lora_scale" in now else "an adapter changed"
        yield f"in that merge, {has} '{name}' of {now['model']}"
    for key, what in _OF_INPUTS.items():
        if key in was and key in now and was[key] != now[key]:
            yield f"its '{name}' was made with the {what} {show(was[key])} of {now['model']}"
