"""Which tokenizer the output takes, and where the rows of its tokens come from.

``tokenizer_source: SOURCE``, or the section ``tokenizer`` with ``source``, ``tokens`` and
``pad_to_multiple_of``. A source is ``union``, ``base`` or one of the recipe's models;
``model:PATH`` is an old spelling of the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from mergesafe.errors import did_you_mean
from mergesafe.recipe.fields import Fields, choice, integer
from mergesafe.recipe.model import ModelRef
from mergesafe.recipe.model_reader import read_model
from mergesafe.recipe.nodes import MapNode, Node, Reporter, ScalarNode, shown, string
from mergesafe.recipe.quoting import quoted

#: The largest id of a token, and multiple of a number of rows, that a recipe may name.
MOST: Final = 1 << 21
#: What an old spelling puts before a model's path.
_OLD: Final = "model:"


@dataclass(frozen=True)
class ZeroRow:
    """A row of zeros."""


@dataclass(frozen=True)
class ModelToken:
    """The row that another token has in a model: ``token``, or the token that has ``token_id``."""

    model: ModelRef
    token: str | None = None
    token_id: int | None = None


#: Where a token's row comes from: a model's own row of it, another row, or zeros.
RowSource: TypeAlias = ModelRef | ModelToken | ZeroRow
#: Whose tokens the output has: those of all models, of the base, or of one model.
TokenSource: TypeAlias = Literal["union", "base"] | ModelRef


@dataclass(frozen=True)
class TokenSetting:
    """What the recipe says about one token.

    ``source``: of the row in models that lack the token, or in all where it is forced; None for
    the usual rule.
    """

    source: RowSource | None = None
    force: bool = False
    line: int | None = field(default=None, compare=False)

    def moved(self, move: Callable[[ModelRef], ModelRef]) -> TokenSetting:
        """The same, with another place of the model."""
        source = self.source
        if isinstance(source, ModelToken):
            source = replace(source, model=move(source.model))
        elif isinstance(source, ModelRef):
            source = move(source)
        return replace(self, source=source)


@dataclass(frozen=True)
class TokenizerSection:
    """The output's tokenizer.

    ``source``: all tokens of all models, the tokens of the base (else the first model), or those of
    one model. ``pad_to_multiple_of``: the number of rows is a multiple of it; None for the padding
    of the model whose tokenizer it is.
    """

    source: TokenSource
    tokens: Mapping[str, TokenSetting] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None
    line: int | None = field(default=None, compare=False)

    @property
    def text(self) -> str:
        """The source as a recipe writes it."""
        return self.source if isinstance(self.source, str) else self.source.text

    def moved(self, move: Callable[[ModelRef], ModelRef]) -> TokenizerSection:
        """The same, with other places of the models."""
        source = self.source if isinstance(self.source, str) else move(self.source)
        tokens = {token: each.moved(move) for token, each in self.tokens.items()}
        return replace(self, source=source, tokens=tokens)

    @property
    def plain(self) -> bool:
        """Whether ``tokenizer_source`` alone says all of it."""
        return not self.tokens and self.pad_to_multiple_of is None


class TokenizerReader:
    """Reads both keys. ``models``: those of the recipe; ``complete``: whether all could be read."""

    def __init__(self, models: Sequence[ModelRef], complete: bool, report: Reporter) -> None:
        self._models, self._complete, self._report = models, complete, report

    def source(self, node: Node, what: str) -> TokenSource | None:
        """``union``, ``base`` or a model of the recipe; None for one that may be among those that
        could not be read.

        Raises:
            RecipeError: it is nothing of these.
        """
        if not isinstance(node, MapNode):
            text = string(node, what, self._report)
            if text == "union" or text == "base":
                return "union" if text == "union" else "base"
            known = next((ref for ref in self._models if text == ref.text), None)
            if known is not None:
                return known
            if text.startswith(_OLD) and text != _OLD:
                node = ScalarNode(text.removeprefix(_OLD).strip(), quoted=True, line=node.line)
        return self._model(node, what, ("base", "union"))

    def section(self, node: Node) -> TokenizerSection:
        """The section ``tokenizer``.

        Raises:
            RecipeError: it is no mapping.
        """
        keys = ("source", "tokens", "pad_to_multiple_of")
        fields = Fields(node, keys, "'tokenizer'", self._report)
        source: TokenSource = "union"
        if (written := fields.node.get("source")) is not None:
            named = self.source(written, "'source' of 'tokenizer'")
            source = "base" if named is None else named
        tokens = fields.read("tokens", self._tokens) or {}
        multiple = fields.integer("pad_to_multiple_of", 0, 1, MOST)
        return TokenizerSection(source, tokens, multiple or None, node.line)

    def _model(self, node: Node, what: str, others: Sequence[str] = ()) -> ModelRef | None:
        wanted = read_model(node, what, self._report)
        for ref in self._models:
            if ref.key == wanted.key:
                return ref
        if not self._complete:
            return None
        texts = [ref.text for ref in self._models]
        expected = f"{', '.join(others)} or one of" if others else "one of"
        raise self._report.error(
            f"{what} must be {expected} the recipe's models, got {shown(wanted.text)}"
            f"{did_you_mean(wanted.text, [*others, *texts])}",
            node.line,
        )

    def _tokens(self, node: Node, what: str) -> dict[str, TokenSetting]:
        if not isinstance(node, MapNode):
            raise self._report.error(
                f"{what} must be a mapping from tokens to {{source: ...}}", node.line
            )
        found = {}
        for token, line, value in node:
            setting = self._report.attempt(self._token, token, line, value)
            if setting is not None:
                found[token] = setting
        return found

    def _token(self, token: str, line: int | None, node: Node) -> TokenSetting:
        fields = Fields(node, ("source", "force"), f"the token {shown(token)}", self._report)
        source = fields.read("source", self._row)
        force = fields.boolean("force", False)
        if force and not fields.has("source"):
            raise self._report.error(
                f"the token {shown(token)} has 'force', but no 'source' to take in place of the "
                "models' own rows",
                line,
            )
        return TokenSetting(source, force, line)

    def _row(self, node: Node, what: str) -> RowSource | None:
        if not isinstance(node, MapNode) or "kind" not in node.entries:
            return self._model(node, what)
        kind = node.get("kind")
        kinds = ("zero", "model_token")
        named = choice(kind or node, f"'kind' of {what}", kinds, self._report)
        known = ("kind", "model", "token", "token_id") if named == "model_token" else ("kind",)
        fields = Fields(node, known, f"{what} (kind: {named})", self._report)
        if named == "zero":
            return ZeroRow()
        if not fields.has("model"):
            fields.missing("model", "the model whose row it is")
        model = fields.read("model", self._model)
        token = fields.text("token")
        index = fields.read("token_id", lambda n, w: integer(n, w, self._report, 0, MOST))
        if fields.has("token") == fields.has("token_id"):
            raise self._report.error(
                f"{what} (kind: model_token) needs either 'token' or 'token_id'", node.line
            )
        return None if model is None else ModelToken(model, token, index)


def section_lines(section: TokenizerSection) -> Iterator[str]:
    """The section as lines of YAML, which :class:`TokenizerReader` reads."""
    if section.plain:
        yield f"tokenizer_source: {_source(section.source)}"
        return
    yield "tokenizer:"
    yield f"  source: {_source(section.source)}"
    if section.tokens:
        yield "  tokens:"
    for token, setting in section.tokens.items():
        parts = [] if setting.source is None else [f"source: {_row(setting.source)}"]
        parts += ["force: true"] * setting.force
        yield f"    {quoted(token)}: {{{', '.join(parts)}}}"
    if section.pad_to_multiple_of is not None:
        yield f"  pad_to_multiple_of: {section.pad_to_multiple_of}"


def _source(source: TokenSource) -> str:
    if isinstance(source, str):
        return source
    return source.text if source.needs_mapping else quoted(source.text)


def _row(source: RowSource) -> str:
    if isinstance(source, ZeroRow):
        return "{kind: zero}"
    if isinstance(source, ModelRef):
        return _source(source)
    which = f"token: {quoted(source.token)}" if source.token is not None else (
        f"token_id: {source.token_id}"
    )  # fmt: skip
    return f"{{kind: model_token, model: {_source(source.model)}, {which}}}"
