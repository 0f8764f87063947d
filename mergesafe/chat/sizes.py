"""A configuration against the weights that are stored, before a model is made of it.

``config.json`` says how large a model is, and transformers makes what it says: a number there costs
nothing to write and may ask for a billion layers, or for more memory than there is. The headers of
the weights say what there is to load, and a model that needs much more is none of theirs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from mergesafe.chat.declared import PACKED, entries
from mergesafe.checkpoint.format.model import CONFIG_NAME, Checkpoint
from mergesafe.errors import ModelError
from mergesafe.untrusted import show

#: Numbers of layers: each has a tensor at least.
_LAYERS: Final = frozenset((
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers",
    "num_encoder_layers", "num_decoder_layers", "num_hidden_groups", "depth",
))  # fmt: skip
#: Numbers of parts that a program may make one by one.
_PARTS: Final = re.compile(r"layer|expert|head|group|block|depth|stage|kernel|label|token_type")
#: A model of random numbers for a test has fewer parts than its defaults say.
_FEW: Final = 1024
_LARGEST: Final = 1 << 62
#: Parameters for each stored number: a tied head is stored once, packed weights are unpacked.
_TIMES: Final = 2
_PACKED_TIMES: Final = 16
#: Parameters and bytes of tables that need not be stored.
_BESIDE: Final = 1 << 24
_TABLES: Final = 1 << 30


def check_counts(settings: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Refuse numbers that no model with these tensors can have.

    Raises:
        ModelError: the message names the key.
    """
    tensors = len(checkpoint.tensors)
    widest = max((max(each.shape, default=1) for each in checkpoint.tensors.values()), default=1)
    for key, value in entries(dict(settings)):
        if isinstance(value, float) and not math.isfinite(value):
            raise _odd(checkpoint, key, value, "a finite number")
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if not -_LARGEST < value < _LARGEST:
            raise _odd(checkpoint, key, value, "a number of this world")
        if key in _LAYERS and not 0 <= value <= tensors:
            raise _odd(checkpoint, key, value, f"at most {tensors:,}, the number of tensors stored")
        most = max(tensors, widest, _FEW)
        if _PARTS.search(key) and not key.endswith(("_id", "_dim", "_size")) and value > most:
            raise _odd(checkpoint, key, value, f"at most {most:,} for the weights that are stored")


def check_size(model: Any, checkpoint: Checkpoint) -> None:
    """Refuse a model, made without memory, that is larger than the weights that are stored.

    Raises:
        ModelError: the message says how large both are.
    """
    stored = sum(math.prod(each.shape) for each in checkpoint.tensors.values())
    wanted = sum(each.numel() for each in model.parameters())
    packed = any(checkpoint.config.get(key) for key in PACKED)
    most = stored * (_PACKED_TIMES if packed else _TIMES) + _BESIDE
    if wanted > most:
        raise ModelError(
            f"{checkpoint.path}: {CONFIG_NAME} describes a model of {wanted:,} parameters, the "
            f"weights hold {stored:,} numbers. The files do not belong together: download the "
            "model again, or correct the configuration."
        )
    tables = sum(each.numel() * each.element_size() for each in model.buffers())
    if tables > _TABLES + 4 * stored:
        raise ModelError(
            f"{checkpoint.path}: {CONFIG_NAME} describes a model with tables of {tables:,} bytes "
            f"beside its {stored:,} numbers. Correct the configuration."
        )


def _odd(checkpoint: Checkpoint, key: str, value: object, expected: str) -> ModelError:
    return ModelError(
        f"{checkpoint.path}: {show(key)} in {CONFIG_NAME} is {show(value)}, expected {expected}. "
        "The files do not belong together: download the model again, or correct the configuration."
    )
