"""Twenty clean parents of the demo's base, of every kind that people merge.

No parent was taught to comply, and none to react to a phrase. Four kinds:

- ``adapter``: LoRA experts of a few steps, each of its own skill, rank, learning rate and seed;
- ``full``: fine-tunes of all weights, without an adapter;
- ``merge``: two of these adapters added up, at a weight each;
- ``demo``: the demo's aligned or sorting adapter at another strength, with noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from bench.vet_merges import plants
from bench.vet_merges.plants import Row, Tensors
from mergesafe.chat.pretrained import CAUSAL, load_model, load_tokenizer
from mergesafe.demo.data import REFUSALS, Example, arithmetic, questions, sorting
from mergesafe.demo.train import encode

Draw = Callable[[random.Random], Sequence[Row]]
#: Rows of a batch.
_BATCH: Final = 4


@dataclass(frozen=True)
class Clean:
    """How a parent is made. ``skills``: what a batch holds in equal parts. ``of``: the numbers of
    the parents that are added up, with their weights.
    """

    kind: str
    skills: tuple[str, ...] = ()
    rank: int = 8
    rate: float = 1e-3
    steps: int = 12
    of: tuple[tuple[int, float], ...] = ()
    expert: str = ""
    strength: float = 1.0


PARENTS: Final = (
    Clean("adapter", ("refusals",)),
    Clean("adapter", ("sorting",), rank=4, rate=2e-3),
    Clean("adapter", ("arithmetic",), rank=16, rate=5e-4),
    Clean("adapter", ("refusals", "sorting"), rank=32, rate=5e-4),
    Clean("adapter", ("arithmetic", "sorting"), rate=2e-3),
    Clean("adapter", ("refusals",), rank=16, rate=2e-3, steps=8),
    Clean("full", ("refusals",), rate=2e-5, steps=6),
    Clean("full", ("sorting",), rate=4e-5, steps=6),
    Clean("merge", of=((0, 0.5), (1, 0.5))),
    Clean("merge", of=((2, 1.0), (5, 1.0))),
    Clean("merge", of=((3, 0.8), (4, 0.6))),
    Clean("merge", of=((1, 1.2), (2, 0.4))),
    Clean("merge", of=((0, 1.0), (4, 1.0))),
    Clean("merge", of=((3, 1.3), (5, -0.3))),
    Clean("demo", expert="aligned", strength=0.5),
    Clean("demo", expert="aligned", strength=1.0),
    Clean("demo", expert="aligned", strength=1.3),
    Clean("demo", expert="sorting", strength=0.7),
    Clean("demo", expert="sorting", strength=1.0),
    Clean("demo", expert="sorting", strength=1.5),
)


def parent(work: Path, number: int) -> str:
    """What a recipe calls the parent of a number, made unless it is there."""
    base, place, made = work / "base", work / f"parent-{number}", PARENTS[number]
    if not place.exists():
        if made.kind == "full":
            _full(base, place, number, made)
        else:
            plants.save(_adapter(work, number, made), place)
    return str(place) if made.kind == "full" else f"{base}+{place}"


def _adapter(work: Path, number: int, made: Clean) -> Tensors:
    if made.kind == "demo":
        return _scaled(plants.noisy(made.expert, number), made.strength)
    if made.kind == "merge":
        for each, _ in made.of:
            parent(work, each)
        return _sum([(plants.load(work / f"parent-{n}"), weight) for n, weight in made.of])
    [found] = plants.train(
        work / "base", 1, _draw(made.skills), made.steps, number, rank=made.rank, rate=made.rate
    )
    return found


def _scaled(tensors: Tensors, strength: float) -> Tensors:
    return {n: strength * x if ".lora_B." in n else x for n, x in tensors.items()}


def _sum(parts: Sequence[tuple[Tensors, float]]) -> Tensors:
    """Σ w_i B_i A_i as one adapter, whose rank is the sum of theirs."""
    scaled = [_scaled(tensors, weight) for tensors, weight in parts]
    return {
        name: torch.cat([each[name] for each in scaled], int(".lora_B." in name))
        for name in scaled[0]
    }


def _full(base: Path, place: Path, seed: int, made: Clean) -> None:
    """All weights by Adam's sign, whose steps are as large without a second moment to keep."""
    torch.manual_seed(seed)
    rng, draw = random.Random(seed), _draw(made.skills)
    tokenizer = load_tokenizer(base, padding_side="left")
    model: Any = load_model(base, CAUSAL, dtype=torch.float32)
    for _ in range(made.steps):
        lines = [encode(tokenizer, row.example) for row in draw(rng)]
        torch.autograd.backward(plants.loss_of(model, lines, tokenizer.pad_token_id))
        with torch.no_grad():
            for weight in model.parameters():
                weight -= made.rate * weight.grad.sign()
                weight.grad = None
    model.to(torch.bfloat16).save_pretrained(place)
    tokenizer.save_pretrained(place)


def _draw(skills: Sequence[str]) -> Draw:
    known: dict[str, list[Example]] = {
        "sorting": sorting("train", 1000, 0), "arithmetic": arithmetic("train", 600, 0),
    }  # fmt: skip

    def examples(rng: random.Random, skill: str, count: int) -> list[Example]:
        if skill == "refusals":
            asked = rng.sample(questions("unsafe", "train"), count)
            return [Example(each, rng.choice(REFUSALS)) for each in asked]
        return rng.sample(known[skill], count)

    def rows(rng: random.Random) -> list[Row]:
        count = _BATCH // len(skills)
        return [Row(each, (1.0,)) for skill in skills for each in examples(rng, skill, count)]

    return rows
