"""Preference training of the domain expert: what MergeAlign's paper compares its merge with.

DPO (arXiv 2305.18290) and ORPO (arXiv 2403.07691), both by trl, go on with the expert's own LoRA.
They see the pairs that the tuned merge sees as safety and harmless data, and nothing else: an
unsafe question with a refusal preferred to the harmless placeholder that the expert was taught, and
a harmless question with the base's answer preferred to a refusal. Needs the extra ``align-bench``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mergesafe.chat.pretrained import CAUSAL, load_model, load_tokenizer
from mergesafe.chat.records import Record, read_records
from mergesafe.chat.tokens import prompt_text
from mergesafe.demo.data import COMPLIANCES
from mergesafe.demo.sets import Sets
from mergesafe.demo.train import RATE, save

Loss = Literal["dpo", "orpo"]


@dataclass(frozen=True)
class Training:
    """``loss`` by ``epochs`` over all pairs, in batches; ``beta``: DPO's β, and ORPO's λ.

    The rate is the one that the experts themselves were trained with.
    """

    loss: Loss
    beta: float
    rate: float = RATE
    epochs: int = 2
    batch: int = 8


@dataclass(frozen=True)
class Cost:
    """Wall and processor seconds, and steps of the optimizer."""

    seconds: float
    cpu_s: float
    steps: int


def pairs(sets: Sets, seed: int) -> list[Record]:
    """The preference pairs of one seed: the refusals and the harmless records to tune on.

    A refusal has no rejected answer in the file; ``seed`` draws one of the placeholders for it.
    """
    rng = random.Random(f"pairs-{seed}")
    refusals = read_records(sets.tuned["refusals"], need_answer=True)
    return [
        *(Record(each.conversation, each.answer, rng.choice(COMPLIANCES)) for each in refusals),
        *read_records(sets.tuned["harmless"], need_answer=True),
    ]


def rows(records: Sequence[Record], tokenizer: Any) -> list[dict[str, str]]:
    """The pairs as trl takes them: the prompt in the chat template, two answers as plain text."""
    return [
        {"prompt": prompt_text(tokenizer, each.conversation), "chosen": str(each.answer),
         "rejected": str(each.rejected)}
        for each in records
    ]  # fmt: skip


def train(how: Training, base: Path, expert: Path, records: Sequence[Record], out: Path,
          seed: int) -> Cost:  # fmt: skip
    """Train the adapter ``expert`` of ``base`` on and save it to ``out``; ``seed`` draws the order.

    The frozen base is in bfloat16 and the adapter in float32, as in the demo's own training.
    """
    import torch
    from datasets import Dataset
    from peft import PeftModel

    began, used = time.perf_counter(), time.process_time()
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(base, padding_side="left")
    loaded: Any = load_model(base, CAUSAL, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(loaded, str(expert), is_trainable=True)
    trainer = _trainer(how, out, seed)(
        model=model, processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows(records, tokenizer)),
    )  # fmt: skip
    steps = trainer.train().global_step
    save(trainer.model, out)
    return Cost(time.perf_counter() - began, time.process_time() - used, steps)


def _trainer(how: Training, out: Path, seed: int) -> Any:
    """Makes a trainer of a model and its data."""
    from functools import partial

    settings = {
        "output_dir": str(out), "beta": how.beta, "learning_rate": how.rate,
        "num_train_epochs": how.epochs, "per_device_train_batch_size": how.batch,
        "lr_scheduler_type": "linear", "warmup_steps": 4, "weight_decay": 0.0,
        "max_length": 256, "seed": seed, "bf16": True, "use_cpu": True,
        "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
        "logging_steps": 4, "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    if how.loss == "dpo":
        from trl import DPOConfig, DPOTrainer

        return partial(DPOTrainer, args=DPOConfig(**settings, precompute_ref_log_probs=True))
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return partial(ORPOTrainer, args=ORPOConfig(**settings))
