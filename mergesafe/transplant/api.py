"""``transplant_tokenizer``: what the command line and ``import mergesafe`` call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

from mergesafe.checkpoint.format.model import CONFIG_LIMIT, CONFIG_NAME, Checkpoint, open_checkpoint
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.places.locate import locate
from mergesafe.checkpoint.places.location import at, read_json_file
from mergesafe.engine.api import thread_count
from mergesafe.engine.memory import budget_of, parse_size
from mergesafe.errors import ArgumentError, CheckpointError, did_you_mean
from mergesafe.log_lines import counted
from mergesafe.outline.sources import Model
from mergesafe.recipe.model_reader import parse_reference
from mergesafe.references import is_url, local_path, redact
from mergesafe.tokenizer.compare import tokenizer_files
from mergesafe.tokenizer.token_bytes import read_tokens
from mergesafe.transplant.alignment import Special, align
from mergesafe.transplant.tables import donor_table, tables_of

if TYPE_CHECKING:
    from mergesafe.transplant.tables import Kind

Method = Literal["omp", "mean", "subword", "zero"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
#: mergekit's default.
DEFAULT_K: Final = 64
MAX_K: Final = 4096
#: Called with what is done, how much, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TransplantResult:
    """What was done. ``tokens`` are the donor's: ``copied`` with rows of the model, ``made`` by the
    method, ``filled`` by its rule for tokens that it cannot make. ``rows``: of the new embedding.
    ``special``: the donor's special tokens, each with the token of the model whose row it took.
    """

    path: Path
    method: str
    tokens: int
    rows: int
    copied: int
    made: int
    filled: int
    special: tuple[Special, ...]
    tensors: int
    bytes_written: int
    seconds: float
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def transplant_tokenizer(
    model: str | Path,
    donor: str | Path,
    out: str | Path,
    *,
    method: str = "omp",
    k: int = DEFAULT_K,
    memory: str | int | None = None,
    threads: int | None = None,
    max_shard_size: str | int = "5GB",
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | bool | None = None,
) -> TransplantResult:
    """Write ``model`` with the tokenizer of ``donor`` into the folder ``out``.

    Rows of the embedding, and of a head that is not tied to it, are copied for tokens that both
    have; ``method`` makes those of the others. All other tensors are copied byte for byte. The
    folder appears complete or not at all, and its bytes depend on neither memory nor threads.

    Args:
        model: a folder, Hub id or URL of a model.
        donor: one whose tokenizer is taken; its weights are read by ``omp`` alone.
        method: ``omp``: the donor's row as a sum of ``k`` of its rows of tokens that both have, by
            orthogonal matching pursuit (https://arxiv.org/abs/2506.06607), and the same sum of the
            model's rows. ``subword``: the mean of the model's rows of the pieces into which its
            tokenizer splits the token. ``mean``: the mean of all rows. ``zero``: zeros.
        memory: bytes for rows and buffers, as a number or text such as ``"2GiB"``; default 4 GiB or
            half of the available memory. The process needs a fixed amount more.
        threads: default: the processors this process may use.
        resume: continue an unfinished run of the same models and options into ``out``.

    Raises:
        MergesafeError: a model, a tokenizer or the output is wrong. Rows that are made stay in a
            hidden folder beside ``out``, for ``resume``, where the inputs are not the reason.
    """
    started = time.perf_counter()
    if method not in METHODS:
        raise ArgumentError(f"--method {method}: unknown choice{did_you_mean(method, METHODS)}")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise ArgumentError(f"--k {k!r}: expected a whole number from 1 to {MAX_K:,}")
    budget, workers = budget_of(memory), thread_count(threads)
    shard = parse_size(max_shard_size, "--max-shard-size")
    target = local_path(str(out))
    if is_url(target):
        raise ArgumentError(f"{redact(target)}: give a local folder, and upload it afterwards.")
    ours, theirs = _opened(str(model), True), _opened(str(donor), method == "omp")
    tables = tables_of(ours.checkpoint)
    donors = {kind: donor_table(theirs.checkpoint, kind) for kind in _kinds(method)}
    files = tokenizer_files(ours.checkpoint.path)
    own, other = read_tokens(files), read_tokens(tokenizer_files(theirs.checkpoint.path))
    alignment = align(own, other, tables.rows, ours.text)

    # Each imports numpy and torch, which what may be wrong up to here does not need.
    from mergesafe.transplant.job import Transplant
    from mergesafe.transplant.output import Output
    from mergesafe.transplant.pieces import pieces_of

    pieces = None
    if method == "subword":
        pieces = pieces_of(alignment.new, other, files, own, tables.rows)
    job = Transplant(ours, theirs, tables, donors, alignment, method, k, pieces, other.ids)
    with Reader() as reader:
        output = Output(job, Path(target), shard, overwrite=overwrite, resume=resume)
        output.write(reader, budget, workers, counted(progress))
    made = len(job.makeable)
    return TransplantResult(
        path=output.path, method=method, tokens=len(other.ids), rows=alignment.count,
        copied=len(alignment.kept), made=made, filled=len(alignment.new) - made,
        special=alignment.special, tensors=len(ours.checkpoint.tensors),
        bytes_written=output.layout.file_bytes, seconds=time.perf_counter() - started,
        warnings=tuple(output.warnings), notes=tuple(output.notes),
    )  # fmt: skip


def _kinds(method: str) -> Sequence[Kind]:
    return ("embedding", "head") if method == "omp" else ()


def _opened(text: str, weights: bool) -> Model:
    """A model; without ``weights`` its configuration alone."""
    ref = parse_reference(text, Path())
    if ref.adapter is not None:
        raise ArgumentError(
            f"{ref.text}: an adapter changes no tokenizer; merge it into its model first: "
            f"mergesafe merge with merge_method: passthrough and models: [{ref.text}]"
        )
    place = locate(ref.resolve(Path())[0])
    if weights:
        return Model(ref, open_checkpoint(place), None)
    if not at(place).is_dir():
        raise CheckpointError(
            f"{place}: no such folder, expected one that holds a tokenizer. Check the spelling."
        )
    config = place / CONFIG_NAME
    found = read_json_file(config, CONFIG_LIMIT) if at(config).exists() else {}
    return Model(ref, Checkpoint(place, {}, found, ()), None)
