"""The plan of a merge, made from headers alone.

Everything that can be wrong without looking at tensor data is found here: recipes, shapes, dtypes,
parameters, memory. What remains is ordered work with its bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import prod
from typing import Any

from mergesafe.architecture.tying import HEADS, agreeing, embedding_of, is_matrix, untied
from mergesafe.architecture.vocabulary import reads_first_row
from mergesafe.checkpoint.format.model import CONFIG_NAME
from mergesafe.checkpoint.output.companions import states_of
from mergesafe.checkpoint.output.layout import OutputLayout, OutputTensor, Placement, plan_layout
from mergesafe.checkpoint.places.location import Location
from mergesafe.checkpoint.places.seen import FileState
from mergesafe.checkpoint.views.gathered import Gathered
from mergesafe.dtypes import SIZES, promote
from mergesafe.engine.plan.built_tokenizer import BuiltTokenizer, is_replaced
from mergesafe.engine.plan.calibrated import calibration_notes, calibration_warnings
from mergesafe.engine.plan.called import as_called
from mergesafe.engine.plan.chat_template import OutputTemplate, output_template
from mergesafe.engine.plan.companions import companion_warnings, companions_of
from mergesafe.engine.plan.eight_bits import (
    encoded_names,
    encoding_notes,
    encoding_warnings,
    quantization,
)
from mergesafe.engine.plan.end_of_turn import end_of_turn_warnings
from mergesafe.engine.plan.experts import Experts
from mergesafe.engine.plan.factors import changes_of, deltas_of, factor_notes, with_factors
from mergesafe.engine.plan.low_rank import low_rank_warnings, rounding_notes
from mergesafe.engine.plan.merged_view import inner_tasks
from mergesafe.engine.plan.outlined import outlined
from mergesafe.engine.plan.output_config import OutputConfig, output_config
from mergesafe.engine.plan.precision import Precision, main_dtype
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.token_ids import TokenCheck, check_token_ids
from mergesafe.engine.plan.tokens import AlignedTokens, slice_warnings, tokenizer_model
from mergesafe.engine.plan.whole_model import check_slices
from mergesafe.errors import MergesafeError, MethodError, RecipeError
from mergesafe.methods.driver import Planned, dry_run
from mergesafe.methods.registry import file_digest
from mergesafe.methods.spec import Settings, TensorContext
from mergesafe.outline.commits import hub_notes
from mergesafe.outline.outputs import Outline, Output
from mergesafe.outline.sources import Made, Model, Operand
from mergesafe.recipe.model import Recipe
from mergesafe.recipe.nodes import Reporter
from mergesafe.recipe.references import references_in_errors
from mergesafe.recipe.resolve import filter_warnings
from mergesafe.version import __version__


@dataclass(frozen=True)
class MergePlan:
    """Ordered work, the output's layout, and what the user should know beforehand.

    ``warnings``: what may make the merged model wrong. ``notes``: what is right and yet not what
    one might expect: tensors that are dropped or kept as they are, and commits that are read. Both
    are printed, and stay in the model card and the manifest.
    """

    recipe: Recipe
    models: tuple[Model, ...]
    reference: Model  # whose configuration the merged model takes
    tasks: tuple[TensorTask, ...]
    layout: OutputLayout
    config: dict[str, Any]
    generation: dict[str, Any] | None  # in place of the reference's generation_config.json
    tokenizer: Model
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    seed: int
    #: Those of the warnings that card and manifest leave out (engine/plan/companions.py).
    passing: tuple[str, ...] = ()
    #: The files that are copied and their names in the output, and what the local ones were before
    #: anything of them was read.
    carried: tuple[tuple[Location, str], ...] = ()
    carried_states: Mapping[Location, FileState] = field(default_factory=dict)
    #: What the file with :attr:`config` is called.
    config_name: str = CONFIG_NAME
    #: The plans of the other documents that it needs, by their names, each after those that it
    #: needs itself.
    intermediates: Mapping[str, MergePlan] = field(default_factory=dict)
    #: What the recipe says of the chat template.
    template: OutputTemplate = field(default_factory=OutputTemplate)
    #: Whose tokens the output has, where the recipe says it.
    aligned: AlignedTokens | None = None

    @property
    def built(self) -> BuiltTokenizer | None:
        """The tokenizer that is made of several, if one is."""
        return None if self.aligned is None else self.aligned.built

    def made_files(self) -> dict[str, bytes]:
        """The files that are written beside those that are copied, by their names.

        Raises:
            CheckpointError: what they are made of cannot be read.
        """
        made = {} if self.built is None else self.built.files()
        return self.template.files(self.carried, made)

    @property
    def random(self) -> bool:
        """Whether the seed decides about the output."""
        return self.recipe.random

    @cached_property
    def exactness(self) -> str:
        """``bits``, or ``numerics`` where one of the methods may round otherwise elsewhere."""
        exact = all(task.exact == "bits" for task in inner_tasks(self.tasks))
        return "bits" if exact else "numerics"

    @cached_property
    def method_files(self) -> dict[str, str]:
        """Digests of the files of methods that are not mergesafe's own, by their names."""
        tasks = [task for task in inner_tasks(self.tasks) if not task.copied]
        methods = {task.method.name: task.method for task in tasks}
        found = {name: file_digest(method) for name, method in sorted(methods.items())}
        return {name: digest for name, digest in found.items() if digest is not None}

    @property
    def adapter(self) -> bool:
        """Whether the output is a LoRA adapter."""
        return self.recipe.output == "adapter"

    def placement(self, task: TensorTask, part: int = 0) -> Placement:
        """Where a part of the task's output goes: 0, or 1 for the scales of what has some, or for
        the second factor of an adapter, which lies behind the first.
        """
        output = task.outputs[part]
        place = self.layout.placements[output.name]
        return replace(place, offset=place.offset + task.begin * SIZES[output.dtype])

    @cached_property
    def outputs(self) -> dict[str, list[TensorTask]]:
        """The tasks of every output tensor, in its order."""
        found: dict[str, list[TensorTask]] = {}
        for task in self.tasks:
            found.setdefault(task.stored, []).append(task)
        return found

    @property
    def called(self) -> str:
        """Which merge it is, for progress: a recipe of several documents has several."""
        name, method = self.recipe.name, self.recipe.merge_method
        return f"by {method}" if name is None else f"{name} by {method}"

    @property
    def tensors(self) -> int:
        """How many tensors the output has; scales are counted with theirs."""
        return len(self.outputs) * (2 if self.adapter else 1)

    @cached_property
    def bytes_in(self) -> int:
        return sum(task.stored_bytes for task in self.tasks)

    @property
    def bytes_out(self) -> int:
        return self.layout.total_size


