"""How checkpoints store scaled weights: the names of scales, and which elements each belongs to.

8-bit floating point weights are multiplied by their scale to get the value, under every name:

- ``X.weight_scale_inv``: one number for each block of ``weight_block_size`` in config.json
  (DeepSeek, and transformers' ``quant_method: fp8``), or one for the whole tensor. The name calls
  the scale the inverse of what the weights were multiplied by before they were rounded.
- ``X.weight_scale``: one for the whole tensor, one for each row, [rows] or [rows, 1], or one for
  each block of ``block_structure`` (compressed-tensors, FBGEMM, ModelOpt).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mergesafe.architecture.names import is_tower, is_transposed, layer_of
from mergesafe.architecture.tying import is_matrix
from mergesafe.errors import CheckpointError
from mergesafe.untrusted import show

EIGHT_BITS: Final = ("F8_E4M3", "F8_E5M2")
_SCALES: Final = ("_scale_inv", "_scale")
_SCALE_TYPES: Final = ("F32", "BF16", "F16")
#: Scales of what goes into a layer, which say nothing about its weights.
_ACTIVATIONS: Final = ("input_scale", "input_scale_ub", "activation_scale")
_DEFAULT_BLOCK: Final = (128, 128)


class Tensor(Protocol):
    """What is asked of a stored tensor."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


#: Modules whose matrix is small and decides much: the routers of mixtures of experts.
_ROUTERS: Final = re.compile(r"(?:^|\.)(?:gate|router|wg|[a-z_]*expert_gate)(?:\.|$)")
#: Matrices of layers that are looked up, added or scaled, not multiplied by activations.
_OTHER_MATRICES: Final = re.compile(r"embed|norm|position|relative_attention_bias|(?:^|\.)wpe\.")


def multiplies_activations(name: str, shape: Sequence[int], model_type: object) -> bool:
    """Whether the tensor is the matrix of a linear layer in a layer of the language model.

    These are what is stored in 8 bits: not embeddings, heads, norms, routers, towers, nor matrices
    that are stored transposed, as GPT-2's are, which no loader of 8-bit checkpoints knows.
    """
    module = name.removesuffix(".weight")
    return (
        module != name
        and layer_of(name) is not None
        and is_matrix(name, shape)
        and min(shape) > 1
        and not is_tower(name)
        and _ROUTERS.search(module) is None
        and _OTHER_MATRICES.search(module) is None
        and not is_transposed(module, model_type)
    )


def row_scaled_settings(plain: Iterable[str]) -> dict[str, Any]:
    """The ``quantization_config`` of matrices in E4M3 with a scale for each row.

    That of compressed-tensors, which transformers reads with it. ``plain``: the tensors of two
    dimensions or more that are not stored so. Activations are not rounded.
    """
    weights = {
        "num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False,
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": [name.removesuffix(".weight") for name in plain],
    }


@dataclass(frozen=True, slots=True)
class Scale:
    """The name of a weight's scales, and the rows and columns that each of them belongs to."""

    name: str
    block: tuple[int, int]


def scales_of(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Scale]:
    """The scales of the 8-bit weights that have any, by the weights' names.

    Raises:
        CheckpointError: a scale is of a shape or type that no scheme has.
    """
    blocks = (*_blocks(config), _DEFAULT_BLOCK)
    found = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in EIGHT_BITS:
            continue
        scale = next((name + end for end in _SCALES if name + end in tensors), None)
        if scale is not None:
            found[name] = Scale(scale, _block(name, tensor, scale, tensors[scale], blocks))
    return found


def not_weights(scales: Mapping[str, Scale]) -> frozenset[str]:
    """Names of the scales, and of the scales of activations beside them."""
    beside = {
        f"{name.rpartition('.')[0]}.{end}".lstrip(".") for name in scales for end in _ACTIVATIONS
    }
    return frozenset(beside | {scale.name for scale in scales.values()})


def _blocks(config: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """The sizes of blocks that config.json names."""
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        return
    named = [settings.get("weight_block_size")]
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        named.append(weights.get("block_structure") if isinstance(weights, dict) else None)
    for each in named:
        if isinstance(each, list) and len(each) == 2:
            rows, columns = each
            if all(type(size) is int and 0 < size < 1 << 31 for size in each):
                yield rows, columns


def _block(
    name: str, weight: Tensor, scale: str, found: Tensor, blocks: tuple[tuple[int, int], ...]
) -> tuple[int, int]:
    if found.dtype not in _SCALE_TYPES:
        raise CheckpointError(
            f"tensor {show(scale)} is {found.dtype}, but scales are {', '.join(_SCALE_TYPES)}. "
            "Load the checkpoint with transformers, dequantize it and save it in bfloat16."
        )
    shape = weight.shape
    count = 1
    for size in found.shape:
        count *= size
    rows, columns = shape if len(shape) == 2 else (1, 1)
    if count == 1:
        return max(1, rows), max(1, columns)
    wanted = []
    if len(shape) == 2:
        for block in blocks:
            grid = -(-rows // block[0]), -(-columns // block[1])
            if found.shape == grid:
                return block
            wanted.append(list(grid))
        if found.shape in ((rows,), (rows, 1)):
            return 1, max(1, columns)
        wanted.append([rows, 1])
    raise CheckpointError(
        f"tensor {show(scale)} has shape {list(found.shape)}; expected "
        f"{' or '.join(str(each) for each in ([1], *wanted))} for {show(name)} of shape "
        f"{list(shape)}. Check weight_block_size in config.json, or use the original checkpoint."
    )
