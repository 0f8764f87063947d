"""LoRA adapters in PEFT's layout: which delta each one adds to which tensor of its base.

For a linear layer with weight W [out, in], the adapter holds A [r, in] and B [out, r], and the
fine-tuned weight is ``W + scale * (B @ A)`` with ``scale = alpha / r``, or ``alpha / sqrt(r)``
for rank-stabilised LoRA (``use_rslora``).

LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685. rsLoRA: Kalajdzievski 2023,
https://arxiv.org/abs/2312.03732. Variants whose delta is anything else are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from mergesafe.checkpoint._parse import show
from mergesafe.checkpoint.location import Location, at, read_json_file
from mergesafe.checkpoint.model import (
    CONFIG_LIMIT,
    CONVERT_ADVICE,
    PICKLE_SUFFIXES,
    Checkpoint,
    refuse_missing,
)
from mergesafe.checkpoint.safetensors import TensorInfo, read_header
from mergesafe.dtypes import MERGEABLE
from mergesafe.errors import CheckpointError

CONFIG_NAME: Final = "adapter_config.json"
WEIGHTS_NAME: Final = "adapter_model.safetensors"

#: Settings that make the delta something other than scale * B @ A, and what they mean.
_REFUSED: Final = {
    "use_dora": "DoRA scales the merged columns",
    "fan_in_fan_out": "the base stores its weights transposed",
    "lora_bias": "B has a bias",
    "modules_to_save": "whole modules were fine-tuned besides the adapter",
    "trainable_token_indices": "token embeddings were fine-tuned besides the adapter",
    "layer_replication": "layers of the base are repeated",
    "target_parameters": "it adapts parameters that are not linear layers",
    "alora_invocation_tokens": "activated LoRA changes only some positions",
    "use_qalora": "QALoRA pools the input",
    "use_bdlora": "BD-LoRA is block-diagonal",
    "arrow_config": "Arrow routes between adapters",
    "kasa_config": "KaSA changes the base weights",
    "monteclora_config": "MonteCLoRA samples its weights",
}
#: Initialisations that leave the base as it is; others (PiSSA, OLoRA, CorDA, LoftQ, ...) change it.
_PLAIN_INIT: Final = (None, True, False, "gaussian", "eva", "orthogonal")
_MERGE_FIRST: Final = "Merge the adapter into its base with PEFT (merge_and_unload) and use that."

_NAME: Final = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight"
)
#: Patterns come from the adapter, so only expressions that match in polynomial time are run: no
#: quantified groups, no look-around, no back-references, few repetitions.
_UNSAFE_PATTERN: Final = re.compile(r"\)[*+{]|\(\?|\\[0-9]|(?:[*+{].*){4}", re.DOTALL)
#: Ends of the names of whole weights that PEFT may put beside the pairs.
_EMBEDDINGS: Final = (
    ".base_layer.weight", ".embed_tokens.weight", ".wte.weight", ".lm_head.weight",
)  # fmt: skip
_PATTERN_LENGTH: Final = 300
_PATTERN_COUNT: Final = 4096


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The delta ``scale * (B @ A)`` of one base tensor: A is [rank, in], B is [out, rank]."""

    a: TensorInfo
    b: TensorInfo
    scale: float
    rank: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter; ``pairs`` is keyed by the names of the base checkpoint's tensors."""

    path: Location
    pairs: dict[str, LoraPair]


def open_adapter(path: Location, base: Checkpoint) -> Adapter:
    """Read the adapter in the folder ``path`` and match it to ``base``; headers only.

    Raises:
        CheckpointError: the adapter is missing, malformed, of a kind whose delta is not
            ``scale * B @ A``, or does not fit ``base``.
    """
    weights = _find_weights(path)
    config_path = path / CONFIG_NAME
    config = read_json_file(config_path, CONFIG_LIMIT)
    _check_config(config_path, config)
    rank_of = _setting(config_path, config, "r", "rank_pattern", whole=True)
    alpha_of = _setting(config_path, config, "lora_alpha", "alpha_pattern", whole=False)
    pairs: dict[str, LoraPair] = {}
    for module, (a, b) in _pair_up(weights).items():
        target = base.tensors.get(f"{module}.weight")
        if target is None:
            _fail(
                weights,
                f"tensor {show(a.name)} adapts {show(module + '.weight')}, which the base "
                f"{base.path} does not have. Use the base that the adapter was trained on.",
            )
        rank = rank_of(module)
        _check_shapes(a, b, target, rank)
        scale = alpha_of(module) / (math.sqrt(rank) if config.get("use_rslora") else rank)
        pairs[target.name] = LoraPair(a, b, scale, int(rank))
    return Adapter(path, pairs)


def _fail(path: Location, problem: str) -> NoReturn:
    raise CheckpointError(f"{path}: {problem}")


def _find_weights(path: Location) -> Location:
    if not at(path).exists():
        refuse_missing(path)
    if not at(path / CONFIG_NAME).exists():
        _fail(path, f"this is not a LoRA adapter: it has no {CONFIG_NAME}. Give PEFT's folder.")
    weights = path / WEIGHTS_NAME
    if not at(weights).exists():
        for suffix in PICKLE_SUFFIXES:
            if at(weights.with_suffix(suffix)).exists():
                _fail(path, f"adapter_model{suffix} is a pickle. {CONVERT_ADVICE}")
        _fail(path, f"the adapter has no {WEIGHTS_NAME}. Download it again.")
    return weights


