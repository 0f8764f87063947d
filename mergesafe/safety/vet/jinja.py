"""A chat template as Jinja sees it: its text, its conditions, its reach; and how it is rendered."""

from __future__ import annotations

import re
import sys
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mergesafe.safety.vet.folded import constants, folded
from mergesafe.safety.vet.sizes import TooLargeError, sandbox_type

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

T = TypeVar("T")

#: transformers' own tag, which marks what the assistant says.
_GENERATION: Final = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
#: Rendering a few turns takes a millisecond.
_SECONDS: Final = 2.0
#: Names of Jinja's own from which its internals can be reached.
_INTERNALS: Final = frozenset(("self", "cycler", "joiner", "lipsum", "caller", "config", "request"))


class TemplateError(Exception):
    """A template that does not parse or render; says why."""


class TooMuchError(TemplateError):
    """A template that asks for more time or text than it may have, so that it was not looked at."""


@dataclass
class Program:
    """What a template is made of.

    ``text``: all that it can put out, a line a piece. ``triggers``: text that conditions look for
    in what was said. ``forbidden``: what the sandbox exists to prevent, in words. ``invisible``:
    characters without a glyph.
    """

    text: str = ""
    triggers: list[str] = field(default_factory=list)
    forbidden: list[str] = field(default_factory=list)
    invisible: set[str] = field(default_factory=set)


def parse(text: str) -> Program:
    """Raises TemplateError where it is no template."""
    from jinja2 import TemplateSyntaxError, nodes

    try:
        tree = environment().parse(without_marks(text))
    except (TemplateSyntaxError, RecursionError, ValueError) as error:
        raise TemplateError(f"{error}") from None
    pieces = [data.data for data in tree.find_all(nodes.TemplateData)]
    pieces += constants(tree)
    pieces += [piece for piece in _folded(text) if piece not in set(pieces)]
    return Program(
        "\n".join(pieces),
        list(dict.fromkeys(_triggers(tree))),
        list(dict.fromkeys(_forbidden(tree))),
        {sign for sign in text if unicodedata.category(sign) in ("Cf", "Co", "Cn")},
    )


def _folded(text: str) -> list[str]:
    """Text that the template builds of constants, as far as that can be computed."""
    sandbox = environment()
    try:
        return bounded(lambda: folded(sandbox.parse(without_marks(text)), sandbox))
    except TemplateError:
        return []  # rendering it says what is wrong


def without_marks(text: str) -> str:
    """The template without transformers' own tag."""
    return _GENERATION.sub("", text)


def environment(*, lenient: bool = False) -> ImmutableSandboxedEnvironment:
    """Jinja's sandbox as transformers sets it up; a ``lenient`` one goes on at what is missing."""
    from jinja2 import ChainableUndefined, Undefined
    from jinja2.ext import loopcontrols

    made = sandbox_type()(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols],
        undefined=ChainableUndefined if lenient else Undefined,
    )  # fmt: skip
    refuse = _say_nothing if lenient else _raise
    made.globals.update(raise_exception=refuse, strftime_now=time.strftime)
    return made


def _say_nothing(message: object) -> str:
    return ""


def _raise(message: object) -> None:
    raise TemplateError(f"it says: {message}")


def rendered_text(text: str, turns: Sequence[Mapping[str, str]]) -> str:
    """The turns by the template, ready for the assistant's.

    Raises:
        TemplateError: whatever goes wrong in a stranger's program, too much time included.
    """

    def made() -> str:
        template = environment().from_string(without_marks(text))
        return template.render(
            messages=[dict(turn) for turn in turns], add_generation_prompt=True, bos_token="<s>",
            eos_token="</s>", tools=None,
        )  # fmt: skip

    return bounded(made)


def bounded(work: Callable[[], T], seconds: float = _SECONDS) -> T:
    """What ``work`` returns, if it does so within ``seconds`` and within two at most.

    Raises:
        TemplateError: whatever goes wrong in a stranger's program, too much time included.
    """
    seconds = min(seconds, _SECONDS)
    end = time.monotonic() + seconds

    def watch(frame: FrameType, event: str, argument: object) -> Any:
        if time.monotonic() > end:
            raise TooMuchError(f"it takes longer than {_SECONDS:g} s")
        return watch

    before = sys.gettrace()
    try:
        sys.settrace(watch)  # a loop without output cannot be interrupted otherwise
        return work()
    except TemplateError:
        raise
    except TooLargeError as error:
        raise TooMuchError(f"it {error}") from None
    except Exception as error:
        raise TemplateError(f"{type(error).__name__}: {error}") from None
    finally:
        sys.settrace(before)


def _triggers(tree: nodes.Template) -> list[str]:
    """Text that conditions look for in the content of messages."""
    from jinja2 import nodes

    found: list[str] = []
    for test in tree.find_all(nodes.Compare):
        if _is_content(test):
            found += [c.value for c in test.find_all(nodes.Const) if isinstance(c.value, str)]
    for call in tree.find_all(nodes.Call):
        method = call.node.attr if isinstance(call.node, nodes.Getattr) else ""
        if method in ("startswith", "endswith", "find", "count", "index") and _is_content(call):
            found += [c.value for a in call.args for c in a.find_all(nodes.Const)]
            found += [a.value for a in call.args if isinstance(a, nodes.Const)]
    return [text for text in found if isinstance(text, str) and text not in ("content", "role")]


def _is_content(node: nodes.Node) -> bool:
    """Whether an expression is about what a message says."""
    from jinja2 import nodes

    names = [name.name for name in node.find_all(nodes.Name)]
    keys = [each.attr for each in node.find_all(nodes.Getattr)]
    keys += [
        each.arg.value
        for each in node.find_all(nodes.Getitem)
        if isinstance(each.arg, nodes.Const) and isinstance(each.arg.value, str)
    ]
    return any("content" in name for name in (*names, *keys))


def _forbidden(tree: nodes.Template) -> list[str]:
    from jinja2 import nodes

    found: list[str] = []
    for kind, verb in (
        (nodes.Include, "includes"), (nodes.Import, "imports"), (nodes.FromImport, "imports"),
        (nodes.Extends, "extends"),
    ):  # fmt: skip
        found += [f"{verb} another file" for _ in tree.find_all(kind)]
    reached = [each.attr for each in tree.find_all(nodes.Getattr)]
    reached += [each.value for each in tree.find_all(nodes.Const) if isinstance(each.value, str)]
    found += [
        f"reaches for {name!r}, which serves only to leave the sandbox"
        for name in reached
        if re.fullmatch(r"__\w*|\w+__", name)
    ]
    for each in tree.find_all(nodes.Filter):
        if each.name == "attr":
            found.append("fetches attributes by computed names (the filter 'attr')")
    found += [
        f"uses {name.name!r}, from which Jinja's internals can be reached"
        for name in tree.find_all(nodes.Name)
        if name.name in _INTERNALS and name.ctx == "load"
    ]
    return found
