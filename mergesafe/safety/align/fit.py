"""The training loop of an aligner: cross-entropy of y' alone, given x and y."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mergesafe.chat.tokens import IGNORED, TokenizedAnswer, encode, padded
from mergesafe.errors import ArgumentError
from mergesafe.safety.align.examples import Example
from mergesafe.safety.align.prompt import aligner_prompt

#: Told of each epoch: its number, the mean training loss, the held-out loss.
Progress = Callable[[int, float, float], None]


@dataclass(frozen=True)
class AlignerTraining:
    """AdamW with warm-up over a tenth of the steps, then linear to zero; the best epoch is kept.

    ``rate`` 0 takes 1e-3 for LoRA and 2e-5 for a whole model. ``max_tokens``: of prompt and y'
    together; the end of a longer y' is cut off, and an example without room for y' is left out.
    """

    epochs: int = 3
    batch: int = 8
    rate: float = 0.0
    max_tokens: int = 512
    rank: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        small = min(self.epochs, self.batch, self.rank) < 1 or self.max_tokens < 32
        if small or not 0 <= self.rate < 1:
            raise ArgumentError(
                "an aligner needs at least one epoch, a batch and a rank of at least 1, a rate "
                f"below 1 and max_tokens of at least 32, got {self}"
            )


def encoded(
    tokenizer: Any, criterion_text: str, examples: Sequence[Example], max_tokens: int
) -> list[TokenizedAnswer]:
    """Prompt and y' of each example, without those that have no room for y'."""
    rows = [
        encode(
            tokenizer, aligner_prompt(criterion_text, each.question, each.bad), each.corrected,
            max_tokens,
        )
        for each in examples
    ]  # fmt: skip
    return [row for row in rows if row.start < len(row.ids)]


def loss_of(model: Any, rows: Sequence[TokenizedAnswer], pad: int) -> Any:
    """−Σ log p(y'_t | x, y, y'_<t) / Σ |y'| over the rows, in float32; prompts are masked."""
    import torch

    device = model.device
    ids = torch.tensor(padded([each.ids for each in rows], pad, left=False), device=device)
    labels = torch.tensor(
        padded([each.labels for each in rows], IGNORED, left=False), device=device
    )[:, 1:]
    mask = torch.tensor(padded([[1] * len(e.ids) for e in rows], 0, left=False), device=device)
    # Weights that are trained stay in float32; the products in bfloat16 take half the time.
    with torch.autocast(device.type, dtype=torch.bfloat16):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    counted = labels != IGNORED
    return torch.nn.functional.cross_entropy(logits[counted].float(), labels[counted])


def heldout_loss(model: Any, rows: Sequence[TokenizedAnswer], pad: int, batch: int) -> float:
    """The loss over all rows, each token counted alike."""
    import torch

    model.eval()
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for begin in range(0, len(rows), batch):
            part = rows[begin : begin + batch]
            count = sum(len(each.ids) - each.start for each in part)
            total += loss_of(model, part, pad).item() * count
            tokens += count
    return total / tokens


def fit(
    model: Any,
    train: Sequence[TokenizedAnswer],
    heldout: Sequence[TokenizedAnswer],
    pad: int,
    rate: float,
    training: AlignerTraining,
    progress: Progress | None,
) -> tuple[float, float]:
    """Train in place and leave the weights of the epoch with the least held-out loss.

    Returns:
        the held-out loss before training, and the least.
    """
    import torch

    weights = {name: each for name, each in model.named_parameters() if each.requires_grad}
    steps = training.epochs * -(-len(train) // training.batch)
    warm = max(1, steps // 10)
    optimizer = torch.optim.AdamW(weights.values(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    rng = random.Random(training.seed)
    before = heldout_loss(model, heldout, pad, training.batch)
    best: tuple[float, dict[str, Any]] | None = None
    for epoch in range(1, training.epochs + 1):
        model.train()
        order = rng.sample(train, len(train))
        total = 0.0
        for begin in range(0, len(order), training.batch):
            rows = order[begin : begin + training.batch]
            loss = loss_of(model, rows, pad)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        held = heldout_loss(model, heldout, pad, training.batch)
        if progress:
            progress(epoch, total / len(train), held)
        if best is None or held < best[0]:
            best = held, copy.deepcopy({name: each.data for name, each in weights.items()})
    assert best is not None
    for name, each in weights.items():
        each.data.copy_(best[1][name])
    return before, best[0]
