"""What is to be done, and what its result depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.output.layout import OutputLayout
from mergesafe.engine.resume.unfinished import state_of
from mergesafe.journal import Line
from mergesafe.outline.sources import Model
from mergesafe.transplant.alignment import Alignment
from mergesafe.transplant.new_rows import Made, Work, joined, pursued
from mergesafe.transplant.tables import Kind, Table, Tables
from mergesafe.version import __version__


@dataclass(frozen=True)
class Transplant:
    """What is to be done. ``donors``: the donor's tables, by kind. ``pieces``: of tokens that
    method ``subword`` makes. ``vocabulary``: the donor's tokens and ids.
    """

    model: Model
    donor: Model
    tables: Tables
    donors: Mapping[Kind, TensorInfo]
    alignment: Alignment
    method: str
    k: int
    pieces: Mapping[int, list[int]] | None
    vocabulary: Mapping[str, int]

    @cached_property
    def makeable(self) -> tuple[int, ...]:
        """The new tokens that the method has something to make rows of, by id."""
        new = sorted(self.alignment.new)
        if self.method == "omp":
            rows = min(info.shape[0] for info in self.donors.values())
            return tuple(each for each in new if each < rows)
        return tuple(each for each in new if self.pieces is None or each in self.pieces)

    @property
    def count(self) -> int:
        """How many rows are computed, in all tables."""
        if self.method not in ("omp", "subword"):
            return 0
        return len(self.makeable) * sum(table.kind != "bias" for table in self.tables.found)

    def made(self, table: Table, work: Work, finished: Set[int]) -> Iterator[Made]:
        """The rows of a table that are computed, but for those of ``finished`` tokens."""
        left = [each for each in self.makeable if each not in finished]
        if table.kind == "bias" or self.method not in ("omp", "subword"):
            return iter(())
        if self.method == "subword":
            assert self.pieces is not None  # the method has them
            return joined(work, table.info, {each: self.pieces[each] for each in left})
        donor = self.donors[table.kind]
        shared = {t: o for t, o in self.alignment.kept.items() if t < donor.shape[0]}
        return pursued(work, table.info, donor, shared, left, self.k)

    def subject(self, layout: OutputLayout) -> Line:
        """What rows depend on, as plain data: a run that is resumed has the same."""
        states: dict[str, object] = {}
        for text, info in self.read():
            states.setdefault(f"{text}: {info.path.name}", state_of(info))
        tokens = [sorted(self.alignment.kept.items()), sorted((self.pieces or {}).items())]
        return {
            "the version of mergesafe": __version__,
            "--method or --k": [self.method, self.k if self.method == "omp" else None],
            "the models": states,
            "the tokenizers": sha256(repr([tokens, self.makeable]).encode()).hexdigest(),
            "--max-shard-size (or what it makes of the shards)": sha256(
                b"".join(shard.header for shard in layout.shards)
            ).hexdigest(),
        }

    def read(self) -> Iterator[tuple[str, TensorInfo]]:
        """A tensor of every file that is read, with what its model is called."""
        ours = ((self.model.text, info) for info in self.model.checkpoint.tensors.values())
        theirs = ((self.donor.text, info) for info in self.donors.values())
        seen = set()
        for text, info in (*ours, *theirs):
            if (text, info.path) not in seen:
                seen.add((text, info.path))
                yield text, info
