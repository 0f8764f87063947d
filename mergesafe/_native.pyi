from typing import Any

# Lengths, types and ranges are checked: ValueError or TypeError says what is wrong. What lies at an
# address, and how much of it, only the caller can know.

class Input:
    """Elements at an address, of as many as a call says; each is rounded to ``cast`` at load.

    ``dtype`` and ``cast`` are values of :data:`dtypes`. Raises ValueError for others.
    """

    def __init__(self, address: int, dtype: int, cast: int) -> None: ...

class Output:
    """Where a call writes its elements, each rounded once, to ``dtype``."""

    def __init__(self, address: int, dtype: int) -> None: ...

class Array:
    """What a call reads or writes besides inputs and output, and how many values it has."""

    def __init__(self, address: int, values: int) -> None: ...

class TaskVector:
    """``weight * (rescale * (input - base))`` where an element survives, else 0, in float32.

    Survivors have ``lo <= bits(abs(input - base)) <= hi``; if ``random``, they are those whose
    Philox word of (``key``, position in the tensor) is below ``threshold``. ``keep`` has a byte
    for each element: where it is 0, the element has the value of the base.
    """

    def __init__(
        self,
        input: Input,
        weight: float,
        rescale: float,
        lo: int,
        hi: int,
        random: bool,
        threshold: int,
        key: int,
        keep: Array | None = None,
    ) -> None: ...

class RankMask:
    """Keeps an element of rank r in its row where its Philox word is below ``low + step * r``."""

    def __init__(self, low: float, step: float, key: int) -> None: ...

#: Codes by names: "BF16", "F16", "F32"; "none", "sum", "count"; "l1", "l2", "linf".
dtypes: dict[str, int]
elections: dict[str, int]
norms: dict[str, int]
#: How many inputs (None: any number), coefficients, and further ones of every input each fused
#: kernel takes.
fused_kernels: dict[str, tuple[int | None, int, int]]
#: Sums of weights that are closer to 0 divide by 1 instead.
tiny_divisor: float
#: :data:`mergesafe.native.INTERFACE` of the sources that the module was compiled from.
interface: int

cuda_compiled: bool
compiler: str
cuda_compiler: str
#: The kernels on CUDA devices (see csrc/bindings.cpp), where they are compiled.
cuda: Any
histogram_bins: int
digest_block: int
low_bits: int

