"""What people who know mergekit type, and what it is here: its commands are pasted with options."""

from __future__ import annotations

from typing import Final

#: mergekit's commands, and what to type in their place.
MERGEKIT_COMMANDS: Final = {
    "mergekit-yaml": "mergesafe merge RECIPE OUT",
    "mergekit-multi": "mergesafe merge RECIPE OUT",
    "mergekit-mega": "mergesafe merge RECIPE OUT",
    "mergekit-evolve": "mergesafe tune RECIPE -o TUNED",
    "mergekit-tokensurgeon": "mergesafe transplant-tokenizer MODEL DONOR OUT",
}

_NEEDLESS: Final = "leave it out: "

#: What an option that mergesafe does not have is here, by its name in ``mergekit-yaml`` 0.1.5.
MERGEKIT_OPTIONS: Final = {
    "--cuda": "write --device cuda",
    "--gpu-rich": "write --device cuda, which takes all GPUs; --vram says how much",
    "--multi-gpu": "write --device cuda, which takes all GPUs",
    "--read-to-gpu": f"{_NEEDLESS}--device cuda and --vram say what a GPU does",
    "--low-cpu-memory": f"{_NEEDLESS}--memory says how much is taken",
    "--num-threads": "write --threads",
    "-j": "write --threads",
    "--random-seed": "write --seed",
    "--out-shard-size": "write --max-shard-size, in bytes and not in parameters",
    "--verbosity": "write --debug",
    "-v": "write --debug",
    "--lazy-unpickle": f"{_NEEDLESS}safetensors are read in parts",
    "--safe-serialization": f"{_NEEDLESS}the output is safetensors",
    "--clone-tensors": f"{_NEEDLESS}tensors are written in parts",
    "--async-write": f"{_NEEDLESS}reading, computing and writing overlap",
    "--write-threads": f"{_NEEDLESS}reading, computing and writing overlap",
    "--copy-tokenizer": f"{_NEEDLESS}the tokenizer is always copied",
    "--write-model-card": f"{_NEEDLESS}the card is always written",
    "--lora-merge-cache": f"{_NEEDLESS}adapters are added while the model is read",
    "--lora-merge-dtype": f"{_NEEDLESS}adapters are added in float32",
    "--transformers-cache": "set HF_HOME, which moves the Hub's cache",
    "--trust-remote-code": f"{_NEEDLESS}no code of a model is run",
    "--allow-crimes": f"{_NEEDLESS}models of two architectures are refused",
    "--unsafe-truncate-embeddings": f"{_NEEDLESS}rows of embeddings are never cut",
}
