"""What is compared: every method as published, and tuned where it declares gradients."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mergesafe.demo.recipes import EXPERTS, PRECISION, ROLES, WEIGHTS
from mergesafe.demo.sets import Counts, Sets
from mergesafe.methods.registry import METHODS, get_method
from mergesafe.methods.spec import MergeMethod, Parameter

#: What no default says, and where a paper's own value differs from mergekit's default. A method of
#: sums weighs each expert 1/2 (arXiv 2406.14563), one that normalises weighs them alike.
PUBLISHED: Final[Mapping[str, Mapping[str, Any]]] = {
    "linear": {"weight": 1.0},
    "slerp": {"t": 0.5},
    "nuslerp": {"weight": 1.0},
    "multislerp": {"weight": 1.0},
    "nearswap": {"t": 0.0001},  # of its one published model
    "task_arithmetic": {"weight": 0.5},
    "ties": {"weight": 1.0, "density": 0.2},  # the paper keeps the top 20 %
    "dare_linear": {"weight": 0.5, "density": 0.2},
    "dare_ties": {"weight": 0.5, "density": 0.2},
    "della": {"weight": 0.5, "density": 0.3},
    "della_linear": {"weight": 0.5, "density": 0.3},
    "breadcrumbs": {"weight": 0.5, "density": 0.85},
    "breadcrumbs_ties": {"weight": 0.5, "density": 0.85},
    "sce": {"select_topk": 0.1},
    "lines": {"beta": 1.0},  # the last layer moves by twice the mean, the first by the mean
    "core_space": {"weight": 0.5},
    "core_space(ties)": {"weight": 1.0, "density": 0.2},
}
#: Of methods that take another one, beside their default.
VARIANTS: Final = tuple(f"core_space({inner})" for inner in ("ties", "tsv", "iso_c"))
#: One model goes through unchanged: no merge.
LEFT_OUT: Final = ("passthrough",)
ALIGNED, SKILLED, SPOILING = (f"./base+./adapters/{name}" for name in EXPERTS)
#: What methods read and do not merge. The aligned expert is all that alignment changed here.
REFERENCES: Final = {"aligned": ALIGNED, "unaligned": "./base", "safe": ALIGNED}
#: (base, models) of methods whose models have roles.
ROLES_OF_MODELS: Final[Mapping[str, tuple[str, Sequence[str]]]] = {
    "merge_align": ("./base", (SPOILING, ALIGNED)),
    "resta": ("", (SPOILING,)),
    "safe_lora": (ALIGNED, (SKILLED, SPOILING)),
    "safe_merge": (ALIGNED, (SKILLED, SPOILING)),
    "safe_delta": (ALIGNED, (SPOILING,)),
}
#: What one model has that the others do not. LED's authors locate least for safety.
OF_MODEL: Final[Mapping[tuple[str, str], Mapping[str, Any]]] = {
    ("led", ALIGNED): {"density": 0.1, "safety": True},
    ("led", SKILLED): {"density": 0.5},
    ("led", SPOILING): {"density": 0.4},
}
#: The set to tune on that each expert was trained for.
OWN_DATA: Final = {ALIGNED: "refusals", SKILLED: "sorting", SPOILING: "arithmetic"}
#: What tuning by gradient may give a coefficient.
BOUNDS: Final = {"weight": (-1.0, 2.0), "t": (0.0, 1.0)}
#: Of every other one, which is a factor on what is added to the base.
FACTOR: Final = (0.0, 3.0)


@dataclass(frozen=True)
class Calibration:
    """Numbers about a model; ``name``: what the method calls them.

    ``beside``: the model of the recipe that they belong to, which is also the one they are about,
    but for those of the base on that model's data, and for Safe Delta, which asks about its base.
    """

    name: str
    beside: str
    base: str

    @property
    def kind(self) -> str:
        return self.name.removeprefix("base_")

    @property
    def data(self) -> str:
        """The name of the set."""
        return "refusals" if self.base == ALIGNED else OWN_DATA[self.beside]

    @property
    def about(self) -> str:
        return self.base if self.base == ALIGNED or self.name != self.kind else self.beside

    @property
    def out(self) -> str:
        about = self.about.replace("./base+./adapters/", "").removeprefix("./")
        return f"calibration/{self.kind}-{about}-on-{self.data}"


@dataclass(frozen=True)
class Case:
    """One method, tuned or not. ``steps``: of the search; ``counts``: sizes of the sets."""

    method: str
    tuned: bool = False
    steps: int = 16
    counts: Counts = field(default_factory=Counts)

    @property
    def name(self) -> str:
        return f"{self.method}/{'gradient' if self.tuned else 'untuned'}"

    @property
    def search(self) -> str | None:
        return "gradient" if self.tuned else None

    def recipe(self, folder: Path, sets: Sets, seed: int) -> str:
        """The recipe in YAML; paths are relative to ``folder``, where models and data lie."""
        section = self._section(folder, sets, seed) if self.tuned else []
        return "\n".join([*self._merge(), *PRECISION, *section, ""])

    @property
    def _method(self) -> MergeMethod:
        return get_method(self.method)

    def _merge(self) -> list[str]:
        base, names = models_of(self._method)
        references = {each.name: REFERENCES[each.name] for each in self._method.inputs.references}
        lines = [f"merge_method: {self.method}"]
        lines += [f"base_model: {base}"] if base else []
        lines += [f"references: {references}"] if references else []
        lines.append("models:")
        each, shared = self._values()
        for name in names:
            own = {**each, **OF_MODEL.get((self.method, name), {})}
            beside = {c.name: f"./{c.out}" for c in self.calibrations if c.beside == name}
            lines.append(f"  - model: {name}")
            lines += [f"    parameters: {_flow(own)}"] if own else []
            lines += [f"    calibration: {_flow(beside)}"] if beside else []
        return lines + ([f"parameters: {_flow(shared)}"] if shared else [])

    @property
    def calibrations(self) -> list[Calibration]:
        """What is to be found with data before the merge."""
        base, names = models_of(self._method)
        return [
            Calibration(declared.name, name, base)
            for name in names
            for declared in self._method.inputs.calibration
        ]

    def _values(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of each model, and of the merge."""
        values = PUBLISHED.get(self.method, {})
        scopes = {p.name: p.scope for p in self._method.parameters}
        return (
            {k: v for k, v in values.items() if scopes[k] != "global"},
            {k: v for k, v in values.items() if scopes[k] == "global"},
        )

    def _section(self, folder: Path, sets: Sets, seed: int) -> list[str]:
        """The demo's data and objective; a value for each layer."""
        data = [
            f"    - {{path: ./{path.relative_to(folder)}, role: {ROLES.get(name, 'domain')}, "
            f"name: {name}, weight: {WEIGHTS.get(name, 1)}}}"
            for name, path in sets.tuned.items()
        ]
        names = [p.name for p in coefficients(self._method)]
        bounds = {name: list(BOUNDS.get(name, FACTOR)) for name in names}
        return [
            "tune:", "  data:", *data,
            "  objective: [cross_entropy, {term: dpo, weight: 0.2}]", "  alpha: 2",
            f"  search: {{method: gradient, rate: 0.1, check_every: {self.steps}}}",
            f"  coefficients: [{', '.join(names)}]", "  granularity: layer",
            f"  bounds: {bounds}", f"  seed: {seed}", "  batch: 8",
            f"  budget: {{steps: {self.steps}}}",
        ]  # fmt: skip


