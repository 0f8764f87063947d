"""Everything about a tuning run that is decided before a model is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.places.location import at
from mergesafe.engine.plan.companions import companions_of
from mergesafe.engine.plan.merge_plan import MergePlan, make_plan
from mergesafe.engine.plan.precision import named
from mergesafe.engine.resume.unfinished import TENSORS, name_of, subject_of
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.engine.run.whole_model import with_model_answers
from mergesafe.errors import DataError, TuningError
from mergesafe.recipe.documents import refuse_documents
from mergesafe.recipe.load import RecipeSource, load_recipe
from mergesafe.recipe.model import Recipe
from mergesafe.safety.judges.base import check_judges
from mergesafe.safety.judges.registry import make_judge
from mergesafe.tune.data.known import check_known
from mergesafe.tune.data.splits import Split, load_splits, locate
from mergesafe.tune.data.terms import SAFETY, front_sides, make_sides, make_terms
from mergesafe.tune.lint import lint, lint_answers, lint_start
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.model.tensor_function import check_differentiable
from mergesafe.tune.objective.deciding import surrogates
from mergesafe.tune.search.registry import check_searches
from mergesafe.tune.section.read_section import START, read_section
from mergesafe.tune.section.sections import TuneSection
from mergesafe.tune.start import check_start, data_free_weights

#: The plan of a tuning run is not written, so the size of shards is of no account.
_ONE_SHARD = 1 << 62
#: Random masks are those that ``merge`` makes unless told otherwise, whatever seeds the search.
_MASK_SEED = 0


@dataclass(frozen=True)
class TuningSetup:
    """A checked recipe, its data, and the coefficients to find."""

    recipe: Recipe
    section: TuneSection
    plan: MergePlan
    splits: tuple[Split, ...]
    space: CoefficientSpace
    warnings: tuple[str, ...]
    #: Where the weights start, [experts, groups]; None: where ``init`` or the recipe says.
    weights: torch.Tensor | None = None

    def with_statistics(self, memory: int) -> TuningSetup:
        """The same, knowing what is to be found in the models' tensors, which are read for it: what
        the method asks about the whole model, and the weights of a start without data.

        Raises:
            CheckpointError, NonFiniteError: an input cannot be read, or holds NaN or infinity.
            ArgumentError: the memory is too small.
        """
        found = self._with_model_answers(memory)
        if (rule := self.section.init_weights) is None:
            return found
        threads = torch.get_num_threads()
        weights = data_free_weights(found.space, rule, memory=memory, threads=threads)
        return replace(found, weights=weights)

    def _with_model_answers(self, memory: int) -> TuningSetup:
        with Reader() as reader:
            plan = with_model_answers(
                self.plan, reader, NonFinite("error", reader),
                memory=memory, threads=torch.get_num_threads(),
            )  # fmt: skip
        if plan is self.plan:
            return self
        section = self.section
        space = CoefficientSpace(plan, section.granularity, section.coefficients, section.bounds)
        return replace(self, plan=plan, space=space)

    @property
    def start(self) -> torch.Tensor:
        """Where the first search begins: ``init``, else the recipe's values."""
        x = self.space.initial()
        for name, value in self.section.init.items():
            self.space.view(x, name)[:] = value
        if self.weights is not None:
            self.space.view(x, "weight")[:] = self.weights
        return self.space.clamp(x)

    def subject(self, **options: Any) -> dict[str, Any]:
        """What the numbers of the run depend on, for its trajectory."""
        about = subject_of(self.plan, "error")
        # Headers do not tell an adapter's scale. (Runs that began before have no such line.)
        adapted = any(model.adapter for model in self.plan.models)
        tensors = {"tensors": about["options"][TENSORS]} if adapted else {}
        own = {"file of the merge method": files} if (files := self.plan.method_files) else {}
        section = replace(self.section, seed=0)  # the seed is told by itself
        digest = hashlib.sha256(repr(section).encode()).hexdigest()
        return {
            **{key: about[key] for key in ("mergesafe_version", "recipe", "inputs")},
            **tensors,
            **own,
            "section 'tune'": digest,
            "seed": self.section.seed,
            "configuration, tokenizer or chat template": self._companions(),
            "judge": make_judge(self.section.judge).version if self.section.constraints else "",
            "data": {split.name: split.digest for split in self.splits},
            "torch": torch.__version__,
            **options,
        }

    def _companions(self) -> dict[str, Any]:
        """What the merged model takes beside weights, and what the others that are asked do."""
        plan = self.plan
        asked = plan.models if self.section.constraints else ()
        pairs = [(plan.reference, plan.tokenizer), *((model, model) for model in asked)]
        places = {path for model, tokenizer in pairs for path, _ in companions_of(model, tokenizer)}
        places |= {each.file for each in plan.built.others} if plan.built is not None else set()
        named = sorted((name_of(place), place) for place in places)
        return {"config.json": plan.config, **{n: at(place).fingerprint() for n, place in named}}


