"""What ``--resume`` may continue: the same recipe, inputs, options and version, checked."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from mergesafe.checkpoint.format.digest import BLOCK, add, digest_of
from mergesafe.checkpoint.format.safetensors import TensorInfo, header_sha256
from mergesafe.checkpoint.output.folder import OutputFolder
from mergesafe.checkpoint.places.location import Location, at
from mergesafe.dtypes import SIZES
from mergesafe.engine.digests import OUTPUT, SCALES
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.merged_view import inner_tasks, stored_infos
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.resume.entries import MERGE, Finished, Statistics, Tile, finished_of
from mergesafe.errors import UnreadableError
from mergesafe.journal import Journal, Line
from mergesafe.private import Place
from mergesafe.untrusted import reason
from mergesafe.version import __version__

_PIECE: Final = 512 * BLOCK
#: What an option is called that stands for the paired tensors of all inputs.
TENSORS: Final = "what is read and written for each tensor (adapter_config.json counts too)"


def subject_of(plan: MergePlan, on_nonfinite: str) -> Line:
    """Everything that the output's bytes depend on, as plain data.

    An input file counts as unchanged when its header is, and its size and time of modification, or
    what else tells one content from another where it lies.
    """
    layout = hashlib.sha256()
    for shard in plan.layout.shards:
        layout.update(shard.header)
    parts = hashlib.sha256()
    for task in plan.tasks:
        if task.part is not None:
            parts.update(f"{task.stored}\0{task.name}\0{task.begin}\0".encode())
    return {
        "mergesafe_version": __version__,
        "recipe": hashlib.sha256(plan.recipe.text.encode()).hexdigest(),
        "options": {
            "--seed": plan.seed,
            "--on-nonfinite": on_nonfinite,
            "--max-shard-size (or what it makes of the shards)": layout.hexdigest(),
            "how experts are stored (by the model_type in config.json)": parts.hexdigest(),
            TENSORS: _tensors_digest(plan),
            **{
                f"the file of the merge method '{name}' (its SHA-256)": digest
                for name, digest in plan.method_files.items()
            },
        },
        "inputs": input_states(plan),
    }


def _tensors_digest(plan: MergePlan) -> str:
    """A digest of how every output tensor is made. Names of inputs are paired by their
    configuration and adapters are scaled by theirs, so headers alone do not tell it.
    """
    digest = hashlib.sha256()
    for task in plan.tasks:
        line: list[object] = [
            task.stored, task.name, task.copied, task.cast, task.out_dtype, task.used
        ]  # fmt: skip
        if task.context.adapters:
            line += task.context.adapters
        for source in task.sources:
            line += source.view.identity()
        digest.update(f"{line!r}\n".encode())
    return digest.hexdigest()


def input_files(plan: MergePlan) -> dict[tuple[str, str], Location]:
    """Every file that tensors are read from, by what the recipe calls its model and by name."""
    return {key: info.path for key, info in _by_file(plan).items()}


def _by_file(plan: MergePlan) -> dict[tuple[str, str], TensorInfo]:
    """One tensor of every such file."""
    found: dict[tuple[str, str], TensorInfo] = {}
    for task in inner_tasks(plan.tasks):
        for source in task.sources:
            for info in stored_infos(source.view):
                found[source.model, info.path.name] = info
    return found


def input_states(plan: MergePlan) -> dict[str, dict[str, Any]]:
    """What tells one content of an input file from another, by its path: for a local file as it was
    when its header was read, which reading compares with.
    """
    infos = {name_of(info.path): info for info in _by_file(plan).values()}
    return {name: state_of(infos[name]) for name in sorted(infos)}


def describe_inputs(plan: MergePlan, states: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Size and digest of the header of every input file, by model and name, for the manifest."""
    found: dict[str, dict[str, Any]] = {}
    for (model, name), path in sorted(input_files(plan).items(), key=lambda item: item[0]):
        state = states[name_of(path)]
        entry = {"size": state["size"], "header_sha256": state["header"]}
        found.setdefault(model, {})[name] = entry
    return found


def name_of(path: Location) -> str:
    """The same from every working directory."""
    return str(path.absolute() if isinstance(path, Path) else path)


def state_of(info: TensorInfo) -> dict[str, Any]:
    """What tells one content of the tensor's file from another, and the digest of its header."""
    seen = info.seen
    if seen is not None and seen.state is not None:
        state = seen.state
        return {"size": state.size, "mtime_ns": state.mtime_ns, "header": seen.header_sha256}
    with closing(at(info.path).open()) as file:
        try:
            header = header_sha256(file)
        except OSError as error:
            raise UnreadableError(
                f"{info.path}: cannot read the header ({reason(error)}). {file.advice}"
            ) from error
    return {**at(info.path).fingerprint(), "header": header}


