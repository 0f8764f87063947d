"""``chat_template``: which chat template the output has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from mergesafe.errors import did_you_mean
from mergesafe.recipe.model import ModelRef, exists_locally
from mergesafe.recipe.nodes import Node, Reporter, ScalarNode, describe, shown

#: The formats that have a name; :mod:`mergesafe.tokenizer.chat_formats` has their templates.
NAMES: Final = ("alpaca", "chatml", "exaone", "llama3", "mistral")
Kind: TypeAlias = Literal["auto", "name", "text", "file"]


@dataclass(frozen=True)
class ChatTemplate:
    """``value``: "auto", a name, Jinja text, or the path of a file, as the recipe writes it."""

    kind: Kind
    value: str
    line: int | None = None

    def place(self, folder: Path) -> Path:
        """Where the file lies: from the current directory, else from the recipe's ``folder``."""
        found, _ = ModelRef(self.value).resolve(folder)
        return Path(found)


def read_chat_template(node: Node | None, report: Reporter) -> ChatTemplate | None:
    """What the key says.

    Raises:
        RecipeError: it is no template.
    """
    if node is None:
        return None
    if not isinstance(node, ScalarNode):
        raise report.error(f"'chat_template' must be text, got {describe(node)}", node.line)
    text = node.text
    if text == "auto":
        return ChatTemplate("auto", text, node.line)
    if text in NAMES:
        return ChatTemplate("name", text, node.line)
    if "{" in text:
        return ChatTemplate("text", text, node.line)
    folder = Path.cwd() if report.source is None else Path(report.source).absolute().parent
    if text.isprintable() and text and exists_locally(text, folder):
        return ChatTemplate("file", text, node.line)
    raise report.error(
        f"'chat_template' is {shown(text)}, expected auto, a name ({', '.join(NAMES)}), Jinja "
        f"text, or the path of a file with it{did_you_mean(text, ('auto', *NAMES))}",
        node.line,
    )