def isa() -> str: ...
def use_isa(name: str) -> None: ...
def available_isas() -> list[str]: ...
def compiled_isas() -> list[str]: ...
def weighted_sum(
    inputs: list[Input],
    weights: list[float],
    out: Output,
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> int: ...
def merge_task_vectors(
    base: Input,
    vectors: list[TaskVector],
    out: Output,
    n: int,
    offset: int,
    elect: int,
    normalize: bool,
    scale: float,
    zero_nonfinite: bool,
    threads: int,
) -> int: ...
def fused(
    kernel: str,
    base: Input,
    inputs: list[Input],
    coefficients: list[float],
    out: Output,
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> int:
    """One of the combinations of csrc/core/fused.h; coefficients of single inputs come last."""

def kth_magnitude(
    base: Input,
    experts: list[Input],
    ranks: list[tuple[int, int]],
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> tuple[int, list[int]]: ...
def magnitude_histogram(
    base: Input,
    experts: list[Input],
    prefixes: list[int],
    counts: Array,
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> int: ...
def gram(
    inputs: list[Input], totals: list[float], n: int, zero_nonfinite: bool, threads: int
) -> tuple[int, list[float]]: ...
def delta_norms(
    base: Input,
    vectors: list[TaskVector],
    norm: int,
    totals: list[float],
    n: int,
    offset: int,
    zero_nonfinite: bool,
    threads: int,
) -> tuple[int, list[float]]: ...
def delta_gram(
    base: Input,
    experts: list[Input],
    totals: list[float],
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> tuple[int, list[float]]:
    """The products of the task vectors, without the counts of :func:`compare`."""

def stock_rows(
    base: Input,
    experts: list[Input],
    columns: int,
    out: Output,
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> int:
    """Model Stock by rows; see csrc/core/stock.h."""

#: Names that :func:`tile_function` knows.
tile_functions: list[str]

def tile_function(
    name: str,
    base: Input,
    inputs: list[Input],
    scores: list[Array],
    settings: list[float],
    out: Output,
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> int:
    """A tile function of a method; see csrc/core/tile.h."""

#: Names that :class:`TileScores` knows.
tile_score_functions: list[str]

class TileScores:
    """Scores of one function, each with settings and a floor; see csrc/core/tile.h.

    ``rows``: memory for one float32 of each row of ``columns`` elements, or None.
    """

    def __init__(
        self,
        name: str,
        columns: int,
        settings: list[list[float]],
        floors: list[float],
        rows: Array | None = None,
        rows_known: bool = False,
    ) -> None: ...

def tile_scores(
    wanted: TileScores,
    base: Input,
    inputs: list[Input],
    outs: list[Array],
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> int:
    """Scores, each to a float32 array. Answers with flags of the operands."""

def scored_tile(
    name: str,
    wanted: TileScores,
    base: Input,
    inputs: list[Input],
    settings: list[float],
    out: Output,
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> int:
    """:func:`tile_function` of scores that are found on the way and not kept."""

def compare(
    base: Input,
    experts: list[Input],
    with_base: bool,
    totals: list[float],
    counts: list[int],
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> tuple[int, list[float], list[int]]: ...
def count_changes(
    base: Input,
    experts: list[Input],
    epsilon: float,
    totals: list[int],
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> tuple[int, list[int]]:
    """See :class:`mergesafe.methods.statistics.ChangeCounts`."""

def inner_products(grad: Input, inputs: list[Input], n: int, threads: int) -> list[float]: ...
def merge_gradient(
    grad: Input,
    base: Input,
    vectors: list[TaskVector],
    n: int,
    offset: int,
    elect: int,
    normalize: bool,
    threads: int,
) -> list[float]: ...
def add_low_rank(
    w: Input,
    a: int,
    b: int,
    rank: int,
    columns: int,
    scale: float,
    begin: int,
    end: int,
    threads: int,
    out: int,
) -> None: ...
def rank_masks(
    base: Input,
    experts: list[Input],
    masks: list[RankMask],
    columns: int,
    n: int,
    offset: int,
    keeps: list[Array],
    zero_nonfinite: bool,
    threads: int,
) -> int: ...
def masked_copy(
    base: Input,
    expert: Input,
    keep: Array,
    out: Output,
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> None: ...

# ``scores`` is float32 memory for the score of every element: a histogram of high bits (prefix -1)
# writes them, the other calls read them there. None: they are found anew.
def score_histogram(
    base: Input,
    experts: list[Input],
    prefix: int,
    counts: Array,
    scores: Array | None,
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> tuple[int, int]: ...
def bin_of_rank(counts: Array, k: int) -> tuple[int, int]:
    """The bin of 65,536 that holds the k-th largest of what was counted, and k within that bin."""

def score_norms(
    base: Input,
    experts: list[Input],
    lo: int,
    totals: list[float],
    scores: Array | None,
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> tuple[int, list[float]]: ...
def merge_scored(
    base: Input,
    experts: list[Input],
    lo: int,
    weights: list[float],
    out: Output,
    scores: Array | None,
    n: int,
    zero_nonfinite: bool,
    threads: int,
) -> int: ...
def count_nonfinite(input: Input, n: int) -> int: ...
def digest(data: int, nbytes: int, first_block: int) -> tuple[int, int]: ...
def triad(a: int, b: int, c: int, s: float, n: int, threads: int) -> None: ...

selection_slack: int

class Selection:
    def __init__(
        self,
        n: int,
        ranks: list[tuple[int, int]],
        sample: int,
        storage: int,
        size: int,
        zero_nonfinite: bool,
        threads: int,
    ) -> None: ...
    def sample(self, base: Input, experts: list[Input], count: int) -> None: ...
    def add(self, base: Input, experts: list[Input], count: int) -> int: ...
    def add_scores(self, scores: list[Array], count: int) -> None: ...
    def add_scored(
        self, wanted: TileScores, base: Input, inputs: list[Input], count: int
    ) -> int: ...
    def add_alone(self, base: Input, experts: list[Input], count: int, thread: int) -> int: ...
    def least(self) -> list[int]: ...
    def finish(self) -> tuple[list[int], list[int]]: ...
