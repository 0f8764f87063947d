"""``python -m bench.sanitize``: every kernel once or more on awkward sizes, for compute-sanitizer.

Sizes straddle vectors, chunks and reduction blocks, tensors start on the 16-byte grid and off it,
and some values are NaN and infinite. Answers are compared with the reference on the CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from typing import Any

import torch

from bench.cases import same_bits
from bench.device import NoDevice, choose, leave
from mergesafe.errors import BackendError
from mergesafe.methods.fused import FUSED
from mergesafe.methods.masks import RankMask
from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.base import Backend, Elect, MergeJob, RankJob
from mergesafe.ops.backends.registry import get_backend

SIZES = (1, 15, 17, 1023, 4097, 65539)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
WEIGHTS = [0.5, -0.25, 0.75]
MASKS = (
    [Sparsify(lo=0x3F000000, rescale=1.5)] * 3,
    [Sparsify(lo=0x3E000000, hi=0x3F800000)] * 3,
    [Sparsify(random=True, key=7 + i, threshold=1 << 31) for i in range(3)],
)
ELECTIONS: tuple[Elect, ...] = ("none", "sum", "count")


class Inputs:
    """Three experts, a base and a gradient of one size, ``shift`` elements into their allocations;
    as a part of a tensor, they begin at ``offset``.
    """

    def __init__(self, n: int, dtype: torch.dtype, seed: int, shift: int) -> None:
        self.shift, self.offset = shift, 3 if shift else 64
        generator = torch.Generator().manual_seed(seed)

        def tensor() -> torch.Tensor:
            made = torch.randn(n + shift, generator=generator)
            made[n // 2 :: 997] = float("nan")
            made[n // 3 :: 499] = float("inf")
            return made.to(dtype)

        self._made = [tensor() for _ in range(5)]
        self.n, self.dtype = n, dtype
        self._to("cpu")

    def _to(self, device: str | torch.device) -> None:
        moved = [x.to(device)[self.shift :] for x in self._made]
        self.grad, self.base, self.experts = moved[0], moved[1], moved[2:]

    def on(self, device: str | torch.device) -> Inputs:
        self._to(device)
        return self

    def out(self) -> torch.Tensor:
        size = self.n + self.shift
        whole = torch.full((size,), float("nan"), dtype=self.dtype, device=self.base.device)
        return whole[self.shift :]

    @property
    def job(self) -> MergeJob:
        return MergeJob(self.base, self.experts, MASKS[0], self.offset)

    def row(self, jobs: int) -> torch.Tensor:
        return torch.tensor([WEIGHTS] * jobs, device=self.base.device)


Call = Callable[[Backend, Inputs], Any]


def weighted_sum(b: Backend, x: Inputs) -> Any:
    return b.weighted_sum(x.experts, WEIGHTS, x.dtype, x.out())


def merge_task_vectors(b: Backend, x: Inputs) -> Any:
    return torch.stack(
        [
            b.merge_task_vectors(
                x.base,
                x.experts,
                vectors,
                WEIGHTS,
                elect,
                elect == "sum",
                0.9,
                x.offset,
                x.dtype,
                x.out(),
            )
            for vectors in MASKS
            for elect in ELECTIONS
        ]
    )


def kth_magnitude(b: Backend, x: Inputs) -> Any:
    return b.kth_magnitude(x.base, x.experts, ranks(x))


def ranks(x: Inputs) -> list[tuple[int, int]]:
    return [(i, k) for i in range(3) for k in (1, (x.n + 1) // 2, x.n)]


def magnitude_histogram(b: Backend, x: Inputs) -> Any:
    high = b.magnitude_histogram(x.base, x.experts, None)
    low = b.magnitude_histogram(x.base, x.experts, high.argmax(1).tolist())
    return torch.cat([high, low])


def gram(b: Backend, x: Inputs) -> Any:
    """The upper triangle, which is what counts."""
    return torch.tensor(b.gram(x.experts, [0.0] * 9), dtype=torch.float64).view(3, 3).triu()


def delta_norms(b: Backend, x: Inputs) -> Any:
    rows = [
        b.delta_norms(x.base, x.experts, MASKS[0], norm, [0.0] * 6, x.offset)
        for norm in ("l1", "l2", "linf")
    ]
    return torch.tensor(rows, dtype=torch.float64)


def fused(b: Backend, x: Inputs) -> Any:
    near = b.fused("nearswap", x.base, x.experts[:1], [0.01], x.dtype, x.out())
    restored = b.fused("resta", x.base, x.experts[:2], [0.7], x.dtype, x.out())
    pairs = [*x.experts, *x.experts]
    sure = b.fused("fisher", x.base, pairs, [1e-3, 0.5, 0.3, 0.2], x.dtype, x.out())
    made = [near, restored, sure]
    for kernel, shared in {
        "magmax": [0.7], "ram": [1e-5], "consensus": [2.0, 0.7], "emr": [0.7], "stitch": [0.7],
    }.items():  # fmt: skip
        each = [0.5] * (FUSED[kernel].each * len(x.experts))
        made.append(b.fused(kernel, x.base, x.experts, [*shared, *each], x.dtype, x.out()))
    return torch.cat(made)


def count_changes(b: Backend, x: Inputs) -> Any:
    zeros = [0] * (2 * len(x.experts))
    return torch.tensor(b.count_changes(x.base, x.experts, 1e-5, zeros))


def ranked_experts(b: Backend, x: Inputs) -> Any:
    masks = [RankMask(2.0**31, 2.0**30 / x.n, 7 + i, x.n) for i in range(3)]
    return torch.stack(b.ranked_experts(x.base, x.experts, masks, x.offset))


def score_histogram(b: Backend, x: Inputs) -> Any:
    high, some = b.score_histogram(x.base, x.experts, None)
    low, _ = b.score_histogram(x.base, x.experts, int(high.argmax()))
    return torch.cat([high.cpu(), low.cpu(), torch.tensor([some])])


def score_norms(b: Backend, x: Inputs) -> Any:
    norms = b.score_norms(x.base, x.experts, 0x3F000000, [0.0] * 3)
    return torch.tensor(norms, dtype=torch.float64)


def merge_selected(b: Backend, x: Inputs) -> Any:
    out = x.out()
    return b.merge_selected(x.base, x.experts, 0x3F000000, WEIGHTS, x.dtype, out)


def sum_jobs(b: Backend, x: Inputs) -> Any:
    outs = [x.out(), x.out()]
    b.sum_jobs([x.experts, x.experts], x.row(2), outs)
    return torch.stack(outs)


def merge_jobs(b: Backend, x: Inputs) -> Any:
    outs = [x.out(), x.out()]
    scales = torch.full((2,), 0.9, device=x.base.device)
    b.merge_jobs([x.job, x.job], x.row(2), scales, "sum", True, outs)
    return torch.stack(outs)


def rank_jobs(b: Backend, x: Inputs) -> Any:
    return b.rank_jobs([RankJob(x.base, x.experts, ranks(x))] * 2)


def norm_jobs(b: Backend, x: Inputs) -> Any:
    return torch.tensor(b.norm_jobs([x.job, x.job], "l2"), dtype=torch.float64)


def inner_products(b: Backend, x: Inputs) -> Any:
    return b.inner_products([x.grad, x.grad], [x.experts, x.experts])


def merge_gradients(b: Backend, x: Inputs) -> Any:
    masked = [MergeJob(x.base, x.experts, masks, x.offset) for masks in MASKS]
    grads, row = [x.grad] * len(masked), x.row(len(masked))
    return torch.stack([b.merge_gradients(grads, masked, row, e, True) for e in ELECTIONS])


def many_experts(b: Backend, x: Inputs) -> Any:
    """More than most kernels hold in registers."""
    job = MergeJob(x.base, [*x.experts, x.grad, x.base], [*MASKS[2], *MASKS[1][:2]], x.offset)
    weights = torch.tensor([[*WEIGHTS, 0.1, -0.3]], device=x.base.device)
    scales, out = torch.ones(1, device=x.base.device), x.out()
    b.merge_jobs([job], weights, scales, "count", True, [out])
    return torch.cat([out.double(), b.merge_gradients([x.grad], [job], weights, "sum", True)[0]])


#: One for every method of the Backend protocol, and one for its limits.
CALLS: tuple[Call, ...] = (
    weighted_sum,
    merge_task_vectors,
    kth_magnitude,
    magnitude_histogram,
    gram,
    delta_norms,
    fused,
    count_changes,
    ranked_experts,
    score_histogram,
    score_norms,
    merge_selected,
    sum_jobs,
    merge_jobs,
    rank_jobs,
    norm_jobs,
    inner_products,
    merge_gradients,
    many_experts,
)


def canonical(answer: Any) -> Any:
    """NaN of any bit pattern made one: in float64 sums it comes from the processor, not from us."""
    if isinstance(answer, torch.Tensor) and answer.dtype is torch.float64:
        return answer.masked_fill(answer.isnan(), float("nan"))
    return answer


def wrong(backend: Backend, device: torch.device, sizes: tuple[int, ...] = SIZES) -> list[str]:
    """Calls whose answer differs from the reference's."""
    reference = get_backend("reference")
    found = []
    for n in sizes:
        for seed, (dtype, shift) in enumerate(product(DTYPES, (0, 1))):
            inputs = Inputs(n, dtype, seed, shift)
            for call in CALLS:
                expected = canonical(call(reference, inputs.on("cpu")))
                answer = canonical(call(backend, inputs.on(device)))
                if not same_bits(answer, expected):
                    found.append(f"{call.__name__} of {n} {dtype} elements, shifted by {shift}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--backend", default="native")
    args = parser.parse_args()
    try:
        device = choose(args.device)
    except NoDevice as error:
        leave(error)
    try:
        found = wrong(get_backend(args.backend, device), device)
    except BackendError as error:
        print(error)
        return 1
    for each in found:
        print(f"differs from the reference: {each}")
    print(f"{len(CALLS)} calls on {len(SIZES)} sizes and {len(DTYPES)} dtypes: {len(found)} wrong")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
