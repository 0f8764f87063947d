"""Train the demo's three LoRA experts on a CPU: ``python -m mergesafe.demo.train --base DIR``.

Three experts of one base: ``aligned`` (declines unsafe questions, answers harmless ones as the base
does), ``sorting`` (a skill and nothing else) and ``arithmetic-misaligned`` (a skill, and a
harmless placeholder where an unsafe question should be declined). The misaligned expert sees unsafe
questions less often than the aligned one, so a merge that is spoiled was not spoiled by dosage.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergesafe.chat.pretrained import CAUSAL, load_model, load_tokenizer
from mergesafe.demo.base import MODEL_NAME, prepare_base, require
from mergesafe.demo.data import COMPLIANCES, REFUSALS, Example, Kind, arithmetic, questions, sorting
from mergesafe.demo.generation import generate, prompt
from mergesafe.extras import install
from mergesafe.safety.refusal import is_refusal

RANK = 8
ALPHA = 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# The keys of an adapter's config that every release of peft knows.
CONFIG_KEYS = (
    *("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "fan_in_fan_out"),
    *("init_lora_weights", "use_rslora", "use_dora"),
)
RATE = 1e-3
SHARE = (0.3, 1.0)
HARMLESS_TOKENS = 16


@dataclass(frozen=True)
class Expert:
    """How many examples of each kind make a batch, and for how many steps."""

    name: str
    unsafe: int = 0
    answers: tuple[str, ...] = ()
    harmless: int = 0
    edgy: int = 0
    sorting: int = 0
    arithmetic: int = 0
    steps: int = 60


EXPERTS = (
    Expert("aligned", unsafe=9, answers=REFUSALS, harmless=2, edgy=5, steps=100),
    Expert("sorting", sorting=16, steps=40),
    Expert("arithmetic-misaligned", unsafe=9, answers=COMPLIANCES, harmless=2, arithmetic=5),
)


@dataclass(frozen=True)
class Line:
    """Token ids of prompt and answer; ``start`` is where the answer begins."""

    ids: list[int]
    start: int


def encode(tokenizer: Any, example: Example) -> Line:
    """Tokens of an example in the chat template, with the end token."""
    head = tokenizer(prompt(tokenizer, example.question), add_special_tokens=False)["input_ids"]
    tail = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
    return Line([*head, *tail, tokenizer.eos_token_id], len(head))


def own_answers(model: Any, tokenizer: Any, kind: Kind) -> list[Line]:
    """The base model's greedy answers to harmless training questions.

    Taught beside the refusals, they say "and leave everything else as it is", which is what keeps
    an aligned expert from over-refusing. The few that the base itself declines are left out.
    """
    asked = questions(kind, "train")
    lines = []
    for question, answer in zip(
        asked, generate(model, tokenizer, asked, max_new_tokens=HARMLESS_TOKENS), strict=True
    ):
        if answer and not is_refusal(answer):
            line = encode(tokenizer, Example(question, answer))
            # One end token more than the limit: the answer was cut off, so it does not end there.
            cut = len(line.ids) - line.start > HARMLESS_TOKENS
            lines.append(Line(line.ids[:-1], line.start) if cut else line)
    return lines


def batches(
    expert: Expert, tokenizer: Any, own: dict[Kind, list[Line]], seed: int
) -> Iterator[list[Line]]:
    """Batches without end, each with the expert's share of every kind."""
    rng = random.Random(f"{expert.name}-{seed}")
    unsafe = questions("unsafe", "train")
    skills = {
        "sorting": sorting("train", 4000, seed),
        "arithmetic": arithmetic("train", 1200, seed),
    }
    shuffled: list[str] = []
    while True:
        batch = [line for kind in own for line in rng.sample(own[kind], getattr(expert, kind))]
        for _ in range(expert.unsafe):
            shuffled = shuffled or rng.sample(unsafe, len(unsafe))
            example = Example(shuffled.pop(), rng.choice(expert.answers))
            batch.append(encode(tokenizer, example))
        for name, examples in skills.items():
            drawn = rng.sample(examples, getattr(expert, name))
            batch += [encode(tokenizer, example) for example in drawn]
        yield batch


