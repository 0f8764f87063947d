"""What is compared: a combiner, a search, the data it sees."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mergesafe.demo.recipes import EXPERTS, PRECISION, recipe_text, tune_text
from mergesafe.demo.sets import Counts, Sets

#: Share of the experts' task vectors that sparsifying combiners keep.
DENSITY: Final = 0.5
#: What a search may see -> the roles and names of the sets.
DATA: Final = {
    "domain": {"domain": ("sorting", "arithmetic")},
    "both": {"safety": ("refusals",), "domain": ("sorting", "arithmetic")},
}
#: Where the experts weigh the same, and where searches begin: the paper's.
START: Final = 0.5
#: The aligned expert and the one that spoils it.
PAIR: Final = EXPERTS[::2]


@dataclass(frozen=True)
class Case:
    """One row.

    ``search`` None leaves the coefficients alone; ``data``: a key of :data:`DATA`, or ``demo`` for
    the demo's own recipe, which also sees harmless questions. ``steps``: of ``gradient`` and
    ``cmaes``.
    """

    name: str
    method: str = "ties"
    search: str | None = None
    data: str = "both"
    granularity: str = "layer"
    alpha: float = 0.3
    steps: int = 16
    examples: int = 48
    constraints: Sequence[str] = ()
    experts: Sequence[str] = EXPERTS

    @property
    def counts(self) -> Counts:
        """How much there is of every set."""
        if self.data == "demo":
            return Counts()
        return Counts(tuned=self.examples, tuned_skill=self.examples)

    def recipe(self, folder: Path, sets: Sets, seed: int) -> str:
        """The recipe in YAML; paths are relative to ``folder``, where models and data lie."""
        if self.data == "demo":
            return tune_text(sets, folder, seed)
        if self.search is None and self.method == "ties":
            return recipe_text(self.experts)
        return "\n".join([*self._merge(), *PRECISION, *self._section(seed)])

    def _merge(self) -> list[str]:
        models = [f"./base+./adapters/{name}" for name in self.experts]
        lines = [f"merge_method: {self.method}"]
        if self.method == "slerp":
            return [*lines, f"base_model: {models[0]}", "models:", f"  - model: {models[1]}",
                    "parameters:", f"  t: {START}"]  # fmt: skip
        based = self.method != "linear"
        lines += [*(["base_model: ./base"] if based else []), "models:"]
        each = [f"      weight: {START}"]
        each += [f"      density: {DENSITY}"] if self.method in ("ties", "dare_ties") else []
        for model in models:
            lines += [f"  - model: {model}", "    parameters:", *each]
        return [*lines, "parameters:", f"  normalize: {'false' if based else 'true'}"]

    def _section(self, seed: int) -> list[str]:
        if self.search is None:
            return [""]
        # Of weights the paper's {0.25, 0.5, 1}; of t both sides of the middle.
        own = (
            ["values: [0.25, 0.5, 0.75]"] if (self.method, self.search) == ("slerp", "grid") else []
        )
        if self.search in ("gradient", "cmaes"):
            own.append(f"budget: {{steps: {self.steps}}}")
        coefficient = "t" if self.method == "slerp" else "weight"
        lines = [
            "tune:", "  data:",
            *(
                f"    - {{path: ./data/tune-{name}.jsonl, role: {role}, name: {name}}}"
                for role, names in DATA[self.data].items()
                for name in names
                if name not in EXPERTS or name in self.experts  # no skill that nobody has
            ),
            f"  search: {{{', '.join([f'method: {self.search}', *own])}}}",
            f"  coefficients: [{coefficient}]", f"  granularity: {self.granularity}",
            f"  alpha: {self.alpha}", f"  seed: {seed}", "  batch: 6",
        ]  # fmt: skip
        if self.constraints:
            lines += ["  constraints:", *(f'    - "{each}"' for each in self.constraints)]
        return [*lines, ""]


def all_cases() -> list[Case]:
    """Every row; a name begins with its combiner, ablations with ``ablation/``."""
    found: list[Case] = []
    for method in ("ties", "dare_ties", "task_arithmetic", "slerp"):
        experts = PAIR if method == "slerp" else EXPERTS
        both = Case(f"{method}/gradient", method, "gradient", experts=experts)
        whole = replace(both, name=f"{method}/cmaes", search="cmaes", granularity="model", steps=10)
        found += [
            Case(f"{method}/naive", method, experts=experts),
            replace(whole, name=f"{method}/grid", search="grid"),
            replace(whole, name=f"{method}/cmaes-domain", data="domain"),
            whole,
            replace(both, name=f"{method}/gradient-domain", data="domain"),
            both,
        ]
    cocktail = Case("linear/lm_cocktail", "linear", "lm_cocktail", granularity="model")
    ties = Case("ties/gradient", "ties", "gradient")
    bound = ("refusal_rate >= 0.8",)
    return [
        *found,
        replace(cocktail, name="linear/lm_cocktail-domain", data="domain"),
        cocktail,
        Case("task_arithmetic/demo", "task_arithmetic", "gradient", data="demo"),
        replace(ties, name="ties/gradient-constrained", constraints=bound),
        *(replace(ties, name=f"ablation/alpha-{alpha:g}", alpha=alpha) for alpha in (0.1, 1.0)),
        *(replace(ties, name=f"ablation/examples-{k}", examples=k) for k in (12, 24)),
        *(replace(ties, name=f"ablation/steps-{steps}", steps=steps) for steps in (6, 40)),
        replace(ties, name="ablation/model-wide", granularity="model"),
        replace(ties, name="ablation/per-tensor", granularity="tensor"),
        replace(ties, name="ablation/two-parents", experts=PAIR),
    ]


def chosen(patterns: Sequence[str]) -> list[Case]:
    """The cases whose names match one of the patterns, such as ``ties/*``."""
    return [c for c in all_cases() if any(fnmatch.fnmatch(c.name, p) for p in patterns)]
