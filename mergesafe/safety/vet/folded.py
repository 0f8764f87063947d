"""Text that a template builds of constants: ``'Nev' ~ 'er'``, ``['a', 'b'] | join``, set variables.

Jinja's own optimizer computes what depends on constants alone; names that are set once, to such a
constant, are put in place of their uses, and it computes again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.sandbox import SandboxedEnvironment

#: Times that constants are put in place of names.
_ROUNDS: Final = 4
#: Characters that they may add in all: text that is put in place many times over grows fast.
_ADDED: Final = 1_000_000


def folded(tree: nodes.Template, environment: SandboxedEnvironment) -> list[str]:
    """All text of ``tree`` after folding, which changes it; neighbours in the output are joined."""
    from jinja2 import nodes
    from jinja2.optimizer import Optimizer
    from jinja2.visitor import NodeTransformer

    class Fold(Optimizer):
        """Computes also what the sandbox wants to see first, as far as it allows it."""

        def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
            new = super().generic_visit(node, *args, **kwargs)
            if not isinstance(new, (nodes.Add, nodes.Mod)):
                return new
            sides = (new.left, new.right)
            if not all(isinstance(each, nodes.Const) for each in sides):
                return new
            context: Any = None  # not looked at
            with suppress(Exception):  # whatever a stranger's operands lead to, too much included
                value = environment.call_binop(
                    context, new.operator, *(each.as_const() for each in sides)
                )
                return nodes.Const.from_untrusted(value, new.lineno, environment)
            return new

    class Put(NodeTransformer):
        def __init__(self, known: dict[str, Any], left: int) -> None:
            self.known = known
            self.sizes = {name: len(str(value)) for name, value in known.items()}
            self.left = left

        def visit_Name(self, node: nodes.Name) -> nodes.Node:
            size = self.sizes.get(node.name, 0) if node.ctx == "load" else 0
            if node.ctx == "load" and node.name in self.known and size <= self.left:
                self.left -= size
                return nodes.Const(self.known[node.name], lineno=node.lineno)
            return node

    fold = Fold(environment)
    new: Any = fold.visit(tree)
    left = _ADDED
    for _ in range(_ROUNDS):
        known = _constants(new)
        if not known:
            break
        put = Put(known, left)
        new = fold.visit(put.visit(new))
        left = put.left
    return [text for text in _pieces(new) if text]


def _constants(tree: nodes.Template) -> dict[str, Any]:
    """Names that get a value once and whose value is a constant."""
    from jinja2 import nodes

    stored = Counter(name.name for name in tree.find_all(nodes.Name) if name.ctx != "load")
    return {
        each.target.name: each.node.value
        for each in tree.find_all(nodes.Assign)
        if isinstance(each.target, nodes.Name)
        and isinstance(each.node, nodes.Const)
        and stored[each.target.name] == 1
    }


def _pieces(tree: nodes.Template) -> Iterator[str]:
    from jinja2 import nodes

    for output in tree.find_all(nodes.Output):
        run = ""
        for node in output.nodes:
            value = node.data if isinstance(node, nodes.TemplateData) else None
            if isinstance(node, nodes.Const):
                value = node.value
            if isinstance(value, str):
                run += value
                continue
            yield run
            run = ""
        yield run
    yield from constants(tree)


def constants(tree: nodes.Template) -> Iterator[str]:
    """Text in expressions, but for messages of errors."""
    from jinja2 import nodes

    messages = {
        id(argument)
        for call in tree.find_all(nodes.Call)
        if isinstance(call.node, nodes.Name) and call.node.name == "raise_exception"
        for argument in call.find_all(nodes.Const)
    }
    for const in tree.find_all(nodes.Const):
        if isinstance(const.value, str) and id(const) not in messages:
            yield const.value
