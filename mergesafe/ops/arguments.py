"""Checks of what callers pass, with errors that say what was given and what is expected."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from numbers import Integral, Real
from typing import TypeAlias

import torch

from mergesafe.errors import ArgumentError, BackendError, did_you_mean
from mergesafe.ops.arrays import as_tensor, is_array
from mergesafe.ops.memory import aligned

#: dtypes that can be merged -> how messages call them.
DTYPES = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}
#: Inputs only: bfloat16 holds every value of these.
EIGHT_BIT = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}
#: The one backend that computes in float64.
FLOAT64_BACKEND = "reference"

#: Values of a tensor that stand in for its name.
_SAMPLED = 64

Coefficients: TypeAlias = float | Sequence[float] | torch.Tensor


@dataclass(frozen=True)
class Operands:
    """Checked tensors: flat, contiguous, detached, of one shape and device, none of eight bits."""

    tensors: list[torch.Tensor]
    shape: torch.Size
    device: torch.device
    #: The common type that holds every value.
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return self.shape.numel()


def operands(named: Iterable[tuple[str, object]], backend: str = "auto") -> Operands:
    """Checks (name, tensor) pairs; the first sets the shape and device that all must have.

    Eight-bit floats become bfloat16, which is exact. float64 is taken where the backend is.
    """
    pairs = [(name, _tensor(name, value, backend)) for name, value in named]
    first_name, first = pairs[0]
    for name, tensor in pairs:
        if tensor.shape != first.shape:
            raise ArgumentError(
                f"{name} has shape {tuple(tensor.shape)}, but {first_name} has "
                f"{tuple(first.shape)}; all tensors of a merge must have the same shape"
            )
        if tensor.device != first.device:
            raise ArgumentError(
                f"{name} is on {tensor.device}, but {first_name} is on {first.device}; move all "
                "tensors of a merge to one device"
            )
    flat = [_flat(tensor) for _, tensor in pairs]
    dtype = reduce(torch.promote_types, [tensor.dtype for tensor in flat])
    return Operands(flat, first.shape, first.device, dtype)


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    wide = tensor.to(torch.bfloat16) if tensor.dtype in EIGHT_BIT else tensor
    flat = wide.detach().resolve_neg().contiguous().view(-1)
    # While torch.compile traces there is no address; the operators look when they run.
    return flat if torch.compiler.is_compiling() else aligned(flat)


def _tensor(name: str, value: object, backend: str) -> torch.Tensor:
    if is_array(value):
        value = as_tensor(name, value)
    if not isinstance(value, torch.Tensor):
        raise ArgumentError(
            f"{name} must be a torch.Tensor or a NumPy array, got {type(value).__name__}"
        )
    if not (value.dtype in DTYPES or value.dtype in EIGHT_BIT or _is_float64(value.dtype, backend)):
        raise ArgumentError(
            f"{name} has dtype {value.dtype}; expected {_one_of(DTYPES.values())} (or "
            f"{_one_of(EIGHT_BIT.values())}, which become bfloat16; float64 with "
            f"backend='{FLOAT64_BACKEND}' alone)"
        )
    if value.layout != torch.strided:
        raise ArgumentError(f"{name} has layout {value.layout}; expected a dense tensor")
    return value


def _is_float64(dtype: torch.dtype, backend: str) -> bool:
    return dtype is torch.float64 and backend == FLOAT64_BACKEND


def constants(named: Iterable[tuple[str, object]]) -> list[tuple[str, object]]:
    """The pairs, none of which may ask for a gradient."""
    pairs = list(named)
    for name, value in pairs:
        if isinstance(value, torch.Tensor) and value.requires_grad and torch.is_grad_enabled():
            raise ArgumentError(
                f"{name} requires grad, but merges give gradients for weights and scale alone; "
                f"pass {name}.detach(), or merge under torch.no_grad()"
            )
    return pairs


def listed(name: str, value: object) -> list[tuple[str, object]]:
    """(name of element, element) for a non-empty list or tuple of tensors."""
    if isinstance(value, torch.Tensor) or not isinstance(value, Sequence):
        raise ArgumentError(
            f"{name} must be a list or tuple of tensors, got {type(value).__name__}"
        )
    if not value:
        raise ArgumentError(f"{name} is empty; expected at least one tensor")
    return [(f"{name}[{i}]", each) for i, each in enumerate(value)]


def coefficients(name: str, value: object, count: int, *, broadcast: bool = False) -> list[float]:
    """``count`` finite numbers from a sequence, a 1-D tensor or array; with ``broadcast`` also from
    one number for all.
    """
    if is_array(value):
        value = as_tensor(name, value)
    if isinstance(value, torch.Tensor):
        if value.requires_grad and torch.is_grad_enabled():
            raise BackendError(
                f"{name} requires grad, but is taken as plain numbers here; pass {name}.detach(), "
                "or get gradients from mergesafe.ops.merge_task_vectors or weighted_sum, with all "
                "weights in one tensor"
            )
        if value.ndim > 1 or (value.ndim == 0 and not broadcast):
            raise ArgumentError(
                f"{name} has shape {tuple(value.shape)}; expected a 1-D tensor of {count} numbers"
            )
        value = value.tolist()
    if _is_number(value) and broadcast:
        values: list[object] = [value] * count
    elif isinstance(value, Sequence) and not isinstance(value, str):
        values = list(value)
    else:
        kind = "a number or a list of numbers" if broadcast else "a list of numbers"
        raise ArgumentError(f"{name} must be {kind}, got {value!r}")
    if len(values) != count:
        raise ArgumentError(f"{name} has {len(values)} values; expected {count}, one per tensor")
    return [number(f"{name}[{i}]", each) for i, each in enumerate(values)]


def number(name: str, value: object, low: float | None = None, high: float | None = None) -> float:
    """A finite number within [low, high]."""
    if is_array(value):
        value = as_tensor(name, value)
    if isinstance(value, torch.Tensor) and value.ndim == 0:
        return coefficients(name, value, 1, broadcast=True)[0]
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentError(f"{name} must be a number, got {value!r}")
    found = float(value)
    if not math.isfinite(found):
        raise ArgumentError(f"{name} must be finite, got {value}")
    if (low is not None and found < low) or (high is not None and found > high):
        raise ArgumentError(f"{name} is {value}; expected a number in {_interval(low, high)}")
    return found


def whole(name: str, value: object, low: float | None = None, high: float | None = None) -> int:
    """A whole number within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ArgumentError(f"{name} must be a whole number, got {value!r}")
    return int(number(name, value, low, high))


