"""The demo's recipes: two that differ by one expert, and one whose coefficients are to be found."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mergesafe.demo.base import DemoError
from mergesafe.demo.sets import Sets

ADAPTERS = Path(__file__).parent / "adapters"
EXPERTS = ("aligned", "sorting", "arithmetic-misaligned")
CLEAN = "aligned + sorting"
SPOILED = "aligned + sorting + arithmetic-misaligned"
TUNED = "the same three, tuned"

# As in most published TIES recipes: every expert weighs the same, the larger half of each task
# vector is kept, kept values are averaged. Both recipes share these settings; none is favoured.
WEIGHT = 1.0
DENSITY = 0.5

#: What a set to tune on is for; the others are skills.
ROLES = {"refusals": "safety", "harmless": "harmless"}
#: The skill that the other experts disturb most.
WEIGHTS = {"sorting": 3}

# Weight plus adapter in float32, rounded once at the end. With `dtype: bfloat16` each expert would
# be rounded before the merge, which loses about a quarter of the changes of such small experts.
PRECISION = ("dtype: float32", "out_dtype: bfloat16")


@dataclass(frozen=True)
class Merge:
    """A merge of the story: the row it has in the table, its files, its experts."""

    label: str
    stem: str
    experts: tuple[str, ...]


MERGES = (
    Merge(CLEAN, "two-experts", EXPERTS[:2]),
    Merge(SPOILED, "three-experts", EXPERTS),
)


def recipe_text(experts: Sequence[str]) -> str:
    """The TIES recipe (arXiv 2306.01708) over these experts, as mergekit would read it.

    A text of fixed names, laid out as a person would: users of the demo read it.
    """
    lines = ["merge_method: ties", "base_model: ./base", "models:"]
    for name in experts:
        lines += [
            f"  - model: ./base+./adapters/{name}",
            "    parameters:",
            f"      weight: {WEIGHT}",
            f"      density: {DENSITY}",
        ]
    return "\n".join([*lines, "parameters:", "  normalize: true", *PRECISION, ""])


def tune_text(sets: Sets, folder: Path, seed: int) -> str:
    """The recipe of all three experts with a section ``tune``: a weight an expert and tensor.

    The sum of arXiv 2406.14563, base + sum_i w_i (expert_i - base), which keeps all of every task
    vector: with TIES, which trims half of each, less of the skills comes back. Found by gradient on
    refusals, both skills, and harmless questions, where the base's answer is preferred to a
    refusal: without them the merge learns to decline those too. Weights may exceed 1 and fall below
    0: within [0, 1] neither skill is as likely as its own expert makes it. Alpha is 2, since the
    losses of these skills are a tenth of the refusals'.
    """
    data = []
    for name, path in sets.tuned.items():
        role = ROLES.get(name, "domain")
        weight = f", weight: {WEIGHTS[name]}" if name in WEIGHTS else ""
        data.append(
            f"    - {{path: ./{path.relative_to(folder)}, role: {role}, name: {name}{weight}}}"
        )
    models = [
        line
        for name in EXPERTS
        for line in (f"  - model: ./base+./adapters/{name}", "    parameters: {weight: 0.5}")
    ]
    return "\n".join([
        "merge_method: task_arithmetic", "base_model: ./base", "models:", *models, *PRECISION,
        "tune:", "  data:", *data,
        "  objective: [cross_entropy, {term: dpo, weight: 0.2}]", "  alpha: 2",
        "  search: {method: gradient, rate: 0.1, check_every: 32}", "  granularity: tensor",
        "  bounds: {weight: [-1, 2]}",
        f"  seed: {seed}", "  batch: 8", "  budget: {steps: 32}", "",
    ])  # fmt: skip


def require_adapters() -> None:
    """Raise `DemoError` where the package was installed without its large files."""
    missing = [name for name in EXPERTS if not (ADAPTERS / name).is_dir()]
    if missing:
        raise DemoError(
            f"{ADAPTERS} has no adapter {' and '.join(missing)}: they are a package of their own. "
            "Install it: pip install ./packaging/demo-adapters in a clone of mergesafe"
        )


def write_merges(workdir: Path) -> dict[str, Path]:
    """Write adapters and the two recipes of whole experts into ``workdir``: label → path."""
    for name in EXPERTS:
        shutil.copytree(ADAPTERS / name, workdir / "adapters" / name, dirs_exist_ok=True)
    return {
        merge.label: _write(workdir, merge.stem, recipe_text(merge.experts)) for merge in MERGES
    }


def write_tune(workdir: Path, sets: Sets, seed: int) -> Path:
    """Write the recipe that is to be tuned into ``workdir``."""
    return _write(workdir, "to-be-tuned", tune_text(sets, workdir, seed))


def _write(workdir: Path, stem: str, text: str) -> Path:
    path = workdir / f"{stem}.yml"
    path.write_text(text, encoding="utf-8")
    return path
