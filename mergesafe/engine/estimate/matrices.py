"""How long functions of whole matrices take: what methods declare, over rates measured just now.

A part of a matrix is no matrix, so that nothing of the inputs is computed: small random matrices
show how fast this machine multiplies and decomposes, on as many threads as the merge would use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Final

from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.run.workers import Schedule
from mergesafe.methods.operations import Operations, elements, svd
from mergesafe.methods.operations import eigh as eigenvectors
from mergesafe.methods.operations import product as multiplied
from mergesafe.methods.operations import wide_product as multiplied_wide

#: Columns of the matrices that are measured: products, which are fast, and decompositions.
MULTIPLIED: Final = 768
DECOMPOSED: Final = 384
#: Elements of a vector that is larger than caches.
STREAMED: Final = 32 << 20


def matrix_seconds(tasks: Sequence[TensorTask], planned: Schedule) -> float:
    """Of the functions of ``tasks``, each of which declares its operations, on all workers."""
    declared = [(task, task.operations) for task in tasks]
    known = [(task, amount) for task, amount in declared if amount is not None]
    if not known:
        return 0.0
    most = max(known, key=lambda pair: pair[0].numel)[0]
    layout = planned.layouts[most.name]
    lanes = max(1, min(planned.workers, planned.arena // layout.nbytes, len(known)))
    total = sum((amount for _, amount in known), Operations())
    amounts = asdict(total)
    kinds = [name for name, amount in amounts.items() if amount]
    rates = measured(kinds, lanes, layout.threads)
    return float(sum(amounts[kind] / rates[kind] for kind in kinds))


def measured(kinds: Iterable[str], lanes: int, threads: int) -> dict[str, float]:
    """Units of each kind per second of all lanes together."""
    import torch

    def lane(number: int) -> dict[str, float]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)  # of this Python thread
        try:
            with torch.inference_mode():
                return {kind: _rate(*_SAMPLES[kind](torch)) for kind in kinds}
        finally:
            torch.set_num_threads(before)

    with ThreadPoolExecutor(lanes) as pool:
        found = list(pool.map(lane, range(lanes)))
    return {kind: sum(rates[kind] for rates in found) for kind in kinds}


def _rate(amount: float, work: Callable[[], Any]) -> float:
    """Units per second; the first run is not counted, in which memory and threads are made."""
    work()
    started = time.perf_counter()
    work()
    return amount / max(time.perf_counter() - started, 1e-9)


def _product(torch: Any) -> tuple[float, Callable[[], Any]]:
    x = torch.randn(MULTIPLIED, MULTIPLIED)
    return multiplied(*[MULTIPLIED] * 3).product, lambda: x @ x


def _wide_product(torch: Any) -> tuple[float, Callable[[], Any]]:
    x = torch.randn(MULTIPLIED, MULTIPLIED, dtype=torch.float64)
    return multiplied_wide(*[MULTIPLIED] * 3).wide_product, lambda: x @ x


def _svd(torch: Any) -> tuple[float, Callable[[], Any]]:
    x = torch.randn(DECOMPOSED, DECOMPOSED)
    return svd(DECOMPOSED, DECOMPOSED).svd, lambda: torch.linalg.svd(x, full_matrices=False)


def _eigh(torch: Any) -> tuple[float, Callable[[], Any]]:
    x = torch.randn(DECOMPOSED, DECOMPOSED, dtype=torch.float64)
    square = x.T @ x
    return eigenvectors(DECOMPOSED).eigh, lambda: torch.linalg.eigh(square)


def _moved(torch: Any) -> tuple[float, Callable[[], Any]]:
    x = torch.ones(STREAMED)
    return elements(STREAMED, 1, 1).moved, x.sum


_SAMPLES: Final = {
    "product": _product, "wide_product": _wide_product, "svd": _svd, "eigh": _eigh,
    "moved": _moved,
}  # fmt: skip
