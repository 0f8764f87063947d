"""Messages in the words of whoever reads them: ``--overwrite`` on the command line, and
``overwrite=True`` where a function of the package was called from Python.

Messages are written in the words of the command line, once. What users import from ``mergesafe``
are the functions under :func:`spoken`, which put errors into Python's words as they pass.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from mergesafe.errors import MergesafeError

Function = TypeVar("Function", bound=Callable[..., Any])

#: Options without a value.
_FLAGS: Final = frozenset(("overwrite", "resume", "allow_token_mismatch", "explain", "lora"))
#: Options that Python calls otherwise.
_NAMES: Final = {"write_document": "write_documents", "require": "requirements"}
#: Words that are values where they follow an option.
_WORDS: Final = (
    "auto", "cpu", "cuda", "error", "native", "omp", "reference", "subword", "triton", "warn",
    "zero",
)  # fmt: skip
#: A whole command, which stays as it is; else an option, with what may be its value.
_OPTION: Final = re.compile(
    r"(?P<command>'[a-z][\w-]* [^']*--[^']*'|\b(?:mergesafe|pip) [a-z]+ .*?--[^.;,)]*)"
    r"|(?<![\w-])--(?P<name>[a-z][a-z0-9-]*)"
    r"(?:[ =](?P<value>[^\s:'\"(]\S*(?=: )|\d[\w.]*(?: [kMGT]i?B)?|[A-Z]{2,}\b"
    rf"|(?:{'|'.join(_WORDS)})\b))?"
)
_SAME_COMMAND: Final = re.compile(r"\b(the|The) same command\b|\b(run|Run) the command\b")


def python_words(text: str) -> str:
    """``text`` with arguments in the places of options: ``memory="1KiB"`` for ``--memory 1KiB``."""
    text = _SAME_COMMAND.sub(lambda m: f"{m[1]} same call" if m[1] else f"{m[2]} the call", text)
    return _OPTION.sub(_argument, text)


def _argument(found: re.Match[str]) -> str:
    if found["command"]:
        return found["command"]
    name, value = found["name"].replace("-", "_"), found["value"]
    after = f" {value}" if value else ""
    if name.startswith("no_"):
        return f"{name.removeprefix('no_')}=False{after}"
    name = _NAMES.get(name, name)
    if name in _FLAGS:
        return f"{name}=True{after}"
    if value is None:
        return name
    bare = value in ("True", "False", "None") or re.fullmatch(r"\d+|[A-Z]+", value)
    return f"{name}={value}" if bare else f'{name}="{value}"'


def spoken(function: Function, name: str) -> Function:
    """The function as ``mergesafe.<name>``, whose errors are in Python's words."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except MergesafeError as error:
            error.reword(python_words)
            raise
        except KeyboardInterrupt as interrupt:  # some say what is kept
            interrupt.args = tuple(
                python_words(each) if isinstance(each, str) else each for each in interrupt.args
            )
            raise

    call.__module__, call.__qualname__ = "mergesafe", name  # by which it is pickled
    return cast(Function, call)
