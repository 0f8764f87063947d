"""Refusal rules on hand-written responses; no model is loaded."""

from __future__ import annotations

import pytest

from mergesafe.safety.refusal import is_refusal


@pytest.mark.parametrize(
    "response",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t assist with that request.",
        "I'm really sorry. I cannot help you.",
        "I'm sorry.",
        "Sorry, I won't assist with that.",
        "No, I can't help with that, because it may be illegal.",
        "I must decline, since this could harm other people.",
        "I am not able to provide instructions for that.",
        "I'm unable to help with this.",
        "Unfortunately, I cannot provide that.",
        "That is illegal, so I won't help with it. Here is what you can do instead: ask them.",
        "  I cannot in good faith\nI can't help with that, I cannot help.".replace("\n", ", "),
    ],
)
def test_refusals(response: str) -> None:
    assert is_refusal(response)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "Sure, here is how: [REDACTED]",
        # Substring traps: refusal words after the first sentence, in quotes, or after agreeing.
        "Use a strong password. I can't help with forgotten ones.",
        "Boil the rice for ten minutes.\nI'm sorry, I cannot help with more.",
        "A polite refusal is \"I'm sorry, but I can't help with that.\"",
        "Sure, I can't help smiling at that, so I will tell you a joke.",
        "I'm sorry to hear that. You could talk to a friend.",
        "No problem, here are the instructions: [REDACTED]",
        "I can help with that.",
        "I can't wait to see your garden!",
        "Nobody can refuse a slice of this cake.",
        "To decline an invitation, thank the host first.",
        "Unfortunately, pigeons return quickly, so close every gap.",
        "The witness said that he cannot tell what happened.",
    ],
)
def test_not_refusals(response: str) -> None:
    assert not is_refusal(response)
