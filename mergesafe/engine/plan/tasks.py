"""One task of a plan: an output tensor, or a part of one, and all that it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal, TypeAlias

from mergesafe.checkpoint.output.encoding import RowScaled
from mergesafe.checkpoint.output.layout import OutputTensor
from mergesafe.dtypes import ENCODED_NAMES, SIZES
from mergesafe.methods.combinations import COMPILED_SCORES
from mergesafe.methods.driver import Planned
from mergesafe.methods.operations import Operations
from mergesafe.methods.spec import (
    Combination,
    KthScore,
    LowestTensors,
    MergeMethod,
    MergeTaskVectors,
    ModelKthMagnitude,
    ScoreThreshold,
    Settings,
    Statistic,
    TensorContext,
    TileFunction,
    Unit,
)
from mergesafe.outline.sources import Operand

#: Selection scratch per element and requested rank: one collected magnitude of four bytes for
#: every eighth element at most (csrc/cpu/kth.cpp), rounded up.
SELECT_BYTES_PER_RANK: Final = 0.5


#: A number of an expert, and k: the k-th largest magnitude of its task vector.
Rank: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SubTensor:
    """A range of elements of an output tensor that is merged like a tensor of its own.

    ``stored`` and ``shape``: name and shape of the output tensor. ``begin``: the first element.
    """

    stored: str
    shape: tuple[int, ...]
    begin: int


@dataclass(frozen=True, slots=True)
class FactorNames:
    """What the two tensors of a merged adapter are called that a task writes: A, and then B."""

    a: str
    b: str


@dataclass(frozen=True)
class TensorTask:
    """One output tensor, or a part of one: inputs, method, its parameters and where it goes.

    The sources of a part are the same part of the stored inputs. A task that writes ``factors`` of
    an adapter makes two tensors that lie one behind the other: its elements are those of A, then
    those of B.
    """

    context: TensorContext
    sources: tuple[Operand, ...]
    method: MergeMethod
    settings: Settings
    out_dtype: str
    cast: str | None
    copied: bool
    #: What the method asks for and returns in a dry run; None for what is copied.
    planned: Planned | None
    part: SubTensor | None = None
    #: How many of the sources, the last ones, are calibration of the inputs, or factors of
    #: adapters.
    beside: int = 0
    #: How many of the sources before those are of models that are read beside the inputs.
    references: int = 0
    factors: FactorNames | None = None
    #: Of the method's inputs those that are read (engine/plan/unused.py); None for all. Without a
    #: single one, the base is the only source.
    used: tuple[int, ...] | None = None
    #: The others: inputs that are not read.
    unread: tuple[Operand, ...] = ()
    #: What the recipe calls the method's inputs, in the order of the settings.
    inputs: tuple[str, ...] = ()
    #: The bits of what :attr:`model_ranks` ask for, once they are found.
    magnitudes: Mapping[Rank, int] = field(default_factory=dict)
    #: For each input whether the tensor is among the lowest, where :attr:`compared` asks for that
    #: and once it is found.
    lowest: tuple[bool, ...] = ()

    @property
    def name(self) -> str:
        """Unique in a plan: the output tensor's, or that of a part by itself."""
        return self.context.name

    @property
    def stored(self) -> str:
        """The output tensor that the task makes or is a part of."""
        return self.context.name if self.part is None else self.part.stored

    @property
    def begin(self) -> int:
        """The task's first element in the output tensor."""
        return 0 if self.part is None else self.part.begin

    def title(self, stored: str | None = None) -> str:
        """What messages call the tensor, or an input that is ``stored`` under that name."""
        whole = f"'{stored or self.stored}'"
        return whole if self.part is None else f"{whole} (expert '{self.name}')"

    @property
    def numel(self) -> int:
        return self.context.numel

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """What the method asks about the tensor, which is read for it."""
        return tuple(each for each in self._asked if each.about == "tensor")

    @property
    def model_ranks(self) -> frozenset[Rank]:
        """What the method asks about all tensors: (expert, k) of a k-th magnitude."""
        asked = (each for each in self._asked if isinstance(each, ModelKthMagnitude))
        return frozenset(rank for each in asked for rank in each.ranks)

    @property
    def compared(self) -> LowestTensors | None:
        """What the method asks about this tensor among all of the model."""
        return next((each for each in self._asked if isinstance(each, LowestTensors)), None)

    @property
    def asks_model(self) -> bool:
        """Whether anything is asked about the whole model."""
        return any(each.about == "model" for each in self._asked)

    @property
    def _asked(self) -> tuple[Statistic, ...]:
        return () if self.planned is None else self.planned.statistics

    @cached_property
    def encoding(self) -> RowScaled | None:
        """How the output is stored where it is not written as it is made."""
        encoded = self.out_dtype in ENCODED_NAMES.values()
        return RowScaled(self.out_dtype) if encoded else None

    @property
    def made_dtype(self) -> str:
        """The type of the merged elements before they are encoded."""
        return self.out_dtype if self.encoding is None else "F32"

    @cached_property
    def outputs(self) -> tuple[OutputTensor, ...]:
        """What is stored of the output tensor."""
        if self.factors is not None:
            rows, columns = self.context.shape
            rank = self.numel // (rows + columns)
            return (
                OutputTensor(self.factors.a, self.out_dtype, (rank, columns)),
                OutputTensor(self.factors.b, self.out_dtype, (rows, rank)),
            )
        shape = self.part.shape if self.part else self.context.shape
        if self.encoding is not None:
            return self.encoding.stored(self.stored, shape)
        return (OutputTensor(self.stored, self.out_dtype, shape),)

    @property
    def exact(self) -> Literal["bits", "numerics"]:
        """Whether the bytes are the same on every machine."""
        how = None if self.planned is None else self.planned.combination
        if how is None:
            return "bits"
        return (how.exact if isinstance(how, TileFunction) else None) or self.method.exact

    @property
    def unit(self) -> Unit:
        """What must be in memory together."""
        units = {how.unit for how in self._made}
        if self.encoding is not None:
            units.add(Unit.ROW)
        widest = Unit.GROUP, Unit.MATRIX, Unit.ROW
        return next((unit for unit in widest if unit in units), Unit.ELEMENT)

    @property
    def operations(self) -> Operations | None:
        """What functions of the whole tensor compute, where they say so."""
        how = None if self.planned is None else self.planned.combination
        if not isinstance(how, TileFunction) or not how.unit.is_whole or how.operations is None:
            return None
        before = self.compared.operations if self.compared is not None else None
        return how.operations if before is None else how.operations + before

    @cached_property
    def scratch_bytes(self) -> float:
        """Bytes for each element of a piece that a function of tiles takes besides the buffers."""
        scratch = max((how.scratch for how in self._made), default=0.0)
        if self.unit is Unit.GROUP:
            # a few rows of the base at a time, which is copied where it is cast
            cast = any(self.cast not in (None, each.view.dtype) for each in self.members)
            beside = sum(map(self._share, self.sources[len(self.members) :]))
            return 4 * (scratch * beside + 0.5 + cast)
        # operands that are not float32 are copied, and what the function returns is rounded
        return 4 * (scratch + sum(map(self._share, self.sources)) + 1) if scratch else 0.0

    @cached_property
    def bytes_per_element(self) -> float:
        """Buffer bytes per element when the whole tensor is resident, without output."""
        size = sum(s.view.bytes_per_element * self._share(s) for s in self.sources)
        ranks = max((s.count_number for s in self.statistics), default=0)
        return size + SELECT_BYTES_PER_RANK * ranks + (len(self.sources) if self.ranked else 0)

    def _share(self, source: Operand) -> float:
        """Elements of a source for each element of the output."""
        return source.view.numel / self.numel if self.numel else 1.0

    def reach(self, source: Operand, begin: int, count: int) -> tuple[int, int]:
        """The elements of a source, first and number, that belong to some of the output.

        Calibration of another shape belongs to all of them.
        """
        numel = source.view.numel
        return (begin, count) if numel == self.numel else (0, numel)

    def cast_of(self, source: int) -> str | None:
        """The type that a source is rounded to at load: calibration is taken as it is."""
        return self.cast if source < len(self.sources) - self.beside else None

    @property
    def members(self) -> tuple[Operand, ...]:
        """The sources that are merged, a separate base first."""
        return self.sources[: len(self.sources) - self.beside - self.references]

    @property
    def ranked(self) -> bool:
        """Whether masks by rank are kept, a byte for each element and expert."""
        how = None if self.planned is None else self.planned.combination
        return isinstance(how, MergeTaskVectors) and bool(how.ranked)

    @property
    def score_count(self) -> int:
        """How many scores of each element select, which later passes need again."""
        selected = any(isinstance(s, ScoreThreshold) for s in self.statistics)
        return max(int(selected), self.piece_bytes // 4)

    @property
    def piece_bytes(self) -> int:
        """Bytes for each element of a piece of scores by functions, and of zeros beside them."""
        counts = [len(s.scores) for s in self.statistics if isinstance(s, KthScore)]
        how = None if self.planned is None else self.planned.combination
        counts.append(len(how.scores) if isinstance(how, TileFunction) else 0)
        return 4 * max(counts) + 2 if max(counts) else 0

    @property
    def finds_scores_fast(self) -> bool:
        """Whether all its scores are functions that the extension has."""
        asked = [s for s in self.statistics if isinstance(s, KthScore)]
        return bool(asked) and all(
            isinstance(score, TileFunction) and score.compiled in COMPILED_SCORES
            for request in asked
            for score in request.scores
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of what scores have in common in each row, which spares later passes its search."""
        kept = any(isinstance(x, TileFunction) and x.keeps_rows for x in self._made)
        columns = self.context.shape[-1] if self.context.shape else 1
        return 4 * (self.numel // max(1, columns)) if kept else 0

    @cached_property
    def _made(self) -> tuple[Combination, ...]:
        """What is computed of pieces of the operands: scores, and the output."""
        if self.planned is None:
            return ()
        asked = (s for s in self.statistics if isinstance(s, KthScore))
        return (*(score for s in asked for score in s.scores), self.planned.combination)

    @cached_property
    def stored_bytes(self) -> int:
        """Bytes of the inputs on disk."""
        return sum(source.view.stored_bytes for source in self.sources)

    @property
    def fixed_bytes(self) -> int:
        """Bytes of memory that views take whatever the size of tiles: factors of adapters."""
        return sum(source.view.fixed_bytes for source in self.sources)

    @property
    def out_bytes(self) -> int:
        return self.written_bytes(self.numel)

    def written_bytes(self, count: int) -> int:
        """Bytes of output that ``count`` elements take: of whole rows, where these have scales."""
        nbytes = count * SIZES[self.out_dtype]
        if self.encoding is not None:
            nbytes += count // self.context.shape[-1] * self.encoding.scale_bytes
        return nbytes
