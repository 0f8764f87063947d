"""Reasoning models think aloud before they answer: what is thought and what is answered, apart.

Only the answer is judged, scored or matched. The forms that models use:

- ``<think> … </think>`` (DeepSeek-R1, Qwen3), ``<thinking>``, ``<thought>``, ``<reasoning>``;
- ``[THINK] … [/THINK]`` (Magistral);
- ``<|channel|>analysis<|message|> … <|channel|>final<|message|>`` (the harmony format of gpt-oss);
- the same without control tokens, ``analysis … assistantfinal``, where a decoder dropped them.

A chat template may itself open the reasoning, so that the response holds the closing tag alone.

A response is parted once: what :func:`part` gives as the answer is an :class:`Answer`, and parting
an answer again leaves it as it is. Otherwise a closing tag inside an answer would hide from judges
what stands before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

_TAGS: Final = r"think|thinking|thought|reasoning|seed:think"
_OPEN: Final = re.compile(rf"\s*(?:<(?P<tag>{_TAGS})>|\[(?P<mark>THINK)\]|◁(?P<kimi>think)▷)", re.I)
_CLOSE: Final = re.compile(rf"</(?:{_TAGS})>|\[/THINK\]|◁/think▷", re.I)
_MESSAGE: Final = re.compile(
    r"<\|channel\|>\s*(?P<channel>\w{1,40})(?!\w)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
)
_END: Final = re.compile(r"<\|(?:end|return|call|start)\|>")
_HARMONY: Final = re.compile(r"\s*(?:<\|start\|>\s*assistant\s*)?<\|channel\|>")
#: Both words stand without a space, or a sentence about an assistant would be taken for a mark.
_BARE: Final = re.compile(
    r"\s*analysis(?=[A-Z\W])(?P<reasoning>.*?)assistantfinal(?![a-z\d_])", re.DOTALL
)
_OPENED: Final = re.compile(rf"<(?P<tag>{_TAGS})>\s*$|\[THINK\]\s*$|◁think▷\s*$", re.I)
#: What tells whether a closing tag ends reasoning: see :func:`_first_close`.
_SIGNS: Final = re.compile(
    rf"(?P<fence>```)|(?P<close>{_CLOSE.pattern})|<(?:{_TAGS})>|\[THINK\]|◁think▷", re.I
)
#: In front of a response in which nothing was thought, whatever tags it holds.
_NOTHING: Final = "<think></think>\n"
#: Control tokens that part reasoning from answer: a decoder must keep them.
_MARKERS: Final = (
    "<think>", "</think>", "<thinking>", "</thinking>", "<thought>", "</thought>", "<reasoning>",
    "</reasoning>", "<seed:think>", "</seed:think>", "[THINK]", "[/THINK]", "◁think▷", "◁/think▷",
)  # fmt: skip
#: The same of harmony; "<|end|>" alone ends the turns of other models.
_HARMONY_MARKERS: Final = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>")


class Answer(str):
    """An answer without the reasoning in front of it: tags in it are part of what was said."""

    __slots__ = ()


@dataclass(frozen=True)
class ReasonedResponse:
    """A response in its two parts.

    ``complete``: an answer was reached. It is False where the response ends inside its reasoning,
    or right after it: there is nothing to judge then. A response without reasoning is complete.
    """

    reasoning: str
    answer: Answer
    complete: bool = True


def part(response: str) -> ReasonedResponse:
    """``response`` as reasoning and answer, both without the tags between them.

    Reasoning stands at the beginning, in one or several pieces. A closing tag without an opening
    one ends reasoning that the chat template began. Tags further on are part of the answer. An
    :class:`Answer` was parted before: all of it is the answer.
    """
    if isinstance(response, Answer):
        return ReasonedResponse("", response)
    if _HARMONY.match(response):
        return _harmony(response)
    bare = _BARE.match(response)
    if bare is not None:
        return _parted([bare["reasoning"]], response[bare.end() :])
    thoughts: list[str] = []
    end = 0
    opened = _OPEN.match(response)
    if opened is None:
        # The template opened the reasoning: all before the closing tag was thought.
        closed = _first_close(response)
        if closed is None:
            return ReasonedResponse("", Answer(response.strip()))
        thoughts.append(response[: closed.start()])
        end = closed.end()
        opened = _OPEN.match(response, end)
    while opened is not None:
        closed = _CLOSE.search(response, opened.end())
        if closed is None:
            thoughts.append(response[opened.end() :])
            return ReasonedResponse(_joined(thoughts), Answer(), complete=False)
        thoughts.append(response[opened.end() : closed.start()])
        end = closed.end()
        opened = _OPEN.match(response, end)
    return _parted(thoughts, response[end:])


def with_opening(response: str, prompt: str, *, finished: bool) -> str:
    """``response`` after the tag with which ``prompt`` itself opened the reasoning, if it did.

    A model that ended its turn without closing the tag did not reason: all of it is the answer.
    Where ``prompt`` opened nothing, text before a closing tag alone is what the user reads, so that
    :func:`part` must not take it for reasoning: an empty piece of reasoning goes in front of it.
    """
    opened = _OPENED.search(prompt)
    closed = _first_close(response)
    if opened is not None and (closed is not None or not finished):
        return f"{opened[0].strip()}\n{response}"
    if opened is None and closed is not None and _alone(response):
        return _NOTHING + response
    return response


def markers(tokenizer: Any) -> tuple[str, ...]:
    """Control tokens of the tokenizer's vocabulary that a decoder must keep for :func:`part`."""
    vocabulary = tokenizer.get_vocab()
    known = tuple(each for each in _MARKERS if each in vocabulary)
    return known + (_HARMONY_MARKERS if _HARMONY_MARKERS[0] in vocabulary else ())


