"""``tune``: what the command line and ``import mergesafe`` call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from mergesafe.engine.cluster.connection import address_of
from mergesafe.engine.memory import budget_of
from mergesafe.errors import OutputError
from mergesafe.journal import Journal, is_left
from mergesafe.log_lines import LogLines
from mergesafe.outputs import check_outputs
from mergesafe.recipe.load import RecipeSource
from mergesafe.recipe.relocated import relocated
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.results.header import header
from mergesafe.tune.results.result import TuneResult
from mergesafe.tune.results.tuned import rounded, tuned_text
from mergesafe.tune.search.problem import OnProgress
from mergesafe.tune.search.remote_model import device_on_ray, on_ray
from mergesafe.tune.search.solve import Run, without_search
from mergesafe.tune.search.trajectory import TUNE, Trajectory
from mergesafe.tune.setup import TuningSetup, check_explainable, files_read, prepare
from mergesafe.whole_file import write_whole


def tune(
    recipe: RecipeSource,
    out: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory: str | int | None = None,
    seed: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    explain: bool = False,
    allow_token_mismatch: bool = False,
    ray: bool | str | None = None,
    progress: OnProgress | bool | None = None,
    on_warnings: Callable[[Sequence[str]], None] | None = None,
) -> TuneResult:
    """Find coefficients as the section ``tune`` of ``recipe`` says; write them to ``out``.

    With ``search: none`` these are where a search would start, and no model is run.

    Every evaluation is recorded in a hidden file beside ``out`` until the run is finished. With the
    same recipe, data, seed, device and thread count, a run that was killed and resumed takes the
    same way to the same file as one that was not.

    Args:
        recipe: path of a YAML recipe with a section ``tune``, or the same as a mapping.
        out: the file of the tuned recipe, which :func:`merge` and mergekit read.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` takes a GPU where there is one.
        dtype: of the multiplications: ``auto``, ``float32`` or ``bfloat16``.
        memory: bytes for the inputs of the merge, as a number or text such as ``"8GiB"``.
        seed: in place of the section's.
        resume: go on with the unfinished run of the same recipe; begin where there is none.
        overwrite: replace ``out`` if it exists, and forget an unfinished run unless ``resume`` is
            set.
        ray: compute candidates, and shares of a step's examples, on the Ray cluster at this
            address; True for this machine through Ray. ``memory`` is then that of one worker, and
            of this process, which generates the answers that constraints are judged by; a GPU is
            used where ``device`` is ``cuda``.
        explain: also find which model and layer the safety loss is to be blamed on.
        allow_token_mismatch: as for :func:`merge`.
        progress: True prints a line now and then; or a function of every step of a search.
        on_warnings: called before the search, with what is known by then of the result's warnings.

    Raises:
        RecipeError, DataError: the section or the data are wrong: file and line.
        TuningError: a search cannot tune this merge; names those that can.
        OutputError: ``out`` exists, is a file that the run reads, or cannot be written; or an
            earlier run did not finish.
        ClusterError: there is no Ray cluster, or its workers died again and again.
    """
    target = Path(out)
    _check_target(target, overwrite, resume)
    check_outputs({"-o": (target, None)}, files_read(recipe))
    budget = budget_of(memory)  # refused before data and models are read
    address = address_of(ray)
    setup = prepare(recipe, seed, allow_token_mismatch=allow_token_mismatch)
    if explain:
        check_explainable(setup)
    if on_warnings is not None:
        on_warnings(setup.warnings)
    setup = setup.with_statistics(budget)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(journal_path(target), TUNE))
        if not setup.section.searches:
            x = rounded(setup.space, setup.start)
            result = without_search(setup, x, target)
            _write(setup, x, result)
            journal.remove()  # of an earlier run, which this one replaces
            return result
        pool = None
        if address is not None:  # first of all: models take minutes to load
            pool = stack.enter_context(
                on_ray(address, setup.plan, setup.space, memory=memory, device=device, dtype=dtype)
            )
        merged = stack.enter_context(
            MergedModel(
                setup.plan, setup.space, memory=memory, dtype=dtype,
                device="auto" if pool is not None and device == "cuda" else device,
            )
        )  # fmt: skip
        subject = setup.subject(
            explain=explain, device=str(merged.device), dtype=str(merged.dtype),
            threads=torch.get_num_threads(),
        )  # fmt: skip
        if pool is not None:
            subject["ray"] = {"device": device_on_ray(device), "threads": pool.threads}
        trajectory = Trajectory(journal, subject, resume=resume)
        run = Run(setup, merged, trajectory, _watched(progress), pool)
        blamed = run.explain() if explain else None
        found = run.solve()
        result = run.result(found, target, blamed)
        _write(setup, found.x, result)
        journal.remove()  # finished: nothing is left to resume
    return result


def _write(setup: TuningSetup, x: torch.Tensor, result: TuneResult) -> None:
    there = relocated(setup.recipe, result.out.absolute().parent)
    text = tuned_text(there, setup.space, x, header(setup, result))
    write_whole(result.out, text, "The run is kept: free space and go on with --resume")


def journal_path(out: Path) -> Path:
    """Where the journal of a run that writes ``out`` lies until it is finished."""
    return out.with_name(f".{out.name}.tuning")


def _check_target(out: Path, overwrite: bool, resume: bool) -> None:
    if out.is_dir():
        raise OutputError(f"{out} is a folder; expected the file of the tuned recipe")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another file, or --overwrite to replace it")
    if not out.absolute().parent.is_dir():
        raise OutputError(f"{out.absolute().parent}: there is no such folder; make it first")
    try:
        unfinished = is_left(journal_path(out), TUNE)
    except OSError as error:  # a name that is too long, say
        raise OutputError(
            f"{out}: no journal of the run can lie beside it ({error.strerror}); choose "
            "another name"
        ) from None
    if unfinished and not (resume or overwrite):
        raise OutputError(
            f"{out}: an earlier run did not finish; go on from where it was with --resume, or "
            f"start anew with --overwrite (what it computed is in {journal_path(out).name})"
        )


def _watched(progress: OnProgress | bool | None) -> OnProgress | None:
    """What is called after every step."""
    if progress is True:
        lines = LogLines()
        return lambda moment: moment.show(lines)
    return progress or None
