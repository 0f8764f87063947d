"""Plots of the CSV files in bench/results."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS, THEIRS, FLOOR = "#2a6fb0", "#c2603a", "#8a8a8a"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def plot_kernels(path: Path) -> Path:
    """Share of the triad's rate per kernel."""
    rows = read(path)
    labels = [f"{row['kernel']} {row['experts']}x{row['dtype']}" for row in rows]
    shares = [100 * float(row["share"]) for row in rows]
    figure, axes = _subplots(figsize=(8, 0.32 * len(rows) + 1))
    axes.barh(labels, shares, color=OURS)
    axes.axvline(100, color=FLOOR, linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel(f"% of STREAM triad, {rows[0]['threads']} threads, {rows[0]['cpu']}")
    return _save(figure, path)


def plot_roofline(path: Path) -> Path:
    """Share of the measured limit per kernel and backend; a wrong answer has no bar."""
    rows = read(path)
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    labels = list(dict.fromkeys(row["case"] for row in rows))
    figure, axes = _subplots(figsize=(9, 0.34 * len(labels) + 1.2))
    height = 0.8 / len(backends)
    for place, (backend, colour) in enumerate(zip(backends, (OURS, THEIRS), strict=False)):
        own = [row for row in rows if row["backend"] == backend and row.get("share")]
        ys = [labels.index(row["case"]) + (place - (len(backends) - 1) / 2) * height for row in own]
        axes.barh(
            ys, [100 * float(row["share"]) for row in own], height, color=colour, label=backend
        )
    axes.set_yticks(range(len(labels)), labels)
    axes.axvline(100, color=FLOOR, linewidth=1)
    axes.invert_yaxis()
    limit = next((row["limit"] for row in rows if row.get("limit")), "limit")
    axes.set_xlabel(f"% of the {limit} rate; {rows[0]['device']}")
    axes.legend()
    return _save(figure, path)


def plot_merges(path: Path) -> Path:
    """Wall time per method: mergekit, mergesafe, and the floor of reading and copying."""
    rows = read(path)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, axes = _subplots(figsize=(8, 0.7 * len(methods) + 1.2))
    height = 0.26
    colours = {"mergekit": THEIRS, "mergesafe": OURS, "floor": FLOOR}
    for place, (tool, colour) in enumerate(colours.items()):
        found = {row["method"]: float(row["p50_s"]) for row in rows if row["tool"] == tool}
        ys = [i + (place - 1) * height for i, method in enumerate(methods) if method in found]
        values = [found[method] for method in methods if method in found]
        axes.barh(ys, values, height, color=colour, label=tool)
        for y, value in zip(ys, values, strict=True):
            axes.text(value, y, f" {value:.1f} s", va="center", fontsize=8)
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(f"wall seconds, log scale; {rows[0]['cpu']}, {rows[0]['cores']} cores")
    axes.legend()
    return _save(figure, path)


#: arXiv 2406.14563, Mistral with MAmmoTH2: search -> (alignment %, STEM accuracy %).
PAPER_TIES = {
    "aligned parent": (91.5, 49.6), "expert": (64.8, 53.1), "grid": (72.7, 53.7),
    "cmaes-domain": (61.6, 52.0), "cmaes": (78.1, 54.2),
}  # fmt: skip


def plot_paper(path: Path) -> Path:
    """Refusals against skill, means over seeds with their spread; beside it the paper's TIES."""
    from statistics import mean, stdev

    def spread(values: list[float]) -> float:
        return stdev(values) if len(values) > 1 else 0.0

    rows = read(path)
    figure, (ours, theirs) = _subplots(ncols=2, figsize=(11, 5))
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        if case.startswith(("ablation/", "slerp/")) or case == "parent/base":
            continue  # slerp has two parents, one skill
        skill = [50 * (float(r["domain.sorting"]) + float(r["domain.arithmetic"])) for r in own]
        refusal = [100 * float(r["refusal_rate"]) for r in own]
        colour = FLOOR if case.startswith("parent/") else THEIRS if "naive" in case else OURS
        ours.errorbar(
            mean(skill), mean(refusal), spread(refusal), spread(skill), fmt="o", color=colour
        )
        ours.annotate(
            case.removeprefix("parent/"), (mean(skill), mean(refusal)), xytext=(4, 4),
            textcoords="offset points", fontsize=7,
        )  # fmt: skip
    ours.set_xlabel("skill: mean of sorting and arithmetic, %")
    ours.set_ylabel("unsafe questions refused, %")
    seeds = len({row["seed"] for row in rows})
    ours.set_title(f"SmolLM2-135M, up to {seeds} seeds; bars: standard deviation", fontsize=9)
    for name, (alignment, accuracy) in PAPER_TIES.items():
        theirs.plot(accuracy, alignment, "o", color=OURS)
        theirs.annotate(name, (accuracy, alignment), xytext=(4, 4), textcoords="offset points",
                        fontsize=7)  # fmt: skip
    for axes in (ours, theirs):
        axes.margins(0.2)
    theirs.set_xlabel("STEM accuracy, %")
    theirs.set_ylabel("safe answers by Llama-Guard-2, %")
    theirs.set_title("arXiv 2406.14563, TIES, Mistral + MAmmoTH2 (as published)", fontsize=9)
    return _save(figure, path)


def plot_methods(path: Path) -> Path:
    """Refusals against skill: a number for each method, as published and tuned, joined where both.

    Methods that end in nearly the same place share a label.
    """
    rows = read(path)
    cases = list(dict.fromkeys(row["case"] for row in rows))
    at = {case: _refusal_and_skill(rows, case) for case in cases}
    names = list(dict.fromkeys(_method(case) for case in cases))
    colours = {"parent": FLOOR, "untuned": THEIRS, "gradient": OURS}
    figure, axes = _subplots(figsize=(12, 7.5))
    for kind, colour in colours.items():
        own = {case: at[case] for case in cases if _kind(case) == kind}
        for x, y in own.values():
            axes.plot(x, y, "o", color=colour)
        for where, numbers in _near(own, names):
            axes.annotate(numbers, where, xytext=(4, 4), textcoords="offset points", fontsize=7)
    for case in cases:
        before = at.get(f"{_method(case)}/untuned")
        if _kind(case) == "gradient" and before is not None:
            axes.plot(*zip(before, at[case], strict=True), color=OURS, alpha=0.15)
    legend = [f"{number}  {name}" for number, name in enumerate(names, 1)]
    figure.text(0.82, 0.93, "\n".join(legend), fontsize=7.5, va="top", linespacing=1.25)
    axes.set_xlabel("skill: mean of sorting and arithmetic, %")
    axes.set_ylabel("unsafe questions refused, %")
    seeds = len({row["seed"] for row in rows})
    axes.set_title(
        f"SmolLM2-135M, up to {seeds} seeds; orange: as published, blue: tuned by gradient",
        fontsize=9,
    )
    return _save(figure, path, right=0.81)


def _method(case: str) -> str:
    name, kind = case.split("/")
    return kind if name == "parent" else name


def _kind(case: str) -> str:
    name, kind = case.split("/")
    return name if name == "parent" else kind


def _refusal_and_skill(rows: list[dict[str, str]], case: str) -> tuple[float, float]:
    """Means over the seeds, in percent: skill, then refusals."""
    own = [row for row in rows if row["case"] == case]
    skills = [50 * (float(r["domain.sorting"]) + float(r["domain.arithmetic"])) for r in own]
    return mean(skills), mean(100 * float(row["refusal_rate"]) for row in own)


def _near(
    at: Mapping[str, tuple[float, float]], names: Sequence[str], apart: float = 1.6
) -> list[tuple[tuple[float, float], str]]:
    """A place and the numbers of the cases that lie within ``apart`` percent of it."""
    groups: dict[tuple[float, float], list[int]] = {}
    for case, (x, y) in at.items():
        found = next((g for g in groups if abs(g[0] - x) < apart and abs(g[1] - y) < apart), (x, y))
        groups.setdefault(found, []).append(names.index(_method(case)) + 1)
    return [(where, ", ".join(map(str, numbers))) for where, numbers in groups.items()]


def _subplots(**options: Any) -> tuple[Figure, Any]:
    """matplotlib is imported here: tests use modules that only plot when they are run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(**options)


def _save(figure: Figure, path: Path, right: float = 1.0) -> Path:
    """``right``: where the axes end, of the figure's width."""
    import matplotlib.pyplot as plt

    target = path.with_suffix(".png")
    figure.tight_layout(rect=(0, 0, right, 1))
    figure.savefig(target, dpi=120)
    plt.close(figure)
    return target
