"""Chat templates in a process of their own: transformers' text, and an end to what is hostile."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mergesafe.chat.conversation import Conversation
from mergesafe.chat.rendering import Renderer, rendered
from mergesafe.chat.tokens import prompt_text
from mergesafe.errors import GuardedError, ModelError, Raised, TookTooLong, TookTooMuch

TURNS: Conversation = [
    {"role": "system", "content": "Be <brief> & kind's\n"},
    {"role": "user", "content": " Zwölf \U0001f600 Boxkämpfer?\n\n"},
    {"role": "assistant", "content": "<think>well</think>\n\nYes."},
    {"role": "user", "content": "And {{ now }}?"},
]
TOKENS: dict[str, Any] = {
    "bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<a>", "<b>"],
}  # fmt: skip
#: What differs from a plain sandbox of Jinja's.
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}\n  {% if loop.first %}{{ bos_token }}{% endif %}\n"
        "<|im_start|>{{ m['role'] }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}\n"
        "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "tojson": (
        "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}"
        "{{ messages[1] | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true) }}"
    ),
    "generation": (
        "{% set x = 1 %}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{% set x = 2 %}{{ m.content }}{{ x }}{% endgeneration %}{% else %}{{ m.content }}"
        "{% endif %}{% endfor %}{{ x }}"
    ),
    "loop controls": (
        "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.content }}"
        "{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}"
    ),
    "namespace": (
        "{% set n = namespace(a=1, self=2) %}{% set n.b = n.a + 1 %}{{ n.b }}{{ n.self }}"
        "{{ dict(a=1) | tojson }}{{ dict.fromkeys('ab', 1) | tojson }}"
    ),
    "now": "{{ strftime_now('%Y') }}",
    "names": "{{ tools is none }}{{ documents is none }}{{ additional_special_tokens }}{{ other }}",
    "html": "{{ messages[0].content }}{{ messages[0].content | e }}",
    "macro": (
        "{% macro say(m) %}[{{ m.role }}]{{ m.content }}{% endmacro %}"
        "{% for m in messages %}{{ say(m) }}{% endfor %}"
    ),
}  # fmt: skip
FAILING = {
    "refusing": "{{ raise_exception('No system!') }}",
    "undefined": "{{ a.b.c }}",
    "syntax": "{% for %}",
    "types": "{{ 1 + 'a' }}",
    "mutable": "{{ messages.append(1) }}",
    "underscore": "{% set n = namespace(_a=1) %}",
    "include": "{% include 'x' %}",
}


class Tokenizer:
    """As much of transformers' as rendering needs."""

    name_or_path = "org/model"
    special_tokens_map = TOKENS

    def __init__(self, template: str):
        self.template = template

    def get_chat_template(self) -> str:
        return self.template


def theirs(template: str, prompt: bool) -> str:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    [text], _ = utils.render_jinja_template(
        [[dict(turn) for turn in TURNS]], chat_template=template, add_generation_prompt=prompt,
        **TOKENS,
    )  # fmt: skip
    return str(text)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_is_that_of_transformers(renderer: Renderer, name: str, prompt: bool) -> None:
    text = renderer.render(TEMPLATES[name], TURNS, tokens=TOKENS, prompt=prompt)
    assert text == theirs(TEMPLATES[name], prompt)


@pytest.mark.parametrize("name", FAILING)
def test_what_fails_there_fails_here(renderer: Renderer, name: str) -> None:
    with pytest.raises(Raised) as ours:
        renderer.render(FAILING[name], TURNS, tokens=TOKENS)
    with pytest.raises(Exception) as known:  # noqa: PT011  # whatever it is
        theirs(FAILING[name], False)
    assert ours.value.name == type(known.value).__name__


#: Each waits for a word in the conversation, so that trying the template beforehand shows nothing.
BOMBS = {
    "tower": "{{ (9 ** (9 ** (5 + messages | length))) % 7 }}",
    "text": "{{ 'a' * 99999999999 }}",
    "center": "{{ 'a' | center(9999999999) }}",
    "ljust": "{{ 'a'.ljust(9999999999) }}",
    "percent": "{{ '%09999999999d' % 1 }}",
    "format": "{{ '{:>9999999999}'.format(1) }}",
    "indent": "{{ ('a\\n' * (messages | length * 50000)) | indent(99999) }}",
    "doubling": (
        "{% set n = namespace(t='aaaaaaaaaaaaaaaa') %}"
        "{% for i in range(40) %}{% set n.t = n.t ~ n.t %}{% endfor %}"
    ),
    "loop": "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}",
    "flood": "{% for i in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
    "nested": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "recursion": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "split": "{{ ('a,' * (messages | length * 50000000)).split(',') | length }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_that_one_conversation_sets_off_ends(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergesafe.chat.rendering._shared", Renderer(seconds=1))
    template = "{% if 'now' in messages[-1].content %}" + BOMBS[name] + "{% endif %}!"
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"chat template of org/model (cannot|refuses)"):
        prompt_text(Tokenizer(template), TURNS)
    assert time.monotonic() - began < 10
    if name != "nested":
        assert prompt_text(Tokenizer(template), TURNS[:1]) == "!"


def test_slow_renderings_add_up_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesafe.chat.rendering.ALL_SECONDS", (0.5, 0.001))
    slow = Renderer()
    loop = "{% for i in range(500) %}{% for i in range(1500) %}{% endfor %}{% endfor %}"
    with pytest.raises(GuardedError, match=r"more than 0.001 s a conversation"):
        all(slow.render(loop, TURNS) == "" for _ in range(1000))


def test_limits_are_named(renderer: Renderer) -> None:
    with pytest.raises(TookTooMuch, match="more than 512 MiB of memory"):
        renderer.render("{{ 'a' * 9999999999 }}", TURNS)
    with pytest.raises(TookTooLong, match=r"longer than 0\.5 s"):
        Renderer(seconds=0.5).render(BOMBS["tower"], TURNS)
    with pytest.raises(GuardedError, match="makes 400,000 characters of"):
        renderer.render("{{ 'a' * 400000 }}", TURNS)
    assert renderer.render("{{ 'a' * 90000 }}", TURNS) == "a" * 90_000


def test_a_long_conversation_is_rendered(renderer: Renderer) -> None:
    long: Conversation = [{"role": "user", "content": "word " * 500_000}]
    assert renderer.render("{{ messages[0].content }}", long) == long[0]["content"]


def test_rendering_costs_little(renderer: Renderer) -> None:
    renderer.render(TEMPLATES["chatml"], TURNS)
    began = time.monotonic()
    for _ in range(200):
        renderer.render(TEMPLATES["chatml"], TURNS)
    assert time.monotonic() - began < 10  # about 0.05 s


def test_the_tokenizer_says_which_template_and_tokens() -> None:
    assert rendered(Tokenizer("{{ bos_token }}{{ add_generation_prompt }}"), TURNS) == "<s>False"