def work_to_resume(journal: Place, subject: Line, target: Path) -> Finished | None:
    """The finished work that ``journal`` tells of, or None where there is none.

    Raises:
        OutputError: it is of another recipe, other inputs, options or another version.
    """
    with Journal(journal, MERGE) as file:
        found = file.read()
    if found is None:
        return None
    old = found.subject or {}
    if not isinstance(old.get("options"), dict) or not isinstance(old.get("inputs"), dict):
        raise MERGE.refusal(target, "its journal does not say what it is of")
    version = old.get("mergesafe_version")
    if version != subject["mergesafe_version"]:
        raise MERGE.refusal(target, f"it was begun by mergesafe {version}, this is {__version__}")
    if old.get("recipe") != subject["recipe"]:
        raise MERGE.refusal(target, "the recipe has changed since")
    for option, value in subject["options"].items():
        before = old["options"].get(option)
        if before != value:
            told = "" if option == TENSORS else f": it was {before!r}"
            raise MERGE.refusal(target, f"{option} has changed since{told}")
    for path, state in subject["inputs"].items():
        before = old["inputs"].get(path)
        if before is None:
            raise MERGE.refusal(target, f"the input {path} was not part of it")
        if not isinstance(before, dict):
            raise MERGE.refusal(target, f"its journal says nothing of the input {path}")
        if before != state:
            what = sorted(key for key in before | state if before.get(key) != state.get(key))
            raise MERGE.refusal(target, f"the input {path} has changed since ({', '.join(what)})")
    return finished_of(found.records)


def verified(
    plan: MergePlan, found: Finished, folder: OutputFolder, threads: int
) -> tuple[dict[int, list[Tile]], dict[int, Statistics]]:
    """The tiles whose bytes are what the journal says, disjoint and in order, by task."""
    tiles: dict[int, list[Tile]] = {}
    statistics = {task: each for task, each in found.statistics.items() if _known(plan, each)}
    with ThreadPoolExecutor(threads) as pool:
        for task, listed in found.tiles.items():
            candidates = [tile for tile in listed if _known(plan, tile)]
            good = pool.map(lambda tile: _intact(plan, tile, folder), candidates)
            end = 0
            kept = []
            intact = [tile for tile, whole in zip(candidates, good, strict=True) if whole]
            for tile in sorted(intact, key=lambda tile: tile.begin):
                if tile.begin >= end:
                    kept.append(tile)
                    end = tile.begin + tile.count
            if kept:
                tiles[task] = kept
    # Without its statistics, a tensor that needs them is merged again as a whole.
    for task in list(tiles):
        needs = plan.tasks[task].statistics and task not in statistics
        if needs and sum(tile.count for tile in tiles[task]) < plan.tasks[task].numel:
            del tiles[task]
    return tiles, statistics


def _known(plan: MergePlan, entry: Tile | Statistics) -> bool:
    """Whether the plan has what the entry tells of: a journal may be of anyone."""
    if not 0 <= entry.task < len(plan.tasks):
        return False
    task = plan.tasks[entry.task]
    inputs = range(len(task.sources))
    if not all(index in inputs for index in entry.nonfinite):
        return False
    if isinstance(entry, Statistics):
        return len(entry.answers) == len(task.statistics)
    outputs = {OUTPUT} if task.encoding is None else {OUTPUT, SCALES}
    parts = {*outputs, *map(str, inputs)}
    whole = {f"{i}.{part}" for i in inputs for part in task.sources[i].view.companions}
    inside = entry.begin >= 0 < entry.count and entry.begin + entry.count <= task.numel
    return inside and parts <= entry.digests.keys() <= parts | whole


def _scales_intact(plan: MergePlan, task: TensorTask, tile: Tile, folder: OutputFolder) -> bool:
    """Whether the scales of the tile's rows are what the journal says."""
    assert task.encoding is not None
    place, columns = plan.placement(task, 1), task.context.shape[-1]
    first, end = tile.begin // columns, -(-(tile.begin + tile.count) // columns)
    size = task.encoding.scale_bytes
    scales = memoryview(bytearray((end - first) * size))
    folder.pread(place.shard, place.offset + first * size, scales)
    return digest_of(scales) == tile.digests.get(SCALES)


def _intact(plan: MergePlan, tile: Tile, folder: OutputFolder) -> bool:
    task = plan.tasks[tile.task]
    if task.encoding is not None and not _scales_intact(plan, task, tile, folder):
        return False
    size = SIZES[task.out_dtype]
    place = plan.placement(task)
    first = task.begin * size  # in the output tensor, whose blocks digests are numbered by
    begin, end = tile.begin * size, (tile.begin + tile.count) * size
    buffer = bytearray(min(_PIECE, end - begin))
    total = 0
    for piece in range(begin, end, _PIECE):
        view = memoryview(buffer)[: min(_PIECE, end - piece)]
        folder.pread(place.shard, place.offset + piece, view)
        total = add(total, digest_of(view, (first + piece) // BLOCK))
    return total == tile.digests.get(OUTPUT)
