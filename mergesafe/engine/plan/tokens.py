"""The tokens of the output, where the recipe says whose tokenizer it takes.

Rows of embeddings and heads are then aligned by token (:mod:`mergesafe.tokenizer.alignment`).
Where every model gives every token the same id, and has as many rows, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Final

from mergesafe.checkpoint.format.model import CONFIG_LIMIT
from mergesafe.checkpoint.places.location import Location, read_json_file
from mergesafe.checkpoint.views.gathered import Gathered
from mergesafe.checkpoint.views.row_map import ZERO
from mergesafe.engine.plan.built_tokenizer import BuiltTokenizer
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.token_ids import tokenizer_of
from mergesafe.engine.plan.token_settings import TokenMove
from mergesafe.errors import CheckpointError, RecipeError, UnreadableError
from mergesafe.outline.sources import Model
from mergesafe.recipe.model import ModelRef, Recipe
from mergesafe.recipe.nodes import Reporter
from mergesafe.recipe.tokenizer import MOST, ModelToken, TokenizerSection, TokenSetting, ZeroRow
from mergesafe.tokenizer.alignment import Lent, TokenTable
from mergesafe.tokenizer.compare import SHOWN, Files, same_files, tokens_shown
from mergesafe.tokenizer.union import Contribution, check_union, union_vocabulary
from mergesafe.tokenizer.vocabulary import PLAIN_KINDS, TOKENIZER, TOKENIZER_CONFIG
from mergesafe.untrusted import show


@dataclass(frozen=True)
class AlignedTokens:
    """``table``: None where nothing is moved. ``built``: None where the files of ``owner`` do."""

    owner: Model
    table: TokenTable | None = None
    built: BuiltTokenizer | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def move(self, model: Model) -> TokenMove | None:
        """Where the tokens of ``model`` are among the output's; None where ids are the same."""
        former = None if self.table is None else self.table.parents[model.ref.key]
        if self.table is None or former is None or model is self.owner:
            return None
        return TokenMove.by_name(former, self.table.vocabulary)


def align_tokens(recipe: Recipe, models: Sequence[Model], reference: Model) -> AlignedTokens | None:
    """What the section says of ``models``; None where the recipe does not have one.

    Raises:
        RecipeError: a token's source is not there.
        CheckpointError: a tokenizer cannot be read, or the tokens of several cannot be in one.
    """
    section = recipe.tokenizer
    return None if section is None else _Tokens(recipe, section, models, reference).aligned()


def tokenizer_model(recipe: Recipe, reference: Model, models: Sequence[Model]) -> Model:
    """The model whose tokenizer files the output takes, and extends where it takes more tokens."""
    source = None if recipe.tokenizer is None else recipe.tokenizer.source
    if not isinstance(source, ModelRef):
        return reference
    return next(model for model in models if model.ref.key == source.key)


def slice_warnings(recipe: Recipe, tasks: Sequence[TensorTask], table: TokenTable) -> list[str]:
    """Tokens of an embedding or a head for which no model has a row, though some model has the
    token: those that have it store no such tensor.
    """
    found = []
    for task in tasks if recipe.all_slices else ():
        view = task.sources[0].view
        if not isinstance(view, Gathered):
            continue
        lacking = (view.rows.table[: table.end] == ZERO) & table.named
        lacking[list(table.lent)] = False
        if lacking.any():
            tokens = tuple((t, index) for t, index in table.vocabulary.items() if lacking[index])
            found.append(
                f"no model has a row of {task.stored} for {tokens_shown(tokens)}: the merged model "
                "has zeros there. Under 'tokens' of the recipe's 'tokenizer' they may take the row "
                "of another token, as 'TOKEN: {source: {kind: model_token, model: MODEL, token: "
                "OTHER}}'"
            )
    return found


class _UnknownIdsError(CheckpointError):
    """Which ids the tokens of a model have cannot be read from its files."""


