"""Every branch of a chat template, taken by force: what it would say if its condition held.

A template may build text from pieces that no search through its source finds, and say it only when
a condition holds that no ordinary conversation meets. So each condition is made true, then false,
with the ones that lead to it, and what comes out is read; and what the user says is an object
that notes down what it is compared with.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mergesafe.safety.vet.jinja import TemplateError, bounded, environment, without_marks

if TYPE_CHECKING:
    from jinja2 import nodes

#: All branches of one template: real ones take a tenth of this.
_SECONDS: Final = 8.0
#: Characters of one rendering that are read.
_LENGTH: Final = 20_000
#: What a template with tools is given; its words are no words of the template.
TOOL: Final = {
    "type": "function",
    "function": {
        "name": "zq", "description": "zq", "parameters": {"type": "object", "properties": {}},
    },
}  # fmt: skip
_CALLS: Final = (
    "startswith", "endswith", "find", "rfind", "index", "rindex", "count", "split", "rsplit",
    "partition", "rpartition", "replace", "removeprefix", "removesuffix",
)  # fmt: skip
_MAPS: Final = (
    "lower", "upper", "casefold", "strip", "lstrip", "rstrip", "title", "capitalize", "swapcase",
)  # fmt: skip


class Heard(str):
    """What is said, which keeps a list of the text that it is compared with or searched for."""

    log: list[str]

    @classmethod
    def of(cls, text: str, log: list[str]) -> Heard:
        """``text``, which notes down in ``log``."""
        made = cls(text)
        made.log = log
        return made

    def _note(self, other: object) -> None:
        for each in other if isinstance(other, tuple) else (other,):
            if type(each) is str and each:
                self.log.append(each)

    def __contains__(self, other: object) -> bool:
        self._note(other)
        return isinstance(other, str) and super().__contains__(other)

    def __eq__(self, other: object) -> bool:
        self._note(other)
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        self._note(other)
        return super().__ne__(other)

    __hash__ = str.__hash__

    def __getitem__(self, key: Any) -> Heard:
        return Heard.of(super().__getitem__(key), self.log)


def _noting(name: str) -> Callable[..., Any]:
    def method(self: Heard, *arguments: Any) -> Any:
        for argument in arguments[:1]:
            self._note(argument)
        found = getattr(str, name)(self, *arguments)
        if isinstance(found, list):
            return [Heard.of(each, self.log) for each in found]
        return Heard.of(found, self.log) if isinstance(found, str) else found

    return method


for _name in (*_CALLS, *_MAPS):
    setattr(Heard, _name, _noting(_name))


@dataclass
class Branches:
    """``outs``: all that came out. ``heard``: text that what was said was compared with.

    ``left``: conditions that there was no time for.
    """

    outs: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    left: int = 0


def branches(text: str, turns: Sequence[Mapping[str, str]]) -> Branches:
    """What ``text`` makes of ``turns`` with each of its conditions made true, and made false.

    Raises:
        TemplateError: it does not parse.
    """
    sandbox = environment(lenient=True)
    token = secrets.token_hex(8)  # a template cannot set a name that it does not know
    chosen: dict[int, bool] = {}
    sandbox.globals.update({f"is_{token}": chosen.__contains__, f"of_{token}": chosen.__getitem__})
    try:
        tree = sandbox.parse(without_marks(text))
        paths = _switch(tree, token)
        template = sandbox.from_string(tree)
    except Exception as error:  # whatever a stranger's program leads the compiler to
        raise TemplateError(f"{type(error).__name__}: {error}") from None
    found, outs, log = Branches(), dict[str, None](), list[str]()
    runs = [{}, *({**path, at: way} for at, path in enumerate(paths) for way in (True, False))]
    runs += [dict.fromkeys(range(len(paths)), way) for way in (True, False)]
    end = time.monotonic() + _SECONDS
    for number, run in enumerate(runs):
        seconds = end - time.monotonic()
        if seconds <= 0:
            found.left = (len(runs) - number + 1) // 2
            break
        chosen.clear()
        chosen.update(run)
        said = [{k: Heard.of(v, log) if k == "content" else v for k, v in t.items()} for t in turns]
        outs[_output(template, said, seconds)] = None
        del log[:-_LENGTH]
    found.outs, found.heard = list(outs), list(dict.fromkeys(log))
    return found


def _output(template: Any, turns: Sequence[Mapping[str, str]], seconds: float) -> str:
    """What comes out until the end, the first error or the time that a rendering may take."""
    pieces: list[str] = []
    length = 0
    template.environment.made = 0  # counts what one rendering makes

    def read() -> None:
        nonlocal length
        for piece in template.generate(
            messages=turns, add_generation_prompt=True, bos_token="<s>", eos_token="</s>",
            tools=[TOOL],
        ):  # fmt: skip
            pieces.append(piece)
            length += len(piece)
            if length > _LENGTH:
                return

    with suppress(TemplateError):  # forced into a branch that has nothing to work on
        bounded(read, seconds)
    return "".join(pieces)[:_LENGTH]


def _switch(tree: nodes.Template, token: str) -> list[dict[int, bool]]:
    """Give every condition a switch; for each, the switches that lead to it."""
    from jinja2 import nodes

    paths: list[dict[int, bool]] = []

    def switched(test: Any, path: Mapping[int, bool]) -> tuple[nodes.Expr, int]:
        at = len(paths)
        paths.append(dict(path))
        operands(test, path)

        def ask(name: str) -> nodes.Call:
            what = nodes.Name(f"{name}_{token}", "load", lineno=test.lineno)
            number = nodes.Const(at, lineno=test.lineno)
            return nodes.Call(what, [number], [], None, None, lineno=test.lineno)

        return nodes.CondExpr(ask("is"), ask("of"), test, lineno=test.lineno), at

    def operands(node: nodes.Node, path: Mapping[int, bool]) -> None:
        """Both sides of ``and`` and ``or`` are looked at, whatever the first one says."""
        if isinstance(node, nodes.And | nodes.Or):
            node.left, left = switched(node.left, path)
            node.right, _ = switched(node.right, {**path, left: isinstance(node, nodes.And)})
        elif isinstance(node, nodes.CondExpr):
            node.test, at = switched(node.test, path)
            operands(node.expr1, {**path, at: True})
            if node.expr2 is not None:
                operands(node.expr2, {**path, at: False})
        else:
            for child in node.iter_child_nodes():
                walk(child, path)

    def body(listed: Sequence[nodes.Node], path: Mapping[int, bool]) -> None:
        for each in listed:
            walk(each, path)

    def walk(node: nodes.Node, path: Mapping[int, bool]) -> None:
        if isinstance(node, nodes.If):
            before = dict(path)
            for each in (node, *node.elif_):
                each.test, at = switched(each.test, before)
                body(each.body, {**before, at: True})
                before[at] = False
            body(node.else_, before)
        elif isinstance(node, nodes.For):
            operands(node.iter, path)
            if node.test is not None:
                node.test, at = switched(node.test, path)
                path = {**path, at: True}
            body((*node.body, *node.else_), path)
        else:
            operands(node, path)

    walk(tree, {})
    return paths