def _check_config(path: Location, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        _fail(
            path,
            f"peft_type is {show(config.get('peft_type'))}, only 'LORA' is supported. "
            f"{_MERGE_FIRST}",
        )
    for key, meaning in _REFUSED.items():
        if config.get(key):
            _fail(path, f"{key} is {show(config[key])}: {meaning}. {_MERGE_FIRST}")
    if config.get("bias", "none") != "none":
        _fail(path, f"bias is {show(config['bias'])}, expected 'none'. {_MERGE_FIRST}")
    if config.get("init_lora_weights") not in _PLAIN_INIT:
        _fail(
            path,
            f"init_lora_weights is {show(config['init_lora_weights'])}, which may change the base "
            f"weights too. {_MERGE_FIRST}",
        )


def _setting(
    path: Location, config: dict[str, Any], key: str, patterns_key: str, *, whole: bool
) -> Callable[[str], float]:
    """A function from module name to the value of ``key`` (rank or alpha) there.

    As in PEFT, the first pattern that matches the end of the module's name decides, else the
    adapter's common value.
    """
    default = _number(path, key, config.get(key), whole=whole)
    patterns = config.get(patterns_key) or {}
    if not isinstance(patterns, dict) or len(patterns) > _PATTERN_COUNT:
        _fail(path, f"{patterns_key} is {show(patterns)}, expected an object of patterns.")
    compiled = [
        (_compile(path, patterns_key, text), _number(path, patterns_key, value, whole=whole))
        for text, value in patterns.items()
    ]

    def find(module: str) -> float:
        return next((value for pattern, value in compiled if pattern.match(module)), default)

    return find


def _compile(path: Location, key: str, text: str) -> re.Pattern[str]:
    if len(text) > _PATTERN_LENGTH or _UNSAFE_PATTERN.search(text):
        _fail(
            path,
            f"{key} has the pattern {show(text)}, which could take for ever to match. Replace it "
            "by plain module names.",
        )
    try:
        return re.compile(rf"(.*\.)?({text})$")
    except (re.error, OverflowError) as error:
        _fail(path, f"{key} has the invalid pattern {show(text)} ({error}).")


def _number(path: Location, key: str, value: object, *, whole: bool) -> float:
    kinds = (int,) if whole else (int, float)
    # bool is a subclass of int; NaN and huge values fail the comparison.
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < 2**31:
        kind = "integer" if whole else "number"
        _fail(path, f"{key} is {show(value)}, expected a positive {kind}. Fix or re-export it.")
    return value


def _pair_up(weights: Location) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """Module name -> (A, B), in file order; every tensor is accounted for."""
    sides: dict[str, dict[str, TensorInfo]] = {}
    for name, info in read_header(weights)[0].items():
        match = _NAME.fullmatch(name)
        if match is None:
            _fail(weights, f"tensor {show(name)} {_unknown(name)} {_MERGE_FIRST}")
        found = sides.setdefault(match["module"], {})
        if other := found.get(match["side"]):
            _fail(
                weights,
                f"tensors {show(other.name)} and {show(name)} are the same side of one pair: the "
                "file mixes several adapters. Save them separately.",
            )
        if info.dtype not in MERGEABLE:
            _fail(
                weights,
                f"tensor {show(name)} is {info.dtype}, expected {' or '.join(MERGEABLE)}. Convert "
                "the adapter.",
            )
        found[match["side"]] = info
    if not sides:
        _fail(weights, "the adapter holds no tensors. Download it again.")
    for found in sides.values():
        if len(found) != 2:
            (side,) = found
            _fail(
                weights,
                f"tensor {show(found[side].name)} has no lora_{'B' if side == 'A' else 'A'} to go "
                "with it. Download or save the adapter again.",
            )
    return {module: (found["A"], found["B"]) for module, found in sides.items()}


def _unknown(name: str) -> str:
    """Why a tensor is not one side of a pair, to be followed by what to do."""
    if "lora_embedding_" in name:
        return "adapts an embedding, whose delta is (B @ A) transposed and is not supported."
    if "lora_magnitude_vector" in name:
        return "belongs to DoRA, which scales the merged columns."
    if name.endswith(_EMBEDDINGS):
        return (
            "is a whole embedding or head, which PEFT saves when it may have changed. If it did "
            "not, save the adapter again with save_embedding_layers=False."
        )
    return "is not base_model.model.MODULE.lora_A.weight or lora_B.weight of a linear layer."


def _check_shapes(a: TensorInfo, b: TensorInfo, target: TensorInfo, rank: float) -> None:
    if len(target.shape) != 2:
        _fail(
            a.path,
            f"tensor {show(a.name)} adapts {show(target.name)} of shape {list(target.shape)}, "
            f"expected two dimensions (a linear layer). {_MERGE_FIRST}",
        )
    rows, columns = target.shape
    for info, expected in ((a, (rank, columns)), (b, (rows, rank))):
        if info.shape != expected:
            _fail(
                info.path,
                f"tensor {show(info.name)} has shape {list(info.shape)}, expected {list(expected)} "
                f"for rank {rank} and {show(target.name)} of shape {list(target.shape)}. Use the "
                "base and the adapter_config.json that belong to the adapter.",
            )
