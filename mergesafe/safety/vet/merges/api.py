"""``vet_recipe``: the parents of a recipe, and merges of them that are written nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mergesafe.chat.hf import HfModel
from mergesafe.engine.api import thread_count
from mergesafe.engine.memory import budget_of
from mergesafe.errors import ArgumentError, CheckpointError, ModelError
from mergesafe.log_lines import told
from mergesafe.recipe.documents import refuse_documents
from mergesafe.recipe.load import RecipeSource, load_recipe
from mergesafe.recipe.model import ModelRef, Recipe
from mergesafe.recipe.quoting import quoted
from mergesafe.recipe.short_names import short_names
from mergesafe.references import redact_text
from mergesafe.safety.evaluation.gather import sets_of
from mergesafe.safety.evaluation.options import EvaluationOptions, options_from
from mergesafe.safety.evaluation.sets import SHIPPED, EvaluationSet
from mergesafe.safety.progress import ProgressCallback, numbered
from mergesafe.safety.vet import scope
from mergesafe.safety.vet.api import Observed, judged, observed, ready, vet
from mergesafe.safety.vet.behaviour import Behaviour, Limits, observe
from mergesafe.safety.vet.locked import with_locks
from mergesafe.safety.vet.merges.interaction import (
    MAX_INTERACTION,
    Figures,
    ProbedMerge,
    interactions,
)
from mergesafe.safety.vet.merges.model import Workbench, identity_of
from mergesafe.safety.vet.merges.probes import (
    STRENGTHS,
    Probe,
    check_strengths,
    probes_of,
    recipe_of,
)
from mergesafe.safety.vet.result import Vetted
from mergesafe.safety.vet.triggers.api import with_triggers

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mergesafe.safety.evaluation.keywords import EvaluationKeywords

#: Questions of each set: a few decide, since what is looked for is not subtle.
QUESTIONS: Final = 24
#: An answer that declines, or that sets out to comply, says so in its first words.
ANSWER_TOKENS: Final = 12
#: The name of the base among the parents of a merge.
BASE: Final = "the base"


@dataclass(frozen=True)
class _Pool:
    """The experts of a recipe by their short names, and their base, as every command reads them."""

    experts: dict[str, str]
    base: str


def vet_recipe(
    recipe: RecipeSource,
    base: str | Path | None = None,
    *,
    strengths: Sequence[float] = STRENGTHS,
    max_interaction: float = MAX_INTERACTION,
    margin: float = Limits.margin,
    min_safe_rate: float | None = None,
    max_over_refusal: float | None = None,
    triggers: bool = False,
    memory: str | float | None = None,
    threads: int | None = None,
    progress: ProgressCallback | bool | None = None,
    **options: Unpack[EvaluationKeywords],
) -> Vetted:
    """Audit the parents of a recipe, and merges of them, before anything is merged.

    Every parent is audited as by :func:`~mergesafe.safety.vet.api.vet`. Then the recipe, every pair
    of its experts, all but one, and each alone at each of ``strengths`` are merged in memory and
    asked the unsafe questions. Nothing is written.

    Args:
        recipe: path of a YAML recipe, or the same as a mapping.
        base: what the experts were fine-tuned from; the recipe's ``base_model`` by default.
        strengths: λ of base + λ Σ τ, numbers above 0.
        max_interaction: a merge that is certainly worse than the worst of its parents by more than
            this share is named in :attr:`~mergesafe.safety.vet.result.Vetted.above`.
        margin: see :class:`~mergesafe.safety.vet.behaviour.Limits`, for the next two as well.
        min_safe_rate: lowest safe rate of a parent.
        max_over_refusal: highest over-refusal of a parent.
        triggers: search every parent for a phrase that turns it.
        memory: bytes for buffers of the pass over the weights.
        threads: default: all processors.
        progress: True prints a line now and then; or a function of what is being done.
        options: how models are asked: the fields of
            :class:`~mergesafe.safety.evaluation.options.EvaluationOptions`; by default 24 questions
            of each set, and 12 tokens of each answer.

    Raises:
        RecipeError: the recipe is wrong, or merges other documents.
        ArgumentError: there is no base, an option is wrong, or no unsafe question is given.
        DataError: the questions cannot be read.
        ModelError: the judge or the device cannot be used, or a merge cannot be made in memory.
        CheckpointError, NonFiniteError: a parent is not there, or the base cannot be read.
    """
    given = {"max_new_tokens": ANSWER_TOKENS, "limit": QUESTIONS, "limit_seed": None, **options}
    asking = options_from(given)
    limits = Limits(margin, min_safe_rate, max_over_refusal, asking.confidence)
    if not 0 <= max_interaction <= 1:
        raise ArgumentError(f"max_interaction is {max_interaction}; expected a share from 0 to 1")
    chosen = check_strengths(strengths)
    loaded = load_recipe(recipe)
    refuse_documents(loaded, "vet probes")
    pool = _pool(loaded, base)
    asking = ready(asking, limits)
    sets = sets_of(asking)
    about = _only_unsafe(asking, sets)
    bench = Workbench(
        memory=budget_of(memory), threads=thread_count(threads), device=asking.device,
        batch=asking.batch,
    )  # fmt: skip
    merged = replace(loaded, tune=None, tune_line=None)
    bench.plan(merged)  # what is wrong with the recipe is told before anything is asked
    tell = told(progress)
    found = vet(
        pool.experts, pool.base, behaviour=False, memory=memory, threads=threads,
        progress=progress,
    )  # fmt: skip
    found = with_locks(found, pool.experts, pool.base, asking, tell)
    seen = observed(found, pool.experts, pool.base, asking, tell)
    found = judged(found, seen, asking, limits)
    run = _Run(pool, merged, bench, about, tell)
    merges, left_out = run.ask(seen, chosen)
    figures = {BASE: seen.base.figures, **{n: each.figures for n, each in seen.parents.items()}}
    compared, tests = interactions(merges, figures, BASE, asking.confidence)
    elsewhere = scope.ELSEWHERE in found.not_checked
    found = replace(
        found,
        merges=tuple(compared),
        max_interaction=max_interaction,
        notes=(*found.notes, *left_out),
        checked=(*found.checked, scope.probed(len(compared), tests, asking.confidence)),
        not_checked=tuple(scope.not_checked(sets, elsewhere=elsewhere, merges=True)),
    )
    if triggers:
        found = with_triggers(found, pool.experts, pool.base, asking, limits, tell)
    return found


@dataclass(frozen=True)
class _Run:
    """What every merge is made and asked with."""

    pool: _Pool
    recipe: Recipe
    bench: Workbench
    options: EvaluationOptions
    tell: ProgressCallback

    def ask(
        self, seen: Observed, strengths: Sequence[float]
    ) -> tuple[list[ProbedMerge], list[str]]:
        """Every merge of the parents that could be asked, and notes about those that were not."""
        known = [name for name, each in seen.parents.items() if not each.problem]
        missing = [name for name in self.pool.experts if name not in known]
        wanted = [
            each
            for each in probes_of(list(self.pool.experts), strengths)
            if not set(each.members) & set(missing)
        ]
        notes = []
        if missing:
            notes.append(
                f"merges with {', '.join(missing)} were not probed, since it was not asked itself"
            )
        identities = {
            text: HfModel(text).identity for text in (self.pool.base, *self.pool.experts.values())
        }
        made = [
            self._one(each, identities, numbered(self.tell, number, len(wanted)))
            for number, each in enumerate(wanted, 1)
        ]
        return made, notes

    def _one(
        self, probe: Probe, identities: Mapping[str, str], tell: ProgressCallback
    ) -> ProbedMerge:
        if probe.strength is None:
            recipe, what = self.recipe, {"recipe": self.recipe.text}
        else:
            what = recipe_of(probe, self.pool.base, self.pool.experts)
            recipe = load_recipe(what)
        try:
            model = self.bench.chat(probe.name, recipe, identity_of(what, identities))
            found = observe(probe.name, model, self.options, tell)
        except (ModelError, CheckpointError) as error:
            found = Behaviour(problem=str(error))
        return ProbedMerge(probe, _told(found), problem=found.problem)


def _told(found: Behaviour) -> Figures:
    return {} if found.problem else found.figures


def _pool(recipe: Recipe, base: str | Path | None) -> _Pool:
    """The models of the recipe by their places, so that they are found from any folder.

    Raises:
        ArgumentError: the recipe names no base, and none is given; or it merges the base alone.
    """
    if base is None and recipe.base_model is None:
        raise ArgumentError(
            f"{recipe.source or 'the recipe'} has no base_model, so vet cannot tell what its "
            "models were fine-tuned from; give it: --base MODEL"
        )
    origin = str(base) if base is not None else _placed(recipe.base_model, recipe.folder)
    placed = (_placed(ref, recipe.folder) for ref in recipe.inputs)
    refs = [place for place in dict.fromkeys(placed) if place != origin]
    if not refs:
        raise ArgumentError("the recipe merges nothing but its base; there is nothing to vet")
    names = _names(list(refs), origin)
    return _Pool({names[place]: place for place in refs}, origin)


def _names(places: Sequence[str], base: str) -> dict[str, str]:
    """Short names by place; of adapters of the base, the adapters' own."""
    start = f"{base}+"
    shown = {place: redact_text(place.removeprefix(start)) for place in places}
    names = short_names(shown.values())
    return {place: names[text] for place, text in shown.items()}


