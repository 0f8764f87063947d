"""The chat template of an output: the only one that its files hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mergesafe.checkpoint.format.model import CONFIG_LIMIT
from mergesafe.checkpoint.output.companions import is_template, is_vocabulary
from mergesafe.checkpoint.places.location import Location, at, open_regular, read_json_file
from mergesafe.engine.plan.companions import tokenizer_folders_of
from mergesafe.errors import CheckpointError, RecipeError, UnreadableError
from mergesafe.outline.sources import Model
from mergesafe.recipe.chat_template import ChatTemplate
from mergesafe.recipe.model import Recipe
from mergesafe.recipe.nodes import Reporter
from mergesafe.tokenizer.chat_formats import MARKS, TEMPLATES
from mergesafe.tokenizer.special import chat_template, special_settings
from mergesafe.tokenizer.vocabulary import TOKENIZER_CONFIG, read_bounded
from mergesafe.untrusted import show

TEMPLATE_NAME: Final = "chat_template.jinja"
#: A chat template is a page of text; more is another file.
LIMIT: Final = 1_000_000
_KEY: Final = "chat_template"
_TEMPLATE_JSON: Final = "chat_template.json"


@dataclass(frozen=True)
class OutputTemplate:
    """``text``: of a template that is written; None where the tokenizer's own stays in effect.
    ``left_out``: files of other templates; ``bare``: tokenizer_config.json has none either.
    """

    text: str | None = None
    left_out: frozenset[str] = frozenset()
    bare: bool = False
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def copied(self, carried: Iterable[tuple[Location, str]]) -> tuple[tuple[Location, str], ...]:
        """``carried`` without the templates that this one takes the place of."""

        def stays(name: str) -> bool:
            return name not in self.left_out and (self.text is None or not is_template(name))

        return tuple(each for each in carried if stays(each[1]))

    def files(
        self, carried: Iterable[tuple[Location, str]], made: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """``made``, the files that are written beside those that are copied, with this template
        and without another one.

        Raises:
            CheckpointError: tokenizer_config.json cannot be read.
        """
        if self.text is None and not self.bare:
            return dict(made)
        found = dict(made)
        if self.text is not None:
            found[TEMPLATE_NAME] = self.text.encode()
        settings: dict[str, Any] = {}
        if TOKENIZER_CONFIG in made:
            settings = json.loads(made[TOKENIZER_CONFIG])
        else:
            for place, name in carried:
                if name == TOKENIZER_CONFIG:
                    settings = read_json_file(place, CONFIG_LIMIT)
        if _KEY in settings:
            del settings[_KEY]
            text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
            found[TOKENIZER_CONFIG] = text.encode()
        return found


def output_template(
    recipe: Recipe,
    models: Sequence[Model],
    tokenizer: Model,
    vocabulary: Mapping[str, int] | None,
    carried: Iterable[tuple[Location, str]],
) -> OutputTemplate:
    """The template of the output. ``models``: those that are merged, a base among them;
    ``tokenizer``: whose tokenizer the output takes, with ``vocabulary`` where that is known.

    Raises:
        RecipeError: the recipe's template is none.
        CheckpointError: its file cannot be read.
    """
    wanted = recipe.chat_template
    if wanted is None:
        made = tokenizer.document
        if made is not None and made.chat_template is not None:
            return OutputTemplate(made.chat_template)
        return _in_effect(tokenizer, {name: place for place, name in carried})
    report = Reporter(recipe.source)
    if wanted.kind == "auto":
        found = _commonest(models, wanted, report)
    elif wanted.kind == "name":
        found = OutputTemplate(TEMPLATES[wanted.value])
        lacking = [mark for mark in MARKS.get(wanted.value, ()) if mark not in (vocabulary or {})]
        if vocabulary is not None and lacking:
            report.warn(
                f"chat_template {wanted.value} writes {', '.join(map(show, lacking))}, which "
                f"{tokenizer.text}, whose tokenizer the merged model takes, has no tokens for: the "
                "model sees their letters. Use the template that a model was trained with",
                wanted.line,
            )
    else:
        text = wanted.value if wanted.kind == "text" else _read(wanted, recipe, report)
        _check_syntax(text, wanted, report)
        found = OutputTemplate(text)
    if found.text is not None and not any(is_vocabulary(name) for _, name in carried):
        report.warn(
            "'chat_template' has no effect before there is a tokenizer: the merged model has none",
            wanted.line,
        )
    return OutputTemplate(found.text, notes=found.notes, warnings=tuple(report.warnings))


def template_of(model: Model) -> str | None:
    """The model's chat template, the default one of several; None where it has none."""
    if model.document is not None and model.document.chat_template is not None:
        return model.document.chat_template
    for folder in tokenizer_folders_of(model):
        if not at(folder).is_dir():
            continue
        if (found := _default(chat_template(folder, special_settings(folder)))) is not None:
            return found
    return None


