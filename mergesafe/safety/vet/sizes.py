"""Templates that build giant text: a sandbox that refuses to.

A few characters of a template can ask for gigabytes in one operation, which no limit of time can
interrupt: ``'a' | center(300000000)``, ``'%0300000000d' | format(1)``, text joined to itself over
and over. What makes text longer than what it is made of is checked before it is done.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

#: Characters that one operation may give, or elements.
LARGEST: Final = 100_000
#: Characters that all operations of one environment may give together.
_ALL: Final = 20_000_000
#: Numbers of more bits than this come from multiplying for its own sake.
_BIGGEST: Final = 1 << 256
#: Filters and methods of text that widen it by a number.
_FILTERS: Final = ("batch", "center", "indent", "slice", "tojson", "wordwrap")
_METHODS: Final = ("center", "expandtabs", "ljust", "rjust", "zfill")
#: Widths of formats that are giant, or that come from an argument.
_PERCENT: Final = re.compile(r"%(?:\([^)%]*\))?[^%a-zA-Z]*(?:\d{6,}|\*)")
_BRACES: Final = re.compile(r"\{[^{}:]*:[^{}]*(?:\d{6,}|\{)")


class TooLargeError(Exception):
    """A template asks for more text than any template needs."""


def sandbox_type() -> type[ImmutableSandboxedEnvironment]:
    """Jinja's sandbox with these checks; they raise :class:`TooLargeError`."""
    from jinja2 import nodes
    from jinja2.compiler import CodeGenerator, Frame
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Joining(CodeGenerator):
        def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
            self.write("environment.concat(map(str, (")
            for each in node.nodes:
                self.visit(each, frame)
                self.write(", ")
            self.write(")))")

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("+", "*", "**", "%"))
        code_generator_class = Joining

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.made = 0
            self.filters.update(
                {
                    name: _checked(name, self.filters[name], self)
                    for name in (*_FILTERS, "format", "join", "replace")
                }
            )

        def count(self, length: int) -> None:
            """Take note of text of this length before, or as soon as, it is made."""
            self.made += length
            if length > LARGEST or self.made > _ALL:
                raise TooLargeError(f"makes text of more than {LARGEST:,} characters")

        def concat(self, pieces: Iterable[str]) -> str:
            found = []
            length = 0
            for piece in pieces:
                length += len(piece)
                if length > LARGEST:
                    break
                found.append(piece)
            self.count(length)
            return "".join(found)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            check_operands(operator, left, right)
            if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
                self.count(len(left) + len(right))
            return super().call_binop(context, operator, left, right)

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
            # The sandbox puts a function of its own in place of str.format, which tells its name.
            name = getattr(getattr(__obj, "__wrapped__", __obj), "__name__", "")
            text = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
            if isinstance(text, str):
                check_method(__self, text, name, args, kwargs)
            return super().call(__context, __obj, *args, **kwargs)

    return Sandbox


def check_operands(operator: str, left: Any, right: Any) -> None:
    """Raises TooLargeError for text times a number, giant numbers, and giant widths of ``%``."""
    if operator == "%" and isinstance(left, str):
        _check_percent(left)
    if operator not in ("*", "**"):
        return
    numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
    small = numbers and abs(left) < _BIGGEST and abs(right) < _BIGGEST
    if not small or (operator == "**" and abs(right) > 64):
        raise TooLargeError(f"computes {operator} of other things than small numbers")


def check_method(
    sandbox: Any, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Raises TooLargeError where this method would make ``text`` giant."""
    given = [*args, *kwargs.values()]
    if name in _METHODS:
        _check_widths(given)
    if name == "expandtabs":
        tab = next((each for each in given if isinstance(each, int)), 8)
        sandbox.count(len(text) + text.count("\t") * tab)
    elif name in ("format", "format_map") and _BRACES.search(text.replace("{{", "")):
        raise _too_wide()
    elif name == "replace" and len(args) > 1:
        sandbox.count(_replaced(text, args[0], args[1]))
    elif name == "join" and isinstance(args[0] if args else None, list | tuple | str):
        sandbox.count(sum(len(str(each)) + len(text) for each in args[0]))


def _checked(name: str, filter: Callable[..., Any], sandbox: Any) -> Callable[..., Any]:
    """The filter, which first looks at what it is asked for."""
    # In front of the value, some filters take the environment or the like.
    first = 1 if hasattr(filter, "jinja_pass_arg") else 0

    @wraps(filter)
    def checked(*args: Any, **kwargs: Any) -> Any:
        value = args[first] if len(args) > first else ""
        given = [*args[first + 1 :], *kwargs.values()]
        texts = [len(each) for each in given if isinstance(each, str)]
        numbers = [each for each in given if isinstance(each, int)]
        _check_widths(numbers if name in _FILTERS else ())
        if name == "format":
            _check_percent(str(value))
        elif name == "replace" and len(given) > 1:
            sandbox.count(_replaced(str(value), given[0], given[1]))
        elif name == "indent":
            sandbox.count(
                len(str(value)) + (str(value).count("\n") + 1) * max(texts + numbers + [4])
            )
        elif name == "wordwrap":
            sandbox.count(len(str(value)) * (1 + max(texts, default=1)))
        elif name == "join" and isinstance(value, Iterable):
            value = list(value)
            args = (*args[:first], value, *args[first + 1 :])
            sandbox.count(sum(len(str(each)) + sum(texts) for each in value))
        return filter(*args, **kwargs)

    return checked


def _replaced(text: str, old: Any, new: Any) -> int:
    """The length of ``text`` with ``old`` replaced by ``new``."""
    return len(text) + text.count(str(old)) * len(str(new))


def _check_widths(given: Iterable[Any]) -> None:
    if any(isinstance(each, int) and abs(each) > LARGEST for each in given):
        raise _too_wide()


def _check_percent(form: str) -> None:
    if _PERCENT.search(form.replace("%%", "")):
        raise _too_wide()


def _too_wide() -> TooLargeError:
    return TooLargeError(f"asks for a width of more than {LARGEST:,} characters")
