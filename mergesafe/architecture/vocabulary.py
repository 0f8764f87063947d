"""Which tensors have a row for each token: input embeddings, output heads, and what lies beside.

Names decide, of modules of the language model by their place in it; a tensor that is called like
one of them and has another number of rows than tokens is told by its shape.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from mergesafe.architecture.names import is_tower
from mergesafe.architecture.tying import HEADS, is_embedding

#: Further input embeddings: of BERT and its kin, Mamba, XLNet, XLM, ModernBERT, ProphetNet.
_EMBEDDING: Final = re.compile(
    r"(?:^|\.)(?:embeddings\.word_embeddings|backbone\.embeddings?|word_embedding"
    r"|transformer\.embeddings|embeddings\.tok_embeddings|decoder\.embed_tokens"
    r"|encoder\.embed_tokens)\.weight$"
)
#: Heads, with their biases: of causal and of masked language models.
_HEAD: Final = re.compile(
    r"^(?:[a-z_]+\.){0,3}?(?:lm_head|embed_out|cls\.predictions(?:\.decoder)?|lm_head\.decoder"
    r"|predictions(?:\.decoder)?|vocab_projector|generator_lm_head|lm_loss|pred_layer\.proj"
    r"|lm_predictions\.lm_head|output)\.(?:weight|bias)$"
)
#: InternLM2 and the first Llama call the head so; a layer's module may bear that name elsewhere.
_OUTPUT: Final = re.compile(r"^(?:model\.)?output\.weight$")
#: ModernBERT's head.
_DECODER: Final = re.compile(r"^decoder\.(?:weight|bias)$")
#: DeepSeek's layers for further tokens have an embedding and a head of their own.
_FURTHER: Final = re.compile(
    r"(?:^|\.)(?:layers\.\d+|mtp[a-z_]*)\.(?:embed_tokens|shared_head\.head)\.weight$"
)
#: Gemma 3n's and 4's embeddings for each layer. A token beyond the table reads its first row.
_EACH_LAYER: Final = re.compile(r"(?:^|\.)embed_tokens_per_layer\.weight$")
#: BART's and Marian's, of shape [1, tokens].
_LAST: Final = re.compile(r"(?:^|\.)final_logits_bias$")


def vocabulary_axis(name: str, shape: Sequence[int]) -> int | None:
    """The dimension of a tensor that counts tokens, by its name; None where it has none."""
    if is_tower(name) or not shape:
        return None
    if _LAST.search(name):
        return len(shape) - 1
    if ".output." in name and not _OUTPUT.match(name):
        return None
    found = name in HEADS or is_embedding(name) or any(
        each.search(name) for each in (_EMBEDDING, _HEAD, _DECODER, _FURTHER, _EACH_LAYER)
    )  # fmt: skip
    return 0 if found else None


def reads_first_row(name: str) -> bool:
    """Whether the tensor may have fewer rows than tokens: those beyond it read its first row."""
    return _EACH_LAYER.search(name) is not None