def _default(found: object) -> str | None:
    """A template, of several the default one."""
    if isinstance(found, list):  # of {name, template}
        named = (each for each in found if isinstance(each, dict))
        found = next((e.get("template") for e in named if e.get("name") == "default"), None)
    elif isinstance(found, dict):
        found = found.get("default")
    return found if isinstance(found, str) and found.strip() else None


def _commonest(models: Sequence[Model], wanted: ChatTemplate, report: Reporter) -> OutputTemplate:
    """Of equally many the first in the order of the recipe."""
    found = {model.text: template_of(model) for model in models}
    having = {name: text for name, text in found.items() if text is not None}
    if not having:
        report.warn(
            "'chat_template: auto' finds none: no model of the recipe has a chat template",
            wanted.line,
        )
        return OutputTemplate()
    count = Counter(text.strip() for text in having.values())
    [(best, number)] = count.most_common(1)
    owners = [name for name, text in having.items() if text.strip() == best]
    note = (
        f"the chat template is that of {', '.join(owners)}: {number} of {len(found)} models have it"
    )
    return OutputTemplate(having[owners[0]], notes=(note,))


def _in_effect(tokenizer: Model, carried: Mapping[str, Location]) -> OutputTemplate:
    """What is beside chat_template.jinja, which transformers takes before all others, and says
    something else is left out: other programs read it first.
    """
    if TEMPLATE_NAME not in carried:
        return OutputTemplate()
    text = read_bounded(carried[TEMPLATE_NAME]).decode("utf-8", "replace").strip()
    others = {
        name: template
        for name in (_TEMPLATE_JSON, TOKENIZER_CONFIG)
        if name in carried and (template := _default(_read_key(carried[name]))) is not None
    }
    different = [name for name, template in others.items() if template.strip() != text]
    if not different:
        return OutputTemplate()
    note = (
        f"another chat template of {tokenizer.text} is left out ({', '.join(different)}): "
        f"{TEMPLATE_NAME} is the one in effect"
    )
    left_out = frozenset(different) - {TOKENIZER_CONFIG}
    return OutputTemplate(None, left_out, TOKENIZER_CONFIG in different, notes=(note,))


def _read_key(place: Location) -> object:
    try:
        return read_json_file(place, CONFIG_LIMIT).get(_KEY)
    except UnreadableError:
        raise
    except CheckpointError:  # told of by those who copy it
        return None


def _read(wanted: ChatTemplate, recipe: Recipe, report: Reporter) -> str:
    place = wanted.place(recipe.folder)
    with open_regular(place) as file:
        try:
            data = file.read(LIMIT + 1)
        except OSError as error:
            raise UnreadableError(f"{place}: cannot read ({error.strerror}).") from error
    problem = f"larger than {LIMIT:,} bytes" if len(data) > LIMIT else None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        problem, text = problem or "not UTF-8", ""
    if problem is None and "{" not in text:
        problem = "no Jinja text: it has no {{ }} that would write a message"
    if problem is not None:
        raise report.error(f"'chat_template': {place} is {problem}", wanted.line)
    return text


def _check_syntax(text: str, wanted: ChatTemplate, report: Reporter) -> None:
    import jinja2  # most recipes have no template, and this takes time

    try:
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except jinja2.TemplateSyntaxError as error:
        if "'generation'" in str(error):  # a tag of transformers' own
            return
        raise _no_jinja(str(error), error.lineno, wanted, report) from None
    except RecursionError:
        raise _no_jinja("nested too deeply", None, wanted, report) from None


def _no_jinja(why: str, number: int | None, wanted: ChatTemplate, report: Reporter) -> RecipeError:
    what = wanted.value if wanted.kind == "file" else "its text"
    at_line = f", line {number} of it" if number else ""
    return report.error(
        f"'chat_template': {what} is no Jinja template ({why}{at_line})", wanted.line
    )
