"""The fused primitives as functions of tensors: argument checks, then a backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mergesafe.methods.sparsify import Rescale, Sparsifier
from mergesafe.methods.spec import Sparsify
from mergesafe.ops import arguments
from mergesafe.ops.arguments import Operands
from mergesafe.ops.arrays import Array
from mergesafe.ops.backends.base import Elect
from mergesafe.ops.backends.registry import get_backend
from mergesafe.ops.batch import ELECTS, merge_checked, sum_checked
from mergesafe.ops.coefficients import (
    Numbers,
    Scales,
    are_numbers,
    is_traced,
    row_blocks,
    rows,
    scale_of,
    weights_of,
)
from mergesafe.ops.jobs import needs
from mergesafe.ops.masks import GAMMA, MaskOptions, find_all, mask_choice, mask_options
from mergesafe.ops.memory import named_memory_errors
from mergesafe.ops.statistics import full_matrix

#: Elements per piece where float32 copies are made: bounds the extra memory. A multiple of the
#: reduction block of 4096, so the result is that of one piece.
PIECE = 1 << 22


def merge_task_vectors(
    base: Array,
    experts: Sequence[Array],
    weights: Numbers,
    *,
    sparsify: Sparsifier | Sequence[Sparsify] = "none",
    density: float | Sequence[float] | None = None,
    gamma: float | Sequence[float] = GAMMA,
    rescale: Rescale | bool = "none",
    elect: Elect = "none",
    normalize: bool = False,
    scale: Scales = 1.0,
    block_rows: Sequence[int] | None = None,
    seed: int = 0,
    name: str | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Merge task vectors: delta, sparsify, rescale, weight, elect, sum, normalise, scale, add base.

    With ``delta_i = experts[i] - base`` and ``d_i = (mask_i(delta_i) * r_i) * weights[i]``::

        out = base + scale * (sum of the kept d_i) / divisor

    in float32 in this order, rounded once to ``out_dtype``; NaN and infinity propagate.

    ``weights`` and ``scale`` get gradients where they are tensors that require grad. Masks,
    rescale factors and elected signs count as constants, rounding as the identity. The backward
    pass reduces in float64 and allocates nothing of the tensors' size (but a gradient that arrives
    with strides is copied). There are no second derivatives.

    Args:
        base: the base model's tensor, any shape.
        experts: one tensor per expert, of the same shape and device. dtypes bfloat16, float16
            and float32 may be mixed; float8_e4m3fn and float8_e5m2 become bfloat16, which is
            exact. float64 is taken, and computed with, by ``backend="reference"`` alone.
        weights: one number per expert, [N], or one row per block of rows, [blocks, N]. A tensor of
            any real dtype may lie on the tensors' device or on the CPU (or, with tensors on the
            CPU, on a device, which is then waited for).
        sparsify: which elements of each task vector survive. ``magnitude``: the
            ``k = max(1, trunc(density * numel))`` largest, and all that equal the k-th (TIES).
            ``magnitude_outliers``: drop the ``gamma`` share of largest, keep the next ``density``
            share (Breadcrumbs). ``random``: each with probability ``density`` (DARE). Or the masks
            that :func:`find_masks` returned: they do not depend on weights, so a loop over
            weights needs them once.
        density: share that survives, in [0, 1], one number or one per expert. Needed with every
            ``sparsify`` but ``none``; not with ready masks, like all that chooses them.
        gamma: share of outliers, in [0, 1], one number or one per expert.
        rescale: ``r_i``, 1 for ``none``. ``l1``, ``l2``, ``linf``: the norm of delta_i over that
            of what survived. ``inverse_density``: 1 / density (DARE). True means l1.
        elect: keep the d_i whose sign agrees with the majority per element. ``sum``: the sign of
            ``sum d_i``. ``count``: of the number of signs. Zero counts as positive; an exact
            zero is never kept.
        normalize: divide by the sum of the kept weights (a sum of zero divides by 1; without
            election also one below 1e-8 in absolute value).
        scale: factor on the merged task vector (``lambda`` in recipes): one number, or one per
            block of rows.
        block_rows: the number of rows (of the first dimension) in each block that has weights or a
            scale of its own; by default as many equal blocks as there are rows of them. Masks and
            norms are those of the whole tensor.
        seed: with ``name``, chooses the random masks; they do not depend on anything else.
        name: the tensor's name in its model, by which random masks differ between tensors; the
            same masks as in a merge of checkpoints. Without it a few of the values stand in.
        out_dtype: dtype of the result; by default the common type of base and experts.
        backend: "auto", or force one by name; see :func:`mergesafe.ops.describe_backends`.

    Returns:
        A new contiguous tensor of base's shape. Base and experts are constants: no gradient.

    Raises:
        ArgumentError: an argument is not as described, base or an expert requires grad while
            gradients are recorded, or weights or scale have a value that is not finite (values
            on another device than the CPU are not looked at, since that would wait for it).
        BackendError: the backend is not available.
        DeviceMemoryError: the device ran out of memory.

    Task arithmetic: Ilharco et al., https://arxiv.org/abs/2212.04089. TIES: Yadav et al.,
    https://arxiv.org/abs/2306.01708. DARE: Yu et al., https://arxiv.org/abs/2311.03099.
    Breadcrumbs: Davari & Belilovsky, https://arxiv.org/abs/2312.06795.
    """
    named = [("base", base), *arguments.listed("experts", experts)]
    checked = arguments.operands(arguments.constants(named), backend)
    choice = mask_choice(
        sparsify if isinstance(sparsify, str) else [sparsify],
        len(experts),
        1,
        density=density,
        gamma=gamma,
        rescale=rescale,
        seed=seed,
        name=name,
    )
    known = _name(name, choice, checked.tensors)
    if block_rows is None and are_numbers(weights, scale):
        return _merge_numbers(
            checked, choice, known, weights, scale, elect, normalize, out_dtype, backend
        )
    numbers, factors = weights_of(weights, len(experts)), scale_of(scale)
    layout = row_blocks(checked.shape, block_rows, numbers, factors)
    [merged] = merge_checked(
        [checked],
        choice,
        [known],
        rows("weights", numbers, 1, layout, checked.device),
        rows("scale", factors, 0, layout, checked.device),
        layout,
        elect,
        normalize,
        out_dtype,
        backend,
        traced=is_traced(weights, scale),
    )
    return merged


