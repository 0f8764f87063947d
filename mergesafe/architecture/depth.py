"""Models of another number of layers: which stack counts, and what a configuration says by layer.

A configuration describes layers by lists with a value for each (``layer_types``), by lists of
their numbers (``mlp_only_layers``), and by rules (``max_window_layers``: the first layers attend to
everything). Where layers move, each of these has to say of a layer's new place what it said of the
old one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from mergesafe.architecture.cosmetic import TOKEN_IDS
from mergesafe.architecture.names import is_tower, layer_of
from mergesafe.architecture.tying import HEADS, TEXT_CONFIGS, text_config
from mergesafe.errors import CheckpointError

Config: TypeAlias = Mapping[str, Any]

#: How configurations call the number of layers.
COUNTS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
#: And the number in one half of an encoder-decoder, by the name of the module that holds them.
HALVES: Final = {
    "decoder": ("decoder_layers", "num_decoder_layers"),
    "encoder": ("encoder_layers", "num_encoder_layers"),
}
#: Lists of the layers that have some property, by their numbers.
_NUMBERS: Final = (
    "mlp_only_layers", "cross_attention_layers", "moe_layers", "attn_layer_indices",
    "full_attn_idxs", "dense_layers", "global_attn_layers", "hybrid_layer_ids",
)  # fmt: skip
#: Lists that have nothing to do with layers, whatever their length.
_OTHER: Final = frozenset((
    *TOKEN_IDS, "architectures", "suppress_tokens", "begin_suppress_tokens", "time_step_limit",
    "block_types", "_block_types", "attention_types", "mlp_multipliers", "ssm_multipliers",
    "image_size", "patch_size",
))  # fmt: skip
#: Lists that say for each layer from which one it takes keys and values: its own number, or a
#: lower one.
_SOURCES: Final = ("kv_source_layers",)
#: A text with a letter for each layer.
_LETTERS: Final = "hybrid_override_pattern"
#: A mapping from the number of a layer to settings of its own.
_OVERRIDES: Final = "per_layer_config"
#: Kinds of layers that repeat over and over.
_CYCLES: Final = ("block_types", "_block_types")
#: Rules: key -> the lowest layers are of one kind, as many as it says.
_LEADING: Final = (
    "max_window_layers", "first_k_dense_replace", "moe_layer_start_index", "num_dense_layers",
)  # fmt: skip
#: A rule: so many of the highest layers have no keys and values of their own.
_TRAILING: Final = "num_kv_shared_layers"
#: Rules: key -> every so many layers is of another kind, counted from 1 (0: from 0), or from the
#: layer that another key says.
_PERIODS: Final[Mapping[str, int | str]] = {
    "sliding_window_pattern": 1, "_sliding_window_pattern": 1, "full_attention_interval": 1,
    "decoder_sparse_step": 1, "interleave_moe_layer_step": 1, "no_rope_layer_interval": 1,
    "global_attn_every_n_layers": 0, "moe_layer_freq": 0, "cross_attention_interval": 1,
    "cross_attention_frequency": 0, "moe_layer_interval": 1, "n_layers_per_attn_res_block": 0,
    "attn_layer_period": "attn_layer_offset", "expert_layer_period": "expert_layer_offset",
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
#: Modules behind the last layer, beside norms; all else beside the layers lies before them.
_BEHIND: Final = (
    "ln_f", "norm_f", "ln_out", "ln_post", "embedding_norm", "hc_head", "project_out", "score",
    "classifier", "pre_classifier", "embed_out", "lm_head", "head", "v_head", "lm_loss", "cls",
    "predictions", "generator_predictions", "vocab_transform", "vocab_layer_norm",
    "vocab_projector", "pooler", "qa_outputs", "transform", "output", "output_projection",
)  # fmt: skip
#: The norm behind the last layer, but for what lies within the embeddings.
_FINAL_NORM: Final = re.compile(
    r"(?:(?:final|output|post|out|last)_?)?(?:layer_?|rms_?)?norm(?:alization)?", re.IGNORECASE
)


#: Layers that are called otherwise, which some models have beside those of the only stack: Idefics'
#: ``gated_cross_attn_layers``.
_FURTHER_STACK: Final = re.compile(r"^(.*?\w+_(?:layers|blocks))\.[0-9]{1,5}\.")


def main_stack(names: Iterable[str]) -> str | None:
    """The only stack of layers among ``names``, towers aside; None for none or several."""
    found = {stack for name in names if not is_tower(name) and (stack := _stack_of(name))}
    outer = {s for s in found if not any(s != o and s.startswith(f"{o}.") for o in found)}
    return outer.pop() if len(outer) == 1 else None


def _stack_of(name: str) -> str | None:
    if (layer := layer_of(name)) is not None:
        return layer[0]
    further = _FURTHER_STACK.match(name)
    return further[1] if further is not None else None


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
    if name in HEADS or name == "decoder.bias":
        return True
    parts = name.split(".")[:-1]
    if any(part in _BEHIND for part in parts):
        return not is_tower(name)
    embeds = any(part.startswith("emb") for part in parts)
    return not embeds and any(map(_FINAL_NORM.fullmatch, parts)) and not is_tower(name)


def count_of(config: Config, stack: str = "") -> int | None:
    """The number of layers that a configuration says; those of ``stack`` where it has several."""
    level = text_config(config)
    found = (level.get(key) for key in (*_half(stack), *COUNTS))
    return next((each for each in found if isinstance(each, int) and each > 0), None)


def _half(stack: str) -> tuple[str, ...]:
    """What says how many layers the half has that ``stack`` is."""
    parts = stack.split(".")
    return next((keys for module, keys in HALVES.items() if module in parts), ())


def without_depth(config: Config) -> dict[str, Any]:
    """``config`` without what depends on the number of its layers, to be compared with others."""

    def stripped(level: Config, count: int | None) -> dict[str, Any]:
        halves = (key for keys in HALVES.values() for key in keys)
        dropped = {
            *COUNTS, *halves, *_NUMBERS, *_LEADING, *_PERIODS, *_FURTHER, _TRAILING, _LETTERS,
            _OVERRIDES, "attention_types", "moe_layer_end_index",
        }  # fmt: skip
        return {
            key: value
            for key, value in level.items()
            if key not in dropped and not (count is not None and _by_layer(key, value, count))
        }

    return _text_changed(config, lambda level: stripped(level, count_of(config)))


def with_layers(
    config: Config, layers: Sequence[tuple[Config, int]], stack: str = "", held: int = 0
) -> dict[str, Any]:
    """``config`` for a model whose layer k is layer j of a model with configuration c.

    ``layers``: (c, j) for every k. ``stack``: what their names begin with. ``held``: how many
    layers the model stores that ``config`` describes, for one that does not say so.

    Raises:
        CheckpointError: the configuration cannot say of the layers what they are.
    """
    if not config:
        return {}
    inner = [(text_config(each), j) for each, j in layers]
    count = count_of(config, stack) or held
    return _text_changed(config, lambda level: _rewritten(level, inner, _half(stack), count))


def _text_changed(config: Config, change: Callable[[Config], dict[str, Any]]) -> dict[str, Any]:
    """``config`` with the part changed that describes the language model."""
    for key in TEXT_CONFIGS:
        if isinstance(part := config.get(key), Mapping):
            return {**config, key: change(part)}
    return change(config)


def _rewritten(
    level: Config, layers: Sequence[tuple[Config, int]], half: Sequence[str], count: int
) -> dict[str, Any]:
    told = {key: len(layers) for key in (*half, *COUNTS) if key in level}
    described = any(_by_layer(key, value, count) for key, value in level.items())
    result = {**level, **(told or ({} if described else {COUNTS[0]: len(layers)}))}
    for key, value in level.items():
        if key in COUNTS or value is None:
            continue
        if key in _FURTHER:
            result[key] = 0
        elif key in _NUMBERS and isinstance(value, list):
            result[key] = [k for k, (own, j) in enumerate(layers) if j in (own.get(key) or [])]
        elif key == _OVERRIDES and isinstance(value, Mapping):
            own_settings = [(own.get(key) or {}).get(str(j)) for own, j in layers]
            result[key] = {str(k): own for k, own in enumerate(own_settings) if own is not None}
        elif key == _LETTERS and isinstance(value, str) and len(value) == count:
            result[key] = "".join(_listed(key, list(value), _lettered(layers)))
        elif key in _SOURCES and isinstance(value, list):
            result[key] = _sources(key, value, layers)
        elif _by_layer(key, value, count):
            result[key] = _listed(key, value, layers)
    if isinstance(result.get("attention_types"), list) and "attention_layers" in result:
        result["attention_types"] = [[result["attention_layers"], 1]]  # they are derived from it
    if result.get("moe_layer_end_index") == count - 1:
        result["moe_layer_end_index"] = len(layers) - 1
    _check_each_own(level, layers, count)
    _trail(result, level, layers, count)
    for key in _LEADING:
        _lead(result, key, level, layers)
    for key in _PERIODS:
        _check_period(result, key, level, layers)
    for key in _CYCLES:
        _check_cycle(key, level, layers)
    return result


def _sources(key: str, ours: list[Any], layers: Sequence[tuple[Config, int]]) -> list[int]:
    """Where the layers lie that layers take keys and values from: the last such one before each."""
    found = []
    for k, (own, j) in enumerate(layers):
        values = own.get(key)
        source = values[j] if isinstance(values, list) and j < len(values) else j
        before = (i for i in range(k - 1, -1, -1) if layers[i] == (own, source))
        place = k if source == j else next(before, None)
        if place is None:
            raise _cannot_say(key, ours)
        found.append(place)
    return found


def _lettered(layers: Sequence[tuple[Config, int]]) -> list[tuple[Config, int]]:
    return [({_LETTERS: list(str(own.get(_LETTERS, "")))}, j) for own, j in layers]


def _check_each_own(level: Config, layers: Sequence[tuple[Config, int]], count: int) -> None:
    """Embeddings with a part for each layer (Gemma 3n) fit the layers in their order alone."""
    size = level.get("hidden_size_per_layer_input")
    if size and [j for _, j in layers] != list(range(count)):
        raise CheckpointError(
            f"config.json says 'hidden_size_per_layer_input: {size}': one tensor holds an "
            "embedding for each layer, and slices cannot move its parts. List whole models under "
            "'models'."
        )


def _trail(
    result: dict[str, Any], level: Config, layers: Sequence[tuple[Config, int]], count: int
) -> None:
    """A rule about the highest layers: as many as are still of that kind, if they are highest."""
    bound = _integer(level.get(_TRAILING), 0)
    if bound <= 0:
        return
    kinds = [j >= count - bound for _, j in layers]
    trail = next((k for k, kind in enumerate(reversed(kinds)) if not kind), len(kinds))
    if any(kinds[: len(kinds) - trail]):
        raise _cannot_say(_TRAILING, bound)
    result[_TRAILING] = trail


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
    for k, (own, j) in enumerate(layers):
        theirs = max(1, _integer(own.get(key), every))
        if ((k + _shift(key, level)) % every == 0) != ((j + _shift(key, own)) % theirs == 0):
            raise _cannot_say(key, every)


def _shift(key: str, level: Config) -> int:
    shift = _PERIODS[key]
    return shift if isinstance(shift, int) else -_integer(level.get(shift), 0)


def _check_cycle(key: str, level: Config, layers: Sequence[tuple[Config, int]]) -> None:
    kinds = level.get(key)
    if not isinstance(kinds, list) or not kinds:
        return
    for k, (own, j) in enumerate(layers):
        theirs = own.get(key) or kinds
        if kinds[k % len(kinds)] != theirs[j % len(theirs)]:
            raise _cannot_say(key, kinds)


def _integer(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _cannot_say(key: str, value: object) -> CheckpointError:
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
            level[key][j] - j if key in _SOURCES else level[key][j]
            for level, j in found
            if isinstance(level.get(key), list)
            and _by_layer(key, level[key], count_of(level) or -1)
            and j < len(level[key])
        ]
        if len(set(map(str, values))) > 1:
            return key
    return None


def described(config: Config, j: int, count: int) -> tuple[str, ...]:
    """All that a configuration says of its layer ``j``, of ``count``, in ways that are known."""
    level = text_config(config)
    said: list[object] = []
    for key, value in level.items():
        if key in _NUMBERS and isinstance(value, list):
            said.append(j in value)
        elif key == _LETTERS and isinstance(value, str):
            said.append(value[j : j + 1])
        elif key == _OVERRIDES and isinstance(value, Mapping):
            said.append(value.get(str(j)))
        elif key in _CYCLES and isinstance(value, list) and value:
            said.append(value[j % len(value)])
        elif key in _SOURCES and isinstance(value, list) and j < len(value):
            said.append(value[j] == j)
        elif _by_layer(key, value, count):
            said.append(value[j])
        elif key in _LEADING and isinstance(value, int):
            said.append(j < value)
        elif key == _TRAILING and isinstance(value, int):
            said.append(j >= count - value)
        elif key in _PERIODS and isinstance(value, int) and value > 0:
            said.append((j + _shift(key, level)) % value == 0)
    return tuple(map(str, said))