def make_plan(
    recipe: Recipe,
    *,
    max_shard_size: int,
    seed: int,
    allow_token_mismatch: bool = False,
    documents: Mapping[str, Made] | None = None,
) -> MergePlan:
    """Read the headers of every input and decide everything that does not need tensor data.

    ``allow_token_mismatch``: token ids that mean different tokens are a warning, not an error.
    ``documents``: what the documents that the recipe merges make, by their names; a path where one
    is written, or a model lies in memory.
    """
    outline, settings, aligned = outlined(recipe, documents)
    models, reference = outline.models, outline.reference
    merged = models[: len(models) - len(recipe.references)]
    names = [output.name for output in outline.outputs]
    precision = Precision(recipe, merged)
    tokenizer = tokenizer_model(recipe, reference, models)
    carried = tuple(companions_of(reference, tokenizer))
    states = states_of(carried)
    table = None if aligned is None else aligned.table
    tokens = check_token_ids(
        tokenizer, outline.readers_of_tokens, allow=allow_token_mismatch,
        table=table,
    )  # fmt: skip
    built = None if aligned is None else aligned.built
    experts = Experts(names, reference.checkpoint.config)
    encodable = encoded_names(outline) if recipe.encoded_dtype is not None else frozenset()
    tasks: list[TensorTask] = []
    with references_in_errors(recipe):
        model_numel = sum(output.numel for output in outline.outputs if output.is_merged)
        for output in outline.outputs:
            task = _task(output, seed, precision, encodable, model_numel)
            asked = partial(planned_of, output.merge, task.settings)
            tasks += experts.divided(task, asked)
    check_slices(recipe, tasks)
    in_order = [reference, *(model for model in merged if model is not reference)]
    template = output_template(recipe, in_order, tokenizer, tokens.vocabulary, carried)
    beside = companion_warnings(reference, tokenizer, merged, carried)
    if built is not None:
        carried = tuple(each for each in carried if not is_replaced(each[1]))
    config = _output_config(outline, tokenizer, tasks, tokens, aligned)
    warnings = [
        *recipe.warnings,
        *tuning_warning(recipe),
        *outline.warnings,
        *experts.warnings(),
        *method_warnings(tasks),
        *filter_warnings(recipe, names),
        *encoding_warnings(recipe, tasks),
        *calibration_warnings(recipe, models),
        *low_rank_warnings(tasks),
        *settings,
        *config.warnings,
        *tokens.warnings,
        *template.warnings,
        *end_of_turn_warnings(template, tokenizer, tokens.vocabulary, config.stops),
        *(() if aligned is None else aligned.warnings),
        *(slice_warnings(recipe, tasks, table) if table is not None else ()),
        *beside.texts,
    ]
    notes = [
        *exactness_notes(tasks),
        *factor_notes(changes_of(outline.outputs)),
        *encoding_notes(recipe, tasks),
        *calibration_notes(recipe, models, tasks),
        *outline.notes,
        *precision.notes(),
        *rounding_notes(recipe, tasks),
        *experts.notes(),
        *tokens.notes,
        *template.notes,
        *(() if aligned is None else aligned.notes),
        *config.notes,
        *hub_notes(recipe, models),
    ]
    layout = plan_layout(_outputs(tasks), max_shard_size, metadata_of(recipe, seed))
    return MergePlan(
        recipe, models, reference, tuple(tasks), layout,
        config=config.config,
        generation=config.generation,
        tokenizer=tokenizer,
        warnings=as_called(warnings, recipe, models),
        notes=as_called(notes, recipe, models),
        seed=seed,
        passing=as_called((*beside.passing, *tokens.passing, *config.passing), recipe, models),
        carried=template.copied(carried),
        template=template,
        carried_states=states,
        aligned=aligned,
    )  # fmt: skip


