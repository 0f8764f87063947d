"""The training loop of an aligner: cross-entropy of y' alone, given x and y."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mergesafe.chat.tokens import IGNORED, TokenizedAnswer, encode, padded
from mergesafe.errors import ArgumentError
from mergesafe.safety.align.examples import Example
from mergesafe.safety.align.prompt import aligner_prompt
from mergesafe.safety.align.unfinished import State, Unfinished

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
    unfinished: Unfinished,
    progress: Progress | None,
) -> tuple[float, float]:
    """Train in place and leave the weights of the epoch with the least held-out loss.

    ``unfinished`` is gone on from where it holds something, and is kept up with the training.

    Returns:
        the held-out loss before training, and the least.

    Raises:
        OutputError: ``unfinished`` is of another training or damaged, or cannot be written.
    """
    import torch

    weights = {name: each for name, each in model.named_parameters() if each.requires_grad}
    in_epoch = -(-len(train) // training.batch)
    optimizer = torch.optim.AdamW(weights.values(), lr=rate, weight_decay=0.0)
    rng = random.Random(training.seed)
    state = unfinished.load(weights, optimizer)
    if state is None:
        state = State(heldout_loss(model, heldout, pad, training.batch))
    for epoch in range(training.epochs):
        order = rng.sample(train, len(train))
        if state.step >= (epoch + 1) * in_epoch:
            continue
        model.train()
        for place in range(state.step - epoch * in_epoch, in_epoch):
            rows = order[place * training.batch : (place + 1) * training.batch]
            for group in optimizer.param_groups:
                group["lr"] = rate * _share(state.step, training.epochs * in_epoch)
            loss = loss_of(model, rows, pad)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
            state.step += 1
            state.total += loss.item() * len(rows)
            if place + 1 < in_epoch and unfinished.due:
                unfinished.save(state, weights, optimizer)
        held = heldout_loss(model, heldout, pad, training.batch)
        if progress:
            progress(epoch + 1, state.total / len(train), held)
        if state.best is None or held < state.best:
            state.best = held
            state.best_weights = {name: each.data.clone() for name, each in weights.items()}
        state.total = 0.0
        unfinished.save(state, weights, optimizer)
    assert state.best is not None
    for name, each in weights.items():
        each.data.copy_(state.best_weights[name])
    return state.before, state.best


def _share(step: int, steps: int) -> float:
    """Of the highest rate, at a step: up over a tenth of the steps, then down to zero."""
    warm = max(1, steps // 10)
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm))
