"""Models of another number of layers: which stack counts, and what a configuration says by layer.

A configuration describes layers by lists with a value for each (``layer_types``), by lists of
their numbers (``mlp_only_layers``), and by rules (``max_window_layers``: the first layers attend to
everything). Where layers move, each of these has to say of a layer's new place what it said of the
old one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from mergesafe.architecture.cosmetic import TOKEN_IDS
from mergesafe.architecture.names import is_tower, layer_of
from mergesafe.architecture.tying import HEADS, TEXT_CONFIGS, text_config
from mergesafe.errors import CheckpointError

Config: TypeAlias = Mapping[str, Any]

#: How configurations call the number of layers.
COUNTS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
#: Lists of the layers that have some property, by their numbers.
_NUMBERS: Final = (
    "mlp_only_layers", "cross_attention_layers", "moe_layers", "attn_layer_indices",
    "full_attn_idxs", "dense_layers", "global_attn_layers",
)  # fmt: skip
#: Lists that have nothing to do with layers, whatever their length.
_OTHER: Final = frozenset((*TOKEN_IDS, "architectures", "suppress_tokens", "begin_suppress_tokens"))
#: Rules: key -> the lowest layers are of one kind, as many as it says.
_LEADING: Final = ("max_window_layers", "first_k_dense_replace")
#: Rules: key -> every so many layers is of another kind, counted from 1 (0: from 0).
_PERIODS: Final = {
    "sliding_window_pattern": 1, "_sliding_window_pattern": 1, "full_attention_interval": 1,
    "decoder_sparse_step": 1, "interleave_moe_layer_step": 1, "no_rope_layer_interval": 1,
    "global_attn_every_n_layers": 0, "moe_layer_freq": 0, "cross_attention_interval": 1,
}  # fmt: skip
#: Lists that say what a rule would, so that the rule is not looked at where they are there.
_EXPLICIT: Final = {
    "max_window_layers": "layer_types", "sliding_window_pattern": "layer_types",
    "_sliding_window_pattern": "layer_types", "full_attention_interval": "layer_types",
    "global_attn_every_n_layers": "layer_types", "no_rope_layer_interval": "no_rope_layers",
    "interleave_moe_layer_step": "moe_layers",
}  # fmt: skip
#: Layers beyond those that are counted, which predict further tokens: they are left out.
_FURTHER: Final = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
#: Modules behind the last layer; all else beside the layers lies before them.
_BEHIND: Final = (
    "norm", "final_layernorm", "final_layer_norm", "final_norm", "ln_f", "norm_f", "ln_out",
    "output_norm", "project_out", "score", "classifier", "embed_out", "lm_head", "head", "v_head",
    "transform", "output",
)  # fmt: skip


def main_stack(names: Iterable[str]) -> str | None:
    """The only stack of layers among ``names``, towers aside; None for none or several."""
    found = {
        layer[0] for name in names if not is_tower(name) and (layer := layer_of(name)) is not None
    }
    outer = {s for s in found if not any(s != o and s.startswith(f"{o}.") for o in found)}
    return outer.pop() if len(outer) == 1 else None


def in_layer(name: str, stack: str) -> int | None:
    """The layer of ``stack`` that the tensor is in."""
    rest = name.removeprefix(f"{stack}.")
    number = rest.partition(".")[0]
    return int(number) if rest != name and number.isdecimal() else None


def moved(name: str, stack: str, layer: int) -> str:
    """The name of the tensor in another layer of ``stack``."""
    rest = name.removeprefix(f"{stack}.").partition(".")[2]
    return f"{stack}.{layer}.{rest}"


def is_behind_layers(name: str) -> bool:
    """Whether a tensor beside the layers lies behind the last: the final norm, the head."""
    if name in HEADS:
        return True
    return any(part in _BEHIND for part in name.split(".")[:-1]) and not is_tower(name)


def count_of(config: Config) -> int | None:
    """The number of layers that a configuration says."""
    level = text_config(config)
    found = (level.get(key) for key in COUNTS)
    return next((each for each in found if isinstance(each, int) and each > 0), None)


def without_depth(config: Config) -> dict[str, Any]:
    """``config`` without what depends on the number of its layers, to be compared with others."""

    def stripped(level: Config, count: int | None) -> dict[str, Any]:
        dropped = {*COUNTS, *_NUMBERS, *_LEADING, *_PERIODS, *_FURTHER}
        return {
            key: value
            for key, value in level.items()
            if key not in dropped and not (count is not None and _by_layer(key, value, count))
        }

    return _text_changed(config, lambda level: stripped(level, count_of(config)))


def with_layers(config: Config, layers: Sequence[tuple[Config, int]]) -> dict[str, Any]:
    """``config`` for a model whose layer k is layer j of a model with configuration c.

    ``layers``: (c, j) for every k.

    Raises:
        CheckpointError: the configuration cannot say of the layers what they are.
    """
    if not config:
        return {}
    inner = [(text_config(each), j) for each, j in layers]
    return _text_changed(config, lambda level: _rewritten(level, inner))


def _text_changed(config: Config, change: Callable[[Config], dict[str, Any]]) -> dict[str, Any]:
    """``config`` with the part changed that describes the language model."""
    for key in TEXT_CONFIGS:
        if isinstance(part := config.get(key), Mapping):
            return {**config, key: change(part)}
    return change(config)


def _rewritten(level: Config, layers: Sequence[tuple[Config, int]]) -> dict[str, Any]:
    count = count_of(level)
    told = {key: len(layers) for key in COUNTS if key in level}
    result = {**level, **(told or {COUNTS[0]: len(layers)})}
    for key, value in level.items():
        if key in COUNTS or value is None:
            continue
        if key in _FURTHER:
            result[key] = 0
        elif key in _NUMBERS and isinstance(value, list):
            result[key] = [k for k, (own, j) in enumerate(layers) if j in (own.get(key) or [])]
        elif count is not None and _by_layer(key, value, count):
            result[key] = _listed(key, value, layers)
    for key in _LEADING:
        _lead(result, key, level, layers)
    for key in _PERIODS:
        _check_period(result, key, level, layers)
    return result


def _by_layer(key: str, value: object, count: int) -> bool:
    """Whether a list has a value for each layer: by its length, which is all that tells."""
    known = key in _OTHER or key in _NUMBERS
    return isinstance(value, list) and len(value) == count and not known


def _listed(key: str, ours: list[Any], layers: Sequence[tuple[Config, int]]) -> list[Any]:
    values = []
    for k, (own, j) in enumerate(layers):
        theirs = own.get(key)
        if not isinstance(theirs, list) or j >= len(theirs):
            if len(set(map(str, ours))) == 1:  # the same for every layer, whoever it is of
                values.append(ours[0])
                continue
            raise CheckpointError(
                f"config.json: '{key}' has a value for each layer, but none for layer {j} of a "
                f"model that layer {k} of the output is taken from. Write '{key}' into the "
                "config.json of every model."
            )
        values.append(theirs[j])
    return values


def _lead(
    result: dict[str, Any], key: str, level: Config, layers: Sequence[tuple[Config, int]]
) -> None:
    """A rule about the lowest layers: as many as are still of that kind, if they are lowest."""
    bound = level.get(key)
    if not isinstance(bound, int) or isinstance(bound, bool):
        return
    kinds = [j < _integer(own.get(key), bound) for own, j in layers]
    lead = next((k for k, kind in enumerate(kinds) if not kind), len(kinds))
    if not any(kinds[lead:]):
        result[key] = lead
        return
    unused = key == "max_window_layers" and not level.get("use_sliding_window")
    if unused or _EXPLICIT.get(key) in level:
        result[key] = len(layers)
        return
    raise _cannot_say(key, bound)


def _check_period(
    result: Config, key: str, level: Config, layers: Sequence[tuple[Config, int]]
) -> None:
    """A rule that counts layers has to say the same of each at its new place."""
    every = level.get(key)
    if not isinstance(every, int) or isinstance(every, bool) or every <= 1:
        return
    if level.get(_EXPLICIT.get(key, "")) is not None:
        return
    shift = _PERIODS[key]
    for k, (own, j) in enumerate(layers):
        theirs = max(1, _integer(own.get(key), every))
        if ((k + shift) % every == 0) != ((j + shift) % theirs == 0):
            raise _cannot_say(key, every)


def _integer(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _cannot_say(key: str, value: int) -> CheckpointError:
    return CheckpointError(
        f"config.json says by '{key}: {value}' which layers are of which kind, and these slices "
        "move layers to places where it says otherwise. Choose ranges that keep the order of the "
        "kinds (whole periods of them)."
    )


def kinds_differ(configs: Collection[tuple[Config, int]]) -> str | None:
    """The list by which layers that shall be merged are of different kinds, if any."""
    found = [(text_config(config), j) for config, j in configs]
    for key in dict.fromkeys(key for level, _ in found for key in level):
        values = [
            level[key][j]
            for level, j in found
            if isinstance(level.get(key), list)
            and _by_layer(key, level[key], count_of(level) or -1)
            and j < len(level[key])
        ]
        if len(set(map(str, values))) > 1:
            return key
    return None
