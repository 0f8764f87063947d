"""Two config.json compared: what means something else, and what can never be merged.

Every key is compared, those of nested configurations too, but for the list in
:mod:`mergesafe.architecture.cosmetic`. A key that is absent means what is known to be its default,
else nothing, and nothing against a value is a difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mergesafe.architecture import rope
from mergesafe.architecture.cosmetic import COSMETIC, PATTERN_KEYS, default_of
from mergesafe.architecture.cross_attention import text_layers, without_cross_attention
from mergesafe.architecture.tying import text_config
from mergesafe.untrusted import show

#: Sizes of a text model that tensors of equal shape do not tell, or that a message tells better.
_STRUCTURE: Final = (
    "hidden_size", "n_embd", "d_model", "num_hidden_layers", "n_layer", "num_layers",
    "num_attention_heads", "n_head", "num_heads", "num_key_value_heads", "num_kv_heads", "head_dim",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """A setting by its path (``text_config.rope_theta``) and its two values, None if absent."""

    key: str
    ours: Any
    theirs: Any


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[Difference]:
    """The settings that differ, in the order of ``ours``, then of ``theirs``.

    A text model and a model of which text is one part are compared in that part alone.
    """
    found = list(_identity(ours, theirs))
    one, two = text_config(ours), text_config(theirs)
    if (one is ours) != (two is theirs):
        if ours.get("model_type") == theirs.get("model_type"):  # flat in older versions
            one, two = _flat(ours), _flat(theirs)
        return [*found, *_compared(one, two, "")]
    return [*found, *_compared(ours, theirs, "")]


def mismatch(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], our_name: str, their_name: str
) -> str | None:
    """Why two models can never be merged, as a sentence; None if nothing says so.

    Two models of different ``model_type`` compute different things from tensors that may have
    equal names and shapes, and so do models with other sizes of heads. Where text is a part of one
    of the models alone, only sizes count, because its type has another name.
    """
    one, two = text_config(ours), text_config(theirs)
    pairs = [(ours, theirs), (one, two)] if (one is ours) == (two is theirs) else []
    for first, second in pairs:
        kinds = [config.get("model_type") for config in (first, second)]
        if all(isinstance(kind, str) for kind in kinds) and len({_plain(k) for k in kinds}) == 2:
            names = [class_of(config) for config in (first, second)]
            what, other = kinds if names[0] == names[1] else names
            part = "" if first is ours else "the text part of "
            return (
                f"{part}{our_name} is a {what}, {part}{their_name} a {other}: they cannot be merged"
            )
    if (text_layers(ours) is None) != (text_layers(theirs) is None):
        one, two = without_cross_attention(ours), without_cross_attention(theirs)
    for key in _STRUCTURE:
        value, other = (_value(key, config) for config in (one, two))
        if value is not None and other is not None and _size(value) != _size(other):
            return (
                f"{our_name} has {key} {show(value)}, {their_name} {show(other)}: they cannot be "
                "merged, because numbers in the same place mean different things"
            )
    return None


def _size(value: object) -> object:
    """A number that is written as text counts as the number."""
    written = isinstance(value, str) and value.isdecimal() and len(value) < 20
    return int(str(value)) if written else value


def contradictions(config: Mapping[str, Any]) -> list[str]:
    """Where one configuration says two things, for itself and its nested ones."""
    found = []
    for path, level in levels(config):
        text = rope.contradiction(level)
        if text is not None:
            found.append(f"{path}: {text}" if path else text)
    return found


def levels(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """``config`` and every configuration nested in it, with its path."""
    yield path, config
    for key, value in config.items():
        if is_level(key, value):
            yield from levels(value, f"{path}.{key}" if path else key)


def is_level(key: str, value: object) -> bool:
    """Whether a setting is the configuration of a part (``text_config``, T5's ``encoder``)."""
    if not isinstance(value, dict) or key in COSMETIC:
        return False
    return key.endswith("_config") or "model_type" in value


def _identity(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Difference]:
    for key in ("model_type", "architectures"):
        one, two = ours.get(key), theirs.get(key)
        if one is not None and two is not None and one != two:
            yield Difference(key, one, two)


def _flat(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """``config`` with the settings of its text part beside the others."""
    part = text_config(config)
    if part is config:
        return config
    rest = {key: value for key, value in config.items() if config[key] is not part}
    return {**part, **rest}


def _compared(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str
) -> Iterator[Difference]:
    skipped = COSMETIC | rope.KEYS | _ignored(ours, theirs)
    for key in {**ours, **theirs}:
        if key in skipped:
            continue
        one, two = _value(key, ours), _value(key, theirs)
        name = f"{path}.{key}" if path else key
        if is_level(key, one) and is_level(key, two):
            kinds = one.get("model_type"), two.get("model_type")
            if None not in kinds and kinds[0] != kinds[1]:
                yield Difference(f"{name}.model_type", *kinds)
            yield from _compared(one, two, name)
        elif not _same(one, two):
            yield Difference(name, one, two)
    yield from _ropes(ours, theirs, path)


def _ignored(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> frozenset[str]:
    """Settings that neither model uses: of sliding windows, and what other settings override."""
    unused = all(
        config.get("use_sliding_window") is False
        or ("use_sliding_window" not in config and config.get("model_type") in ("qwen2", "qwen3"))
        for config in (ours, theirs)
    )
    ignored = ["sliding_window", "max_window_layers"] if unused else []
    if all(_value("layer_types", config) is not None for config in (ours, theirs)):
        ignored += PATTERN_KEYS
    both = (ours, theirs)
    if all(str(config.get("model_type")).startswith("gemma") for config in both) and any(
        "hidden_activation" in config for config in both
    ):
        ignored.append("hidden_act")  # hidden_activation decides
    return frozenset(ignored)


def _ropes(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str) -> Iterator[Difference]:
    one, two = rope.alike(rope.rope_of(ours), rope.rope_of(theirs))
    for layers in {**one, **two}:
        first, second = one.get(layers), two.get(layers)
        if first == second:
            continue
        name = ".".join(part for part in (path, "rope_parameters", layers) if part)
        if first and second:
            keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
            if keys == ["rope_theta"]:
                yield Difference(f"{name}.{keys[0]}", first.get(keys[0]), second.get(keys[0]))
                continue
        yield Difference(name, first, second)


def _value(key: str, config: Mapping[str, Any]) -> Any:
    """The value of ``key``, or what its lack means; null is a lack, but for sliding windows."""
    value = config.get(key)
    if value is None and not (key == "sliding_window" and key in config):
        value = default_of(key, config)
    if key == "hidden_act" and value == "gelu" and config.get("model_type") == "gemma":
        return "gelu_pytorch_tanh"  # what its first releases meant
    if key == "layer_types" and isinstance(value, list):
        return None if all(each == "full_attention" for each in value) else value
    return value


def _same(ours: Any, theirs: Any) -> bool:
    # NaN is not equal to itself, but says the same.
    return bool(ours == theirs) or repr(ours) == repr(theirs)


def _plain(kind: object) -> str:
    """The type of a text model, which may be called the text part of a larger one."""
    return str(kind).removesuffix("_text")


def class_of(config: Mapping[str, Any]) -> object:
    """The model's class where ``architectures`` names one, else its ``model_type``."""
    classes = config.get("architectures")
    return classes[0] if isinstance(classes, list) and classes else config.get("model_type")
