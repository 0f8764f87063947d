"""``python -m bench.tune_searches``: what searches for coefficients cost, on the demo's models.

``candidate``: one candidate of CMA-ES, which is a forward pass of a model made on demand, against
what a search without such a model does: merge to a folder, load the folder, and run the same pass.
The folder is written by mergesafe, and by mergekit (its Python function, without the seconds that
its command takes to start) where that is installed, as evolutionary merging does with it.
``passes``: forward passes until the gradient search has the lowest objective that CMA-ES found,
over those until CMA-ES found it. Both start from the same weights and see all examples in every
step; a pass of the gradient search also has its backward pass.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import mergesafe
from bench.machine import describe
from bench.timing import measure, write_csv
from bench.tune import Row, demo_plan, random_batch, row
from mergesafe.chat.conversation import question
from mergesafe.chat.records import Record
from mergesafe.demo.data import REFUSALS, SKILLS, questions
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.journal import Journal
from mergesafe.tune.data.examples import Term
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.objective.evaluation import Evaluates, Evaluation
from mergesafe.tune.objective.objectives import Objective
from mergesafe.tune.results.tuned import rounded, tuned_text
from mergesafe.tune.search.problem import Problem, Progress, RecordedObjective
from mergesafe.tune.search.registry import SEARCHES
from mergesafe.tune.search.trajectory import TUNE, Trajectory
from mergesafe.tune.section.sections import Budget, SearchSpec

LEAST_CHEAPER = 20.0
MOST_PASSES = 0.1


def candidate(args: argparse.Namespace) -> list[Row]:
    """Seconds of a candidate, and of writing, loading and running the merged model."""
    return [row for method in args.methods.split(",") for row in candidate_of(method, args)]


def candidate_of(method: str, args: argparse.Namespace) -> list[Row]:
    plan = demo_plan(args.demo, method)
    space = CoefficientSpace(plan, "layer")
    x, batch = rounded(space, space.initial()), random_batch(args.rows, args.width, 49_000)
    with MergedModel(plan, space, device="cpu", dtype=args.dtype) as merged:
        merged.loss(batch, x)
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            recipe, out = Path(name) / "candidate.yml", Path(name) / "out"
            recipe.write_text(tuned_text(plan.recipe, space, x, "A candidate."))

            def written() -> None:
                mergesafe.merge(recipe, out, overwrite=True)
                AutoModelForCausalLM.from_pretrained(str(out))

            def by_mergekit() -> None:
                merge_with_mergekit(recipe, Path(name))
                AutoModelForCausalLM.from_pretrained(str(Path(name) / "mergekit"))

            ways = [lambda: merged.loss(batch, x), written]
            if find_spec("mergekit") is not None:
                by_mergekit()  # it keeps adapters that it has applied once
                ways.append(by_mergekit)
            on_demand, through_disk, *others = measure(ways, args.rounds)
        with merged.at(x):  # weights that stay
            [forward] = measure([lambda: merged.loss(batch, x)], args.rounds)
    made = max(on_demand.p50 - forward.p50, 1e-9)
    print(
        f"{'':<8} candidate {on_demand.p50:.2f} s, with weights that stay {forward.p50:.2f} s; "
        f"merge and load {through_disk.p50:.2f} s; processor times {on_demand.cpu:.2f}, "
        f"{forward.cpu:.2f}, {through_disk.cpu:.2f} s"
    )
    what = f"{method}, {args.dtype}: merge, load, forward / candidate"
    whole = (through_disk.p50 + forward.p50) / on_demand.p50
    rows = [
        at_least("whole", whole, LEAST_CHEAPER, what),
        at_least("weights", through_disk.p50 / made, LEAST_CHEAPER, f"{what}, without the pass"),
    ]
    for other in others:
        ratio = (other.p50 + forward.p50) / on_demand.p50
        name = f"{what}, merged by mergekit in {other.p50:.1f} s with loading"
        rows += [
            at_least("mergekit", ratio, LEAST_CHEAPER, name),
            at_least(
                "mergekit weights", other.p50 / made, LEAST_CHEAPER, f"{name}, without the pass"
            ),
        ]
    return rows


def merge_with_mergekit(recipe: Path, folder: Path) -> None:
    """The recipe's merge in ``folder / "mergekit"``."""
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    settings = yaml.safe_load(recipe.read_text())
    options = MergeOptions(
        lora_merge_cache=str(folder / "adapters"), lora_merge_dtype="float32",
        write_model_card=False, quiet=True,
    )  # fmt: skip
    run_merge(MergeConfiguration.model_validate(settings), str(folder / "mergekit"), options)