class _Tokens:
    def __init__(
        self, recipe: Recipe, section: TokenizerSection, models: Sequence[Model], reference: Model
    ) -> None:
        self._recipe, self._section, self._models = recipe, section, models
        self._owner = tokenizer_model(recipe, reference, models)
        self._report = Reporter(recipe.source)
        self._files = {model.ref.key: tokenizer_of(model) for model in models}
        self._rows = {model.ref.key: _rows(model) for model in models}
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def aligned(self) -> AlignedTokens:
        owner, section = self._owner, self._section
        sized_alike = len(set(self._rows.values())) == 1
        try:
            parents = self._parents()
        except _UnknownIdsError:
            if sized_alike and section.plain and section.source != "union":
                return AlignedTokens(owner)  # ids are compared as without the key
            raise
        if parents is None:
            return AlignedTokens(owner)
        ours = parents[owner.ref.key]
        alike = all(each is ours for each in parents.values())
        if alike and sized_alike and section.plain and self._fits(ours):
            return AlignedTokens(owner)
        vocabulary, contributions = self._vocabulary(ours, parents)
        padding = 0 if section.pad_to_multiple_of else self._rows[owner.ref.key] or 0
        table = TokenTable(
            vocabulary, parents, owner.ref.key, padding, section.pad_to_multiple_of or 0,
            self._lent(vocabulary, parents),
        )  # fmt: skip
        built = None
        if len(vocabulary) > len(ours):
            built = self._built(vocabulary, contributions)
        self._beyond(parents)
        self._nobody(table)
        return AlignedTokens(owner, table, built, tuple(self.notes), tuple(self.warnings))

    def _parents(self) -> dict[Hashable, Mapping[str, int]] | None:
        """Token -> id of every model: one object for equal ones. None where nothing is moved, since
        the files are equal.
        """
        alike = [model for model in self._models if self._same(model)]
        sized_alike = len(set(self._rows.values())) == 1
        equal = len(alike) == len(self._models) and sized_alike and self._section.plain
        try:
            ours = self._read(self._owner)
        except _UnknownIdsError:
            if equal:
                return None
            raise
        if equal and self._fits(ours):
            return None
        found: dict[Hashable, Mapping[str, int]] = {}
        for model in self._models:
            theirs = ours if model in alike else self._read(model)
            found[model.ref.key] = ours if theirs == ours else theirs
        return found

    def _fits(self, vocabulary: Mapping[str, int]) -> bool:
        """Whether every token of the owner has a row in its table."""
        rows = self._rows[self._owner.ref.key]
        return rows is None or max(vocabulary.values(), default=-1) < rows

    def _same(self, model: Model) -> bool:
        """Whether the model has the tokenizer of the owner, or none and as many rows."""
        ours, theirs = self._files[model.ref.key], self._files[self._owner.ref.key]
        if ours.kinds:
            return same_files(ours, theirs)
        here, there = self._rows[model.ref.key], self._rows[self._owner.ref.key]
        if here == there:
            self.warnings.append(
                f"{model.text} has no tokenizer; its rows are taken to belong to the tokens of "
                f"{self._owner.text}, since both have as many"
            )
            return True
        raise CheckpointError(
            f"{model.checkpoint.path}: there is no tokenizer, so which tokens the {here or 0:,} "
            f"rows of its embedding belong to is not known ({self._owner.text} has {there or 0:,}"
            "). Put the model's tokenizer beside its weights"
        )

    def _read(self, model: Model) -> Mapping[str, int]:
        """Token -> id of a model's tokenizer.

        Raises:
            CheckpointError: it cannot be read, or two tokens have one id.
        """
        files = self._files[model.ref.key]
        kind = next(iter(files.kinds), None)
        if kind is None:
            raise _UnknownIdsError(
                f"{model.checkpoint.path}: there is no tokenizer, so rows cannot be aligned by "
                "token. Put the model's tokenizer beside its weights, or leave out the recipe's "
                f"'{self._key}'"
            )
        if kind not in PLAIN_KINDS:
            raise _UnknownIdsError(
                f"{files.folder}: {files.kinds[kind]} does not say which ids its tokens have, "
                f"since programs shift them. {_SAVE_FAST}"
            )
        if kind != TOKENIZER and _remote(files):
            raise _UnknownIdsError(
                f"{files.folder}: the tokenizer needs code from the checkpoint (auto_map in "
                f"{TOKENIZER_CONFIG}), which mergesafe does not run. {_SAVE_FAST}"
            )
        try:
            found = files.vocabulary(kind)
        except UnreadableError:
            raise
        except CheckpointError as error:
            raise _UnknownIdsError(f"{error}, so rows cannot be aligned by token") from error
        _check_ids(found, files.folder / files.kinds[kind], model)
        return found

    @property
    def _key(self) -> str:
        return "tokenizer_source" if self._section.plain else "tokenizer"

    def _vocabulary(
        self, ours: Mapping[str, int], parents: Mapping[Hashable, Mapping[str, int]]
    ) -> tuple[dict[str, int], list[tuple[Model, frozenset[str]]]]:
        """Token -> id of the output, and which model adds which tokens to the owner's."""
        vocabulary = dict(ours)
        contributions: list[tuple[Model, frozenset[str]]] = []
        if self._section.source == "union":
            others = [m for m in self._merged() if parents[m.ref.key] is not ours]
            wanted = [(parents[m.ref.key], self._rows[m.ref.key]) for m in others]
            vocabulary, added = union_vocabulary(ours, wanted)
            contributions = [(model, new) for model, new in zip(others, added, strict=True) if new]
            for model, new in contributions:
                first = nsmallest(SHOWN, new, vocabulary.__getitem__)
                self.notes.append(
                    f"{len(new):,} token{'s' * (len(new) != 1)} of {model.text} that "
                    f"{self._owner.text} lacks follow those of {self._owner.text}: "
                    f"{tokens_shown(tuple((t, vocabulary[t]) for t in first))}"
                    + ", …"
                    * (len(new) > len(first))
                )
        self._add_new(vocabulary)
        return vocabulary, contributions

    def _add_new(self, vocabulary: dict[str, int]) -> None:
        """The tokens of the recipe that the tokenizer lacks, behind all others."""
        tokens = self._section.tokens
        new = [token for token in tokens if token not in vocabulary]
        if "" in new:
            raise self._report.error(
                "a token under 'tokens' is empty, which no tokenizer finds in a text; write its "
                "text in quotes",
                tokens[""].line,
            )
        first = max(vocabulary.values(), default=-1) + 1
        vocabulary |= {token: index for index, token in enumerate(new, first)}
        if new:
            some = tokens_shown(tuple((token, vocabulary[token]) for token in new[:SHOWN]))
            more = ", …" if len(new) > SHOWN else ""
            plural = "s" * (len(new) != 1)
            self.notes.append(
                f"'tokens' adds {len(new):,} token{plural} that the tokenizer lacks: {some}{more}"
            )

    def _merged(self) -> list[Model]:
        """Every model but those that are only read beside the others."""
        return list(self._models[: len(self._models) - len(self._recipe.references)])

    def _lent(
        self, vocabulary: Mapping[str, int], parents: Mapping[Hashable, Mapping[str, int]]
    ) -> dict[int, Lent]:
        found = {}
        for token, setting in self._section.tokens.items():
            lent = self._report.attempt(self._lent_row, token, setting, parents)
            if lent is not None:
                found[vocabulary[token]] = lent
        if self._report.errors:
            raise RecipeError.joined(self._report.errors)
        return found

    def _lent_row(
        self, token: str, setting: TokenSetting, parents: Mapping[Hashable, Mapping[str, int]]
    ) -> Lent | None:
        source = setting.source
        if source is None:
            return None
        if isinstance(source, ZeroRow):
            return Lent(None, 0, setting.force, setting.line)
        model = source.model if isinstance(source, ModelToken) else source
        named = source.token if isinstance(source, ModelToken) else token
        index = source.token_id if isinstance(source, ModelToken) else None
        if index is None:
            index = parents[model.key].get(named or "")
        if index is None:
            raise self._report.error(
                f"the token {show(token)} takes its row from {model.text}, whose tokenizer has no "
                f"token {show(named)}. Name a model that has it, or 'kind: model_token' with "
                "another token of the model",
                setting.line,
            )
        rows = self._rows[model.key]
        if rows is not None and index >= rows:
            raise self._report.error(
                f"the token {show(token)} takes row {index} of {model.text}, whose embedding has "
                f"{rows:,} rows; expected a number from 0 to {rows - 1}",
                setting.line,
            )
        return Lent(model.key, index, setting.force, setting.line)

    def _built(
        self,
        vocabulary: Mapping[str, int],
        contributions: Sequence[tuple[Model, frozenset[str]]],
    ) -> BuiltTokenizer:
        first = self._fast(self._owner)
        others = tuple(
            Contribution(model.text, self._fast(model) / TOKENIZER, new)
            for model, new in contributions
        )
        self.notes += check_union(first / TOKENIZER, self._owner.text, others)
        return BuiltTokenizer(first, vocabulary, others)

    def _fast(self, model: Model) -> Location:
        """The folder of a model's tokenizer.json, which tokens can be added to."""
        files = self._files[model.ref.key]
        if TOKENIZER not in files.kinds:
            held = ", ".join(files.kinds.values())
            raise CheckpointError(
                f"{files.folder}: tokens are to be added, and {model.text} has {held} but no "
                f"{TOKENIZER}, the only file that mergesafe can write. {_SAVE_FAST}"
            )
        if _remote(files):
            raise CheckpointError(
                f"{files.folder}: tokens are to be added, but the tokenizer of {model.text} needs "
                f"code from the checkpoint (auto_map in {TOKENIZER_CONFIG}), which mergesafe does "
                f"not run. {_SAVE_FAST}"
            )
        return files.folder

    def _nobody(self, table: TokenTable) -> None:
        """Tokens that no merged model has a row for, and for which the recipe names none."""
        lacking = table.named.copy()
        for model in self._merged():
            rows, own = self._rows[model.ref.key], table.ids[model.ref.key]
            lacking &= (own < 0) if rows is None else ((own < 0) | (own >= rows))
        lacking[list(table.lent)] = False
        if lacking.any():
            tokens = ((t, index) for t, index in table.vocabulary.items() if lacking[index])
            self.warnings.append(
                f"no model has a row for {tokens_shown(tuple(tokens))}: the merged model has zeros "
                "there"
            )

    def _beyond(self, parents: Mapping[Hashable, Mapping[str, int]]) -> None:
        for model in self._models:
            rows, ids = self._rows[model.ref.key], parents[model.ref.key]
            if rows is not None and max(ids.values(), default=-1) >= rows:
                beyond = tuple((token, index) for token, index in ids.items() if index >= rows)
                self.warnings.append(
                    f"the embedding of {model.text} has {rows:,} rows and none for "
                    f"{tokens_shown(beyond)} of its tokenizer: they count as tokens that the model "
                    "lacks"
                )


