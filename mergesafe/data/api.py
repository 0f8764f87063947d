"""``mergesafe.generate``: make the sets of a data recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mergesafe.chat.conversation import asked_text
from mergesafe.chat.duplicates import TextIndex
from mergesafe.chat.providers import ModelSpec
from mergesafe.chat.records import read_records, write_records
from mergesafe.data.alignment_set import build_alignment
from mergesafe.data.answers import GENERATE, Answers
from mergesafe.data.answers import NAME as JOURNAL
from mergesafe.data.card import describe, markdown
from mergesafe.data.domain_set import build_domain
from mergesafe.data.load import load_data_recipe
from mergesafe.data.real_set import build_real
from mergesafe.data.recipe import (
    AlignmentSet,
    DataRecipe,
    DataSet,
    DomainSet,
    RealSet,
    SafetySet,
    Source,
)
from mergesafe.data.run import Built, Progress, Run
from mergesafe.data.safety_set import build_safety
from mergesafe.data.sources import read_source
from mergesafe.errors import OutputError
from mergesafe.journal import is_left
from mergesafe.log_lines import counted
from mergesafe.outputs import refuse_inputs
from mergesafe.private import NotPrivateError, refuse_planted
from mergesafe.results.data_card import DataCard
from mergesafe.results.writing import as_dict
from mergesafe.whole_file import write_whole

_SUFFIXES: Final = (".jsonl", ".card.json", ".card.md")


@dataclass(frozen=True)
class GenerateResult:
    """``cards``: one data card for each set, in the order of the recipe."""

    path: Path
    cards: tuple[DataCard, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(warning for card in self.cards for warning in card.warnings)


def generate(
    source: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
) -> GenerateResult:
    """Make the sets of a data recipe as JSON lines with data cards.

    For each set NAME, the folder gets ``NAME.jsonl`` in TRL's conversational or preference format,
    ``NAME.card.json`` and ``NAME.card.md``, each complete or not at all. What models answer is
    journalled batch by batch. The same recipe, models and files give the same bytes, after any
    number of interruptions, as far as the models give the same answers.

    Args:
        source: the path of a data recipe, or a mapping of the same form.
        out: the folder; default is the recipe's ``out``, else its name without ``.yml``.
        resume: go on from the journal of a run that did not finish.
        overwrite: replace what is there, and forget such a journal unless ``resume`` is set.
        progress: True prints a line now and then; or a function of what is
            done, how much, and of how much.

    Raises:
        RecipeError: the recipe is not valid.
        DataError: data are malformed, or a set would be empty.
        ModelError: a model cannot answer.
        OutputError: the folder cannot be written, or holds something that may not be replaced.
    """
    recipe = load_data_recipe(source)
    folder = _folder(recipe, out)
    _check_output(recipe, folder, resume, overwrite)
    evaluation = TextIndex(recipe.near_duplicates)
    for path in recipe.evaluation:
        evaluation.add_all(asked_text(record.conversation) for record in read_records(path))
    for each, need_answer in _sources(recipe):
        read_source(each, need_answer=need_answer)  # what is malformed is told before hours pass
    with Answers(folder, resume=resume) as answers:
        run = Run(recipe, answers, evaluation, counted(progress))
        for spec in _models(recipe):
            run.model(spec).check()
        cards = [_make(wanted, run, folder) for wanted in recipe.sets]
        answers.remove()
    return GenerateResult(folder, tuple(cards))


def _folder(recipe: DataRecipe, out: str | Path | None) -> Path:
    if out is not None:
        return Path(out)
    if recipe.out is not None:
        return recipe.out
    if recipe.source is None:
        raise OutputError("there is no folder for the data: give 'out'")
    return recipe.source.with_suffix("")


def _check_output(recipe: DataRecipe, folder: Path, resume: bool, overwrite: bool) -> None:
    """Nothing is replaced unasked: neither finished sets nor answers that were paid for; what the
    recipe reads is never replaced.
    """
    names = [f"{each.name}{suffix}" for each in recipe.sets for suffix in _SUFFIXES]
    read = [source.file for source, _ in _sources(recipe) if source.file is not None]
    refuse_inputs([folder / name for name in names], [*read, *recipe.evaluation])
    try:
        refuse_planted(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except NotPrivateError as error:
        raise OutputError(
            f"{folder}: {error.strerror}; the data would go where it leads. Give another --out"
        ) from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); choose another") from None
    try:
        unfinished = is_left(folder / JOURNAL, GENERATE)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read ({error.strerror}); choose another") from None
    if unfinished and resume:
        return
    if unfinished and not overwrite:
        raise OutputError(
            f"{folder}: an earlier run did not finish; go on from where it was with --resume, or "
            "start anew with --overwrite"
        )
    there = [name for name in names if os.path.lexists(folder / name)]
    if there and not overwrite:
        raise OutputError(
            f"{folder / there[0]}: exists; replace it with --overwrite, or choose another --out"
        )


def _models(recipe: DataRecipe) -> list[ModelSpec]:
    """Every model once."""
    found: list[ModelSpec] = []
    for wanted in recipe.sets:
        if isinstance(wanted, SafetySet | AlignmentSet):
            found += [wanted.questions] if isinstance(wanted.questions, ModelSpec) else []
            found += wanted.pool if isinstance(wanted, SafetySet) else [wanted.model]
            if isinstance(wanted, AlignmentSet) and wanted.good_model is not None:
                found.append(wanted.good_model)
        elif isinstance(wanted, DomainSet):
            found += [expert.model for expert in wanted.experts]
    return list({spec.key: spec for spec in found}.values())


def _sources(recipe: DataRecipe) -> list[tuple[Source, bool]]:
    """Where real data come from, and whether they need answers."""
    found: list[tuple[Source, bool]] = []
    for wanted in recipe.sets:
        if isinstance(wanted, SafetySet | AlignmentSet) and isinstance(wanted.questions, Source):
            found.append((wanted.questions, False))
        if isinstance(wanted, AlignmentSet) and wanted.good is not None:
            found.append((wanted.good, wanted.good_model is None))
        elif isinstance(wanted, RealSet):
            found.append((wanted.source, True))
    return found


def _make(wanted: DataSet, run: Run, folder: Path) -> DataCard:
    built = _build(wanted, run)
    text = write_records(built.records)
    path = folder / f"{wanted.name}.jsonl"
    card = describe(wanted, run.recipe, built, path, text)
    write_whole(path, text)
    write_whole(folder / f"{wanted.name}.card.md", markdown(card))
    as_json = json.dumps(as_dict(card), indent=2, ensure_ascii=False)
    write_whole(folder / f"{wanted.name}.card.json", f"{as_json}\n")
    return card


def _build(wanted: DataSet, run: Run) -> Built:
    if isinstance(wanted, SafetySet):
        return build_safety(wanted, run)
    if isinstance(wanted, DomainSet):
        return build_domain(wanted, run)
    if isinstance(wanted, AlignmentSet):
        return build_alignment(wanted, run)
    return build_real(wanted, run)
