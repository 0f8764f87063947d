"""YAML text to nodes, with lines, in bounded time and memory.

The tree is built from ruamel.yaml's parser events instead of its loaded objects: every key and
value keeps its line, duplicate keys are seen, tags construct nothing, and an alias shares its
node, so its expanded size can be bounded before anything walks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.reader import ReaderError

from mergesafe.recipe.nodes import (
    MAX_DEPTH,
    MAX_NODES,
    ListNode,
    MapNode,
    Node,
    Reporter,
    ScalarNode,
    describe,
    shown,
)

#: The parser takes quadratic time for a tag, before it hands it over to be refused.
MAX_TAG: Final = 4096


def parse_yaml(text: str, report: Reporter, needs: str = "'merge_method' and 'models'") -> Node:
    """The tree of a one-document YAML text; ``needs`` says what an empty one lacks."""
    first, *others = parse_documents(text, report, needs)
    if others:
        raise report.error(
            f"a second YAML document starts here; expected one {report.kind}. Put each in its own "
            "file",
            others[0].line,
        )
    return first


def parse_documents(
    text: str, report: Reporter, needs: str = "'merge_method' and 'models'"
) -> list[Node]:
    """The trees of a YAML text, at least one; ``needs`` says what an empty text lacks.

    Empty documents beside others, as a last line ``---`` makes one, are left out.
    """
    _check_long_words(text, report)
    try:
        return _Builder(text, report).documents(needs)
    except MarkedYAMLError as error:
        _syntax_error(error, text, report)
    except ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise report.error(
            f"the character {chr(error.character)!a} is not allowed in YAML", line
        ) from None
    except (YAMLError, ValueError, OverflowError) as error:
        # The scanner passes escapes such as "\UFFFFFFFF" to chr() unchecked.
        raise report.error(f"not valid YAML: {shown(str(error))}") from None


def _check_long_words(text: str, report: Reporter) -> None:
    if "!" not in text:
        return
    for word in text.split():
        if len(word) > MAX_TAG and "!" in word:
            raise report.error(
                f"{shown(word)} has {len(word):,} characters without a space and '!' among them; "
                "expected a name, a number or a list",
                text.count("\n", 0, text.index(word)) + 1,
            )


def _syntax_error(error: MarkedYAMLError, text: str, report: Reporter) -> NoReturn:
    """Raise one paragraph: what the parser did, what it met, and the line it met it on."""
    lines = text.splitlines()
    mark = error.problem_mark or error.context_mark
    line = min(mark.line + 1, max(1, len(lines))) if mark else None
    parts = [part for part in (error.context, error.problem) if part]
    message = "not valid YAML: " + ", ".join(" ".join(str(part).split()) for part in parts)
    if line is not None and lines and lines[line - 1].strip():
        message += f"; the line reads {shown(lines[line - 1].strip())}"
    start = error.context_mark
    if start is not None and line is not None and start.line + 1 < line:
        message += f"; what it was reading began on line {start.line + 1}"
    if "'\\t'" in message:
        message += "; indent with spaces, not tabs"
    raise report.error(message, line) from None


class _Builder:
    """One pass over the parser's events."""

    def __init__(self, text: str, report: Reporter) -> None:
        self.lines = text.splitlines()
        self.report = report
        self.events: Iterator[Any] = iter(YAML(typ="safe", pure=True).parse(text))
        self.anchors: dict[str, Node] = {}
        self.nodes = 0

    def documents(self, needs: str) -> list[Node]:
        next(self.events)  # the start of the stream
        found = []
        while not isinstance(next(self.events), StreamEndEvent):
            self.anchors.clear()  # which hold for one document
            found.append(self.node(next(self.events), 0))
            next(self.events)  # the end of the document
        if not found:
            raise self.report.error(f"the {self.report.kind} is empty; it needs at least {needs}")
        filled = [root for root in found if not (isinstance(root, ScalarNode) and root.is_null)]
        return filled or found[:1]

    def node(self, event: Any, depth: int) -> Node:
        line = self.line(event)
        if depth > MAX_DEPTH:
            raise self.report.error(f"nested deeper than {MAX_DEPTH} levels", line)
        if isinstance(event, AliasEvent):
            built = self.alias(event, line)
            self.count(built.size, line)
            return built
        if event.tag is not None:
            raise self.report.error(
                f"the tag {shown(str(event.tag))} is not allowed; a {self.report.kind} holds plain "
                "values only",
                line,
            )
        self.count(1, line)
        if isinstance(event, ScalarEvent):
            built = ScalarNode(event.value, quoted=not event.implicit[0], line=line)
        elif isinstance(event, SequenceStartEvent):
            built = self.sequence(line, depth)
        else:
            assert isinstance(event, MappingStartEvent)
            built = self.mapping(line, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = built
        return built

    def line(self, event: Any) -> int:
        """1-based line; an empty value is marked at the next token, so look back for its key."""
        line = int(event.start_mark.line)
        if isinstance(event, ScalarEvent) and event.value == "" and event.implicit[0]:
            before = self.lines[line][: event.start_mark.column] if line < len(self.lines) else ""
            while line > 0 and (not before.strip() or before.lstrip().startswith("#")):
                line -= 1
                before = self.lines[line]
        return line + 1

    def count(self, nodes: int, line: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise self.report.error(
                f"more than {MAX_NODES} values after expanding aliases; a {self.report.kind} this "
                "large is a mistake or an attack",
                line,
            )

    def alias(self, event: Any, line: int) -> Node:
        name = str(event.anchor)
        if name not in self.anchors:
            raise self.report.error(
                f"the alias {shown('*' + name)} has no anchor {shown('&' + name)} that ends "
                "before it",
                line,
            )
        return self.anchors[name]

    def sequence(self, line: int, depth: int) -> ListNode:
        items = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            items.append(self.node(event, depth + 1))
        return ListNode(tuple(items), line, 1 + sum(item.size for item in items))

    def mapping(self, line: int, depth: int) -> MapNode:
        entries: dict[str, tuple[int | None, Node]] = {}
        merged: Node | None = None
        size = 1
        while not isinstance(event := next(self.events), MappingEndEvent):
            key = self.node(event, depth + 1)
            value = self.node(next(self.events), depth + 1)
            size += value.size
            if not isinstance(key, ScalarNode):
                raise self.report.error(f"a key must be text, got {describe(key)}", key.line)
            is_merge = key.text == "<<" and not key.quoted
            if key.text in entries or (is_merge and merged is not None):
                first = "" if is_merge else f" (first on line {entries[key.text][0]})"
                more = ""
                if self.report.kind == "recipe" and depth == 0 and key.text == "merge_method":
                    more = "; a further document begins with a line '---'"
                raise self.report.error(f"duplicate key {shown(key.text)}{first}{more}", key.line)
            if is_merge:
                merged = value
            else:
                entries[key.text] = (self.line(event), value)
        if merged is not None:
            self.merge(entries, merged)
        return MapNode(entries, line, size)

    def merge(self, entries: dict[str, tuple[int | None, Node]], merged: Node) -> None:
        """Merge keys (``<<``): what the mapping says itself wins, then earlier sources."""
        for source in merged.items if isinstance(merged, ListNode) else (merged,):
            if not isinstance(source, MapNode):
                raise self.report.error(
                    f"'<<' merges a mapping or a list of mappings, got {describe(source)}",
                    source.line,
                )
            for key, entry in source.entries.items():
                entries.setdefault(key, entry)