def _task(
    output: Output, seed: int, precision: Precision, encodable: Collection[str], model_numel: int
) -> TensorTask:
    recipe, name, sources = output.merge, output.name, output.sources
    shape = sources[0].view.shape
    dtype = promote([source.view.nominal for source in sources])
    copied = not output.is_merged
    by_factors = recipe.method.inputs.adapters and not copied
    if by_factors and any(isinstance(source.view, Gathered) for source in sources):
        raise RecipeError(
            f"{recipe.method.name} merges adapters of one base, but rows of '{name}' would move; "
            "leave out the recipe's tokenizer",
            source=recipe.source, line=recipe.method_line,
        )  # fmt: skip
    calibration = {} if copied else output.calibration()
    references = output.beside
    uncast = copied or precision.keeps(name, sources)
    out_dtype = dtype if uncast else (recipe.plain_dtype or recipe.dtype or dtype)
    if recipe.encoded_dtype is not None and not uncast and name in encodable:
        out_dtype = recipe.encoded_dtype
    settings = output.settings()
    count = len(recipe.inputs)
    context = TensorContext(
        name, shape, prod(shape), count, seed,
        base=recipe.separate_base is not None,
        matrix=is_matrix(name, shape), calibration=tuple(calibration),
        model_numel=model_numel, adapters=deltas_of(sources) if by_factors else (),
        references=tuple(each.name for each in recipe.method.inputs.references),
        position=output.position,
    )  # fmt: skip
    planned = None if copied else planned_of(recipe, settings, context)
    cast = None if uncast else recipe.dtype
    beside: tuple[Operand, ...] = ()
    if planned is not None and planned.combination.takes_more:
        beside = tuple(operand for each in calibration.values() for operand in each)
    else:
        references = ()
    task = TensorTask(
        context, (*sources, *references, *beside), recipe.method, settings, out_dtype, cast, copied,
        planned, beside=len(beside), references=len(references),
        inputs=tuple(ref.text for ref in recipe.inputs),
    )  # fmt: skip
    return with_factors(task) if by_factors else task


