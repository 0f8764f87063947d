"""Rotary position embeddings: every spelling of config.json brought to one form.

Until version 4 transformers wrote ``rope_theta`` and ``rope_scaling`` side by side, version 5
writes ``rope_parameters``, which holds both and may hold one entry for each type of layer. GPT-NeoX
says ``rotary_emb_base`` and ``rotary_pct``, Gemma 3 ``rope_local_base_freq``, ModernBERT
``global_rope_theta`` and ``local_rope_theta``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mergesafe.architecture.cosmetic import ROPE_THETA

KEYS: Final = frozenset((
    "rope_theta", "rope_scaling", "rope_parameters", "rotary_emb_base", "rotary_pct",
    "partial_rotary_factor", "rope_local_base_freq", "global_rope_theta", "local_rope_theta",
    "original_max_position_embeddings",
))  # fmt: skip
#: Layers of one form apply to all: the key of :func:`rope_of` for them.
ALL: Final = ""
_FULL, _SLIDING = "full_attention", "sliding_attention"
_RENAMED: Final = {"su": "longrope", "mrope": "default"}
#: Types that stretch a length that the model was trained at.
_STRETCHED: Final = ("yarn", "longrope", "llama3")
#: Values that mean what their lack means.
_NEUTRAL: Final = {"beta_fast": 32, "beta_slow": 1, "partial_rotary_factor": 1, "truncate": True}

Rope = dict[str, dict[str, Any]]


def rope_of(config: Mapping[str, Any]) -> Rope:
    """The rotary embedding by type of layer, ``""`` for all; empty where there is none."""
    given = _given(config)
    theta = _first(config, "rope_theta", "rotary_emb_base", "global_rope_theta")
    local = _first(config, "rope_local_base_freq", "local_rope_theta")
    nested = {key: value for key, value in given.items() if isinstance(value, dict)}
    if nested:
        return {key: _form(value, theta, config) for key, value in nested.items()}
    if theta is None and "rope_theta" not in given:
        theta = ROPE_THETA.get(str(config.get("model_type")))
        if theta is None and not given:
            return {}
    form = _form(given, theta, config)
    return {ALL: form} if local is None else {_FULL: form, _SLIDING: _form({}, local, config)}


def alike(ours: Rope, theirs: Rope) -> tuple[Rope, Rope]:
    """Both by type of layer where one of them is."""
    return _spread(ours, theirs), _spread(theirs, ours)


def contradiction(config: Mapping[str, Any]) -> str | None:
    """What ``rope_theta`` or ``rope_scaling`` and ``rope_parameters`` of one config disagree in."""
    new = config.get("rope_parameters")
    if not isinstance(new, dict):
        return None
    old_theta, new_theta = config.get("rope_theta"), new.get("rope_theta")
    if old_theta is not None and new_theta is not None and old_theta != new_theta:
        return f"rope_theta is {old_theta!r}, rope_parameters.rope_theta {new_theta!r}"
    old = config.get("rope_scaling")
    if isinstance(old, dict) and old:
        one, two = _form(old, new_theta, config), _form(new, new_theta, config)
        if one != two:
            keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
            return f"rope_scaling and rope_parameters differ in {', '.join(sorted(keys))}"
    return None


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_scaling`` where it says something, as in transformers, else ``rope_parameters``."""
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key)
        if isinstance(value, dict) and value:
            return value
    return {}


def _form(given: Mapping[str, Any], theta: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    kind = given.get("rope_type") or given.get("type") or "default"
    kind = _RENAMED.get(kind, kind) if isinstance(kind, str) else kind
    form = {key: value for key, value in given.items() if key not in ("type", "rope_type")}
    form.setdefault("rope_theta", theta)
    form.setdefault("partial_rotary_factor", _first(config, "partial_rotary_factor", "rotary_pct"))
    if kind in _STRETCHED:
        length = config.get("original_max_position_embeddings")
        length = form.get("original_max_position_embeddings") if length is None else length
        length = config.get("max_position_embeddings") if length is None else length
        form["original_max_position_embeddings"] = length
    else:
        form.pop("original_max_position_embeddings", None)
    told = {
        key: value
        for key, value in form.items()
        if value is not None and not (key in _NEUTRAL and value == _NEUTRAL[key])
    }
    return {"rope_type": kind, **dict(sorted(told.items()))}


def _spread(ours: Rope, theirs: Rope) -> Rope:
    if ALL in ours and theirs and ALL not in theirs:
        return dict.fromkeys(theirs, ours[ALL])
    return ours


def _first(config: Mapping[str, Any], *keys: str) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), None)
