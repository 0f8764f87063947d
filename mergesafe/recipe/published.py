"""The text of a recipe as outputs show it: manifest, model card and metadata of the weights.

A recipe without secrets is shown as it was written, to the byte. In another one they are hidden in
place; what the result says must then be what the recipe says with its values redacted, which
escapes, folded lines and the like can break: then the recipe is written anew from its values, and
so is one that is too large to be read twice.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from mergesafe.errors import RecipeError
from mergesafe.recipe.document import parse_documents
from mergesafe.recipe.nodes import ListNode, MapNode, Node, Reporter, ScalarNode
from mergesafe.recipe.quoting import BARE
from mergesafe.references import redact, redact_text

#: Characters of a recipe with its aliases written out: ten times the longest file.
MAX_EXTENT: Final = 10_000_000
#: Values with a secret that are replaced one by one, each in time that the whole text takes.
MAX_REPLACED: Final = 100
#: Keys and values of a recipe that is read again, to see what its text says without secrets.
MAX_COMPARED: Final = 20_000


def published(text: str, documents: Sequence[Node]) -> str:
    """``text``, whose trees are ``documents``, without what is secret in it; comments may be lost.

    Raises:
        RecipeError: it cannot be shown, because its aliases make too much of it.
    """
    seen = _Redacted()
    hidden = [seen.node(root) for root in documents]
    shown = text
    for value, without in sorted(seen.changed.items(), key=lambda item: -len(item[0])):
        shown = shown.replace(value, without)  # in running text a URL ends too late, at a comma
    shown = redact_text(shown)
    if shown == text and all(map(operator.is_, hidden, documents)):
        return text
    if sum(map(seen.extent, hidden)) > MAX_EXTENT:
        raise RecipeError(
            "holds a URL with a secret, and its aliases make more of it than can be written "
            "without them; write them out, or leave the secret to the environment"
        )
    try:
        size = sum(root.size for root in documents)
        if size <= MAX_COMPARED and parse_documents(shown, Reporter(None)) == hidden:
            return shown
    except RecipeError:  # what was hidden had held it together
        pass
    return "---\n".join("\n".join(_lines(root, "")) + "\n" for root in hidden)


class _Redacted:
    """Trees with what is secret in their keys and values hidden.

    An alias shares its node: each is looked at once.
    """

    def __init__(self) -> None:
        #: Values with secrets, and what they are without.
        self.changed: dict[str, str] = {}
        self._nodes: dict[int, Node] = {}
        self._extents: dict[int, int] = {}

    def node(self, node: Node) -> Node:
        """``node`` itself where there is no secret in it."""
        if id(node) not in self._nodes:
            self._nodes[id(node)] = self._node(node)
        return self._nodes[id(node)]

    def _node(self, node: Node) -> Node:
        if isinstance(node, ScalarNode):
            text = redact(node.text)
            if text == node.text:
                return node
            if len(self.changed) < MAX_REPLACED:
                self.changed[node.text] = text
            return replace(node, text=text)
        if isinstance(node, ListNode):
            items = tuple(map(self.node, node.items))
            same = all(map(operator.is_, items, node.items))
            return node if same else replace(node, items=items)
        entries = {redact(key): (line, self.node(value)) for key, line, value in node}
        same = all(key in entries and entries[key][1] is value for key, _, value in node)
        return node if same else replace(node, entries=entries)

    def extent(self, node: Node) -> int:
        """Characters of all keys and values, those of aliases each time."""
        if id(node) not in self._extents:
            self._extents[id(node)] = self._extent(node)
        return self._extents[id(node)]

    def _extent(self, node: Node) -> int:
        if isinstance(node, ScalarNode):
            return len(node.text)
        if isinstance(node, ListNode):
            return sum(map(self.extent, node.items))
        return sum(len(key) + self.extent(value) for key, _, value in node)


def _lines(node: Node, indent: str) -> Iterator[str]:
    """``node`` as a block of YAML, with quotes where there were any."""
    if isinstance(node, ScalarNode) or not _entries(node):
        yield f"{indent}{_inline(node)}"
        return
    for lead, value in _entries(node):
        if isinstance(value, ScalarNode) or not _entries(value):
            yield f"{indent}{lead} {_inline(value)}"
        else:
            yield f"{indent}{lead}"
            yield from _lines(value, f"{indent}  ")


def _entries(node: ListNode | MapNode) -> list[tuple[str, Node]]:
    if isinstance(node, ListNode):
        return [("-", item) for item in node.items]
    return [
        (f"{key if BARE.fullmatch(key) else json.dumps(key)}:", value) for key, _, value in node
    ]


def _inline(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return node.text if node.text.isprintable() and not node.quoted else json.dumps(node.text)
    return "[]" if isinstance(node, ListNode) else "{}"
