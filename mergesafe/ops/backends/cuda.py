"""The compiled CUDA kernels on torch tensors: addresses in, bits out.

Everything is enqueued on torch's current stream of the tensors' device. Only answers that are
Python numbers (ranks, norms, the Gram matrix) wait for the device, once a call. A CUDA graph can
capture the methods that take weights as a tensor on the device; plain numbers have to be sent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch

from mergesafe.errors import BackendError
from mergesafe.methods.spec import Sparsify
from mergesafe.native import ELECTIONS, NORMS, Array
from mergesafe.ops.backends.base import Elect, MergeJob, Norm, RankJob
from mergesafe.ops.backends.native import DTYPES
from mergesafe.ops.backends.selected import SelectedByTorch
from mergesafe.ops.numbers import float32

NOTHING_DROPPED = Sparsify()
#: What the extension asks of every mask; it rounds rescale to float32.
MASK_FIELDS = tuple(map(attrgetter, ("lo", "hi", "random", "threshold", "key", "rescale")))
DTYPE = attrgetter("dtype")


class CudaBackend(SelectedByTorch):
    """See :class:`mergesafe.ops.backends.base.Backend`; ``module`` is ``mergesafe._native.cuda``,
    or one that runs the same kernels on the host.
    """

    name = "native"

    def __init__(self, module: Any) -> None:
        self._module = module

    # --- many jobs ----------------------------------------------------------------------------

    def sum_jobs(
        self,
        inputs: Sequence[Sequence[torch.Tensor]],
        weights: torch.Tensor,
        outs: Sequence[torch.Tensor],
    ) -> None:
        jobs = self._jobs([tensors[0] for tensors in inputs], inputs, outs)
        self._call("sums", outs[0], jobs, _array(weights))

    def merge_jobs(
        self,
        jobs: Sequence[MergeJob],
        weights: torch.Tensor,
        scales: torch.Tensor,
        elect: Elect,
        normalize: bool,
        outs: Sequence[torch.Tensor],
    ) -> None:
        described = self._merge_jobs(jobs, outs)
        self._call(
            "merges", outs[0], described, _array(weights), _array(scales), ELECTIONS[elect],
            normalize,
        )  # fmt: skip

    def rank_jobs(self, jobs: Sequence[RankJob]) -> list[list[int]]:
        """One launch serves jobs with equally many ranks."""
        alike: dict[int, list[int]] = defaultdict(list)
        for at, job in enumerate(jobs):
            alike[len(job.ranks)].append(at)
        answers = {
            count: self._ranks([jobs[at] for at in places], count)
            for count, places in alike.items()
            if count
        }
        found: list[list[int]] = [[] for _ in jobs]
        for count, places in alike.items():
            if count:  # read after every launch has been made
                for at, row in zip(places, answers[count].tolist(), strict=True):
                    found[at] = [bits & 0xFFFFFFFF for bits in row]
        return found

    def norm_jobs(self, jobs: Sequence[MergeJob], norm: Norm) -> list[list[float]]:
        count = len(jobs[0].experts)
        totals = torch.zeros(len(jobs), 2 * count, dtype=torch.float64, device=jobs[0].base.device)
        self._norms(jobs, norm, totals)
        rows: list[list[float]] = totals.tolist()
        return rows

    def inner_products(
        self, grads: Sequence[torch.Tensor], inputs: Sequence[Sequence[torch.Tensor]]
    ) -> torch.Tensor:
        jobs = self._jobs(grads, inputs, grads)
        totals, workspace = self._reduction(jobs, grads[0], len(grads), len(inputs[0]))
        self._call("inner_products", grads[0], jobs, _array(workspace), _array(totals))
        return totals

    def merge_gradients(
        self,
        grads: Sequence[torch.Tensor],
        jobs: Sequence[MergeJob],
        weights: torch.Tensor,
        elect: Elect,
        normalize: bool,
    ) -> torch.Tensor:
        described = self._merge_jobs(jobs, grads)
        totals, workspace = self._reduction(
            described, grads[0], len(jobs), len(jobs[0].experts) + 1
        )
        self._call(
            "merge_gradients", grads[0], described, _array(weights), ELECTIONS[elect], normalize,
            _array(workspace), _array(totals),
        )  # fmt: skip
        return totals

    # --- one tensor ---------------------------------------------------------------------------

    def weighted_sum(
        self,
        tensors: Sequence[torch.Tensor],
        weights: Sequence[float],
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if out is None:
            out = torch.empty_like(tensors[0], dtype=out_dtype)
        self.sum_jobs([tensors], _numbers(weights, out), [out])
        return out

    def merge_task_vectors(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        vectors: Sequence[Sparsify],
        weights: Sequence[float],
        elect: Elect,
        normalize: bool,
        scale: float,
        offset: int,
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if out is None:
            out = torch.empty_like(base, dtype=out_dtype)
        numbers = _numbers([*weights, scale], out)
        job = MergeJob(base, experts, vectors, offset)
        self.merge_jobs([job], numbers[:-1], numbers[-1:], elect, normalize, [out])
        return out

    def fused(
        self,
        kernel: str,
        base: torch.Tensor,
        inputs: Sequence[torch.Tensor],
        coefficients: Sequence[float],
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if out is None:
            out = torch.empty_like(base, dtype=out_dtype)
        jobs = self._jobs([base], [inputs], [out])
        numbers = _numbers(coefficients, out)  # must be there until the kernel is enqueued
        self._call("fused", out, kernel, jobs, _array(numbers))
        return out

    def kth_magnitude(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        ranks: Sequence[tuple[int, int]],
    ) -> list[int]:
        return self.rank_jobs([RankJob(base, experts, ranks)])[0]

    def magnitude_histogram(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        prefixes: Sequence[int] | None,
    ) -> torch.Tensor:
        counts = torch.zeros(len(experts), 1 << 16, dtype=torch.int64, device=base.device)
        wanted = None if prefixes is None else _sent(torch.tensor(list(prefixes)), base.device)
        self._call(
            "histogram", base, self._jobs([base], [experts], [base]),
            Array(0, 0) if wanted is None else _array(wanted), _array(counts),
        )  # fmt: skip
        return counts

    def count_changes(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        epsilon: float,
        totals: Sequence[int],
    ) -> list[int]:
        counts = _sent(torch.tensor(totals, dtype=torch.int64), base.device)
        jobs = self._jobs([base], [experts], [base])
        self._call("changes", base, jobs, float32(epsilon), _array(counts))
        answer: list[int] = counts.tolist()
        return answer

    def gram(self, tensors: Sequence[torch.Tensor], totals: Sequence[float]) -> list[float]:
        jobs = self._jobs([tensors[0]], [tensors], [tensors[0]])
        sums = _sent(torch.tensor(totals, dtype=torch.float64), tensors[0].device)
        _, workspace = self._reduction(jobs, tensors[0], 1, len(totals))
        self._call("gram", tensors[0], jobs, _array(workspace), _array(sums))
        answer: list[float] = sums.tolist()
        return answer

    def delta_norms(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        sparsify: Sequence[Sparsify],
        norm: Norm,
        totals: Sequence[float],
        offset: int,
    ) -> list[float]:
        sums = _sent(torch.tensor([list(totals)], dtype=torch.float64), base.device)
        self._norms([MergeJob(base, experts, sparsify, offset)], norm, sums)
        answer: list[float] = sums[0].tolist()
        return answer

    # --- descriptions -------------------------------------------------------------------------

    def _jobs(
        self,
        firsts: Sequence[torch.Tensor],
        inputs: Sequence[Sequence[torch.Tensor]],
        outs: Sequence[torch.Tensor],
        offsets: Sequence[int] | None = None,
    ) -> Any:
        """Flat lists: a tuple for every job would cost more than a small merge."""
        count, most = len(inputs[0]), self._module.max_experts
        if count > most:
            raise BackendError(
                f"backend 'native' was given {count} experts on CUDA; it takes at most {most}: use "
                "backend='reference', or the CPU"
            )
        flat = [x for tensors in inputs for x in tensors]
        return self._module.Jobs(
            count,
            *_described(firsts),
            *_described(outs),
            [x.numel() for x in outs],
            [0] * len(outs) if offsets is None else list(offsets),
            *_described(flat),
        )

    def _merge_jobs(self, jobs: Sequence[MergeJob], outs: Sequence[torch.Tensor]) -> Any:
        described = self._jobs(
            [job.base for job in jobs],
            [job.experts for job in jobs],
            outs,
            [job.offset for job in jobs],
        )
        vectors = [vector for job in jobs for vector in job.vectors]
        if any(vector != NOTHING_DROPPED for vector in vectors):
            described.sparsify(*(list(map(field, vectors)) for field in MASK_FIELDS))
        return described

    def _ranks(self, jobs: Sequence[RankJob], count: int) -> torch.Tensor:
        """int32 [jobs, count] bit patterns, on the device."""
        device = jobs[0].base.device
        bases = [job.base for job in jobs]
        described = self._jobs(
            bases, [[job.experts[expert] for expert, _ in job.ranks] for job in jobs], bases
        )
        described.ask_ranks([k for job in jobs for _, k in job.ranks])
        answers = torch.empty(len(jobs), count, dtype=torch.int32, device=device)
        size = self._module.rank_workspace(described)
        workspace = torch.empty(size, dtype=torch.uint8, device=device)
        self._call("ranks", answers, described, _array(workspace), _array(answers))
        return answers

    def _norms(self, jobs: Sequence[MergeJob], norm: Norm, totals: torch.Tensor) -> None:
        described = self._merge_jobs(jobs, [job.base for job in jobs])
        sums = 2 * len(jobs[0].experts)
        _, workspace = self._reduction(described, totals, len(jobs), sums)
        self._call("norms", totals, described, NORMS[norm], _array(workspace), _array(totals))

    def _reduction(
        self, jobs: Any, like: torch.Tensor, count: int, sums: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Room for the sums [count, sums] and for those of blocks of 4096 elements: a share of
        ``sums / 256`` (16-bit) of one input.
        """
        size = self._module.reduction_workspace(jobs, sums)
        totals = torch.empty(count, sums, dtype=torch.float64, device=like.device)
        return totals, torch.empty(size, dtype=torch.float64, device=like.device)

    def _call(self, function: str, like: torch.Tensor, *arguments: Any) -> None:
        """On the current stream of the device that ``like`` lies on."""
        try:
            if like.device.type != "cuda":  # the kernels run on the host
                getattr(self._module, function)(*arguments, 0, 0)
                return
            # torch's guard, because it makes no context on a device that is only gone back to
            with torch.cuda.device(like.device):
                stream = torch.cuda.current_stream().cuda_stream
                getattr(self._module, function)(*arguments, like.device.index, stream)
        except self._module.CudaError as error:
            raise BackendError(
                f"backend 'native': CUDA kernels on {like.device} failed: {error}. An earlier "
                "operation on this device may be the cause; CUDA_LAUNCH_BLOCKING=1 tells which"
            ) from None


def _array(values: torch.Tensor) -> Array:
    """Where values lie and how many they are, which the extension compares with what it needs."""
    return Array(values.data_ptr(), values.numel())


def _described(tensors: Sequence[torch.Tensor]) -> tuple[list[int], list[int]]:
    """Addresses, and dtypes as numbers; by ``map``, since a call may have thousands."""
    return list(map(torch.Tensor.data_ptr, tensors)), list(
        map(DTYPES.__getitem__, map(DTYPE, tensors))
    )


def _numbers(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """float32 on the device of ``like``."""
    return _sent(
        torch.tensor([float32(value) for value in values], dtype=torch.float32), like.device
    )


def _sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A small host tensor on the device, without waiting: CUDA stages pageable memory at once."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise BackendError(
            "backend 'native' was given plain numbers while a CUDA graph is captured, which would "
            "replay a copy of memory that is gone; give weights as a tensor on the device"
        )
    return values.to(device, non_blocking=True)
