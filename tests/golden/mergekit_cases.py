"""The cases compared with mergekit 0.1.5, and their inputs. Needs torch alone, because the script
that stores mergekit's answers runs where mergesafe is not installed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

SHAPE = (23, 41)


@dataclass(frozen=True)
class Case:
    """``parameters`` as in a recipe; ``inputs`` counts the base where there is one."""

    method: str
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: int = 4
    dtype: torch.dtype = torch.float32
    #: Of methods that may go without.
    base: bool = True

    @property
    def has_base(self) -> bool:
        return self.base and self.method not in ("linear", "karcher")

    def tensors(self) -> list[torch.Tensor]:
        """A base and experts near it, the same wherever torch's generator is."""
        generator = torch.Generator().manual_seed(len(self.method) + self.inputs)
        base = torch.randn(SHAPE, generator=generator)
        tensors = [base]
        for _ in range(self.inputs - 1):
            tensors.append(base + 0.1 * torch.randn(SHAPE, generator=generator))
        return [x.to(self.dtype) for x in tensors]


WEIGHTS = [0.5, 0.3, -0.4]
#: Differences of bfloat16 values cancel often: with 0.3, whose rounding differs per dtype, the sign
#: of such a sum would be chance, and the error that of the vote.
EXACT = [0.5, 0.25, -0.375]

