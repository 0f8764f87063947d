"""A template that is in order, and what is found in others."""

from __future__ import annotations

from mergesafe.safety.vet.template_text import check_text

BASE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant named Tiny<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def severities(text: str, base: str | None = BASE) -> dict[str, str]:
    """what -> severity, without the note that the template differs."""
    found = check_text(text, base, "chat_template.jinja")
    return {f.what: f.severity for f in found if not f.what.startswith("differs")}


SAID, OPENING = "{{ message['content'] }}", "<|im_start|>assistant\n{% endif %}"
