"""``adapter_config.json`` of a merged LoRA adapter, as PEFT reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from mergesafe.references import redact

#: Settings of the inputs that the output has, too, where all of them agree.
_KEPT: Final = ("task_type", "base_model_name_or_path", "revision")


def adapter_config(
    ranks: Mapping[str, int],
    configs: Sequence[Mapping[str, Any]],
    *,
    base: str,
    modules: Collection[str],
    transposed: bool,
) -> dict[str, Any]:
    """The settings of an adapter whose delta is ``B A``: alpha is the rank everywhere.

    Args:
        ranks: of every adapted layer, by its name.
        configs: of the adapters that were merged.
        base: the base model where these do not agree on it, as the recipe names it: PEFT loads the
            base from there.
        modules: names of all linear layers of the base, as far as they are known.
        transposed: the base stores the weights of these layers as [in, out].
    """
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    kept = {key: agreed for key in _KEPT if (agreed := _agreed(key, configs)) is not None}
    return {
        "peft_type": "LORA",
        "task_type": kept.get("task_type"),
        "base_model_name_or_path": kept.get("base_model_name_or_path") or base,
        **({"revision": kept["revision"]} if "revision" in kept else {}),
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": dict(others),
        "target_modules": _targets(ranks, modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def said(config: Mapping[str, Any], key: str) -> str | None:
    """The text that an adapter says under ``key``, without the password of a URL; else None."""
    value = config.get(key)
    return redact(value) if isinstance(value, str) and value else None


def _agreed(key: str, configs: Sequence[Mapping[str, Any]]) -> str | None:
    values = {said(config, key) for config in configs}
    return values.pop() if len(values) == 1 else None


def _targets(adapted: Collection[str], modules: Collection[str]) -> list[str]:
    """The last parts of the names where these name no other layer of the base, else the names.

    PEFT takes a name for every layer that ends with it.
    """
    ends = {module.rpartition(".")[2] for module in adapted}
    meant = {module for module in modules if module.rpartition(".")[2] in ends}
    return sorted(ends) if meant <= set(adapted) else sorted(adapted)
