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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from mergesafe.architecture.names import is_transposed, unwrap
from mergesafe.architecture.pairing import Pairing, Rule, pair
from mergesafe.architecture.tying import HEADS, embedding_of, head_beside
from mergesafe.checkpoint.format.lora_config import MERGE_FIRST, Setting, check_config, fail
from mergesafe.checkpoint.format.lora_whole import (
    check_once,
    is_former,
    untold,
    whole_name,
    whole_tensors,
)
from mergesafe.checkpoint.format.model import (
    CONFIG_LIMIT,
    CONVERT_ADVICE,
    PICKLE_SUFFIXES,
    Checkpoint,
    refuse_missing,
)
from mergesafe.checkpoint.format.safetensors import TensorInfo, read_header
from mergesafe.checkpoint.places.location import Location, at, read_json_file
from mergesafe.dtypes import MERGEABLE
from mergesafe.untrusted import show

CONFIG_NAME: Final = "adapter_config.json"
WEIGHTS_NAME: Final = "adapter_model.safetensors"

_NAME: Final = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight"
)
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The delta ``scale * (B @ A)`` of one base tensor: A is [rank, in], B is [out, rank].

    ``transposed``: the base stores the weight as [in, out], so the delta is ``scale * (B @ A)ᵀ``,
    which is Aᵀ times Bᵀ. ``module``: what the adapter calls the layer.
    """

    a: TensorInfo
    b: TensorInfo
    scale: float
    rank: int
    transposed: bool = False
    module: str = ""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter; ``pairs`` is keyed by the names of the base checkpoint's tensors.

    The head of a base that ties it to its embedding is not among those tensors; the adapter of
    such a head is under the name that transformers gives the head.
    """

    path: Location
    pairs: dict[str, LoraPair]
    warnings: tuple[str, ...] = ()
    #: Tensors that stand in place of the base's, by its names; see ``lora_whole``.
    whole: Mapping[str, TensorInfo] = field(default_factory=dict)
    #: What adapter_config.json holds.
    config: Mapping[str, Any] = field(default_factory=dict)


def open_adapter(path: Location, base: Checkpoint) -> Adapter:
    """Read the adapter in the folder ``path`` and match it to ``base``; headers only.

    Raises:
        CheckpointError: the adapter is missing, malformed, of a kind whose delta is not
            ``scale * B @ A``, or does not fit ``base``.
    """
    weights = _find_weights(path)
    config_path = path / CONFIG_NAME
    config = read_json_file(config_path, CONFIG_LIMIT)
    check_config(config_path, config)
    found, stored = _pair_up(weights)
    rank_of = Setting(config_path, config, "r", "rank_pattern", found, whole=True)
    alpha_of = Setting(config_path, config, "lora_alpha", "alpha_pattern", found, whole=False)
    targets, rules = _targets(weights, found, config, base)
    warnings = [
        f"{weights}: the names of its modules begin otherwise than those of the base, which has "
        f"{rule}; every module was found so"
        for rule in rules
    ]
    check_once(weights, stored, found)
    whole = whole_tensors(weights, stored, rules, base)
    pairs: dict[str, LoraPair] = {}
    for module, (a, b) in found.items():
        name, target = targets[module]
        rank = rank_of.of(module)
        transposed = _is_transposed(name, config, base)
        _check_shapes(a, b, target, rank, transposed)
        scale = alpha_of.of(module) / (math.sqrt(rank) if config.get("use_rslora") else rank)
        pairs[name] = LoraPair(a, b, scale, int(rank), transposed, module)
    for setting in (rank_of, alpha_of):
        warnings += [f"{config_path}: {text}" for text in setting.unused()]
    warnings += [f"{config_path}: {text}" for text in untold(config, stored)]
    return Adapter(path, pairs, tuple(warnings), whole, config)


def _targets(
    weights: Location,
    found: Mapping[str, tuple[TensorInfo, TensorInfo]],
    config: Mapping[str, Any],
    base: Checkpoint,
) -> tuple[dict[str, tuple[str, TensorInfo]], list[Rule]]:
    """Module -> the base's tensor that it adapts, and the rule that their names may have.

    All modules are looked at together: one prefix may differ, the same for all of them.
    """
    known = {name: info.shape for name, info in base.tensors.items() if len(info.shape) == 2}
    wanted = {}
    for module, (a, b) in found.items():
        name = f"{module}.weight"
        shape = (*b.shape[:1], *a.shape[1:2])
        wanted[name] = shape[::-1] if _is_transposed(name, config, base) else shape
    targets = {name: name for name in wanted if name in base.tensors}
    embedding = embedding_of(base.tensors)
    for name in wanted:
        if name in HEADS and name not in targets and embedding is not None and base.tied:
            targets[name] = embedding
    missing = {name: shape for name, shape in wanted.items() if name not in targets}
    rules: list[Rule] = []
    if missing:
        free = {name: shape for name, shape in known.items() if name not in targets.values()}
        pairing = pair(missing, free, least=1)
        if pairing.ours or len(pairing.rules) != 1:
            _fail_unknown(weights, missing, pairing, base)
        targets |= pairing.stored
        rules = pairing.rules
    head = head_beside(embedding, base.tensors, base.config) if embedding is not None else ""
    return {
        name.removesuffix(".weight"): (
            head if name in HEADS and targets[name] == embedding else targets[name],
            base.tensors[targets[name]],
        )
        for name in wanted
    }, rules