def mask_name(value: object, what: str, tensors: Sequence[torch.Tensor]) -> str:
    """The name of the tensor that ``what`` makes random masks for; made of its values without one.

    Two tensors of one size must not lose the same elements, and a call that is repeated must give
    the same result: so a few values of every input stand in for a name.
    """
    if value is None:
        return _name_of_values(tensors)
    if not isinstance(value, str):
        raise ArgumentError(
            f"{what} makes random masks by the tensor's name in its model, got name={value!r}; "
            "expected a string such as 'model.layers.0.mlp.up_proj.weight'"
        )
    return value


def _name_of_values(tensors: Sequence[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.reshape(-1)
        step = max(1, -(-flat.numel() // _SAMPLED))
        digest.update(repr((flat.numel(), flat[::step].tolist())).encode())
    return f"tensor of values {digest.hexdigest()}"


def choice(name: str, value: object, known: Sequence[str]) -> str:
    """One of the known words."""
    if isinstance(value, str) and value in known:
        return value
    hint = did_you_mean(value, known) if isinstance(value, str) else ""
    raise ArgumentError(f"{name} is {value!r}; expected {_one_of(known)}{hint}")


def dtype_or(value: torch.dtype | None, default: torch.dtype, backend: str = "auto") -> torch.dtype:
    """The dtype asked for, or the default for None."""
    return default if value is None else out_dtype(value, backend)


def out_dtype(value: torch.dtype, backend: str) -> torch.dtype:
    """A dtype that results may have."""
    if value not in DTYPES and not _is_float64(value, backend):
        raise ArgumentError(
            f"out_dtype is {value}; expected {_one_of(DTYPES.values())} (float64 with "
            f"backend='{FLOAT64_BACKEND}' alone)"
        )
    return value


def ranks(keep: object, count: int, numel: int) -> list[int]:
    """``count`` ranks in [1, numel] from one integer for all or a list."""
    values = [keep] * count if isinstance(keep, Integral) else keep
    if not isinstance(values, Sequence) or len(values) != count:
        raise ArgumentError(f"keep is {keep!r}; expected an integer or {count} of them")
    for k in values:
        if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= int(k) <= numel:
            raise ArgumentError(
                f"keep has {k!r}; expected integers in [1, {numel}], the number of elements"
                if numel
                else "keep: the tensors have no elements, so none can be the k-th largest"
            )
    return [int(k) for k in values]


def _is_number(value: object) -> bool:
    return isinstance(value, Real)


def _one_of(names: Iterable[str]) -> str:
    words = list(names)
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _interval(low: float | None, high: float | None) -> str:
    if high is None:
        return f"[{low:g}, infinity)"
    return f"(-infinity, {high:g}]" if low is None else f"[{low:g}, {high:g}]"
