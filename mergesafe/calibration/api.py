"""``calibrate``: what the command line and ``import mergesafe`` call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.output.target_checks import resolve
from mergesafe.engine.memory import budget_of, parse_size
from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.log_lines import counted
from mergesafe.methods.spec import CALIBRATION_KINDS, CalibrationKind
from mergesafe.outline.provenance import identity_of
from mergesafe.outline.sources import Model, open_refs
from mergesafe.recipe.model import ModelRef
from mergesafe.recipe.model_reader import parse_reference
from mergesafe.version import __version__

if TYPE_CHECKING:
    from mergesafe.calibration.examples import Examples
    from mergesafe.calibration.task import Progress, Task

MAX_TOKENS: Final = 1024


@dataclass(frozen=True)
class CalibrateResult:
    """What was made. ``records`` and ``tokens`` are those that were used."""

    path: Path
    kind: str
    tensors: int
    bytes_written: int
    records: int
    tokens: int
    seconds: float
    warnings: tuple[str, ...] = ()


def calibrate(
    model: str,
    data: str | Path,
    out: str | Path,
    *,
    kind: CalibrationKind = "gram",
    memory: str | int | None = None,
    device: str = "auto",
    seed: int = 0,
    tokens: int = MAX_TOKENS,
    limit: int | None = None,
    max_shard_size: str | int = "5GB",
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | bool | None = None,
) -> CalibrateResult:
    """Make the numbers about a model that some merge methods need, for ``calibration`` of a recipe.

    The model's layers are in memory one at a time, in float32. The folder ``out`` appears complete
    or not at all.

    Args:
        model: a folder or Hub id, with ``+ADAPTER`` for a LoRA adapter: as in a recipe.
        data: JSON lines of conversations, as ``generate`` writes them.
        kind: ``gram`` for regmean and safe_delta, ``fisher`` for fisher, ``score`` for led; see
            :mod:`mergesafe.calibration.grams` and :mod:`mergesafe.calibration.gradients`.
        memory: bytes of weights, results and hidden states, as a number or text such as
            ``"2GiB"``; default 4 GiB or half of the available memory. The process needs a fixed
            amount more.
        device: ``auto`` takes the first GPU where there is one.
        seed: of the draw of ``limit`` records.
        tokens: longest record; the end of a longer answer is cut off.
        limit: how many records are used; default all.
        resume: continue an unfinished calibration of the same model and data into ``out``.
        progress: True prints a line now and then; or a function of what is
            done, how much, and of how much.

    Raises:
        MergesafeError: model, data, memory or output are wrong. Only finished tensors are kept, for
            ``resume``, and the message says so.
    """
    started = time.perf_counter()
    if kind not in CALIBRATION_KINDS:
        raise ArgumentError(f"--kind {kind}: unknown choice{did_you_mean(kind, CALIBRATION_KINDS)}")
    from mergesafe.calibration import gradients, grams

    with ExitStack() as stack:
        reader = stack.enter_context(Reader())
        opened, task = opened_task(
            model, Path(data), reader, target=Path(out), answers=kind != "gram", memory=memory,
            device=device, seed=seed, tokens=tokens, limit=limit, progress=progress,
        )  # fmt: skip
        warnings = list(task.examples.warnings)
        if kind == "gram":
            grams.check_memory(task)
            shapes = grams.shapes_of(task)
            warnings += grams.warnings_of(task, opened.text)
        else:
            gradients.check_memory(task)
            shapes = gradients.parameter_shapes(task)
        about = provenance(
            kind, opened, task.examples, reader, tokens=tokens, limit=limit, seed=seed
        )
        folder = stack.enter_context(
            folder_of(
                Path(out), shapes, about, parse_size(max_shard_size, "--max-shard-size"),
                [opened], task.examples, overwrite=overwrite, resume=resume,
            )
        )  # fmt: skip
        if kind == "gram":
            grams.make_grams(task, folder)
        else:
            gradients.Gradients(task, kind, folder).make()
        reader.check_unchanged()
        folder.commit(about)
    return CalibrateResult(
        resolve(Path(out)), kind, len(shapes), folder.total_bytes, len(task.examples.rows),
        task.examples.tokens, time.perf_counter() - started, tuple(warnings),
    )  # fmt: skip


def opened_task(
    reference: str | ModelRef, data: Path, reader: Reader, *, target: Path, answers: bool,
    memory: str | int | None, device: str, seed: int, tokens: int, limit: int | None,
    progress: Progress | bool | None, folder: Path = Path(),
) -> tuple[Model, Task]:  # fmt: skip
    """The model, and what is made from it; all that can be wrong without its weights is checked.

    Raises:
        MergesafeError: model, data, device or memory are wrong.
    """
    import torch

    from mergesafe.calibration.examples import read_examples
    from mergesafe.calibration.layers import Layered
    from mergesafe.calibration.parameters import StoredWeights
    from mergesafe.calibration.task import Task
    from mergesafe.chat.hf import HfModel

    budget = budget_of(memory)
    ref = parse_reference(reference, folder) if isinstance(reference, str) else reference
    chat = HfModel(ref, device=device, folder=folder)
    chat.check()
    [opened] = open_refs((chat.ref,), folder)
    name = "cuda" if device == "auto" and torch.cuda.is_available() else device
    layered = Layered(opened.checkpoint, torch.device("cpu" if name == "auto" else name))
    weights = StoredWeights(opened, reader)
    for parameter, shape in layered.shapes.items():
        weights.parts(parameter, shape)
    examples = read_examples(
        data, chat.tokenizer, layered.shapes[layered.embedding][0], answers=answers, tokens=tokens,
        limit=limit, seed=seed,
    )  # fmt: skip
    spill = next(each for each in resolve(target).parents if each.is_dir())
    task = Task(layered, weights, examples, budget, spill, counted(progress))
    return opened, task


def provenance(
    kind: str, model: Model, examples: Examples, reader: Reader, *, tokens: int,
    limit: int | None, seed: int, through: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What the folder says about itself; see :mod:`mergesafe.outline.provenance`."""
    return {
        "mergesafe": __version__,
        "kind": kind,
        "model": {"name": model.text, "identity": identity_of(model, reader)},
        "data": {
            "path": str(examples.path), "sha256": examples.digest,
            "records": len(examples.rows), "tokens": examples.tokens,
        },
        "options": {"tokens": tokens, "limit": limit, "seed": seed},
        **({} if through is None else {"through_merge": through}),
    }  # fmt: skip


def folder_of(
    out: Path, shapes: Mapping[str, tuple[int, ...]], about: Mapping[str, Any], shard: int,
    models: list[Model], examples: Examples, *, overwrite: bool, resume: bool,
) -> Any:  # fmt: skip
    """The folder to fill, which must not be one of the models.

    Raises:
        OutputError: it cannot be written.
    """
    from mergesafe.calibration.output import CalibrationFolder

    protect: list[Path] = [examples.path]
    for model in models:
        places = [model.checkpoint.path, *model.checkpoint.shards]
        places += [] if model.adapter is None else [model.adapter.path]
        protect += [place for place in places if isinstance(place, Path)]
    # What a path is called changes no number; the model is known by its content.
    subject = {
        "the version of mergesafe": about["mergesafe"],
        "--kind": about["kind"],
        "the model": about["model"]["identity"],
        "the data (its SHA-256)": about["data"]["sha256"],
        "--tokens, --limit or --seed": about["options"],
        "the recipe (its SHA-256)": about.get("through_merge"),
        "the tensors": {name: list(shape) for name, shape in shapes.items()},
        "the largest file": shard,
    }
    return CalibrationFolder(
        out, shapes, shard, subject, overwrite=overwrite, resume=resume, protect=protect
    )