def files_read(recipe: RecipeSource) -> list[Path]:
    """The files here that tuning ``recipe`` reads: none of them may become an output.

    Raises:
        RecipeError: the recipe is wrong.
    """
    loaded = _loaded(recipe)
    section = read_section(loaded)
    found = [] if loaded.source is None else [loaded.source]
    for each in section.data:
        found += [locate(path, loaded.folder) for path in (each.path, each.heldout) if path]
    refs = [*loaded.inputs, *loaded.references.values()]
    refs += [] if loaded.base_model is None else [loaded.base_model]
    folders = {place for ref in refs for place in ref.resolve(loaded.folder)}
    argument = section.judge.partition(":")[2]
    folders |= {Path(part).expanduser() for part in (argument, *argument.split("+")) if part}
    return [*found, *(file for each in folders if isinstance(each, Path) for file in _files(each))]


def _loaded(recipe: RecipeSource) -> Recipe:
    loaded = load_recipe(recipe, assumed=START)
    how = ", with any values for those that tuning is to find"
    refuse_documents(loaded, "tuning takes", how)
    return loaded


def _files(place: Path) -> list[Path]:
    """``place`` itself, or what the folder holds, but for recipes, which no model consists of."""
    try:
        listed = list(place.iterdir()) if place.is_dir() else [place]
        return [file for file in listed if file.suffix not in (".yml", ".yaml") or file == place]
    except OSError:  # told where the model is opened
        return []


def prepare(
    recipe: RecipeSource, seed: int | None = None, *, allow_token_mismatch: bool = False
) -> TuningSetup:
    """Read and check the recipe, the headers of its inputs, and its data.

    Raises:
        RecipeError, DataError, CheckpointError: something is wrong; the message says where.
        ArgumentError, ModelError: the judge of its constraints cannot be used.
        TuningError: the merge has nothing to tune.
    """
    loaded = _loaded(recipe)
    section = read_section(loaded)
    if seed is not None:
        section = replace(section, seed=seed)
    merged = replace(loaded, tune=None, tune_line=None)
    plan = make_plan(
        merged,
        max_shard_size=_ONE_SHARD,
        seed=_MASK_SEED,
        allow_token_mismatch=allow_token_mismatch,
    )
    _refuse_what_is_no_tensor(plan)
    splits = load_splits(section, loaded.folder, loaded.source)
    space = CoefficientSpace(plan, section.granularity, section.coefficients, section.bounds)
    _check_whole_model(space)
    if section.init_weights is not None:
        with _at(loaded, "init"):
            check_start(space, section.init_weights)
    check_searches(space, section.searches, loaded.source)
    if section.searches:
        _check_data(loaded, section, splits, space)
    if section.constraints:
        check_judges([make_judge(section.judge)])
    warnings = (
        *plan.warnings, *section.warnings, *lint(loaded, section),
        *lint_start(loaded, section, space), *lint_answers(splits),
        *check_known(splits, section.known_test_sets == "allow"),
    )  # fmt: skip
    return TuningSetup(loaded, section, plan, splits, space, tuple(dict.fromkeys(warnings)))


def _check_whole_model(space: CoefficientSpace) -> None:
    """Refuse to tune what may decide about the answers about the whole model.

    Raises:
        TuningError: a coefficient does; names it.
    """
    names = [parameter.name for parameter in space.parameters if not parameter.gradient]
    if names and any(task.asks_model for task in space.plan.tasks):
        raise TuningError(
            f"every value of {', '.join(names)} would need a pass over the whole model, about "
            f"which {space.method.name} asks here: name other 'coefficients' than these, or let it "
            "decide tensor by tensor"
        )


def _refuse_what_is_no_tensor(plan: MergePlan) -> None:
    """A tuned model makes whole tensors, and so would not be the one that a merge makes."""
    divided = [name for name, tasks in plan.outputs.items() if tasks[0].part is not None]
    if divided:
        raise TuningError(
            f"{named(divided, 'tensor')} merged expert by expert by {plan.recipe.merge_method}, "
            "which tuning cannot do. Tune task_arithmetic or linear, which treat every element by "
            "itself, or a checkpoint that stores each expert by itself."
        )


def check_explainable(setup: TuningSetup) -> None:
    """Refuse to explain what cannot be: a merge without gradients, or without safety data.

    Raises:
        TuningError: it cannot.
    """
    check_differentiable(setup.space)
    if not make_sides(setup.splits)[SAFETY]:
        raise TuningError(
            "--explain needs a data set with 'role: safety' and a weight above 0: it blames its "
            "loss on models"
        )


def _check_data(
    recipe: Recipe, section: TuneSection, splits: Sequence[Split], space: CoefficientSpace
) -> None:
    """Refuse data that the objective, a constraint or a front cannot do with, by their line."""
    with _at(recipe, "objective", "data"):
        make_terms(section, splits, space)
        make_terms(section, splits, space, heldout=True)
    for constraint in section.constraints:
        with _at(recipe, line=constraint.line):
            surrogates(constraint, splits)
    if section.front_points is not None:
        with _at(recipe, "front"):
            front_sides(section, splits)


@contextmanager
def _at(recipe: Recipe, *keys: str, line: int | None = None) -> Iterator[None]:
    """Errors within, with ``line``, or that of the first of ``keys`` in the section."""
    entries = {} if recipe.tune is None else recipe.tune.entries
    line = next((entries[key][0] for key in keys if key in entries), line)
    try:
        yield
    except (DataError, TuningError) as error:
        if recipe.source is None or line is None or getattr(error, "source", None) is not None:
            raise
        raise type(error)(f"{recipe.source}:{line}: {error}") from None
