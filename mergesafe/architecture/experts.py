"""Experts of a mixture that lie in one tensor, and the matrices that they are.

Some checkpoints store the matrices of all experts of a layer in one tensor, others one by one:

    mlp.experts.gate_up_proj [E, 2I, H]   is   mlp.experts.e.gate_proj.weight [I, H] and
                                               mlp.experts.e.up_proj.weight [I, H] for e < E
    mlp.experts.down_proj [E, H, I]       is   mlp.experts.e.down_proj.weight [H, I]

A density, a random mask or an angle belongs to one matrix, so both layouts must be cut into the
same matrices. What a tensor holds is decided by ``model_type`` and its name, never by its shape
alone. Where gate and up of an expert do not lie one after the other (Llama 4 and GPT-OSS store
matrices transposed, GPT-OSS interleaves their columns), both together are the unit.

Sources: transformers' conversion_mapping.py and modeling files of these models (version 5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Matrix:
    """One expert's matrix in a tensor: elements [begin, begin + product of the shape).

    ``name``: that of the tensor which holds it where experts are stored one by one.
    """

    name: str
    begin: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Names:
    """What a model calls gate, up and down of one expert. ``module``: of the experts, if another
    than where they lie in one tensor.
    """

    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    module: tuple[str, str] = ("", "")


_PROJ: Final = _Names()
_W: Final = _Names("w1", "w3", "w2")
_MIXTRAL: Final = _Names("w1", "w3", "w2", (".mlp.experts", ".block_sparse_moe.experts"))

#: Models whose ``experts.gate_up_proj`` holds, per expert, the rows of gate and then those of up.
_ROWS: Final[Mapping[str, _Names]] = {
    **dict.fromkeys(
        (
            "afmoe", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "deepseek_ocr2",
            "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe",
            "ernie4_5_vl_moe", "exaone_moe", "flex_olmo", "flint", "gemma4", "gemma4_text",
            "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm4v_moe_text", "glm5_next",
            "glm5_next_text", "glm_moe_dsa", "granitemoe", "granitemoehybrid", "granitemoeshared",
            "hunyuan_v1_moe", "hy_v3", "jamba", "kimi_k25", "kolibri1", "laguna", "longcat_flash",
            "mellum", "mimo_v2_flash", "mistral4", "nemotron_h", "olmoe", "qwen2_moe",
            "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen3_omni_moe",
            "qwen3_omni_moe_text", "qwen3_omni_moe_thinker", "qwen4_exp_text", "sarvam_mla",
            "sarvam_moe", "solar_open", "unlimited_ocr",
        ),
        _PROJ,
    ),
    "lfm2_moe": _W,
    "deepseek_v4": _Names("w1", "w3", "w2", (".mlp.experts", ".ffn.experts")),
    **dict.fromkeys(
        ("mistral_large4", "mistral_large4_text"),
        _Names("w1", "w3", "w2", (".mlp.experts", ".experts")),
    ),
    **dict.fromkeys(
        ("kimi_linear", "minimax", "minimax_m2", "minimax_m3_vl", "mixtral", "phimoe"), _MIXTRAL
    ),
}  # fmt: skip
#: Models of which gate and up are columns, or of which both ways of storing are in use.
_COLUMNS: Final = frozenset(
    (
        "aria", "aria_text", "gpt_oss", "llama4", "llama4_text", "openai_privacy_filter",
        "qwen3_vl_moe", "qwen3_vl_moe_text",
    )
)  # fmt: skip
#: Models with other names; see :func:`_others`.
_OTHERS: Final = frozenset(
    ("dbrx", "granitemoe", "granitemoehybrid", "granitemoeshared", "jetmoe", "step3p7")
)

_EXPERTS: Final = re.compile(
    r"(?P<module>(?:.*\.)?experts)\.(?P<what>gate_up_proj|up_proj|down_proj|fc1|fc2|w[123])"
    r"(?P<end>_bias|\.weight|)"
)
#: One expert by its number.
_SEPARATE: Final = re.compile(r"\.experts\.\d+\.")
_ONE: Final = re.compile(r"(?P<module>.*\.experts)\.(?P<number>\d{1,5})\.(?P<part>\w+)\.weight")
_GRANITE: Final = re.compile(
    r"(?P<module>.*\.(?:block_sparse_moe|mlp|self_attention\.experts))"
    r"\.(?P<what>input_linear|output_linear)\.weight"
)
_DBRX: Final = re.compile(r"(?P<module>.*\.ffn\.experts)\.mlp\.(?P<what>w1|v1|w2)")
_STEP: Final = re.compile(r"(?P<module>.*\.moe)\.(?P<what>gate_proj|up_proj|down_proj)\.weight")


def matrices(
    name: str, shape: tuple[int, ...], config: Mapping[str, Any]
) -> tuple[Matrix, ...] | None:
    """The experts' matrices in tensor ``name``, in order; None where it is a tensor like others."""
    types = set(model_types(config))
    rows = next((_ROWS[kind] for kind in sorted(types) if kind in _ROWS), None)
    match = _EXPERTS.fullmatch(name)
    if match is not None and (rows is not None or types & _COLUMNS):
        expected = 2 if match["end"] == "_bias" else 3
        if len(shape) == expected and shape[0]:
            # A model with a part of each kind is taken apart by experts alone.
            return _experts(match, shape, None if types & _COLUMNS else rows)
    return _others(name, shape, config) if types & _OTHERS else None