def _fail_unknown(
    weights: Location, missing: Mapping[str, Any], pairing: Pairing, base: Checkpoint
) -> NoReturn:
    """Modules that the base does not have: show how both spell theirs."""
    alone = set(pairing.ours)
    names = [name for name in missing if name in alone] or list(missing)
    end = names[0].split(".")[-2]
    alike = [name for name in base.tensors if f".{end}." in f".{name}"] or list(base.tensors)
    fail(
        weights,
        f"it adapts {', '.join(map(show, names[:_SHOWN]))}"
        f"{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}, which the base "
        f"{base.path} does not have; the base has {', '.join(map(show, alike[:_SHOWN]))}. Use the "
        "base that the adapter was trained on.",
    )


def _is_transposed(name: str, config: Mapping[str, Any], base: Checkpoint) -> bool:
    """Whether the base's weight is [in, out]; PEFT finds out by the layer's class.

    ``fan_in_fan_out`` counts only where the base does not say what it is: PEFT ignores it on
    linear layers and sets it on Conv1D.
    """
    kind = base.config.get("model_type")
    if kind is None:
        return bool(config.get("fan_in_fan_out"))
    return is_transposed(name.removesuffix(".weight"), kind)


def _find_weights(path: Location) -> Location:
    if not at(path).exists():
        refuse_missing(path)
    if not at(path / CONFIG_NAME).exists():
        fail(path, f"this is not a LoRA adapter: it has no {CONFIG_NAME}. Give PEFT's folder.")
    weights = path / WEIGHTS_NAME
    if not at(weights).exists():
        for suffix in PICKLE_SUFFIXES:
            if at(weights.with_suffix(suffix)).exists():
                fail(path, f"adapter_model{suffix} is a pickle. {CONVERT_ADVICE}")
        fail(path, f"the adapter has no {WEIGHTS_NAME}. Download it again.")
    return weights


def _pair_up(
    weights: Location,
) -> tuple[dict[str, tuple[TensorInfo, TensorInfo]], dict[str, TensorInfo]]:
    """Module name -> (A, B), in file order, and whole tensors by their names in a model; every
    tensor is accounted for.
    """
    whole: dict[str, TensorInfo] = {}
    sides: dict[str, dict[str, TensorInfo]] = {}
    infos = read_header(weights)[0]
    for name, stored in unwrap(infos, weights, leading_wrappers=())[0].items():
        info = infos[stored]
        match = _NAME.fullmatch(name)
        if match is None and (plain := whole_name(name)) is not None:
            if not is_former(name) and (plain not in whole or not name.endswith(plain)):
                whole[plain] = info
            continue
        if match is None:
            fail(weights, f"tensor {show(name)} {_unknown(name)} {MERGE_FIRST}")
        found = sides.setdefault(match["module"], {})
        if other := found.get(match["side"]):
            fail(
                weights,
                f"tensors {show(other.name)} and {show(name)} are the same side of one pair: the "
                "file mixes several adapters. Save them separately.",
            )
        if info.dtype not in MERGEABLE:
            fail(
                weights,
                f"tensor {show(name)} is {info.dtype}, expected {' or '.join(MERGEABLE)}. Convert "
                "the adapter.",
            )
        found[match["side"]] = info
    if not sides and not whole:
        fail(weights, "the adapter holds no tensors. Download it again.")
    for found in sides.values():
        if len(found) != 2:
            (side,) = found
            fail(
                weights,
                f"tensor {show(found[side].name)} has no lora_{'B' if side == 'A' else 'A'} to go "
                "with it. Download or save the adapter again.",
            )
    return {module: (found["A"], found["B"]) for module, found in sides.items()}, whole


def _unknown(name: str) -> str:
    """Why a tensor is not one side of a pair, to be followed by what to do."""
    if "lora_embedding_" in name:
        return "adapts an embedding, whose delta is (B @ A) transposed and is not supported."
    if "lora_magnitude_vector" in name:
        return "belongs to DoRA, which scales the merged columns."
    return "is not base_model.model.MODULE.lora_A.weight or lora_B.weight of a linear layer."


def _check_shapes(
    a: TensorInfo, b: TensorInfo, target: TensorInfo, rank: float, transposed: bool
) -> None:
    if len(target.shape) != 2:
        fail(
            a.path,
            f"tensor {show(a.name)} adapts {show(target.name)} of shape {list(target.shape)}, "
            f"expected two dimensions (a linear layer). {MERGE_FIRST}",
        )
    rows, columns = target.shape[::-1] if transposed else target.shape
    for info, expected in ((a, (rank, columns)), (b, (rows, rank))):
        if info.shape != expected:
            fail(
                info.path,
                f"tensor {show(info.name)} has shape {list(info.shape)}, expected {list(expected)} "
                f"for rank {rank} and {show(target.name)} of shape {list(target.shape)}. Use the "
                "base and the adapter_config.json that belong to the adapter.",
            )