def models_of(method: MergeMethod) -> tuple[str, Sequence[str]]:
    """The base, or nothing, and the models that the method merges."""
    inputs = method.inputs
    if method.name in ROLES_OF_MODELS:
        return ROLES_OF_MODELS[method.name]
    if inputs.base == "member" or inputs.most == 1:
        return ALIGNED, (SPOILING,)
    if inputs.most == 2:
        return "", (ALIGNED, SPOILING)
    return ("" if inputs.base == "none" else "./base"), (ALIGNED, SKILLED, SPOILING)


def _flow(values: Mapping[str, Any]) -> str:
    """A mapping on one line of YAML."""
    return f"{{{', '.join(f'{name}: {str(value).lower()}' for name, value in values.items())}}}"


def coefficients(method: MergeMethod) -> list[Parameter]:
    """What is tuned by gradient: a weight an expert where there is one, else each factor."""
    found = [p for p in method.parameters if p.gradient]
    weights = [p for p in found if p.scope != "global"]
    return weights or found


def all_cases(counts: Counts | None = None, steps: int = 16) -> list[Case]:
    """Every method without tuning, then those with gradients tuned."""
    counts = counts or Counts()
    names = [name for name in (*METHODS, *VARIANTS) if name not in LEFT_OUT]
    tuned = [name for name in names if coefficients(get_method(name))]
    return [
        *(Case(name, counts=counts) for name in names),
        *(Case(name, True, steps, counts) for name in tuned),
    ]


def chosen(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases whose names match one of the patterns, such as ``ties/*``."""
    return [c for c in cases if any(fnmatch.fnmatch(c.name, p) for p in patterns)]
