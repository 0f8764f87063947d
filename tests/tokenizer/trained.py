"""Small tokenizers of every kind, trained with the library, that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

ENGLISH = ("the cat sat on the mat and the hat", "a cat and a hat on that mat") * 4
CODE = ("def main(args): return args", "return main(the_args) if args else None") * 4
SPECIAL = ("<unk>", "<s>", "</s>")


def train(
    kind: str, text: Sequence[str], size: int = 300, special: Sequence[str] = SPECIAL
) -> Tokenizer:
    """A tokenizer of ``size`` tokens at most; ``kind``: byte, Unigram or WordPiece."""
    names = list(special)
    if kind == "byte":
        found = Tokenizer(models.BPE())
        found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        found.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=size, special_tokens=names, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "Unigram":
        found = Tokenizer(models.Unigram())
        found.pre_tokenizer = pre_tokenizers.Metaspace()
        found.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=names, unk_token="<unk>", show_progress=False
        )
    else:
        found = Tokenizer(models.WordPiece(unk_token="<unk>"))
        found.pre_tokenizer = pre_tokenizers.Whitespace()
        found.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=names, show_progress=False
        )
    found.train_from_iterator(text, trainer)
    return found


def write_trained(
    folder: Path, tokenizer: Tokenizer, added: Sequence[str] = (), **config: Any
) -> dict[str, int]:
    """Write the files of a tokenizer with further special tokens; its vocabulary is returned."""
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in added])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        **config,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return dict(tokenizer.get_vocab())
