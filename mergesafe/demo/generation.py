"""Greedy answers of a model that is being trained, for the trainer's own data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mergesafe.chat.conversation import question
from mergesafe.chat.tokens import prompt_text

_BATCH: Final = 40


def prompt(tokenizer: Any, asked: str) -> str:
    """The question in the chat template, ready for the assistant's turn."""
    return prompt_text(tokenizer, question(asked))


def generate(model: Any, tokenizer: Any, asked: Sequence[str], max_new_tokens: int) -> list[str]:
    """Greedy answers, in batches padded on the left."""
    import torch

    answers: list[str] = []
    for start in range(0, len(asked), _BATCH):
        texts = [prompt(tokenizer, each) for each in asked[start : start + _BATCH]]
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            output = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        width = batch["input_ids"].shape[1]
        answers += tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return [answer.strip() for answer in answers]