CASES = {
    "linear": Case("linear", {"weight": [0.5, 0.3, 0.9, 0.1]}),
    "linear sum": Case("linear", {"weight": [0.5, -0.3, 0.9, 0.1], "normalize": False}),
    "task arithmetic": Case("task_arithmetic", {"weight": WEIGHTS}),
    "task arithmetic normalized": Case(
        "task_arithmetic", {"weight": WEIGHTS, "normalize": True, "lambda": 0.7}
    ),
    "task arithmetic cancelled": Case(
        "task_arithmetic", {"weight": [0.5, 0.25, -0.75], "normalize": True}
    ),
    "ties": Case("ties", {"weight": WEIGHTS, "density": 0.3}),
    "ties densities": Case("ties", {"weight": WEIGHTS, "density": [0.1, 0.0, 1.0]}),
    "ties one element": Case("ties", {"weight": WEIGHTS, "density": 1e-6}),
    "ties plain": Case("ties", {"weight": WEIGHTS, "density": 0.7, "normalize": False}),
    "ties rescaled": Case(
        "ties", {"weight": WEIGHTS, "density": 0.5, "rescale": True, "lambda": 1.5}
    ),
    "ties int8 mask": Case("ties", {"weight": WEIGHTS, "density": 0.5, "int8_mask": True}),
    "ties two": Case("ties", {"weight": [1.0, 1.0], "density": 0.5}, inputs=3),
    "breadcrumbs": Case("breadcrumbs", {"weight": WEIGHTS, "density": 0.4}),
    "breadcrumbs outliers": Case(
        "breadcrumbs", {"weight": WEIGHTS, "density": [0.2, 0.5, 0.9], "gamma": [0.3, 0.1, 0.05]}
    ),
    "breadcrumbs too few": Case(
        "breadcrumbs", {"weight": WEIGHTS, "density": 0.9, "gamma": 0.3, "rescale": True}
    ),
    "breadcrumbs ties": Case(
        "breadcrumbs_ties", {"weight": WEIGHTS, "density": 0.5, "gamma": 0.02, "normalize": True}
    ),
    "breadcrumbs ties plain": Case(
        "breadcrumbs_ties", {"weight": WEIGHTS, "density": 0.8, "lambda": 0.4}
    ),
    "slerp base": Case("slerp", {"t": 0.0}, inputs=2),
    "slerp": Case("slerp", {"t": 0.3}, inputs=2),
    "slerp other": Case("slerp", {"t": 1.0}, inputs=2),
    "nuslerp": Case("nuslerp", {"weight": [0.7, 0.2]}, inputs=3),
    "nuslerp no base": Case("nuslerp", {"weight": [0.7, 0.2]}, inputs=2, base=False),
    "nuslerp cancelled": Case("nuslerp", {"weight": [0.3, -0.3]}, inputs=3),
    "nuslerp beyond": Case("nuslerp", {"weight": [0.9, -0.3]}, inputs=3),
    "nuslerp rows": Case("nuslerp", {"weight": [0.7, 0.2], "nuslerp_flatten": False}, inputs=3),
    "nuslerp rows no base": Case(
        "nuslerp", {"weight": [0.1, 0.2], "nuslerp_flatten": False}, inputs=2, base=False
    ),
    "nuslerp columns": Case(
        "nuslerp",
        {"weight": [0.7, 0.2], "nuslerp_flatten": False, "nuslerp_row_wise": True},
        inputs=3,
    ),
    "multislerp": Case("multislerp", {"weight": [0.5, 0.3, 0.4]}),
    "multislerp signs": Case("multislerp", {"weight": [0.9, 0.3, -0.4]}),
    "multislerp no base": Case("multislerp", {"weight": [0.5, 0.3, 0.4, 0.1]}, base=False),
    "multislerp plain": Case(
        "multislerp", {"weight": [0.5, 0.3, 0.4], "normalize_weights": False, "eps": 1e-6}
    ),
    "multislerp one": Case("multislerp", {"weight": [0.5]}, inputs=2),
    "karcher": Case("karcher"),
    "karcher two": Case("karcher", inputs=2),
    "karcher no step": Case("karcher", {"max_iter": 0}),
    "karcher one step": Case("karcher", {"max_iter": 1, "tol": 1e-3}),
    "model stock": Case("model_stock"),
    "model stock two": Case("model_stock", inputs=3),
    "model stock rows": Case("model_stock", {"filter_wise": True}),
    "nearswap": Case("nearswap", {"t": 0.1}, inputs=2),
    "nearswap small": Case("nearswap", {"t": 1e-4}, inputs=2),
    "nearswap all": Case("nearswap", {"t": 10.0}, inputs=2),
    "nearswap nothing": Case("nearswap", {"t": 0.0}, inputs=2),
    "nearswap bf16": Case("nearswap", {"t": 0.0625}, inputs=2, dtype=torch.bfloat16),
    "arcee fusion": Case("arcee_fusion", inputs=2),
    "linear bf16": Case("linear", {"weight": [0.5, 0.25, 0.125, 0.125]}, dtype=torch.bfloat16),
    "task arithmetic bf16": Case("task_arithmetic", {"weight": EXACT}, dtype=torch.bfloat16),
    "ties bf16": Case("ties", {"weight": EXACT, "density": 0.3}, dtype=torch.bfloat16),
    "ties rescaled bf16": Case(
        "ties", {"weight": EXACT, "density": 0.5, "rescale": True}, dtype=torch.bfloat16
    ),
    "breadcrumbs bf16": Case(
        "breadcrumbs", {"weight": EXACT, "density": 0.4}, dtype=torch.bfloat16
    ),
    "breadcrumbs ties bf16": Case(
        "breadcrumbs_ties", {"weight": EXACT, "density": 0.5}, dtype=torch.bfloat16
    ),
    # Of della only what no random number decides: every element is kept, or none.
    "della all": Case("della", {"weight": WEIGHTS, "density": 1.0, "lambda": 0.7}),
    "della some": Case("della", {"weight": WEIGHTS, "density": [1.0, 0.0, 1.0]}),
    "della linear all": Case("della_linear", {"weight": WEIGHTS, "density": 1.0}),
    "sce": Case("sce"),
    "sce some": Case("sce", {"select_topk": 0.3}),
    "sce few": Case("sce", {"select_topk": 0.01, "int8_mask": True}),
    "sce none": Case("sce", {"select_topk": 0.0}),
    "sce two": Case("sce", {"select_topk": 0.5}, inputs=3),
    "sce one": Case("sce", {"select_topk": 0.5}, inputs=2),
    # 0.1 is the standard deviation of the task vectors
    "ram": Case("ram"),
    "ram some": Case("ram", {"epsilon": 0.1}),
    "ram few": Case("ram", {"epsilon": 0.2}, inputs=6),
    "ram none": Case("ram", {"epsilon": 10.0}),
    "ram two": Case("ram", {"epsilon": 0.1}, inputs=3),
    "ram one": Case("ram", {"epsilon": 0.05}, inputs=2),
    "ram plus": Case("ramplus_tl"),
    "ram plus some": Case("ramplus_tl", {"epsilon": 0.1}),
    "ram plus ratio": Case("ramplus_tl", {"epsilon": 0.1, "r": 0.3, "alpha": 5.0}),
    "ram plus few": Case("ramplus_tl", {"epsilon": 0.2, "r": -0.5, "alpha": 1.0}, inputs=6),
    "ram plus r 0": Case("ramplus_tl", {"epsilon": 0.1, "r": 0.0}),
    "ram plus one": Case("ramplus_tl", {"epsilon": 0.05}, inputs=2),
    "ram bf16": Case("ram", {"epsilon": 0.0625}, dtype=torch.bfloat16),
    "karcher bf16": Case("karcher", dtype=torch.bfloat16),
    "model stock bf16": Case("model_stock", dtype=torch.bfloat16),
    "model stock rows bf16": Case("model_stock", {"filter_wise": True}, dtype=torch.bfloat16),
    "slerp bf16": Case("slerp", {"t": 0.3}, inputs=2, dtype=torch.bfloat16),
}
