"""A small pair of models, and what mergekit's tokensurgeon makes of it.

Run by a Python that has mergekit 0.1.5, this writes the answers that test_as_tokensurgeon.py
compares with: ``cd tests && PYTHONPATH=. python transplant/tokensurgeon.py``. Both tokenizers are
byte-level and spell special tokens alike, so that both programs share the same tokens.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

ANSWERS = Path(__file__).with_suffix(".json")
WORDS = [chr(code) for code in range(ord("a"), ord("a") + 26)]
SPECIAL = ["<unk>", "<s>", "</s>"]
OURS = [*SPECIAL, *WORDS, *(f"\u0120{word}" for word in WORDS)]
NEW = ["ab", "\u0120cd", "efg", "zz", "\u0120hij"]
THEIRS = [*SPECIAL, *reversed(WORDS), *NEW]
METHODS = ("omp", "subword", "mean")
K = 5


def write_pair(folder: Path) -> tuple[Path, Path]:
    """A model of 24 numbers a token with a head of its own, and a donor of 20; both float32."""
    made = []
    for name, words, size, seed in (("model", OURS, 24, 1), ("donor", THEIRS, 20, 2)):
        place = folder / name
        place.mkdir()
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            name: torch.randn(len(words), size, generator=generator)
            for name in ("model.embed_tokens.weight", "lm_head.weight")
        }
        tensors["model.norm.weight"] = torch.ones(size)
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        config = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": size,
            "intermediate_size": 8, "num_hidden_layers": 0, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": len(words), "tie_word_embeddings": False,
            "torch_dtype": "float32",
        }  # fmt: skip
        (place / "config.json").write_text(json.dumps(config))
        _write_tokenizer(place, words)
        made.append(place)
    return made[0], made[1]


def _write_tokenizer(folder: Path, words: list[str]) -> None:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    rules = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}  # fmt: skip
    content: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [{"id": i, "content": SPECIAL[i], **flags, "special": True}
                         for i in range(3)],
        "pre_tokenizer": rules, "decoder": rules, "post_processor": None,
        "model": {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)}, "merges": []},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", **roles})
    )


def new_rows(out: Path) -> dict[str, list[list[float]]]:
    """The rows of NEW in both tables of a model that was made."""
    tensors = load_file(out / "model.safetensors")
    ids = [THEIRS.index(word) for word in NEW]
    return {name: tensors[name][ids].tolist() for name in tensors if "norm" not in name}


def record() -> None:
    from mergekit.scripts.tokensurgeon import main

    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        model, donor = write_pair(Path(folder))
        for method in METHODS:
            out = Path(folder) / method
            arguments = [str(model), str(donor), str(out), "-a", method, "-k", str(K)]
            main(arguments, standalone_mode=False)
            [shard] = out.glob("model*.safetensors")
            shard.rename(out / "model.safetensors")
            answers[method] = new_rows(out)
    ANSWERS.write_text(json.dumps(answers, indent=0) + "\n")


if __name__ == "__main__":
    sys.exit(record())
