"""Writes the model with its new tokenizer: all or nothing, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Final

from mergesafe.architecture.tying import untied
from mergesafe.checkpoint.format.digest import BLOCK, add, digest_of, digest_of_range
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.output.companions import (
    carry_over,
    check_companions,
    companions,
    missing_companions,
    remote_code_warning,
    states_of,
)
from mergesafe.checkpoint.output.folder import OutputFolder, OutputTensor, plan_layout
from mergesafe.checkpoint.views.rows import Fill, Rows
from mergesafe.checkpoint.views.stored import Stored, part_of
from mergesafe.checkpoint.views.view import Room
from mergesafe.dtypes import SIZES
from mergesafe.engine.manifest import MANIFEST_NAME
from mergesafe.engine.plan.output_config import output_config
from mergesafe.outline.sources import Model
from mergesafe.private import Place
from mergesafe.tokenizer.special import chat_template, special_settings
from mergesafe.transplant.job import Transplant
from mergesafe.transplant.manifest import manifest_text
from mergesafe.transplant.new_rows import Work
from mergesafe.transplant.stored_rows import StoredRows
from mergesafe.transplant.stored_rows import encoded as encoded_rows
from mergesafe.transplant.tables import Table, new_shape, runs_of
from mergesafe.transplant.unfinished import Unfinished
from mergesafe.version import __version__

#: Bytes that are copied at a time.
_PIECE: Final = 512 * BLOCK
#: What rows hold that are neither copied nor made, by method.
_FILL: Final[dict[str, Fill]] = {"omp": "zero", "zero": "zero", "mean": "mean", "subword": "mean"}


class Output:
    """The folder to be, planned: every byte's place is known.

    Raises:
        CheckpointError: a file beside the weights would keep the output from loading.
    """

    def __init__(
        self, job: Transplant, target: Path, shard: int, *, overwrite: bool, resume: bool
    ) -> None:
        self._job, self._resume = job, resume
        model, tensors = job.model.checkpoint, job.model.checkpoint.tensors
        rows, count = job.tables.rows, job.alignment.count
        planned = [
            OutputTensor(
                name, info.dtype,
                new_shape(info, rows, count) if name in job.tables.names else info.shape,
            )
            for name, info in tensors.items()
        ]  # fmt: skip
        self._tensors = {each.name: each for each in planned}
        self.layout = plan_layout(planned, shard, {"mergesafe_version": __version__})
        self._carried = list(companions((model.path,), (job.donor.checkpoint.path,)))
        check_companions(self._carried)
        self._config = self._new_config()
        self.warnings = [*job.alignment.warnings, *self._config.warnings]
        self.warnings += missing_companions(
            self._config.config, model.path, [name for _, name in self._carried],
            job.donor.checkpoint.path,
        )  # fmt: skip
        if (code := remote_code_warning(self._config.config)) is not None:
            self.warnings.append(code)
        self.notes = list(self._config.notes)
        if (template := _template_note(job.model, job.donor)) is not None:
            self.notes.append(template)
        if left := len(job.alignment.new) - len(job.makeable):
            how = "zeros" if _FILL[job.method] == "zero" else "the mean of all rows"
            why = "no row in the donor's embedding" if job.method == "omp" else "no known pieces"
            self.warnings.append(f"{left:,} tokens have {why}: their rows are {how}")
        places = [each for m in (job.model, job.donor)
                  for each in (m.checkpoint.path, *m.checkpoint.shards)]  # fmt: skip
        self._folder = OutputFolder(
            target, self.layout, overwrite=overwrite,
            protect=[each for each in places if isinstance(each, Path)],
            resume=self._look if resume else None,
        )  # fmt: skip
        self._unfinished = Unfinished(
            self._folder.path, job.subject(self.layout), len(job.tables.found), job.makeable
        )

    def _look(self, place: Place) -> bool:
        return self._unfinished.look(place)

    @property
    def path(self) -> Path:
        """The folder that is made."""
        return self._folder.path

    def write(
        self,
        reader: Reader,
        budget: int,
        threads: int,
        progress: Callable[[str, int, int], None],
    ) -> None:
        """Write everything and put the folder in its place.

        Raises:
            MergesafeError: an input or the output is wrong; nothing is left.
        """
        job, states = self._job, states_of(self._carried)
        with self._folder, ExitStack() as stack:
            self._folder.keep = self._resume
            read = self._rows if self._folder.resumed else None
            stack.enter_context(self._unfinished.begin(self._folder.journal, read))
            stack.enter_context(self._keeping())
            others = [name for name in self._tensors if name not in job.tables.names]
            with ThreadPoolExecutor(min(threads, max(1, budget // (4 * _PIECE)))) as pool:
                digests = dict(
                    zip(others, pool.map(partial(self._copy, reader), others), strict=True)
                )
            work = Work(reader, budget, threads)
            for number, table in enumerate(job.tables.found):
                if number not in self._unfinished.gathered:
                    self._gather(table, reader, budget)
                    self._folder.sync()
                    self._unfinished.note_gathered(number)
                for ids, rows in job.made(table, work, self._unfinished.made.get(number, set())):
                    data = encoded_rows(rows, ids, table.info)
                    self._put(table, ids.tolist(), data)
                    self._unfinished.note_made(number, ids.tolist(), data)
                    progress("rows made", self._unfinished.count, job.count)
                for name in table.names:
                    digests[name] = self._digest(name)
            reader.check_unchanged()
            carry_over(
                self._folder, self._carried, config=self._config.config,
                generation=self._config.generation, states=states,
            )  # fmt: skip
            manifest = manifest_text(
                job, self.layout, self._folder.companions, self._tensors, digests,
                warnings=self.warnings, notes=self.notes,
            )  # fmt: skip
            self._folder.add_file(MANIFEST_NAME, manifest)
            self._folder.commit()

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """What is made is kept where the block fails, unless an input was wrong."""
        try:
            yield
        except BaseException as error:
            self._folder.keep |= self._unfinished.explain(error, self._job.count)
            raise

    def _new_config(self) -> Any:
        """config.json and generation_config.json, whose sizes and ids follow the tokenizer."""
        job, config = self._job, self._job.model.checkpoint.config
        found = output_config(
            config, job.model, job.donor, job.vocabulary, dtype=None, dtypes=(),
            rows=job.alignment.count, quantization=config.get("quantization_config"),
            move=job.alignment.move,
        )  # fmt: skip
        if job.tables.own_head and job.model.checkpoint.tied:
            found.config = untied(found.config)
            found.notes.append(
                "the output head differs from the input embedding although config.json ties the "
                "two, so the new config.json says tie_word_embeddings: false"
            )
        return found

    def _copy(self, reader: Reader, name: str) -> int:
        """Copy a tensor as it is stored; its digest."""
        info, place = self._job.model.checkpoint.tensors[name], self.layout.placements[name]
        buffer, total = bytearray(min(_PIECE, info.nbytes)), 0
        for begin in range(0, info.nbytes, _PIECE):
            view = memoryview(buffer)[: min(_PIECE, info.nbytes - begin)]
            reader.read_into(info, begin, view)
            total = add(total, digest_of(view, begin // BLOCK))
            self._folder.pwrite(place.shard, place.offset + begin, view)
        return total

    def _gather(self, table: Table, reader: Reader, budget: int) -> None:
        """Write the rows that are copied, and the rule's filling in place of all others."""
        job = self._job
        fill: Fill = "zero" if table.kind == "bias" else _FILL[job.method]
        if fill == "mean":
            import numpy as np

            StoredRows(table.info, np.arange(job.tables.rows), reader, resident=False)
        rows = job.tables.rows
        stored = Stored(table.info)
        shape = (rows, *(() if table.kind == "bias" else table.info.shape[1:]))
        view = Rows(
            part_of(stored, 0, shape), runs_of(job.alignment.kept), job.alignment.count, fill
        )
        size = SIZES[table.info.dtype]
        tile = max(1, min(view.numel, _PIECE // size, budget // 4 // size))
        opened = view.open(Room(reader, tile))
        for begin in range(0, view.numel, tile):
            _, data = opened.fetch(begin, min(tile, view.numel - begin))
            for name in table.names:
                place = self.layout.placements[name]
                self._folder.pwrite(place.shard, place.offset + begin * size, data)

    def _put(self, table: Table, ids: list[int], data: memoryview) -> None:
        width = len(data) // max(1, len(ids))
        for name in table.names:
            place = self.layout.placements[name]
            for number, index in enumerate(ids):
                row = data[number * width : (number + 1) * width]
                self._folder.pwrite(place.shard, place.offset + index * width, row)

    def _rows(self, number: int, ids: list[int]) -> list[bytes]:
        """Rows of a table as they are written, in each of its tensors."""
        found = []
        for name in self._job.tables.found[number].names:
            place, tensor = self.layout.placements[name], self._tensors[name]
            width = prod(tensor.shape[1:]) * SIZES[tensor.dtype]
            data = bytearray(len(ids) * width)
            for row, index in enumerate(ids):
                view = memoryview(data)[row * width : (row + 1) * width]
                self._folder.pread(place.shard, place.offset + index * width, view)
            found.append(bytes(data))
        return found

    def _digest(self, name: str) -> int:
        place, tensor = self.layout.placements[name], self._tensors[name]
        nbytes = prod(tensor.shape) * SIZES[tensor.dtype]
        return digest_of_range(partial(self._folder.pread, place.shard), place.offset, nbytes)


def _template_note(model: Model, donor: Model) -> str | None:
    """What to say where the donor's chat template is not that which the model knows."""
    ours, theirs = (
        chat_template(each.checkpoint.path, special_settings(each.checkpoint.path))
        for each in (model, donor)
    )
    if ours is None or ours == theirs:
        return None
    takes = "another one" if theirs is not None else "none: no program can chat with it"
    return (
        f"{model.text} has a chat template; the new model takes that of {donor.text}, which has "
        f"{takes}. Copy the template of {model.text} beside the weights if the tokenizer has its "
        "special tokens"
    )
