"""Judges by name, as data files, ``evaluate`` and constraints write them.

- ``rules``: refusal rules;
- ``rules+deflection[:FOLDER]``: and the cosine of question and response by the encoder in FOLDER;
- ``llama-guard-3:MODEL``, ``llama-guard-4:MODEL``, ``wildguard:MODEL``, ``shieldgemma:MODEL``,
  ``qwen3guard:MODEL`` and ``qwen3guard-loose:MODEL``: guard models (``llama-guard:MODEL`` takes
  the generation from MODEL's name, else 3);
- ``harmbench:MODEL``, ``strongreject:MODEL``: classifiers of answers to a harmful request;
- ``strongreject-rubric:MODEL``: any chat model, asked by the rubric of StrongREJECT;
- ``policy:FILE``: any chat model, asked about the principles of a policy file;
- ``gpt-oss-safeguard:FILE``: that model, for which a policy is the system prompt;
- ``inspector:FOLDER``: an encoder trained by ``mergesafe inspector train``.

MODEL is a folder, a Hub id (with an adapter after ``+``), or ``NAME@URL``: what an
OpenAI-compatible endpoint at URL calls its model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mergesafe.chat.conversation import ChatModel
from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.safety.judges.base import Judge
from mergesafe.safety.judges.formats.base import GuardFormat
from mergesafe.safety.judges.formats.harmbench import HarmBench
from mergesafe.safety.judges.formats.llama_guard import LLAMA_GUARD_3, LLAMA_GUARD_4
from mergesafe.safety.judges.formats.qwen3guard import Qwen3Guard
from mergesafe.safety.judges.formats.shieldgemma import ShieldGemma
from mergesafe.safety.judges.formats.strongreject import StrongReject
from mergesafe.safety.judges.formats.wildguard import WildGuard
from mergesafe.safety.judges.guard import Guard
from mergesafe.safety.judges.rules import RefusalRules

_FOUR: Final = re.compile(r"guard[-_. ]?4", re.IGNORECASE)


def make_judge(spec: str) -> Judge:
    """The judge that ``spec`` names; models are loaded when it first judges.

    Raises:
        ArgumentError: there is no such kind, or it lacks its model, file or folder.
    """
    kind, colon, argument = spec.partition(":")
    if kind not in _MAKERS:
        raise ArgumentError(f"judge {spec!r}: unknown kind{did_you_mean(kind, _MAKERS)}")
    wanted, make = _MAKERS[kind]
    if wanted == "" and colon:
        raise ArgumentError(f"judge {spec!r}: {kind} takes nothing after a colon")
    if wanted in ("MODEL", "FILE", "FOLDER") and not argument:
        raise ArgumentError(f"judge {spec!r}: expected {kind}:{wanted}")
    return make(argument)


def make_guard_model(reference: str) -> ChatModel:
    """The model of a guard: in this process, or ``NAME@URL`` behind an endpoint."""
    from mergesafe.chat.providers import make_model

    name, at, url = reference.partition("@http")
    if at:
        return make_model({"provider": "openai", "model": name, "base_url": f"http{url}"})
    return make_model(reference)


def _deflection(folder: str) -> Judge:
    from mergesafe.safety.judges.deflection import Deflection, find_encoder

    return Deflection(find_encoder(folder))


def _llama_guard(model: str) -> Judge:
    name = model.partition("@http")[0]
    return Guard(LLAMA_GUARD_4 if _FOUR.search(name) else LLAMA_GUARD_3, make_guard_model(model))


def _policy(file: str) -> Judge:
    from mergesafe.safety.judges.policy import PolicyJudge

    return PolicyJudge.read(Path(file))


def _safeguard(file: str) -> Judge:
    from mergesafe.safety.judges.safeguard import SafeguardJudge

    return SafeguardJudge.read(Path(file))


def _rubric(model: str) -> Judge:
    from mergesafe.safety.judges.rubric import RubricJudge

    return RubricJudge(make_guard_model(model))


def _guard(form: GuardFormat) -> Callable[[str], Judge]:
    return lambda model: Guard(form, make_guard_model(model))


def _inspector(folder: str) -> Judge:
    from mergesafe.safety.judges.inspector import InspectorJudge

    return InspectorJudge(Path(folder))


#: What stands after the colon ("" nothing, in brackets: it may be left out), and the maker.
_MAKERS: Final[dict[str, tuple[str, Callable[[str], Judge]]]] = {
    "rules": ("", lambda _: RefusalRules()),
    "rules+deflection": ("[FOLDER]", _deflection),
    "llama-guard": ("MODEL", _llama_guard),
    "llama-guard-3": ("MODEL", _guard(LLAMA_GUARD_3)),
    "llama-guard-4": ("MODEL", _guard(LLAMA_GUARD_4)),
    "wildguard": ("MODEL", _guard(WildGuard())),
    "shieldgemma": ("MODEL", _guard(ShieldGemma())),
    "qwen3guard": ("MODEL", _guard(Qwen3Guard())),
    "qwen3guard-loose": ("MODEL", _guard(Qwen3Guard(loose=True))),
    "harmbench": ("MODEL", _guard(HarmBench())),
    "strongreject": ("MODEL", _guard(StrongReject())),
    "strongreject-rubric": ("MODEL", _rubric),
    "policy": ("FILE", _policy),
    "gpt-oss-safeguard": ("FILE", _safeguard),
    "inspector": ("FOLDER", _inspector),
}