def _merge_numbers(
    checked: Operands,
    masks: MaskOptions | list[list[Sparsify]],
    name: str,
    weights: object,
    scale: object,
    elect: Elect,
    normalize: bool,
    out_dtype: torch.dtype | None,
    backend: str,
) -> torch.Tensor:
    """One tensor and one row of numbers: without tensors of coefficients, which cost more than a
    small merge.
    """
    base, *experts = checked.tensors
    lambdas = arguments.coefficients("weights", weights, len(experts))
    factor = arguments.number("scale", scale)
    arguments.choice("elect", elect, ELECTS)
    dtype = arguments.dtype_or(out_dtype, checked.dtype, backend)
    runner = get_backend(backend, checked.device)
    if isinstance(masks, MaskOptions):
        masks = find_all(masks, [base], [experts], [name], runner)
    with named_memory_errors(checked.device, lambda: needs([checked.tensors], dtype)):
        out = runner.merge_task_vectors(
            base, experts, masks[0], lambdas, elect, bool(normalize), factor, 0, dtype
        )
    return out.view(checked.shape)


def weighted_sum(
    tensors: Sequence[Array],
    weights: Numbers,
    *,
    block_rows: Sequence[int] | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """``sum_i weights[i] * tensors[i]`` in float32, in order, rounded once to ``out_dtype``.

    ``tensors``: one or more of the same shape and device, dtypes bfloat16, float16 and float32
    mixed as you like; eight-bit floats become bfloat16, float64 is taken by
    ``backend="reference"`` alone. ``weights``: one number per tensor, [N], or one row per block of
    rows, [blocks, N], cut as by :func:`merge_task_vectors` with ``block_rows``; they are used as
    given, not normalised, and get gradients where they are a tensor that requires grad.
    ``out_dtype``: by default the common type of the tensors. ``backend``: "auto", or force one by
    name. A single tensor with weight 1 is copied to the last bit, but for NaN, which is always
    written as one canonical pattern.

    Raises ArgumentError for a bad argument, BackendError for a backend that is not available,
    DeviceMemoryError where the device ran out of memory. With weights 1/N: model soups, Wortsman
    et al., https://arxiv.org/abs/2203.05482.
    """
    named = arguments.constants(arguments.listed("tensors", tensors))
    checked = arguments.operands(named, backend)
    if block_rows is None and are_numbers(weights):
        dtype = arguments.dtype_or(out_dtype, checked.dtype, backend)
        factors = arguments.coefficients("weights", weights, len(named))
        runner = get_backend(backend, checked.device)
        with named_memory_errors(checked.device, lambda: needs([checked.tensors], dtype)):
            return runner.weighted_sum(checked.tensors, factors, dtype).view(checked.shape)
    numbers = weights_of(weights, len(named))
    layout = row_blocks(checked.shape, block_rows, numbers)
    each = rows("weights", numbers, 1, layout, checked.device)
    traced = is_traced(weights)
    [total] = sum_checked([checked], each, layout, out_dtype, backend, traced=traced)
    return total


def find_masks(
    base: Array,
    experts: Sequence[Array],
    *,
    sparsify: Sparsifier,
    density: float | Sequence[float] | None = None,
    gamma: float | Sequence[float] = GAMMA,
    rescale: Rescale | bool = "none",
    seed: int = 0,
    name: str | None = None,
    backend: str = "auto",
) -> list[Sparsify]:
    """The masks of :func:`merge_task_vectors`, one per expert, to be used again.

    ``merge_task_vectors(..., sparsify=masks)`` gives the same bits as with the options themselves.
    Masks depend on base, experts and these options, not on weights, elect or scale, so that a loop
    over those finds the thresholds and norms once.

    Arguments and errors are those of :func:`merge_task_vectors`. A mask is two bounds on bits of
    ``|delta|``, or the key of a random stream, and a factor: it takes no memory to speak of.
    """
    named = [("base", base), *arguments.listed("experts", experts)]
    checked = arguments.operands(named, backend)
    options = mask_options(sparsify, density, gamma, rescale, seed, len(experts))
    runner = get_backend(backend, checked.device)
    bases, rest = [checked.tensors[0]], [checked.tensors[1:]]
    [masks] = find_all(options, bases, rest, [_name(name, options, checked.tensors)], runner)
    return masks


def _name(
    name: object, masks: MaskOptions | list[list[Sparsify]], tensors: Sequence[torch.Tensor]
) -> str:
    """The tensor's name, where masks are to be found."""
    if isinstance(masks, MaskOptions) and masks.kind == "random":
        return arguments.mask_name(name, "sparsify='random'", tensors)
    return ""


def kth_magnitude(
    base: Array,
    experts: Sequence[Array],
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
    checked = arguments.operands([("base", base), *arguments.listed("experts", experts)], backend)
    inputs = checked.tensors[1:]
    each = arguments.ranks(keep, len(inputs), checked.numel)
    runner = get_backend(backend, checked.device)
    bits = runner.kth_magnitude(checked.tensors[0], inputs, list(enumerate(each)))
    values = torch.tensor(bits, dtype=torch.int32, device=checked.device).view(torch.float32)
    return values.masked_fill(values.isnan(), float("nan"))


def gram(
    tensors: Sequence[Array],
    *,
    base: Array | None = None,
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
    checked = arguments.operands(named if base is None else [*named, ("base", base)], backend)
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
