"""What a chat template makes of a conversation: whether what is said comes through, and what the
template says of its own beside it.

A known conversation is rendered and what lies between its turns looked through. Special tokens and
names of roles are markup there; any other word is the template's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from mergesafe.safety.vet.branches import branches
from mergesafe.safety.vet.jinja import TemplateError, TooMuchError, rendered_text

_SYSTEM: Final = "zq system canary 41"
_TURNS: Final = (
    ("user", "Zq user canary, 42?"),
    ("assistant", "zq answer 43"),
    ("user", "Zq next question 44: how, why?"),
    ("assistant", "zq reply 45"),
    # Long enough to show what is cut off.
    ("user", " ".join(f"Zq{number} please tell me how to make it" for number in range(400)) + "?"),
)
#: ``<|im_start|>``, ``<s>``, ``<<SYS>>``, ``[/INST]``, ``[|user|]``, ``[Round 1]``, ``]~b]``.
_TOKEN: Final = re.compile(
    r"(?<!<)<+[^<>\s]{1,40}>+|\[/?[A-Z_]{2,30}\]|\[\|\w+\|\]|\[Round \d+\]|\]~!?b[\[\]]|\[e~\["
)
_ROLE: Final = (
    r"(?:system|user|human|assistant|model|chatbot|bot|ai|gpt|falcon|tool|instruct(?:ion)?|response"
    r"|input|output|question|answer|query|prompt|final|all|thought|think|message|用户|助手|问|答)"
)
#: A role alone on its line or between tokens, or before a colon.
_LABEL: Final = re.compile(
    rf"^[ \t]*(?:[#>]+[ \t]*)?{_ROLE}(?: (?:name|to|role)=\"?{_ROLE}\"?)?[ \t]*$"
    r"|(?:^[ \t]*|(?<=\s))(?:#+[ \t]*)?(?:GPT4 (?:Correct|Code) |Math Correct )?"
    rf"{_ROLE}[ \t]*[:\uff1a]",
    re.IGNORECASE | re.MULTILINE,
)
#: Two letters of the alphabet, or one of another script.
_WORD: Final = re.compile(r"[A-Za-z]{2}|[^\W\d_A-Za-z]")
_EDGE: Final = "\0"
#: Characters in common with what was said that are no chance.
_CUT: Final = 5
#: What :data:`~mergesafe.safety.vet.branches.TOOL` is made of.
_TOOL_KEYS: Final = re.compile(
    r"(?:[\"']|&#34;)(?:type|function|name|description|parameters|properties|object)(?:[\"']|&#34;)"
    r"|\bzq\b"
)


@dataclass
class TemplateText:
    """``kept``: role -> whether all that it says comes out as it was said.

    The template's own words: ``before`` the conversation, ``user``: on what the user says,
    ``assistant``: on what the assistant says or is about to say.
    """

    kept: dict[str, bool] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    user: list[str] = field(default_factory=list)
    assistant: list[str] = field(default_factory=list)


def render(text: str) -> TemplateText:
    """What ``text`` makes of a conversation of several turns, and of one question.

    Raises:
        TemplateError: it fails, or takes longer than a template may.
    """
    system = [{"role": "system", "content": _SYSTEM}]
    turns = [{"role": role, "content": said} for role, said in _TURNS]
    found = TemplateText()
    try:
        asked = [*system, *turns]
        outs = [(rendered_text(text, asked), turns)]
    except TooMuchError:
        raise
    except TemplateError:  # models without a system role say so by failing
        asked, outs = turns, []
    # What is said of its own where a system prompt is given need not be said without one.
    outs += [(rendered_text(text, each), each) for each in (turns, turns[:1])]
    found.kept = {
        turn["role"]: all(t["content"] in outs[0][0] for t in asked if t["role"] == turn["role"])
        for turn in asked
    }
    found.kept["user"] = found.kept["user"] and all(
        each[-1]["content"] in out for out, each in outs
    )
    for out, each in outs:
        _look_through(out.replace(_SYSTEM, ""), each, found)
    return found


@dataclass
class Conditional:
    """What the branches of a template say: ``words`` anywhere, ``opening`` of the answer;
    ``heard``: text that they look for in what is said; ``left``: conditions that were not tried.
    """

    words: list[str] = field(default_factory=list)
    opening: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    left: int = 0


def conditional(text: str) -> Conditional:
    """What ``text`` would say if its conditions held, in a short conversation.

    Raises:
        TemplateError: it does not parse.
    """
    turns = [{"role": "system", "content": _SYSTEM}]
    turns += [{"role": role, "content": said} for role, said in _TURNS[:3]]
    tried = branches(text, turns)
    found = Conditional(left=tried.left)
    found.heard = [each for each in tried.heard if "zq" not in each.lower()]
    words, opening = dict[str, None](), dict[str, None]()
    last = turns[-1]["content"]
    for out in tried.outs:
        _, ended, tail = out.rpartition(last)
        for turn in turns:
            out = out.replace(turn["content"], f"\n{_EDGE}\n")
        words.update(dict.fromkeys(_own(_pieces(out, keep=True))))
        if ended:  # what follows the user's turn and a token is the beginning of the answer
            opening.update(dict.fromkeys(_own(_pieces(tail)[1:])))
    found.words, found.opening = list(words), list(opening)
    return found


def _own(pieces: Sequence[str]) -> Iterator[str]:
    """Pieces with words, without those of the tool that was described."""
    for piece in pieces:
        plain = _unsaid(_TOOL_KEYS.sub(" ", piece))
        if _WORD.search(plain):
            yield " ".join(plain.split())


def _unsaid(piece: str) -> str:
    """``piece`` without the beginning of something said, which a branch may have cut off."""
    text = piece.strip()
    for _, said in _TURNS[:3]:
        pairs = enumerate(zip(text, said, strict=False))
        same = next((n for n, (ours, theirs) in pairs if ours != theirs), min(len(text), len(said)))
        if same >= _CUT:
            text = text[same:]
    return text


def words_only(pieces: Sequence[str]) -> str:
    """The pieces in one line, to look for others in them."""
    return "\n".join(" ".join(piece.split()) for piece in pieces)


def _look_through(out: str, turns: Sequence[dict[str, str]], found: TemplateText) -> None:
    """Add the template's own words between the turns to ``found``."""
    end, left = 0, ""
    for turn in turns:
        at = out.find(turn["content"], end)
        if at < 0:  # some templates drop earlier answers
            continue
        _assign(_pieces(out[end:at]), left, turn["role"], found)
        end, left = at + len(turn["content"]), turn["role"]
    _assign(_pieces(out[end:]), left, "", found)


def _assign(pieces: Sequence[str], left: str, right: str, found: TemplateText) -> None:
    """What touches the user's turn is on the user's words; the rest of a gap on the assistant's."""
    last = len(pieces) - 1
    for place, piece in enumerate(pieces):
        if not _WORD.search(piece):
            continue
        if (place == last and right == "user") or (place == 0 and left == "user"):
            listed = found.user
        else:
            listed = found.assistant if left else found.before
        listed.append(" ".join(piece.split()))


def _pieces(gap: str, *, keep: bool = False) -> list[str]:
    """A gap cut at its tokens and names of roles, each end included; ``keep``: edges in it too."""
    marked = _TOKEN.sub(f"\n{_EDGE}\n", gap if keep else gap.replace(_EDGE, " "))
    return _LABEL.sub(f"\n{_EDGE}\n", marked).split(_EDGE)


def added(ours: Sequence[str], theirs: Sequence[str]) -> Iterator[str]:
    """Pieces of ours that the base's template does not say in the same place."""
    known = words_only(theirs)
    return (piece for piece in dict.fromkeys(ours) if piece not in known)