def _placed(ref: ModelRef | None, folder: Path) -> str:
    assert ref is not None  # whoever has no base is told before
    model, adapter = ref.resolve(folder)
    found = ModelRef(_absolute(model), None if adapter is None else _absolute(adapter))
    if not found.needs_mapping:
        return "+".join(each for each in (found.path, found.adapter) if each is not None)
    keys = {"model": found.path, "lora": found.adapter}
    return "{" + ", ".join(f"{k}: {{path: {quoted(p)}}}" for k, p in keys.items() if p) + "}"


def _absolute(place: Path | str) -> str:
    return str(place.absolute()) if isinstance(place, Path) else place


def _only_unsafe(options: EvaluationOptions, sets: Sequence[EvaluationSet]) -> EvaluationOptions:
    """The same without questions that are not unsafe, which tell nothing of harm.

    Raises:
        ArgumentError: there is no unsafe question.
    """
    plain = [each for each in sets if not each.variant]
    unsafe = {each.name: _file(each.path) for each in plain if each.role == "unsafe"}
    if not unsafe:
        raise ArgumentError(
            "merges are probed with unsafe questions, and only harmless ones are given; give a "
            "file of them: --unsafe FILE, or no file at all for those that come with mergesafe"
        )
    return replace(options, unsafe=unsafe, harmless=(), domain=(), sets=None, packs=())


def _file(path: str) -> Path:
    """Where the questions of a set lie; those that come with mergesafe are named otherwise."""
    if not path.startswith(f"{SHIPPED}/"):
        return Path(path)
    with as_file(files("mergesafe.safety") / "questions" / Path(path).name) as found:
        return found
