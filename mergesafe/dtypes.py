"""Tensor element types: safetensors names, recipe names, sizes and promotion, without torch."""

from __future__ import annotations

from typing import Final

#: safetensors dtype name -> bytes per element.
SIZES: Final[dict[str, int]] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip

#: Element types that merge methods compute with.
MERGEABLE: Final = ("BF16", "F16", "F32")

#: Floating-point types that are recognised, so that they are refused by name and never copied.
FLOATS: Final = frozenset(("BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2"))

#: Names a recipe may use for ``dtype`` and ``out_dtype`` -> safetensors names.
RECIPE_NAMES: Final[dict[str, str]] = {
    "bfloat16": "BF16", "bf16": "BF16", "torch.bfloat16": "BF16",
    "float16": "F16", "fp16": "F16", "half": "F16", "torch.float16": "F16",
    "float32": "F32", "fp32": "F32", "float": "F32", "torch.float32": "F32",
}  # fmt: skip

#: What ``out_dtype`` may be besides: matrices in 8 bits with scales, all else in bfloat16.
ENCODED_NAMES: Final[dict[str, str]] = {
    "float8_e4m3fn": "F8_E4M3", "torch.float8_e4m3fn": "F8_E4M3", "fp8": "F8_E4M3",
}  # fmt: skip

#: safetensors names -> names used in a model's ``config.json`` and in recipes.
CONFIG_NAMES: Final[dict[str, str]] = {
    "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F8_E4M3": "float8_e4m3fn",
}  # fmt: skip


def promote(dtypes: list[str]) -> str:
    """The common type that holds every value of ``dtypes`` (bf16 and fp16 promote to fp32)."""
    unique = set(dtypes)
    return unique.pop() if len(unique) == 1 else "F32"
