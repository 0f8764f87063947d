"""Tiny chat models to merge: a base with a word tokenizer and a chat template, and its experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tiny
import torch

from mergesafe.engine.plan.merge_plan import MergePlan, make_plan
from mergesafe.recipe.load import load_recipe

#: The vocabulary of the tests' conversations.
TEXT = (
    "how do i sort pick a lock add two three four five six seven eight nine no sorry cannot help "
    "sure here is the answer yes bake bread open door close window today please thanks"
)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>")
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' ' }}"
    "{% if m['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
CONFIG = {"pad_token_id": 0, "max_position_embeddings": 256}


def add_tokenizer(folder: Path) -> None:
    """A word tokenizer of fewer than 50 tokens, in transformers' files."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = list(dict.fromkeys((*SPECIAL, *TEXT.split())))
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(str(folder))


def make_models(
    folder: Path,
    *,
    tied: bool = False,
    experts: int = 3,
    dtype: torch.dtype = torch.float32,
    vocab: int = 50,
) -> list[Path]:
    """The base's folder, then the experts'; every tensor of every model differs."""
    made = []
    for seed in range(experts + 1):
        tensors = tiny.llama(seed, tied=tied, dtype=dtype, vocab=vocab)
        if seed:
            base = tiny.llama(0, tied=tied, dtype=dtype, vocab=vocab)
            tensors = {n: base[n] + (0.5 * (t - base[n])).to(dtype) for n, t in tensors.items()}
        name = f"expert{seed}" if seed else "base"
        made.append(
            tiny.save(
                folder / name, tensors, {**CONFIG, "tie_word_embeddings": tied, "vocab_size": vocab}
            )
        )
    add_tokenizer(made[0])
    return made


def plan_of(
    method: str,
    models: Sequence[Path | str],
    each: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    **keys: Any,
) -> MergePlan:
    """The plan of a merge of ``models``, the base first."""
    base, *experts = models
    if method == "linear":
        content = tiny.recipe(method, list(models), each=each, **keys)
    elif method in ("slerp", "nearswap"):
        content = tiny.recipe(method, [base, experts[0]], base, **keys)
    else:
        content = tiny.recipe(method, experts, base, each=each, **keys)
    return make_plan(load_recipe(content), max_shard_size=1 << 40, seed=7)
