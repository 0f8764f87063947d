"""The fused primitives as functions of tensors: argument checks, then a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch

from mergesafe.errors import ArgumentError
from mergesafe.methods.sparsify import Rescale, Sparsifier, rescale_rule, sparsify_masks
from mergesafe.ops import arguments
from mergesafe.ops.backends.base import Elect
from mergesafe.ops.backends.registry import get_backend
from mergesafe.ops.statistics import drive, full_matrix

#: Elements per piece where float32 copies are made: bounds the extra memory. A multiple of the
#: reduction block of 4096, so the result is that of one piece.
PIECE = 1 << 22


def merge_task_vectors(
    base: torch.Tensor,
    experts: Sequence[torch.Tensor],
    weights: Sequence[float] | torch.Tensor,
    *,
    sparsify: Sparsifier = "none",
    density: float | Sequence[float] | None = None,
    gamma: float | Sequence[float] = 0.01,
    rescale: Rescale | bool = "none",
    elect: Elect = "none",
    normalize: bool = False,
    scale: float = 1.0,
    seed: int = 0,
    name: str = "",
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Merge task vectors: delta, sparsify, rescale, weight, elect, sum, normalise, scale, add base.

    With ``delta_i = experts[i] - base`` and ``d_i = (mask_i(delta_i) * r_i) * weights[i]``::

        out = base + scale * (sum of the kept d_i) / divisor

    in float32 in this order, rounded once to ``out_dtype``; NaN and infinity propagate.

    Args:
        base: the base model's tensor, any shape.
        experts: one tensor per expert, of the same shape and device. dtypes bfloat16, float16
            and float32 may be mixed.
        weights: one number per expert, or a 1-D tensor.
        sparsify: which elements of each task vector survive. ``magnitude``: the
            ``k = max(1, trunc(density * numel))`` largest, and all that equal the k-th (TIES).
            ``magnitude_outliers``: drop the ``gamma`` share of largest, keep the next ``density``
            share (Breadcrumbs). ``random``: each with probability ``density`` (DARE).
        density: share that survives, in [0, 1], one number or one per expert. Needed with every
            ``sparsify`` but ``none``.
        gamma: share of outliers, in [0, 1], one number or one per expert.
        rescale: ``r_i``, 1 for ``none``. ``l1``, ``l2``, ``linf``: the norm of delta_i over that
            of what survived. ``inverse_density``: 1 / density (DARE). True means l1.
        elect: keep the d_i whose sign agrees with the majority per element. ``sum``: the sign of
            ``sum d_i``. ``count``: of the number of signs. Zero counts as positive; an exact
            zero is never kept.
        normalize: divide by the sum of the kept weights (a sum of zero divides by 1; without
            election also one below 1e-8 in absolute value).
        scale: factor on the merged task vector (``lambda`` in recipes).
        seed: with ``name``, chooses the random masks; they do not depend on anything else.
        name: the tensor's name, so that tensors of one model get different masks.
        out_dtype: dtype of the result; by default the common type of base and experts.
        backend: "auto", or force one by name; see :func:`mergesafe.ops.describe_backends`.

    Returns:
        A new contiguous tensor of base's shape. Base and experts are constants: no gradient.

    Raises:
        ArgumentError: an argument is not as described.
        BackendError: the backend is not available, or ``weights`` requires grad.

    Task arithmetic: Ilharco et al., https://arxiv.org/abs/2212.04089. TIES: Yadav et al.,
    https://arxiv.org/abs/2306.01708. DARE: Yu et al., https://arxiv.org/abs/2311.03099.
    Breadcrumbs: Davari & Belilovsky, https://arxiv.org/abs/2312.06795.
    """
    checked = arguments.operands([("base", base), *arguments.listed("experts", experts)])
    flat_base, inputs = checked.tensors[0], checked.tensors[1:]
    count = len(inputs)
    lambdas = arguments.coefficients("weights", weights, count)
    arguments.choice("sparsify", sparsify, get_args(Sparsifier))
    arguments.choice("elect", elect, get_args(Elect))
    rule = rescale_rule(rescale)
    arguments.choice("rescale", rule, get_args(Rescale))
    factor = arguments.number("scale", scale)
    dtype = arguments.dtype_or(out_dtype, checked.dtype)
    runner = get_backend(backend, checked.device)

    steps = sparsify_masks(
        sparsify,
        checked.numel,
        _densities(sparsify, density, count),
        _shares("gamma", gamma, count),
        rule,
        seed,
        name,
    )
    masks = drive(steps, runner, flat_base, inputs)
    out = runner.merge_task_vectors(
        flat_base, inputs, masks, lambdas, elect, bool(normalize), factor, 0, dtype
    )
    return out.view(checked.shape)