def at_least(case: str, value: float, limit: float, what: str) -> Row:
    """One measured ratio and the least that it should be."""
    met = "met" if value >= limit else "MISSED"
    print(f"{case:<8} {value:>8.2f} ratio  least {limit:.2f}: {met}  {what}", flush=True)
    return {
        "case": case, "value": round(value, 3), "unit": "ratio", "limit": limit, "met": met,
        "what": what,
    }  # fmt: skip


def passes(args: argparse.Namespace) -> list[Row]:
    """Forward passes of both searches to the same objective."""
    method = args.methods.partition(",")[0]
    plan = demo_plan(args.demo, method)
    count = partial(searched, plan, args)
    by_cmaes, each = count("cmaes", args.cmaes_granularity or args.granularity, args.generations)
    target = min(by_cmaes)
    generation = by_cmaes.index(target) + 1
    used = generation * each
    by_gradient, one = count("gradient", args.granularity, args.steps, patience=0)
    print(
        f"{'':<8} CMA-ES {target:.4f} in generation {generation} of {args.generations}, {used:.0f} "
        f"passes; gradient {by_gradient[-1]:.4f} in step {args.steps}, {args.steps * one:.0f}"
    )
    steps = next((n for n, value in enumerate(by_gradient, 1) if value <= target), None)
    if steps is None:
        print("passes   the gradient search did not get there")
        return []
    what = (
        f"{method}: passes until the gradient over {args.granularity} coefficients ({steps} "
        f"steps) is at the {target:.4f} of CMA-ES over "
        f"{args.cmaes_granularity or args.granularity} ones ({generation} generations)"
    )
    return [row("passes", steps * one / used, "ratio", MOST_PASSES, what)]


def searched(
    plan: MergePlan, args: argparse.Namespace, method: str, granularity: str, steps: int,
    **options: float,
) -> tuple[list[float], float]:  # fmt: skip
    """The objective on all examples after every step, and the forward passes of one."""
    space = CoefficientSpace(plan, granularity)
    with (
        MergedModel(plan, space, device="cpu", dtype=args.dtype) as merged,
        tempfile.TemporaryDirectory(dir=args.folder) as name,
        Journal(Path(name) / "state", TUNE) as file,
    ):
        state = Trajectory(file, {}, resume=False)
        batch = RecordedObjective("batch", Objective(merged, terms(args.examples)), state)
        problem = Problem(space, batch, Unused(), state, progress=told)
        SEARCHES[method].run(problem, space.initial(), spec(method, steps, **options))
        made = state.forward_passes
    values = [moment.objective for moment in problem.history]
    return values, made / len(values)


def told(moment: Progress) -> None:
    print(f"{'':<8} {moment.search} {moment.step}: {moment.objective:.4f}", flush=True)


class Unused(Evaluates):
    """The choice between a search's last points, which does not count here."""

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        return Evaluation(0.0, {}, None, 0, 0)


def terms(examples: int) -> list[Term]:
    """Refusals, and both skills with alpha 0.3 as one domain."""
    sets = {
        "safety": (1.0, [Record(question(q), REFUSALS[0]) for q in questions("unsafe", "train")])
    }
    for name, draw in SKILLS.items():
        drawn = draw("train", examples, 0)
        sets[name] = (0.15, [Record(question(each.question), each.answer) for each in drawn])
    return [Term(name, records[:examples], weight=w) for name, (w, records) in sets.items()]


def spec(method: str, steps: int, **options: float) -> SearchSpec:
    """A search with these options, and else those of a recipe that names none."""
    defaults = {key: default for key, (default, _) in SEARCHES[method].options.items()}
    return SearchSpec(method, {**defaults, **options}, Budget(steps=steps))


def main(arguments: list[str] | None = None) -> None:
    """Command line of ``python -m bench.tune_searches``."""
    parser = argparse.ArgumentParser(prog="python -m bench.tune_searches", description=__doc__)
    parser.add_argument("case", choices=("candidate", "passes"))
    parser.add_argument("--demo", type=Path, required=True, help="folder with base and adapters")
    parser.add_argument("--folder", type=Path, default=None, help="where candidates are written")
    parser.add_argument("--methods", default="ties,task_arithmetic", help="of passes: the first")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--granularity", default="model")
    parser.add_argument("--cmaes-granularity", help="of CMA-ES, where another")
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args(arguments)
    rows = {"candidate": candidate, "passes": passes}[args.case](args)
    if rows:
        print(write_csv(f"tune_{args.case}", [each | describe() for each in rows]))


if __name__ == "__main__":
    main()
