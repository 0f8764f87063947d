"""What is compared: parents, merges of the domain expert with the aligned one, and training."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from bench.align.training import Training
from mergesafe.demo.recipes import EXPERTS, PRECISION, ROLES
from mergesafe.demo.sets import Counts, Sets

#: The aligned expert, and the expert of a domain, which answers unsafe questions.
ALIGNED, _, DOMAIN = EXPERTS
#: Fewer skill questions for each seed than the demo's 40: five seeds have 100 of each. To tune
#: on there are as many examples of a skill as refusals and harmless answers.
COUNTS: Final = Counts(skill=20, tuned_skill=48)
#: γ_d and γ_a. ``half``: the paper's. ``aligned-first``: the aligned task vector as it was trained,
#: since halving it halves what a greedy answer needs most to turn, and half of the domain's.
PRESETS: Final = {"half": (0.5, 0.5), "aligned-first": (0.5, 1.0)}
#: The tuned merge sees the pairs that training sees, and the expert's own skill.
_TUNED_ON: Final = ("refusals", "harmless", "arithmetic")
_STEPS: Final = 16
_A, _D = (f"./base+./adapters/{name}" for name in (ALIGNED, DOMAIN))


@dataclass(frozen=True)
class Parent:
    """A model that is asked as it is; ``expert`` is empty for the base."""

    name: str
    expert: str = ""

    def reference(self, folder: Path) -> str:
        """The model as commands name it."""
        base = str(folder / "base")
        return f"{base}+{folder / 'adapters' / self.expert}" if self.expert else base


@dataclass(frozen=True)
class Merge:
    """A merge of the two experts; a case of :class:`bench.experiment.Experiment`.

    ``values``: parameters in YAML, of γ_d and γ_a for MergeAlign, else of the whole merge.
    """

    name: str
    method: str
    values: tuple[float, ...]
    search: str | None = None
    counts: Counts = COUNTS

    def recipe(self, folder: Path, sets: Sets, seed: int) -> str:
        """The recipe in YAML; paths are relative to ``folder``, where models and data lie."""
        lines = [f"merge_method: {self.method}"]
        if self.method == "merge_align":
            lines += ["base_model: ./base", "models:"]
            for model, gamma in zip((_D, _A), self.values, strict=True):
                lines.append(f"  - {{model: {model}, parameters: {{gamma: {gamma}}}}}")
        else:
            (t,) = self.values
            lines += [f"base_model: {_A}", "models:", f"  - model: {_D}", f"parameters: {{t: {t}}}"]
        section = self._section(folder, sets, seed) if self.search else []
        return "\n".join([*lines, *PRECISION, *section, ""])

    def _section(self, folder: Path, sets: Sets, seed: int) -> list[str]:
        """The demo's objective; a gamma for each expert and layer."""
        data = [
            f"    - {{path: ./{sets.tuned[name].relative_to(folder)}, "
            f"role: {ROLES.get(name, 'domain')}, name: {name}}}"
            for name in _TUNED_ON
        ]
        return [
            "tune:", "  data:", *data,
            "  objective: [cross_entropy, {term: dpo, weight: 0.2}]", "  alpha: 2",
            f"  search: {{method: {self.search}, rate: 0.1, check_every: {_STEPS}}}",
            "  coefficients: [gamma]", "  granularity: layer", "  bounds: {gamma: [-1, 2]}",
            f"  seed: {seed}", "  batch: 8", f"  budget: {{steps: {_STEPS}}}",
        ]  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """The domain expert after preference training."""

    name: str
    training: Training
    counts: Counts = COUNTS

    def out(self, folder: Path) -> Path:
        """Where the trained adapter lies."""
        return folder / "trained" / self.name.removeprefix("training/")


Case: TypeAlias = Parent | Merge | Trained


def all_cases() -> list[Case]:
    """Every row: what costs least comes first."""
    return [
        Parent("parent/base"),
        Parent("parent/aligned", ALIGNED),
        Parent("parent/domain", DOMAIN),
        *(Merge(f"merge_align/{name}", "merge_align", gammas) for name, gammas in PRESETS.items()),
        *(Merge(f"interpolate/{t}", "interpolate", (t,)) for t in (0.25, 0.5, 0.75)),
        Merge("slerp/0.5", "slerp", (0.5,)),
        Merge("merge_align/tuned", "merge_align", (0.5, 0.5), search="gradient"),
        Trained("training/dpo", Training("dpo", beta=0.1)),
        Trained("training/orpo", Training("orpo", beta=0.1)),
        Trained("training/dpo-slower", Training("dpo", beta=0.1, rate=3e-4)),
    ]


def chosen(patterns: Sequence[str]) -> list[Case]:
    """The cases whose names match one of the patterns, such as ``merge_align/*``."""
    return [c for c in all_cases() if any(fnmatch.fnmatch(c.name, p) for p in patterns)]
