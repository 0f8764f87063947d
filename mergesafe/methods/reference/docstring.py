"""What a method's docstring says, as Markdown."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Final

from mergesafe.methods.spec import MergeMethod

_ROLE: Final = re.compile(r":\w+:`~?([^`]+)`")
_CODE: Final = re.compile(r"``([^`]+)``")
_URL: Final = re.compile(r"(?<![(<`])https?://[^\s<>()`]*[^\s<>()`.,;:]")
_ARXIV: Final = re.compile(r"https://arxiv\.org/abs/(\S+)")
#: ``Title: what the method does``, of which the page has the title elsewhere.
_TITLE: Final = re.compile(r"[^:.]{1,60}: (?=\S)")
_SOURCES: Final = ("Paper:", "Source:")
_METHODS: Final = "mergesafe.methods.definitions."


def summary_of(method: MergeMethod) -> str:
    """The docstring's first paragraph without the title, in Markdown, on one line."""
    return as_markdown(" ".join(" ".join(paragraphs_of(method)[:1]).split()))


def body_of(method: MergeMethod) -> str:
    """What the docstrings say besides, in Markdown."""
    return "\n\n".join(
        _fenced(each) if _is_block(each) else as_markdown(each)
        for each in paragraphs_of(method)[1:]
    )


def paragraphs_of(method: MergeMethod) -> list[str]:
    """What the docstrings say, without titles; papers come last.

    Methods of mergesafe that share a file have a docstring each, whose first paragraph is the
    summary, and explain in that of the module what they share. A user's module may be about
    anything: its docstring counts only where the method has none.
    """
    declared = method if "__doc__" in vars(method) else type(method)
    own = _paragraphs(inspect.cleandoc(vars(declared)["__doc__"] or ""))
    written = getattr(method, "function", type(method)).__module__
    module = _paragraphs(inspect.getdoc(sys.modules[written]) or "")
    if not own:
        found = [*map(_without_title, module[:1]), *module[1:]]
    elif written.startswith(_METHODS):
        found = [*map(_without_title, (*own[:1], *module[:1])), *module[1:], *own[1:]]
    else:
        found = [_without_title(own[0]), *own[1:]]
    # one of several methods may say as its sentence what the file says of all
    return sorted(dict.fromkeys(found), key=lambda paragraph: paragraph.startswith(_SOURCES))


def _without_title(paragraph: str) -> str:
    text = _TITLE.sub("", paragraph, count=1)
    return text[:1].upper() + text[1:]


def as_markdown(text: str) -> str:
    """reStructuredText of a paragraph as Markdown: code, roles, links."""
    text = _ROLE.sub(lambda found: _role(found[1]), text)
    text = _CODE.sub(r"`\1`", text)
    text = _URL.sub(lambda found: link(found[0]), text)
    return f"{text[:-2]}:" if text.endswith("::") else text


def _role(path: str) -> str:
    """What a role names, as code; of another method, a link to its page."""
    name = path.removeprefix(_METHODS)
    return f"`{path}`" if name == path else f"[{name}]({name}.md)"


def link(url: str) -> str:
    """A link that says what it leads to: the number of a paper, or the address."""
    arxiv = _ARXIV.fullmatch(url)
    return f"[{f'arXiv {arxiv[1]}' if arxiv else url.split('://', 1)[1]}]({url})"


def _paragraphs(text: str) -> list[str]:
    """Between blank lines; an indented block is one, whatever blank lines it has."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        if found and _is_block(paragraph) and _is_block(found[-1]):
            found[-1] += f"\n\n{paragraph}"
        elif paragraph.strip():
            found.append(paragraph)
    return found


def _is_block(paragraph: str) -> bool:
    return all(line.startswith("    ") for line in paragraph.splitlines() if line)


def _fenced(block: str) -> str:
    return f"```text\n{inspect.cleandoc(block)}\n```"