def reasoned(reasoning: str, answer: str, *, reached: bool) -> str:
    """One text of both parts, which :func:`part` takes apart again.

    ``reached``: whether the model had ended its reasoning.
    """
    if not reasoning.strip():
        return answer
    return f"<think>{reasoning}</think>{answer}" if reached else f"<think>{reasoning}"


def _alone(response: str) -> bool:
    """Whether nothing opens reasoning in ``response``."""
    return not any(form.match(response) for form in (_HARMONY, _BARE, _OPEN))


def _first_close(text: str) -> re.Match[str] | None:
    """The closing tag of reasoning that was opened before ``text``; one in code is none."""
    fenced = False
    for found in _SIGNS.finditer(text):
        if found["fence"]:
            fenced = not fenced
        elif not found["close"]:
            return None  # text opens reasoning itself
        elif not fenced and text[max(found.start() - 1, 0) : found.start()] != "`":
            return found
    return None


def _harmony(text: str) -> ReasonedResponse:
    """Messages by channel: ``final`` is the answer, all others are thought aloud."""
    heads = list(_MESSAGE.finditer(text))
    thoughts, final, reached = [], "", False
    for head, after in zip_longest(heads, heads[1:]):
        body = text[head.end() : after.start() if after else len(text)]
        end = _END.search(body)
        body = body[: end.start()] if end else body
        if head["channel"] == "final":
            final, reached = final + body, True
        else:
            thoughts.append(body)
    answer = Answer(final.strip())
    return ReasonedResponse(_joined(thoughts), answer, complete=reached and bool(answer))


def _parted(thoughts: list[str], answer: str) -> ReasonedResponse:
    text = Answer(answer.strip())
    reasoning = _joined(thoughts)
    # An empty block, as templates write it when thinking is switched off, hides no answer.
    return ReasonedResponse(reasoning, text, complete=bool(text) or not reasoning)


def _joined(thoughts: list[str]) -> str:
    return "\n\n".join(text for each in thoughts if (text := each.strip()))