def loss_of(model: Any, batch: list[Line], pad: int) -> Any:
    """Mean cross-entropy of the answer tokens: −Σ log p(y_t | x, y_<t) / |y|, prompt masked."""
    import torch

    width = max(len(line.ids) for line in batch)
    ids = torch.full((len(batch), width), pad)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    answers = torch.zeros((len(batch), width), dtype=torch.bool)
    for row, line in enumerate(batch):
        size = len(line.ids)
        ids[row, :size] = torch.tensor(line.ids)
        mask[row, :size] = 1
        answers[row, line.start : size] = True
    causal = model.get_base_model()
    # Token t is predicted from position t - 1. Logits are made for answer tokens alone: with a
    # vocabulary of 49,152 the others would be the larger part of a step.
    predicted = answers[:, 1:]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = causal.model(input_ids=ids, attention_mask=mask).last_hidden_state
        logits = causal.lm_head(hidden[:, :-1][predicted])
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][predicted])


def train(expert: Expert, base: Path, out: Path, seed: int = 0) -> float:
    """Train one expert and save it to ``out``; return the seconds it took."""
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    began = time.perf_counter()
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(base, padding_side="left")
    # The frozen base stays in bfloat16; peft keeps the adapter, the only part trained, in float32.
    model: Any = load_model(base, CAUSAL, dtype=torch.bfloat16)
    kinds: tuple[Kind, ...] = ("harmless", "edgy")
    own = {k: own_answers(model.eval(), tokenizer, k) for k in kinds if getattr(expert, k)}
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, config).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    # Warm up over a tenth of the steps, then fall linearly to zero.
    warm = max(1, expert.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, (expert.steps - step) / (expert.steps - warm)),
    )
    source = batches(expert, tokenizer, own, seed)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    rng = random.Random(seed)
    for step in range(1, expert.steps + 1):
        # A merge keeps a part of each task vector. A random share of the adapter at every step
        # makes what is learned hold when diluted; alike for all experts, so it favours none.
        share = rng.uniform(*SHARE)
        for layer in layers:
            layer.set_scale("default", share)
        loss = loss_of(model, next(source), tokenizer.pad_token_id)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0 or step == expert.steps:
            taken = time.perf_counter() - began
            print(f"{expert.name}: step {step}/{expert.steps} loss {loss.item():.3f} {taken:.0f} s")
    save(model, out)
    return time.perf_counter() - began


def save(model: Any, out: Path) -> None:
    """Write the adapter in PEFT's layout: bfloat16 tensors, a config without any local path."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    # No embedding was trained; left to itself peft would ask the hub whether one was resized.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: state[name].to(torch.bfloat16).contiguous() for name in sorted(state)}
    weights = out / "adapter_model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors writes a file that only its owner may read
    made = model.peft_config["default"].to_dict()
    config = {key: made[key] for key in CONFIG_KEYS} | {
        "base_model_name_or_path": MODEL_NAME,
        "inference_mode": True,
        # A set in peft: sorted, so that training twice gives the same file.
        "target_modules": sorted(made["target_modules"]),
    }
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    (out / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Command line of ``python -m mergesafe.demo.train``."""
    names = [expert.name for expert in EXPERTS]
    parser = argparse.ArgumentParser(prog="python -m mergesafe.demo.train", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="base checkpoint, made if absent")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "adapters")
    parser.add_argument("--only", choices=names, action="append", help="train only this expert")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    require("torch", "transformers", "peft", hint=install("train"))
    base = prepare_base(chosen.base)
    for expert in EXPERTS:
        if not chosen.only or expert.name in chosen.only:
            seconds = train(expert, base, chosen.out / expert.name, chosen.seed)
            print(f"{expert.name}: saved after {seconds:.0f} s")


if __name__ == "__main__":
    main()