def weighted_sum(
    tensors: Sequence[torch.Tensor],
    weights: Sequence[float] | torch.Tensor,
    *,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """``sum_i weights[i] * tensors[i]`` in float32, in order, rounded once to ``out_dtype``.

    ``tensors``: one or more of the same shape and device, dtypes bfloat16, float16 and float32
    mixed as you like. ``weights``: one number per tensor, or a 1-D tensor; they are used as given,
    not normalised. ``out_dtype``: by default the common type of the tensors. ``backend``: "auto",
    or force one by name. A single tensor with weight 1 is copied to the last bit, but for NaN,
    which is always written as one canonical pattern.

    Raises ArgumentError for a bad argument, BackendError for a backend that is not available or
    ``weights`` that require grad. With weights 1/N: model soups, Wortsman et al.,
    https://arxiv.org/abs/2203.05482.
    """
    checked = arguments.operands(arguments.listed("tensors", tensors))
    factors = arguments.coefficients("weights", weights, len(checked.tensors))
    dtype = arguments.dtype_or(out_dtype, checked.dtype)
    runner = get_backend(backend, checked.device)
    return runner.weighted_sum(checked.tensors, factors, dtype).view(checked.shape)


def kth_magnitude(
    base: torch.Tensor,
    experts: Sequence[torch.Tensor],
    keep: int | Sequence[int],
    *,
    backend: str = "auto",
) -> torch.Tensor:
    """The ``keep``-th largest ``|experts[i] - base|`` of each expert, exactly: float32 [N].

    Keeping every ``|delta| >=`` this value keeps the ``keep`` largest elements (and all that equal
    the last of them), which is how TIES trims. Differences are taken in float32; a NaN difference
    ranks above infinity and is returned as the canonical NaN.

    ``base`` and ``experts``: same shape and device, dtypes bfloat16, float16 and float32 mixed as
    you like. ``keep``: in [1, number of elements], counted from 1, one integer or one per expert.
    Raises ArgumentError for a bad argument, BackendError for a backend that is not available.
    """
    checked = arguments.operands([("base", base), *arguments.listed("experts", experts)])
    inputs = checked.tensors[1:]
    each = arguments.ranks(keep, len(inputs), checked.numel)
    runner = get_backend(backend, checked.device)
    bits = runner.kth_magnitude(checked.tensors[0], inputs, list(enumerate(each)))
    values = torch.tensor(bits, dtype=torch.int32, device=checked.device).view(torch.float32)
    return values.masked_fill(values.isnan(), float("nan"))


def gram(
    tensors: Sequence[torch.Tensor],
    *,
    base: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """The inner products ``<t_i, t_j>`` of all pairs: float64 [n, n], on the tensors' device.

    With ``base``, of the task vectors ``t_i - base`` (differences rounded to float32). Products
    are exact; their sum runs in float64 in a fixed order, so every backend and thread count gives
    the same bits. Norms are ``gram.diagonal().sqrt()``; cosines follow by dividing by them.

    ``tensors``: same shape and device, dtypes bfloat16, float16 and float32 mixed as you like.
    Raises ArgumentError for a bad argument, BackendError for a backend that is not available.
    """
    named = arguments.listed("tensors", tensors)
    checked = arguments.operands(named if base is None else [*named, ("base", base)])
    n = len(named)
    inputs = checked.tensors[:n]
    runner = get_backend(backend, checked.device)
    totals = [0.0] * (n * n)
    if base is None:
        totals = runner.gram(inputs, totals)
    else:
        flat_base = checked.tensors[n]
        for start in range(0, checked.numel, PIECE):
            part = slice(start, start + PIECE)
            pairs = [[x[part], flat_base[part]] for x in inputs]
            # x * 1 + base * -1 is x - base, to the last bit
            deltas = [runner.weighted_sum(pair, [1.0, -1.0], torch.float32) for pair in pairs]
            totals = runner.gram(deltas, totals)
    return torch.tensor(full_matrix(totals, n), dtype=torch.float64, device=checked.device)


def _densities(
    sparsify: Sparsifier, density: float | Sequence[float] | None, count: int
) -> list[float]:
    if sparsify == "none":
        if density is not None:
            raise ArgumentError(
                "density is given, but sparsify is 'none', which keeps every element; choose "
                f"sparsify from {', '.join(get_args(Sparsifier)[1:])}"
            )
        return [1.0] * count
    if density is None:
        raise ArgumentError(f"sparsify is '{sparsify}', which needs a density in [0, 1]")
    return _shares("density", density, count)


def _shares(name: str, value: float | Sequence[float], count: int) -> list[float]:
    values = arguments.coefficients(name, value, count, broadcast=True)
    return [arguments.number(f"{name}[{i}]", v, 0.0, 1.0) for i, v in enumerate(values)]