def _check_ids(vocabulary: Mapping[str, int], file: Location, model: Model) -> None:
    """Refuse ids that no genuine tokenizer gives, and tokens that share one."""
    ids = set(vocabulary.values())
    low, high = min(ids), max(ids)
    if low >= 0 and high <= MOST and len(ids) == len(vocabulary):
        return
    tokens = {index: token for token, index in vocabulary.items()}
    if low < 0 or high > MOST:
        index = low if low < 0 else high
        raise CheckpointError(
            f"{file}: the token {show(tokens[index])} has the id {index}, expected a number from 0 "
            f"to {MOST:,}. Repair the file"
        )
    first, index = next((t, index) for t, index in vocabulary.items() if tokens[index] != t)
    raise CheckpointError(
        f"{file}: the tokens {show(first)} and {show(tokens[index])} of {model.text} both have the "
        f"id {index}. Give one of them an id of its own, or remove it"
    )


_SAVE_FAST: Final = (
    "Load it with transformers, after you have read any code that it brings, and save it "
    "(AutoTokenizer.from_pretrained, save_pretrained), which writes tokenizer.json"
)


def _remote(files: Files) -> bool:
    if TOKENIZER_CONFIG not in files.names:
        return False
    auto = read_json_file(files.folder / TOKENIZER_CONFIG, CONFIG_LIMIT).get("auto_map")
    return isinstance(auto, Mapping | list) and bool(auto)


def _rows(model: Model) -> int | None:
    embedding = model.embedding()
    return embedding.shape[0] if embedding is not None and embedding.shape else None