def joined_names(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]
) -> dict[str, tuple[list[str], tuple[int, ...]]] | None:
    """The tensors that experts make which are stored one by one: name -> matrices and shape.

    None where that is not known: experts with gaps in their numbers, of several shapes, with more
    than gate, up and down, or of a model that does not store one matrix behind the other.
    """
    named = next((_ROWS[kind] for kind in sorted(model_types(config)) if kind in _ROWS), None)
    found: dict[str, dict[str, dict[int, str]]] = {}
    for name in shapes:
        if (match := _ONE.fullmatch(name)) is not None:
            parts = found.setdefault(match["module"], {})
            parts.setdefault(match["part"], {})[int(match["number"])] = name
        elif _SEPARATE.search(name):
            return None
    if named is None or not found:
        return None
    result: dict[str, tuple[list[str], tuple[int, ...]]] = {}
    for module, parts in found.items():
        if not {named.up, named.down} <= parts.keys() <= {named.gate, named.up, named.down}:
            return None
        ours, theirs = named.module
        whole = module.removesuffix(theirs) + ours if theirs and module.endswith(theirs) else module
        first = [named.gate, named.up] if named.gate in parts else [named.up]
        what = "gate_up_proj" if named.gate in parts else "up_proj"
        for end, names in ((what, first), ("down_proj", [named.down])):
            count = len(parts[named.up])
            if any(parts[part].keys() != set(range(count)) for part in names):
                return None
            listed = [parts[part][e] for e in range(count) for part in names]
            sizes = {shapes[name] for name in listed}
            if len(sizes) != 1 or len(size := sizes.pop()) != 2:
                return None
            result[f"{whole}.{end}"] = listed, (count, len(names) * size[0], size[1])
    return result


def looks_fused(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of an unknown model is called and shaped like one of experts."""
    return len(shape) == 3 and _EXPERTS.fullmatch(name) is not None


def expert_layout(names: Iterable[str]) -> str | None:
    """How the experts of a mixture lie: ``"separate"``, ``"fused"``, or None without experts."""
    for name in names:
        if _SEPARATE.search(name):
            return "separate"
        if _EXPERTS.fullmatch(name):
            return "fused"
    return None


def _experts(
    match: re.Match[str], shape: tuple[int, ...], names: _Names | None
) -> tuple[Matrix, ...]:
    """Of a tensor [E, ...]; ``names``: where gate and up are rows."""
    module, what = match["module"], match["what"]
    parts = [what]
    if names is not None:
        if names.module[0] and module.endswith(names.module[0]):
            module = module.removesuffix(names.module[0]) + names.module[1]
        named = {"up_proj": [names.up], "down_proj": [names.down]}
        if shape[1] % 2 == 0:
            named["gate_up_proj"] = [names.gate, names.up]
        parts = named.get(what, parts)
    rest = (shape[1] // len(parts), *shape[2:])
    end = "bias" if match["end"] == "_bias" else "weight"
    called = [f"{module}.{e}.{part}.{end}" for e in range(shape[0]) for part in parts]
    return tuple(Matrix(each, i * prod(rest), rest) for i, each in enumerate(called))


def _others(
    name: str, shape: tuple[int, ...], config: Mapping[str, Any]
) -> tuple[Matrix, ...] | None:
    """Granite and JetMoE [E, out, in], DBRX [E I, H], Step [E, out, in] with gate and up apart."""
    types = set(model_types(config))
    if "dbrx" in types:
        inner = config.get("ffn_config")
        count = inner.get("moe_num_experts") if isinstance(inner, Mapping) else None
        match = _DBRX.fullmatch(name)
        if match is None or not isinstance(count, int) or count < 1 or shape[0] % count:
            return None
        shape = (count, shape[0] // count, *shape[1:])
    else:
        match = (_STEP if "step3p7" in types else _GRANITE).fullmatch(name)
    if match is None or len(shape) != 3 or not shape[0]:
        return None
    what, module = match["what"], match["module"]
    parts = [what]
    if not module.endswith("experts"):  # those of an MLP, of which attention has none
        module += ".experts"
        parts = {"input_linear": ["gate_proj", "up_proj"], "output_linear": ["down_proj"]}.get(
            what, parts
        )
    if shape[1] % len(parts):
        parts = [what]
    rest = (shape[1] // len(parts), *shape[2:])
    names = [f"{module}.{e}.{part}.weight" for e in range(shape[0]) for part in parts]
    return tuple(Matrix(each, i * prod(rest), rest) for i, each in enumerate(names))


def model_types(config: Mapping[str, Any]) -> Iterator[str]:
    """``model_type`` of the model and of its parts (``text_config``, ``thinker_config`` ...)."""
    kind = config.get("model_type")
    if isinstance(kind, str):
        yield kind
    for value in config.values():
        if isinstance(value, Mapping):
            yield from model_types(value)