def planned_of(recipe: Recipe, settings: Settings, context: TensorContext) -> Planned:
    """What the recipe's method asks for and returns in a dry run.

    Raises:
        RecipeError, MethodError: it cannot merge such a tensor at these settings.
    """
    try:
        return dry_run(recipe.method, context, settings)
    except RecipeError:
        raise
    except MethodError as error:
        if recipe.source is None:
            raise
        at = f"{recipe.source}:{recipe.method_line}" if recipe.method_line else recipe.source
        raise MethodError(f"{error} (asked for by the recipe {at})") from error
    except MergesafeError as error:
        line = recipe.method_line
        raise RecipeError(str(error), source=recipe.source, line=line) from error


def _outputs(tasks: Iterable[TensorTask]) -> list[OutputTensor]:
    """What the tasks write, a tensor of several parts once."""
    return list({each.name: each for task in tasks for each in task.outputs}.values())


def exactness_notes(tasks: Sequence[TensorTask]) -> list[str]:
    """Methods whose bytes are not promised to be the same elsewhere."""
    rounded = {task.method.name for task in tasks if task.exact == "numerics"}
    return [
        f"{name} uses functions whose rounding differs between machines, so another machine "
        "may merge to other last bits; 'mergesafe verify' checks this output all the same"
        for name in sorted(rounded)
    ]


def tuning_warning(recipe: Recipe) -> list[str]:
    """A merge takes the numbers as written, which may not be what the author of 'tune' expects."""
    if recipe.tune is None:
        return []
    report = Reporter(recipe.source)
    report.warn(
        "a merge makes no use of the section 'tune' and takes the parameters as they are written; "
        "'mergesafe tune RECIPE -o TUNED' writes a recipe with tuned ones",
        recipe.tune_line,
    )
    return report.warnings


def method_warnings(tasks: Sequence[TensorTask]) -> list[str]:
    """What the methods say of values that are legal and do nothing."""
    seen = {(task.method.name, id(task.settings)): task for task in tasks}
    return [warning for task in seen.values() for warning in task.method.check(task.settings)]


def metadata_of(recipe: Recipe, seed: int) -> dict[str, str]:
    """What it takes to make the output again; the seed only where it matters."""
    metadata = {"mergesafe_version": __version__, "mergesafe_recipe": recipe.text}
    if recipe.random:
        metadata["mergesafe_seed"] = str(seed)
    return metadata


def _output_config(
    outline: Outline,
    tokenizer: Model,
    tasks: Sequence[TensorTask],
    tokens: TokenCheck,
    aligned: AlignedTokens | None,
) -> OutputConfig:
    """The reference's config.json with the tying, and all else, of what is written."""
    reference, config = outline.reference, dict(outline.config)
    if config and any(task.name in HEADS for task in tasks):
        config = untied(config)
    elif config and reference.checkpoint.tied:
        config = agreeing(config)
    plain = [task for task in tasks if not task.copied and task.encoding is None]
    rows = {task.name: task.context.shape[0] for task in tasks if task.context.shape}
    return output_config(
        config, reference, tokenizer, tokens.vocabulary,
        dtype=main_dtype((task.out_dtype, task.out_bytes) for task in plain),
        dtypes={task.out_dtype for task in plain},
        quantization=quantization(tasks),
        rows=rows.get(embedding_of(reference.checkpoint.tensors) or ""),
        head_rows=next((count for each, count in rows.items() if each in HEADS), None),
        layer_rows=next((count for each, count in rows.items() if reads_first_row(each)), None),
        move=None if aligned is None else aligned.move(reference),
    )  # fmt: skip
