"""What is compared: a combiner, a search, the data it sees."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mergesafe.demo.recipes import EXPERTS, PRECISION

COMBINERS: Final = ("ties", "dare_ties", "task_arithmetic")
#: Share of the experts' task vectors that sparsifying combiners keep.
DENSITY: Final = 0.5
#: Role → data sets that a search may see.
SETS: Final = {
    "safety": ("refusals",), "domain": ("sorting", "arithmetic"), "harmless": ("harmless",),
}  # fmt: skip
#: Where the experts weigh the same and nothing is searched.
NAIVE_WEIGHT: Final = 0.5


@dataclass(frozen=True)
class Case:
    """One row: ``search`` None leaves the coefficients alone; ``data``: safety, domain or both."""

    name: str
    method: str
    search: str | None = None
    data: str = "both"
    granularity: str = "layer"
    alpha: float = 0.3
    steps: int = 24
    examples: int = 48
    constraints: Sequence[str] = ()
    experts: Sequence[str] = EXPERTS

    def recipe(self, folder: Path, seed: int) -> str:
        """The recipe in YAML; paths are relative to ``folder``, where models and data lie."""
        sparse = self.method in ("ties", "dare_ties")
        lines = [f"merge_method: {self.method}", f"base_model: {folder / 'base'}", "models:"]
        for name in self.experts:
            lines += [
                f"  - model: {folder / 'base'}+{folder / 'adapters' / name}",
                "    parameters:",
            ]
            lines.append(f"      weight: {NAIVE_WEIGHT}")
            lines += [f"      density: {DENSITY}"] if sparse else []
        lines += ["parameters:", "  normalize: false", *PRECISION, ""]
        return "\n".join([*lines, *self._section(folder, seed)])

    def _section(self, folder: Path, seed: int) -> list[str]:
        if self.search is None:
            return []
        lines = ["tune:", "  data:"]
        names = {
            "safety": ["refusals"],
            "domain": ["sorting", "arithmetic"],
            "harmless": ["harmless"],
        }
        for role in names if self.data == "both" else (self.data,):
            for name in names[role]:
                path = folder / "data" / f"tune-{name}.jsonl"
                lines.append(f"    - {{path: {path}, role: {role}, name: {name}}}")
        budget = f"{{steps: {self.steps}}}"
        lines += [f"  search: {{method: {self.search}, budget: {budget}}}"]
        if self.search in ("lm_cocktail", "grid"):
            lines[-1] = f"  search: {{method: {self.search}}}"
        lines += [
            "  batch: 8",
            f"  granularity: {self.granularity}",
            f"  alpha: {self.alpha}",
            f"  seed: {seed}",
        ]
        if self.constraints:
            lines += ["  constraints:", *(f'    - "{each}"' for each in self.constraints)]
        return [*lines, ""]


def all_cases() -> list[Case]:
    """Every row, those that the paper has too first."""
    found: list[Case] = []
    for method in COMBINERS:
        both = Case(f"{method}/gradient", method, "gradient")
        whole = Case(f"{method}/cmaes", method, "cmaes", granularity="model", steps=12)
        found += [
            Case(f"{method}/naive", method),
            Case(f"{method}/grid", method, "grid", granularity="model"),
            replace(whole, name=f"{method}/cmaes-domain", data="domain"),
            whole,
            replace(both, name=f"{method}/gradient-domain", data="domain"),
            both,
        ]
    linear = Case(
        "task_arithmetic/lm_cocktail", "task_arithmetic", "lm_cocktail", granularity="model"
    )
    ties = Case("ties/gradient", "ties", "gradient")
    return [
        *found,
        linear,
        replace(linear, name=f"{linear.name}-domain", data="domain"),
        replace(ties, name="ties/gradient-constrained", constraints=("refusal_rate >= 0.8",)),
        *(replace(ties, name=f"ties/alpha-{alpha:g}", alpha=alpha) for alpha in (0.1, 1.0)),
        *(replace(ties, name=f"ties/examples-{k}", examples=k) for k in (12, 24)),
        *(replace(ties, name=f"ties/steps-{steps}", steps=steps) for steps in (10, 60)),
        replace(ties, name="ties/model-wide", granularity="model"),
        replace(ties, name="ties/two-parents", experts=EXPERTS[::2]),
    ]


def chosen(patterns: Sequence[str]) -> list[Case]:
    """The cases whose names match one of the patterns, such as ``ties/*``."""
    return [c for c in all_cases() if any(fnmatch.fnmatch(c.name, p) for p in patterns)]
