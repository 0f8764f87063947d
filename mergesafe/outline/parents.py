"""Whether a checkpoint holds what a merge computes with: whole, unpacked, unscaled weights.

Names, types and shapes decide, not one key of config.json: a quantized checkpoint may lack it, and
one that was dequantized may have kept it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from mergesafe.architecture.names import is_recomputed
from mergesafe.checkpoint.format.model import Checkpoint
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.dtypes import FLOATS
from mergesafe.errors import CheckpointError
from mergesafe.untrusted import show

#: What lies beside packed or scaled weights, and who stores it so.
_QUANTIZED: Final = (
    (re.compile(r"\.(?:absmax|quant_map|nested_absmax)$|\.quant_state\."), "bitsandbytes 4-bit"),
    (re.compile(r"\.(?:SCB|weight_format)$"), "bitsandbytes 8-bit"),
    (re.compile(r"\.(?:qweight|qzeros|g_idx)$"), "GPTQ or AWQ"),
    (re.compile(r"\.(?:weight_packed|weight_zero_point|weight_g_idx)$"), "compressed-tensors"),
    (re.compile(r"(?:proj|w[123]|mlp[12]_weight)_(?:blocks|scales)$"), "MXFP4"),
    (re.compile(r"\.(?:weight_scale|weight_scale_inv|input_scale)$"), "scaled numbers"),
    (re.compile(r"\.W_q$"), "HQQ"),
    (re.compile(r"\.weight\._(?:data|scale)$"), "quanto"),
    (re.compile(r"\.(?:codes|codebooks)$"), "AQLM"),
    (re.compile(r"\.weight_scales$"), "EETQ"),
)  # fmt: skip
_ANY: Final = re.compile("|".join(pattern.pattern for pattern, _ in _QUANTIZED))
_DEQUANTIZE: Final = (
    "Packed or scaled numbers cannot be merged as they are. Load the checkpoint with transformers, "
    "dequantize it and save it in bfloat16, or use the original checkpoint."
)
_ADAPTER: Final = re.compile(
    r"\.(?:lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|modules_to_save|original_module)\b"
)
#: One tensor of all parameters of a module, in an order that only the training run knows.
_FLAT: Final = re.compile(r"(?:^|[._])flat_param(?:_\d+)?$")
_BASE_LAYER: Final = re.compile(r"\.base_layer\.")
#: Matrices of integers under these names are packed numbers, not counts or masks.
_WEIGHT: Final = re.compile(r"(?:^|\.)(?:weight|w[123]|qweight|[a-z_]*proj)$")
#: What lies beside packed numbers: ``weight_scale``, ``scales``, ``biases``, ``codebooks``.
_BESIDE: Final = re.compile(r"scale|codebook|(?:^|\.)biases$|zero_?point")
#: Ends of the names of parameters that no model has without values.
_PARAMETERS: Final = (".weight", ".bias", "_proj", ".A_log", ".dt_bias")
_SETTINGS: Final = "quantization_config"


def check_parent(checkpoint: Checkpoint, scaled: int = 0) -> str | None:
    """A note about a setting that the tensors contradict; None where there is nothing to say.

    ``scaled``: how many of the tensors are 8-bit weights whose scales are known.

    Raises:
        CheckpointError: the tensors are not weights that can be merged; says what they are.
    """
    for name, info in checkpoint.tensors.items():
        _check_whole(name, info)
    settings = checkpoint.config.get(_SETTINGS)
    kind = settings.get("quant_method", "an unnamed method") if isinstance(settings, dict) else None
    packed = next(_quantized(checkpoint.tensors, said=kind is not None), None)
    if packed is not None:
        name, by = packed
        said = f"; config.json says {kind}" if kind is not None else ""
        raise CheckpointError(
            f"{checkpoint.path}: the checkpoint is quantized ({by}, by its tensor {show(name)}"
            f"{said}). {_DEQUANTIZE}"
        )
    if scaled:
        return (
            f"{checkpoint.path}: {scaled:,} tensors are 8-bit floating point; each is read as "
            "float32 times its scale, and counts as bfloat16 for the output's type"
        )
    if kind is None:
        return None
    return (
        f"{checkpoint.path}: config.json has a quantization_config ({kind}), but the tensors are "
        "plain; they are merged as they are, and the merged model's config.json does not have it"
    )


def _check_whole(name: str, info: TensorInfo) -> None:
    if _FLAT.search(name):
        raise CheckpointError(
            f"{info.path}: tensor {show(info.name)} is a flattened part of FSDP, which holds all "
            "parameters of a module in one row. Save the model again with its state dict gathered "
            "(FULL_STATE_DICT)."
        )
    if info.shape == (0,) and name.endswith(_PARAMETERS):
        raise CheckpointError(
            f"{info.path}: tensor {show(info.name)} has the shape [0], so its values were not "
            "saved: DeepSpeed ZeRO-3 and FSDP leave such stubs when a model is saved without "
            "gathering its weights. Save the model again with its weights gathered "
            "(zero_to_fp32.py, stage3_gather_16bit_weights_on_model_save, or FULL_STATE_DICT)."
        )
    adapter = _ADAPTER.search(info.name)
    if adapter or _BASE_LAYER.search(info.name):
        what = "belongs to an adapter" if adapter else "is the base layer of an adapter"
        raise CheckpointError(
            f"{info.path}: tensor {show(info.name)} {what} that was saved inside the model without "
            "being merged into it. Merge the adapter first (PEFT's merge_and_unload) and save the "
            "model again, or name base and adapter as base+adapter."
        )


def _quantized(tensors: Mapping[str, TensorInfo], *, said: bool) -> Iterator[tuple[str, str]]:
    """Tensors that only quantized checkpoints have, and by which method.

    ``said``: whether config.json says that it is quantized; then any matrix of integers counts.
    """
    for name, info in tensors.items():
        if _ANY.search(name):
            yield name, next(by for pattern, by in _QUANTIZED if pattern.search(name))
        whole = info.dtype not in FLOATS and info.dtype != "BOOL" and len(info.shape) > 1
        if whole and not is_recomputed(name, info.shape):
            by = _beside(name, tensors)
            if by or said or _WEIGHT.search(name):
                yield name, by or f"{info.dtype} numbers"


def _beside(name: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    """The method that packs ``name``, by the tensors beside it."""
    stem = name.removesuffix(".weight").removesuffix("._data")
    beside = [o for o in tensors if o != name and o.startswith((f"{stem}.", f"{stem}_"))]
    found = (by for other in beside for pattern, by in _QUANTIZED if pattern.search(other))
    named = next(found, None)
    if named is None and any(_BESIDE.search(other[len(stem) :]) for other in beside):
        return "integers with scales"
    return named
