"""Merge methods as functions on plain tensors.

Written by ``python -m mergesafe.methods.reference.write``, for type checkers: do not edit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from numpy.typing import NDArray

Tensor: TypeAlias = torch.Tensor | NDArray[Any]
_Number: TypeAlias = float | torch.Tensor
_Each: TypeAlias = float | Sequence[float] | torch.Tensor
_Factors: TypeAlias = tuple[torch.Tensor, torch.Tensor] | None

def linear(
    tensors: Sequence[Tensor],
    *,
    weight: _Each,
    normalize: bool = True,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Linear.

    Parameters:
        weight: weight of this model in the sum (one value or one per model)
        normalize: divide by the sum of the weights (default True)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The weighted average of models ("model soups").

    With models x_i::

        out = sum_i w_i x_i        (normalize, the default: divided by sum_i w_i)

    Weights that add up to zero cannot be normalised and are an error. Where weights add up to 1 but
    for their rounding, values that are equal in all models come back as they are.

    Paper: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves
    accuracy without increasing inference time", https://arxiv.org/abs/2203.05482
    """

def slerp(
    base: Tensor,
    other: Tensor,
    *,
    t: _Number,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with SLERP.

    Parameters:
        t: 0 = the base, 1 = the other model (in [0, 1])
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Spherical linear interpolation between a base and one other model.

    With ``theta`` the angle between the flattened tensors::

        out = sin((1 - t) theta) / sin(theta) * base + sin(t theta) / sin(theta) * other

    Nearly collinear tensors (``|cos theta| > 0.9995``) are interpolated linearly. At a ``t`` of 0 or 1
    the model that does not count is not read.

    Paper: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985,
    https://doi.org/10.1145/325334.325242
    """

def nuslerp(
    tensors: Sequence[Tensor],
    base: Tensor | None = None,
    *,
    weight: _Each,
    nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with NuSLERP.

    Parameters:
        weight: share of this model, relative to the other's (one value or one per model)
        nuslerp_flatten: one angle for the whole tensor (default True)
        nuslerp_row_wise: without nuslerp_flatten: an angle for each column (first dimension) in
            place of each row (last dimension) (default False)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Spherical interpolation of two models, or of their task vectors where there is a base.

    With ``t = w_2 / (w_1 + w_2)`` (1/2 where the sum is below 1e-6) and ``theta`` the angle between the
    two::

        out = sin((1 - t) theta) / sin(theta) * x_1 + sin(t theta) / sin(theta) * x_2

    With a base the same is made of the task vectors and added to it. ``nuslerp_flatten`` (default)
    takes one angle for the tensor. Without it there is an angle for each row (the last dimension), or
    with ``nuslerp_row_wise`` for each column (the first dimension). What is parallel is interpolated
    linearly. Angles come from float64 sums.

    Without ``nuslerp_flatten`` they are found by torch's arc cosine, which may round otherwise
    elsewhere: plan and manifest then say ``numerics``.

    Paper: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985,
    https://doi.org/10.1145/325334.325242; the rules for weights and rows are mergekit's.
    """

def multislerp(
    tensors: Sequence[Tensor],
    base: Tensor | None = None,
    *,
    weight: _Each,
    normalize_weights: bool = True,
    eps: _Number = 1e-08,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Multi-SLERP.

    Parameters:
        weight: weight of this model in the mean (one value or one per model)
        normalize_weights: divide the weights by their sum (default True)
        eps: added to lengths; a shorter mean has no direction (default 1e-08; at least 0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The weighted mean direction of several models, at their weighted mean length.

    With ``u_i = x_i / (|x_i| + eps)`` of the flattened tensors (of the task vectors, where there is a
    base) and ``M = sum_i w_i u_i``::

        out = (sum_i w_i |x_i|) * M / |M|

    With a base that mean is added to it. Two models whose directions cancel are averaged by the
    weights; of more it is an error. Lengths and angles come from the Gram matrix in float64.

    Source: https://goddard.blog/posts/multislerp-wow-what-a-cool-idea
    """

def nearswap(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    t: _Number,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with NearSwap.

    Parameters:
        t: how far values move at most (at least 0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Takes another model's values where they lie near the base's.

    With one other model x::

        out = base + (x - base) * min(1, t / max(|x - base|, 1e-6))

    Values within a distance ``t`` of the base's are swapped for the other model's, which come back
    exactly; others move towards them by ``t``. At a ``t`` of 0 the base is the result and the other
    model is not read.

    Source: the model card of https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001
    """

def karcher(
    tensors: Sequence[Tensor],
    *,
    max_iter: int = 10,
    tol: _Number = 1e-05,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Karcher Mean.

    Parameters:
        max_iter: steps towards the mean at most (default 10; in [0, 10000])
        tol: length of a step, an angle or a norm that counts as zero (default 1e-05; at least
            0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The point of the sphere from which the squared angles to all models are smallest.

    With ``u_i = x_i / |x_i|`` of the flattened tensors, the mean ``m`` starts at the normalised sum of
    the ``u_i`` and moves along ``t = 1/N sum_i theta_i / sin(theta_i) (u_i - cos(theta_i) m)``, where
    ``cos(theta_i) = <m, u_i>``::

        m <- cos|t| m + sin|t| t / |t|

    until ``|t| < tol`` or ``max_iter`` steps are made; ``out = mean of the |x_i| * m``. Every step
    stays in the span of the models, so all of it happens in the coordinates of the N models, with
    angles and lengths from their Gram matrix in float64: however many steps there are, the tensors are
    read as often. Tensors whose norm is at most ``tol`` have no direction and count only for the
    length; where the directions cancel, the first stands for their mean. There are no weights.

    Paper: Wang, Ye and Yin, "Functionality-Oriented LLM Merging on the Fisher-Rao Manifold",
    https://arxiv.org/abs/2603.04972; the mean itself: Karcher, "Riemannian center of mass and mollifier
    smoothing", 1977.
    """

def passthrough(
    tensor: Tensor,
    *,
    scale: _Each = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Passthrough.

    Parameters:
        scale: factor on every element (default 1.0; one value or one per model)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    One model, copied or scaled.

    With one model x::

        out = scale * x
    """

def task_arithmetic(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each,
    density: _Each = 1.0,
    normalize: bool = False,
    lambda_: _Number = 1.0,
    rescale: bool | Literal['l1', 'l2', 'linf', 'inverse_density', 'none'] = False,
    int8_mask: bool = False,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Task Arithmetic.

    Parameters:
        weight: weight of this task vector (one value or one per model)
        density: share of the task vector's elements that is kept (default 1.0; in [0, 1]; one
            value or one per model; no effect here)
        normalize: divide by the sum of kept weights (default False)
        lambda_: factor on the merged task vector (default 1.0)
        rescale: multiply what is kept so that its norm equals the whole task vector's (true =
            l1) (default False; or l1, l2, linf, inverse_density, none; no effect here)
        int8_mask: accepted, no effect (default False; no effect here)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The weighted sum of the task vectors, added to the base.

    With base b and experts x_i::

        out = b + lambda * sum_i w_i (x_i - b)        (normalize: divided by sum_i w_i)

    A negative weight takes away what an expert has learnt. With ``normalize``, a sum of weights below
    1e-8 in magnitude counts as 1; with one expert the weight cancels then, of which ``plan`` and
    ``merge`` warn.

    Paper: Ilharco et al., "Editing Models with Task Arithmetic", https://arxiv.org/abs/2212.04089
    """

def lines(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each = 1.0,
    alpha: _Number = 1.0,
    beta: _Number,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with LiNeS.

    Parameters:
        weight: weight of the task vector (default 1.0; one value or one per model)
        alpha: factor at the first layer, and outside of the layers (default 1.0)
        beta: what the factor of the last layer is larger by
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Task arithmetic that grows with depth.

    With task vectors ``tau_i`` of N experts and the tensor's layer l of L, counted from 0::

        out = base + (alpha + beta * l / (L - 1)) * (1 / N) * sum_i w_i tau_i

    so that shallow layers, which all tasks share, stay near the base, and deep ones change more.
    Embeddings, the final norm and the head have ``l = 0``. Layers are those of the slice in a recipe
    with slices.

    Paper: Wang et al., "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model
    Merging", https://arxiv.org/abs/2410.17146
    """

def ties(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each,
    density: _Each = 1.0,
    normalize: bool = True,
    lambda_: _Number = 1.0,
    rescale: bool | Literal['l1', 'l2', 'linf', 'inverse_density', 'none'] = False,
    int8_mask: bool = False,
    elect: Literal['sum', 'count'] = 'sum',
    trim_scope: Literal['tensor', 'model'] = 'tensor',
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with TIES.

    Parameters:
        weight: weight of this task vector (one value or one per model)
        density: share of the task vector's elements that is kept (default 1.0; in [0, 1]; one
            value or one per model)
        normalize: divide by the sum of kept weights (default True)
        lambda_: factor on the merged task vector (default 1.0)
        rescale: multiply what is kept so that its norm equals the whole task vector's (true =
            l1) (default False; or l1, l2, linf, inverse_density, none)
        int8_mask: accepted, no effect (default False; no effect here)
        elect: how the majority sign is found (default sum; sum, count)
        trim_scope: whether magnitudes are compared within a tensor or within the whole model,
            as the authors of TIES do (default tensor; tensor, model)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The largest changes of every task vector, of which those stay that have the majority's
    sign.

    With base b, experts x_i, ``delta_i = x_i - b`` and ``d_i = w_i * mask_i(delta_i)``, of every
    element (``rescale`` multiplies d_i as in DARE)::

        out = b + lambda * (sum of the kept d_i) / (normalize: sum of the kept w_i)

    1. Trim: ``mask_i`` keeps the ``k = max(1, trunc(density * M))`` largest ``|delta_i|`` of a tensor
       of M elements, and all that equal the k-th. bfloat16 fine-tunes tie heavily, so that the share
       kept may exceed ``density``.
    2. Elect: where ``sum_i d_i >= 0`` the positive d_i are kept, else the negative ones; an exact zero
       is never kept. ``elect: count`` counts signs in place of summing. With ``normalize``, a sum of
       kept weights of 0 counts as 1.

    With ``trim_scope: model``, the rule of the paper's authors, M counts the elements of all tensors
    that are merged, and ``|delta_i|`` is compared with those of all of them, whatever weight they have.
    One pass over all inputs comes before the merge, which then reads each tensor once (two passes where
    a model is small, or where a sample of it misleads); ``plan`` counts their bytes. Bytes are the same
    for every cut and number of threads. Not for ``slices``; ``tune`` finds weights and ``lambda`` with
    it, but no densities. On tensors in memory each is a model of its own.

    With one expert and ``normalize`` the weight cancels; ``plan`` and ``merge`` warn.

    Paper: Yadav et al., "TIES-Merging: Resolving Interference When Merging Models",
    https://arxiv.org/abs/2306.01708
    """

def dare_linear(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each,
    density: _Each = 1.0,
    normalize: bool = False,
    lambda_: _Number = 1.0,
    rescale: bool | Literal['l1', 'l2', 'linf', 'inverse_density', 'none'] = True,
    int8_mask: bool = False,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with DARE Linear.

    Parameters:
        weight: weight of this task vector (one value or one per model)
        density: share of the task vector's elements that is kept (default 1.0; in [0, 1]; one
            value or one per model)
        normalize: divide by the sum of kept weights (default False)
        lambda_: factor on the merged task vector (default 1.0)
        rescale: multiply what is kept so that its norm equals the whole task vector's (true =
            l1) (default True; or l1, l2, linf, inverse_density, none)
        int8_mask: accepted, no effect (default False; no effect here)
        name: chooses the random masks
        seed: chooses the random masks
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Task vectors with random elements dropped, summed without an election of signs.

    Changes are dropped at random, and what is left is made larger.

    With base b, experts x_i and ``delta_i = x_i - b``, ``mask_i`` keeps every element of ``delta_i``
    with the probability ``density``, and ``d_i = w_i * rescale_i * mask_i(delta_i)``::

        out = b + lambda * (sum of the kept d_i) / (normalize: sum of the kept w_i)

    ``rescale_i`` is ``|delta_i| / |mask_i(delta_i)|``, of the sums of magnitudes with ``rescale: true``
    or ``l1``, of the Euclidean lengths with ``l2``, of the largest magnitudes with ``linf``; 1 where
    one of them is below 1e-7. ``inverse_density`` is the paper's ``1 / density``, ``false`` and
    ``none`` leave 1.

    Masks depend on seed, tensor name, expert and position alone.

    Every d_i is kept. With ``normalize``, a sum of weights below
    1e-8 in magnitude counts as 1.

    Paper: Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a
    Free Lunch", https://arxiv.org/abs/2311.03099
    """

def dare_ties(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each,
    density: _Each = 1.0,
    normalize: bool = False,
    lambda_: _Number = 1.0,
    rescale: bool | Literal['l1', 'l2', 'linf', 'inverse_density', 'none'] = True,
    int8_mask: bool = False,
    elect: Literal['sum', 'count'] = 'sum',
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with DARE TIES.

    Parameters:
        weight: weight of this task vector (one value or one per model)
        density: share of the task vector's elements that is kept (default 1.0; in [0, 1]; one
            value or one per model)
        normalize: divide by the sum of kept weights (default False)
        lambda_: factor on the merged task vector (default 1.0)
        rescale: multiply what is kept so that its norm equals the whole task vector's (true =
            l1) (default True; or l1, l2, linf, inverse_density, none)
        int8_mask: accepted, no effect (default False; no effect here)
        elect: how the majority sign is found (default sum; sum, count)
        name: chooses the random masks
        seed: chooses the random masks
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Task vectors with random elements dropped, summed by the majority's sign.

    Changes are dropped at random, and what is left is made larger.

    With base b, experts x_i and ``delta_i = x_i - b``, ``mask_i`` keeps every element of ``delta_i``
    with the probability ``density``, and ``d_i = w_i * rescale_i * mask_i(delta_i)``::

        out = b + lambda * (sum of the kept d_i) / (normalize: sum of the kept w_i)

    ``rescale_i`` is ``|delta_i| / |mask_i(delta_i)|``, of the sums of magnitudes with ``rescale: true``
    or ``l1``, of the Euclidean lengths with ``l2``, of the largest magnitudes with ``linf``; 1 where
    one of them is below 1e-7. ``inverse_density`` is the paper's ``1 / density``, ``false`` and
    ``none`` leave 1.

    Masks depend on seed, tensor name, expert and position alone.

    Where ``sum_i d_i >= 0`` the positive d_i are kept, else the negative ones; an exact zero is
    never kept. ``elect: count`` counts signs in place of summing. With ``normalize``, a sum of kept
    weights of 0 counts as 1.

    Paper: Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a
    Free Lunch", https://arxiv.org/abs/2311.03099
    """

def della(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each,
    density: _Each = 1.0,
    normalize: bool = True,
    lambda_: _Number = 1.0,
    rescale: bool | Literal['l1', 'l2', 'linf', 'inverse_density', 'none'] = True,
    int8_mask: bool = False,
    elect: Literal['sum', 'count'] = 'sum',
    epsilon: _Each = 0.15,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with DELLA.

    Parameters:
        weight: weight of this task vector (one value or one per model)
        density: share of the task vector's elements that is kept (default 1.0; in [0, 1]; one
            value or one per model)
        normalize: divide by the sum of kept weights (default True)
        lambda_: factor on the merged task vector (default 1.0)
        rescale: multiply what is kept so that its norm equals the whole task vector's (true =
            l1) (default True; or l1, l2, linf, inverse_density, none)
        int8_mask: accepted, no effect (default False; no effect here)
        elect: how the majority sign is found (default sum; sum, count)
        epsilon: the keep probabilities lie in density - epsilon to density + epsilon, growing
            with the rank of the magnitude in its row (default 0.15; in [0, 0.5]; one value or
            one per model)
        name: chooses the random masks
        seed: chooses the random masks
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Task vectors with small elements dropped at random, summed by the majority's sign.

    Changes are dropped at random, small ones of a row more often than large ones.

    With base b, experts x_i and ``delta_i = x_i - b``, ``mask_i`` keeps the element of rank r in its
    row of n columns (0 is the smallest ``|delta_i|``; equal ones rank by their place) with the
    probability ``density - epsilon + 2 * epsilon * r / (n - 1)``; with one column, with ``density``.
    Rows are those of the last dimension, a vector is one. The probabilities of the first and the last
    rank, ``density`` less and plus ``epsilon``, must lie between 0 and 1, unless ``density`` is 0 or 1.
    With ``d_i = w_i * rescale_i * mask_i(delta_i)``::

        out = b + lambda * (sum of the kept d_i) / (normalize: sum of the kept w_i)

    ``rescale_i`` is ``|delta_i| / |mask_i(delta_i)|``, of the sums of magnitudes with ``rescale: true``
    or ``l1``, of the Euclidean lengths with ``l2``, of the largest magnitudes with ``linf``; 1 where
    one of them is below 1e-7. ``inverse_density`` is ``1 / density``, ``false`` and ``none`` leave 1.

    Masks depend on seed, tensor name, expert and position. A merge holds whole rows in memory; ``plan``
    says where one does not fit.

    Where ``sum_i d_i >= 0`` the positive d_i are kept, else the negative ones; an exact zero is
    never kept. ``elect: count`` counts signs in place of summing. With ``normalize``, a sum of kept
    weights of 0 counts as 1. With one expert and ``normalize`` the weight cancels; ``plan`` and
    ``merge`` warn.

    Paper: Deep, Bhardwaj and Poria, "DELLA-Merging: Reducing Interference in Model Merging through
    Magnitude-Based Sampling", https://arxiv.org/abs/2406.11617
    """

def della_linear(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each,
    density: _Each = 1.0,
    normalize: bool = False,
    lambda_: _Number = 1.0,
    rescale: bool | Literal['l1', 'l2', 'linf', 'inverse_density', 'none'] = True,
    int8_mask: bool = False,
    epsilon: _Each = 0.15,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with DELLA Linear.

    Parameters:
        weight: weight of this task vector (one value or one per model)
        density: share of the task vector's elements that is kept (default 1.0; in [0, 1]; one
            value or one per model)
        normalize: divide by the sum of kept weights (default False)
        lambda_: factor on the merged task vector (default 1.0)
        rescale: multiply what is kept so that its norm equals the whole task vector's (true =
            l1) (default True; or l1, l2, linf, inverse_density, none)
        int8_mask: accepted, no effect (default False; no effect here)
        epsilon: the keep probabilities lie in density - epsilon to density + epsilon, growing
            with the rank of the magnitude in its row (default 0.15; in [0, 0.5]; one value or
            one per model)
        name: chooses the random masks
        seed: chooses the random masks
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Task vectors with small elements dropped at random, summed without an election.

    Changes are dropped at random, small ones of a row more often than large ones.

    With base b, experts x_i and ``delta_i = x_i - b``, ``mask_i`` keeps the element of rank r in its
    row of n columns (0 is the smallest ``|delta_i|``; equal ones rank by their place) with the
    probability ``density - epsilon + 2 * epsilon * r / (n - 1)``; with one column, with ``density``.
    Rows are those of the last dimension, a vector is one. The probabilities of the first and the last
    rank, ``density`` less and plus ``epsilon``, must lie between 0 and 1, unless ``density`` is 0 or 1.
    With ``d_i = w_i * rescale_i * mask_i(delta_i)``::

        out = b + lambda * (sum of the kept d_i) / (normalize: sum of the kept w_i)

    ``rescale_i`` is ``|delta_i| / |mask_i(delta_i)|``, of the sums of magnitudes with ``rescale: true``
    or ``l1``, of the Euclidean lengths with ``l2``, of the largest magnitudes with ``linf``; 1 where
    one of them is below 1e-7. ``inverse_density`` is ``1 / density``, ``false`` and ``none`` leave 1.

    Masks depend on seed, tensor name, expert and position. A merge holds whole rows in memory; ``plan``
    says where one does not fit.

    Every d_i is kept. With ``normalize``, a sum of weights below
    1e-8 in magnitude counts as 1.

    Paper: Deep, Bhardwaj and Poria, "DELLA-Merging: Reducing Interference in Model Merging through
    Magnitude-Based Sampling", https://arxiv.org/abs/2406.11617
    """

def breadcrumbs(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each,
    density: _Each = 1.0,
    normalize: bool = False,
    lambda_: _Number = 1.0,
    rescale: bool | Literal['l1', 'l2', 'linf', 'inverse_density', 'none'] = False,
    int8_mask: bool = False,
    trim_scope: Literal['tensor', 'model'] = 'tensor',
    gamma: _Each = 0.01,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Model Breadcrumbs.

    Parameters:
        weight: weight of this task vector (one value or one per model)
        density: share of the task vector's elements that is kept (default 1.0; in [0, 1]; one
            value or one per model)
        normalize: divide by the sum of kept weights (default False)
        lambda_: factor on the merged task vector (default 1.0)
        rescale: multiply what is kept so that its norm equals the whole task vector's (true =
            l1) (default False; or l1, l2, linf, inverse_density, none)
        int8_mask: accepted, no effect (default False; no effect here)
        trim_scope: whether magnitudes are compared within a tensor or within the whole model,
            as the authors of TIES do (default tensor; tensor, model)
        gamma: share of largest magnitudes that is dropped (default 0.01; in [0, 1]; one value
            or one per model)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The sum of task vectors without their largest and smallest changes.

    Task vectors without their largest and without their smallest changes.

    With base b, experts x_i and ``delta_i = x_i - b`` of M elements, ``mask_i`` drops the largest
    ``trunc(gamma * M)`` of ``|delta_i|`` and keeps the next ``trunc(density * M)``, ties included; a
    density of 1 keeps all. With ``d_i = w_i * mask_i(delta_i)`` (``rescale`` multiplies it as in
    DARE)::

        out = b + lambda * (sum of the kept d_i) / (normalize: sum of the kept w_i)

    With ``trim_scope: model``, M counts the elements of all tensors that are merged, and ``|delta_i|``
    is compared with those of all of them, whatever weight they have: one pass over all inputs, or two,
    comes before the merge. Not for ``slices``; ``tune`` finds weights and ``lambda`` with it, but
    neither densities nor gammas.

    Every d_i is kept. With ``normalize``, a sum of weights below
    1e-8 in magnitude counts as 1.

    Paper: Davari and Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse
    Masks", https://arxiv.org/abs/2312.06795
    """

def breadcrumbs_ties(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each,
    density: _Each = 1.0,
    normalize: bool = False,
    lambda_: _Number = 1.0,
    rescale: bool | Literal['l1', 'l2', 'linf', 'inverse_density', 'none'] = False,
    int8_mask: bool = False,
    elect: Literal['sum', 'count'] = 'sum',
    trim_scope: Literal['tensor', 'model'] = 'tensor',
    gamma: _Each = 0.01,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Model Breadcrumbs with TIES.

    Parameters:
        weight: weight of this task vector (one value or one per model)
        density: share of the task vector's elements that is kept (default 1.0; in [0, 1]; one
            value or one per model)
        normalize: divide by the sum of kept weights (default False)
        lambda_: factor on the merged task vector (default 1.0)
        rescale: multiply what is kept so that its norm equals the whole task vector's (true =
            l1) (default False; or l1, l2, linf, inverse_density, none)
        int8_mask: accepted, no effect (default False; no effect here)
        elect: how the majority sign is found (default sum; sum, count)
        trim_scope: whether magnitudes are compared within a tensor or within the whole model,
            as the authors of TIES do (default tensor; tensor, model)
        gamma: share of largest magnitudes that is dropped (default 0.01; in [0, 1]; one value
            or one per model)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The changes of middle size that have the majority's sign.

    Task vectors without their largest and without their smallest changes.

    With base b, experts x_i and ``delta_i = x_i - b`` of M elements, ``mask_i`` drops the largest
    ``trunc(gamma * M)`` of ``|delta_i|`` and keeps the next ``trunc(density * M)``, ties included; a
    density of 1 keeps all. With ``d_i = w_i * mask_i(delta_i)`` (``rescale`` multiplies it as in
    DARE)::

        out = b + lambda * (sum of the kept d_i) / (normalize: sum of the kept w_i)

    With ``trim_scope: model``, M counts the elements of all tensors that are merged, and ``|delta_i|``
    is compared with those of all of them, whatever weight they have: one pass over all inputs, or two,
    comes before the merge. Not for ``slices``; ``tune`` finds weights and ``lambda`` with it, but
    neither densities nor gammas.

    Where ``sum_i d_i >= 0`` the positive d_i are kept, else the negative ones; an exact zero is
    never kept. ``elect: count`` counts signs in place of summing. With ``normalize``, a sum of kept
    weights of 0 counts as 1.

    Paper: Davari and Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse
    Masks", https://arxiv.org/abs/2312.06795
    """

def sce(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    select_topk: _Number = 1.0,
    int8_mask: bool = False,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with SCE.

    Parameters:
        select_topk: share of the varying elements that is kept, by variance (default 1.0; in
            [0, 1])
        int8_mask: accepted, no effect (default False; no effect here)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Select the elements in which the experts vary most, calculate weights, erase minor signs.

    With base b, experts x_i and ``delta_i = x_i - b``:

    1. Select: of the elements whose variance over the experts is not 0, keep the
       ``trunc(select_topk * count)`` of largest variance, and all that equal the last; ``select_topk``
       of 1 keeps every element.
    2. Calculate: ``w_i = mean(delta_i^2) / sum_j mean(delta_j^2)`` over the kept elements; equal
       weights where the sum is below 1e-6.
    3. Erase: of the kept ``delta_i`` those stay that have the sign of ``sum_i delta_i`` (+ for 0; a
       delta of 0 never stays). ``out = b + sum w_i delta_i / max(sum w_i, 1e-6)`` over those.

    Variances are compared as sums of squares in float64, rounded to float32.

    Paper: Wan et al., "FuseChat: Knowledge Fusion of Chat Models", https://arxiv.org/abs/2408.07990
    """

def ram(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    epsilon: _Number = 1e-05,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with RAM (Reinforced Agent Merging).

    Parameters:
        epsilon: changes up to this magnitude count as none (default 1e-05; at least 0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Changes of one expert alone are kept whole, changes of several experts are averaged.

    With ``tau_i = x_i - base``, expert i changes an element where ``|tau_i| > epsilon``, and n is the
    number of experts that change it::

        out = base                                      n = 0
        out = base + lambda_i * tau_i                   n = 1, expert i alone
        out = base + sum of the tau_i that change / n   n > 1

    Here every ``lambda_i`` is 1.

    Paper: Yuan et al., "Behavior Knowledge Merge in Reinforced Agentic Models",
    https://arxiv.org/abs/2601.13572
    """

def ramplus_tl(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    r: _Number = 0.1,
    alpha: _Number = 0.2,
    epsilon: _Number = 1e-05,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with RAM+ (tensor by tensor).

    Parameters:
        r: how much shared changes enlarge those of one expert alone (default 0.1)
        alpha: the most that counts of the ratio of shared to unique changes (default 0.2; at
            least 0)
        epsilon: changes up to this magnitude count as none (default 1e-05; at least 0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Changes of one expert alone are enlarged, the more the larger the
    share of its changes that others make, too.

    Changes of one expert alone are kept whole, changes of several experts are averaged.

    With ``tau_i = x_i - base``, expert i changes an element where ``|tau_i| > epsilon``, and n is the
    number of experts that change it::

        out = base                                      n = 0
        out = base + lambda_i * tau_i                   n = 1, expert i alone
        out = base + sum of the tau_i that change / n   n > 1

    ``lambda_i = 1 + r * min(alpha, shared_i / unique_i)``, with ``unique_i`` the number of the
    tensor's elements that expert i alone changes and ``shared_i`` the number of those that it and
    others change: mergekit's "tensor-local" RAM+, which counts in every tensor by itself.

    Paper: Yuan et al., "Behavior Knowledge Merge in Reinforced Agentic Models",
    https://arxiv.org/abs/2601.13572
    """

def localize_stitch(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    density: _Each = 0.1,
    lambda_: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Localize-and-Stitch (dataless).

    Parameters:
        density: share of the whole task vector's elements that is kept (default 0.1; in [0, 1];
            one value or one per model)
        lambda_: factor on the stitched task vector (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Each task's few largest changes, averaged where they meet.

    With ``m_i`` = 1 where ``|tau_i|`` is among the largest of the **whole model**, whose share is
    ``density``, and all that equal the last, unless that is 0, which only a ``density`` of 1 keeps::

        out = base + lambda * sum_i m_i tau_i / max(1, sum_i m_i)

    Magnitudes are compared with those of all tensors that are merged: one pass over all inputs comes
    before the merge, which then reads each tensor once (two passes where a model is small, or where a
    sample of it misleads); ``plan`` counts their bytes. Not for ``slices``. On tensors in memory each
    is a model of its own.

    Paper: He et al., "Localize-and-Stitch: Efficient Model Merging via Sparse Task Arithmetic",
    https://arxiv.org/abs/2408.13656
    """

def consensus(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    threshold: _Each = 0.4,
    agreement: int = 2,
    lambda_: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Consensus TA (TALL masks).

    Parameters:
        threshold: how large an expert's change must be, relative to that of all others
            together, to claim an element (default 0.4; at least 0; one value or one per model)
        agreement: experts that must claim an element (default 2; at least 1)
        lambda_: factor on the sum of the task vectors (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Only changes that matter to several tasks stay.

    With ``T = sum_i tau_i``, expert i claims an element where ``|tau_i| >= threshold_i |T - tau_i|``
    (its TALL mask). Elements that fewer than ``agreement`` experts claim keep the base's value::

        out = base + lambda * keep * T,    keep = (number of claims >= agreement)

    Paper: Wang et al., "Localizing Task Information for Improved Model Merging and Compression",
    https://arxiv.org/abs/2405.07813
    """

def emr(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    lambda_: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with EMR, unified task vector.

    Parameters:
        lambda_: factor on the unified task vector (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The elected sign, with the largest magnitude that has it.

    With ``s = sign(sum_i tau_i)``, 0 where the sum is 0::

        out = base + lambda * s * max_i (|tau_i| where sign(tau_i) = s, else 0)

    Paper: Huang et al., "EMR-Merging: Tuning-Free High-Performance Model Merging",
    https://arxiv.org/abs/2405.17461
    """

def model_stock(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    filter_wise: bool = False,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Model Stock.

    Parameters:
        filter_wise: one ratio for each row of a tensor (default False)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Between the base and the average of its experts, where their angles put it.

    With ``c`` the mean cosine of the task vectors, two by two, and N of them::

        t = N c / (1 + (N - 1) c)        out = t * mean of the x_i + (1 - t) * base

    One ratio a tensor, or one a row (the last dimension) with ``filter_wise``. Where the denominator is
    below 1e-6 in magnitude the base is kept.

    Paper: Jang et al., "Model Stock: All we need is just a few fine-tuned models",
    https://arxiv.org/abs/2403.19522
    """

def tsv(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each = 1.0,
    alpha: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with TSV-Merge.

    Parameters:
        weight: weight of the task vector (default 1.0; one value or one per model)
        alpha: factor on what is added to the base (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The leading singular vectors of every task vector, made orthogonal to each other's.

    With N task vectors ``tau_i = U_i S_i V_i^T`` of shape [m, n], the first ``k = min(m, n) // N``
    singular triples of each are put side by side, U of shape [m, N k] and V of [n, N k], and

        out = base + alpha * polar(U) diag(w S) polar(V)^T

    where ``polar(U) = P Q^T`` from the singular value decomposition ``U = P D Q^T`` is the matrix with
    orthonormal columns that is nearest to U, in the directions that it has where vectors of several
    experts depend on each other, and ``w S`` are the singular values of each task vector times its
    weight (the paper has no weights: all are 1, the default; those of a weight of 0 take part in making
    the singular vectors orthogonal all the same). Singular values of a task vector that are at most
    ``max(m, n) * 2^-23`` of its largest are rounding, and their vectors arbitrary: they are left out.
    Tensors that are no matrices of layers (embeddings, heads, norms, biases), and matrices with fewer
    rows or columns than there are experts, where k is 0, get ``alpha`` times the mean of the
    ``w_i tau_i``.

    Paper: Gargiulo et al., "Task Singular Vectors", https://arxiv.org/abs/2412.00081
    """

def iso_c(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each = 1.0,
    alpha: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Iso-C.

    Parameters:
        weight: weight of the task vector (default 1.0; one value or one per model)
        alpha: factor on what is added to the base (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The sum of the task vectors, with all of its singular values set to their mean.

    With N task vectors ``tau_i = W_i - W_0`` of shape [m, n], their sum ``T = sum_i w_i tau_i`` (the
    paper has no weights: all are 1, the default) and its singular value decomposition ``T = U S V^T``::

        out = W_0 + alpha * mean(S) * U V^T

    ``U V^T`` is the polar factor of T, and the mean is over all min(m, n) singular values. Singular
    vectors whose value is at most ``max(m, n) * 2^-23`` of the largest are rounding: they are left out
    of the factor and count as 0 in the mean, so that the sum of a few LoRA adapters moves the base in
    the directions that it has and in no others. Tensors that are no matrices of layers (embeddings,
    heads, norms, biases) get ``alpha`` times the mean of the ``w_i tau_i``. Task vectors are summed, so
    that N equal experts move N times as far as one.

    The factor is computed without the decomposition, from the eigenvectors of the Gram matrix of the
    shorter side: ``U V^T = T (T^T T)^(-1/2)``, which gives what the decomposition gives to 1e-5 of what
    is added; in float64, and in float32 with some corrections where a matrix is half as long again as
    it is wide and no singular value is below a thousandth of the largest.

    Paper: Marczak et al., "No Task Left Behind", https://arxiv.org/abs/2502.04959
    """

def iso_cts(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each = 1.0,
    common: _Number = 0.8,
    alpha: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Iso-CTS.

    Parameters:
        weight: weight of the task vector (default 1.0; one value or one per model)
        common: share of the directions that are those of the sum (default 0.8; in [0, 1])
        alpha: factor on what is added to the base (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Iso-C with room for directions that only one task has.

    With N task vectors ``tau_i = w_i (W_i - base)`` of shape [m, n] (the paper has no weights: all are
    1, the default), p = min(m, n), and the share f that ``common`` is::

        t = round((p - trunc(f p)) / N)        directions of each expert, at most p // N
        c = p - N t                            common directions
        T = tau_1 + ... + tau_N = U S V^T      the first c triples: U_c, S_c, V_c
        (I - U_c U_c^T) tau_i = U_i S_i V_i^T  the first t triples of each expert
        out = base + alpha * mean(S) * polar(U) polar(V)^T

    with U of shape [m, p] and V of [n, p] the N + 1 parts side by side, S all of their singular values,
    and polar(U) the matrix with orthonormal columns that is nearest to U, in the directions that it has
    where columns depend on each other. Where t is 0 this is Iso-C. Singular values of at most
    ``max(m, n) * 2^-23`` of the largest in their decomposition, or in that of T, are rounding: their
    directions are left out, and they count as 0 in the mean. Tensors that are no matrices of layers
    (embeddings, heads, norms, biases) get ``alpha`` times the mean task vector. A weight of 0 leaves an
    expert no directions of its own, which any other gives it.

    Paper: Marczak et al., "No Task Left Behind", https://arxiv.org/abs/2502.04959
    """

def star(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each = 1.0,
    eta: _Number = 0.4,
    lambda_: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with STAR.

    Parameters:
        weight: weight of the task vector (default 1.0; one value or one per model)
        eta: share of the nuclear norm that the singular values kept hold (default 0.4; in [0,
            1])
        lambda_: factor on what is added to the base (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The leading singular values of every task vector, made larger to keep their sum.

    With the decomposition ``tau_i = U S V^T`` of each task vector, k is the smallest number of leading
    singular values that add up to at least the share ``eta`` of all of them, the nuclear norm, and::

        out = base + lambda * mean_i( w_i (sum(S) / sum(S_k)) * U_k diag(S_k) V_k^T )

    The paper has no weights: all are 1, the default. Tensors that are no matrices of layers
    (embeddings, heads, norms, biases) get ``lambda`` times the mean of the ``w_i tau_i``, as all
    tensors do where ``eta`` is 1.

    Paper: Lee et al., "STAR: Spectral Truncation and Rescale for Model Merging",
    https://arxiv.org/abs/2502.10339
    """

def subspace_boosting(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each = 1.0,
    beta: _Number = 0.01,
    alpha: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Subspace boosting.

    Parameters:
        weight: weight of the task vector (default 1.0; one value or one per model)
        beta: share of the sum of singular values up to which they stay (default 0.01; in [0,
            1])
        alpha: factor on what is added to the base (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Small singular values of the summed task vectors are raised.

    With the sum of the task vectors ``T = sum_i w_i tau_i = U S V^T`` (the paper has no weights: all
    are 1, the default) and c the first (largest) singular value at which
    ``S_1 + ... + S_k >= beta * (S_1 + ... + S_p)``, p = min(m, n)::

        out = base + alpha * U diag(max(S, c)) V^T

    A ``beta`` of 0 makes all singular values the largest one, 1 leaves the sum as it is. Singular
    values of at most ``max(m, n) * 2^-23`` of the largest are rounding and stay out of it: their
    directions are arbitrary. Tensors that are no matrices of layers (embeddings, heads, norms, biases)
    get ``alpha`` times the sum of the ``w_i tau_i``.

    Paper: Skorobogat et al., "Subspace-Boosted Model Merging", https://arxiv.org/abs/2506.16506
    """

def cart(
    tensors: Sequence[Tensor],
    *,
    rank: _Number = 0.08,
    lambda_: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with CART.

    Parameters:
        rank: share of the singular triples of each task vector that is kept (default 0.08; in
            [0, 1])
        lambda_: factor on the sum of the task vectors (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Task vectors from the average of the experts, of which each keeps its leading directions.

    With the average ``A = mean(W_1, ..., W_N)`` of N weights of shape [m, n] and
    ``k = max(1, trunc(rank * min(m, n)))``::

        out = A + lambda * sum_i( the first k singular triples of W_i - A )

    At a ``rank`` of 1 the task vectors add up to zero, and the average comes out. Tensors that are no
    matrices of layers (embeddings, heads, norms, biases) are averaged. No base is read.

    Paper: Choi et al., "Revisiting Weight Averaging for Model Merging",
    https://arxiv.org/abs/2412.12153
    """

def magmax(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    lambda_: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with MagMax.

    Parameters:
        lambda_: factor on the merged task vector (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Of the task vectors the one that is largest in magnitude, element by element.

    With ``tau_i = x_i - base``, and j the first expert whose ``|tau_j|`` is the largest of the
    element::

        out = base + lambda * tau_j

    NaN counts as larger than infinity, so that it is not hidden. At a ``lambda`` of 0 no expert is
    read.

    Paper: Marczak et al., "MagMax: Leveraging Model Merging for Seamless Continual Learning",
    https://arxiv.org/abs/2407.06322
    """

def wudi(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each = 1.0,
    solver: Literal['closed_form', 'adam'] = 'closed_form',
    ridge: _Number = 0.001,
    lambda_: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with WUDI-Merging.

    Parameters:
        weight: weight of the task vector (default 1.0; one value or one per model)
        solver: where M comes from (default closed_form; closed_form, adam)
        ridge: added to the diagonal, in units of its mean (closed_form) (default 0.001; in [0,
            1])
        lambda_: factor on what is added to the base (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The sum of task vectors that disturbs each of them least in its own directions.

    The rows of a task vector ``tau_i`` of shape [m, n] lie in the space of the inputs that its expert
    was trained on, so that ``C_i = tau_i^T tau_i`` stands in for their Gram matrix. The merged task
    vector M makes the interference small::

        L(M) = sum_i ||(M - w_i tau_i) tau_i^T||^2 / ||tau_i||^2
        out = base + lambda * M

    ``solver: closed_form`` takes the point where L is smallest, with a ridge that keeps it from
    directions which hardly any expert has::

        M = (sum_i c_i w_i tau_i C_i) (G + ridge * mean(diag(G)) I)^-1,  G = sum_i c_i C_i,
        c_i = 1 / ||tau_i||^2

    in float64. ``solver: adam`` does what the authors do: 300 steps of Adam at a rate of 1e-5 from
    ``sum_i w_i tau_i``, which end on the way there. The paper has no weights: all are 1, the default;
    an expert of weight 0 is kept from interference all the same. Tensors that are no matrices of layers
    (embeddings, heads, norms, biases) get ``lambda`` times the mean of the ``w_i tau_i``.

    Paper: Cheng et al., "Whoever Started the Interference Should End It",
    https://arxiv.org/abs/2503.08099
    """

def actmat(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    lambda_: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with ACTMat.

    Parameters:
        lambda_: factor on what is added to the base (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The merged task vector nearest to all in the directions that the task vectors have.

    As in RegMean, with ``C_i = tau_i^T tau_i`` of the task vector of shape [m, n] in place of the Gram
    matrix of activations, so that no data are needed::

        out = base + lambda * (sum_i tau_i C_i) (sum_i C_i)^+

    ``^+`` is the pseudo-inverse: directions in which the stacked task vectors have a singular value of
    at most ``max(m, n) * 2^-23`` of the largest get nothing. Solved in float64. Tensors that are no
    matrices of layers (embeddings, heads, norms, biases) get ``lambda`` times the mean task vector.

    Paper: Hameed et al., "Model Merging via Data-Free Covariance Estimation",
    https://arxiv.org/abs/2604.01329
    """

def fisher(
    tensors: Sequence[Tensor],
    *,
    fisher: Sequence[Tensor],
    weight: _Each = 1.0,
    floor: _Number = 1e-20,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Fisher-weighted averaging.

    Parameters:
        fisher: the diagonal of the model's Fisher information (one tensor per input)
        weight: importance of this model (default 1.0; at least 0; one value or one per model)
        floor: what smaller values of the diagonal are raised to (default 1e-20; in [1e-30, 1])
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    An average of parameters, each weighted by how sure its model is of it.

    Element by element::

        out = sum_i w_i F_i x_i / sum_i w_i F_i

    where ``F_i``, of the tensor's shape, is the diagonal of the Fisher information of model i: the mean
    of the squared gradients of its log-likelihood over data of its own. Values below ``floor`` are
    raised to it, so that models that all know nothing about an element are averaged by their weights
    alone. So is a tensor about which there are no diagonals.

    Paper: Matena and Raffel, "Merging Models with Fisher-Weighted Averaging",
    https://arxiv.org/abs/2111.09832
    """

def regmean(
    tensors: Sequence[Tensor],
    *,
    gram: Sequence[Tensor] | None = None,
    weight: _Each = 1.0,
    shrink: _Number = 0.9,
    ridge: _Number = 1e-06,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with RegMean.

    Parameters:
        gram: sums of x x^T of the activations that the weight multiplies (one tensor per input;
            matrices only)
        weight: importance of this model (default 1.0; at least 0; one value or one per model)
        shrink: share that is kept of a Gram matrix off its diagonal (default 0.9; in [0, 1])
        ridge: added to the diagonals, in units of their means (default 1e-06; in [0, 1])
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    The weight whose outputs are nearest to those of all models on their own data.

    A weight W of shape [m, n] multiplies activations x of n values. With the Gram matrices
    ``G_i = sum x x^T`` of model i's activations there, the least squares solution is

        out = (sum_i w_i W_i G'_i) (sum_i w_i G'_i)^-1,    G' = shrink * G + (1 - shrink) *
            diag(G)

    where ``shrink`` in [0, 1] keeps that share of what lies off the diagonal: 0 weighs each column by
    itself, 1 is the plain solution. To the diagonal of each G' is added ``ridge`` times its mean, in
    the numerator, too: columns that no data reached are averaged, and nothing is singular; nor is a
    matrix that no data reached, as an expert may be to which no token went, which is averaged by the
    weights. (The paper has no ridge; 0 turns it off.) Grams may be sums or means, the same for all
    models. Solved in float64. Other tensors, and matrices about which there are no Grams, are averaged
    by the weights.

    ``mergesafe calibrate`` makes the Grams of a model. With ``--through-merge`` it makes those of all
    models behind the merged layers before; with these the method is RegMean++, Nguyen et al.,
    https://arxiv.org/abs/2508.03121

    Paper: Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models",
    https://arxiv.org/abs/2212.09849
    """

def core_space(
    base: Tensor,
    experts: Sequence[_Factors],
    *,
    weight: _Each,
    density: _Each = 1.0,
    normalize: bool = False,
    lambda_: _Number = 1.0,
    rescale: bool | Literal['l1', 'l2', 'linf', 'inverse_density', 'none'] = False,
    int8_mask: bool = False,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Core Space.

    Parameters:
        weight: weight of this task vector (one value or one per model)
        density: share of the task vector's elements that is kept (default 1.0; in [0, 1]; one
            value or one per model; no effect here)
        normalize: divide by the sum of kept weights (default False)
        lambda_: factor on the merged task vector (default 1.0)
        rescale: multiply what is kept so that its norm equals the whole task vector's (true =
            l1) (default False; or l1, l2, linf, inverse_density, none; no effect here)
        int8_mask: accepted, no effect (default False; no effect here)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    LoRA adapters merged in the small space that all of them share.

    With N adapters of one base, ``dW_t = s_t B_t A_t`` with A_t of shape [r_t, n], B_t of [m, r_t] and
    s_t the adapter's scale, and R the sum of the ranks::

        V: orthonormal rows that span those of A_1, ..., A_N          [min(R, n), n]
        U: orthonormal columns that span those of s_1 B_1, ..., s_N B_N    [m, min(R, m)]
        M_t = U^T (s_t B_t) (A_t V^T)                                 [min(R, m), min(R, n)]
        M   = merge(M_1, ..., M_N) of the method in parentheses, with a base of zeros
        out = W_0 + U M V

    ``core_space(ties)`` merges the M_t by TIES, with the parameters of TIES; ``core_space`` alone by
    task arithmetic. Since ``dW_t = U M_t V`` exactly, nothing is lost on the way in or out, and a
    method that is linear in its task vectors gives what it gives for the whole matrices. Others look at
    M_t in place of dW_t: TIES and DARE at its elements; TSV-M keeps R / N singular triples of each, and
    Iso-C takes the mean of the R singular values that there are, where min(m, n) of the whole matrices
    are mostly 0. R counts directions that adapters share once for each of them, as in the paper, so
    that Iso-C moves the directions of N equal adapters as far as those of one. Rows of V and columns of
    U are the singular vectors of the stacked factors, the largest singular value first.

    ``U M V`` is itself an adapter of rank ``r = min(R, m, n)``: with the singular value decomposition
    ``M = P S Q^T`` it has ``B = U P sqrt(S)`` and ``A = sqrt(S) Q^T V``, which ``output: adapter``
    writes without reading the weights of the base. An adapter that leaves a tensor as it is counts
    there as zeros; tensors that no adapter changes are the base's.

    Paper: Panariello et al., "Accurate and Efficient Low-Rank Model Merging in Core Space",
    https://arxiv.org/abs/2509.17786
    """

def arcee_fusion(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Arcee Fusion.

    Parameters:
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Only the changes that stand out in their tensor are taken over.

    For a base b and one other model x, rows of the last dimension (a vector is one row)::

        p = softmax(x) + 1e-8,   q = softmax(b) + 1e-8      along each row
        importance = |x - b| * sum over the row of p log(p / q)
        threshold = median + 1.5 * (Q3 - Q1)                of the importance in the tensor
        out = x where importance >= threshold, else b       (as b + (x - b))

    Quantiles are elements of the sorted importance, of number ``trunc(q * (count - 1))``, and exact
    whatever the tensor's size. The divergence is found in float64 and rounded to float32 once. A row
    that holds NaN is taken over as it is.

    Source: mergekit, https://github.com/arcee-ai/mergekit
    """

def merge_align(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    gamma: _Each = 0.5,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with MergeAlign.

    Parameters:
        gamma: factor on this model's task vector (default 0.5; one value or one per model)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    A domain's task vector and that of alignment, added to the model both began from.

    ``base_model`` is the model that both were made of; the two models are the expert of a domain and
    an aligned (instruction-tuned) model, each with its own ``gamma``::

        out = base + gamma_d * (domain - base) + gamma_a * (aligned - base)

    What is interpolated is what fine-tuning changed, not whole models: with the base in the middle
    neither model has to give up what the other one left alone.

    Paper: Thakkar et al., "Combining Domain and Alignment Vectors to Achieve Better Knowledge-Safety
    Trade-offs in LLMs", https://arxiv.org/abs/2411.06824
    """

def interpolate(
    base: Tensor,
    other: Tensor,
    *,
    t: _Number = 0.5,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Pre- and post-tuning interpolation.

    Parameters:
        t: 0 = the base, 1 = the other model (default 0.5; in [0, 1])
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Interpolation between an aligned model and the same model after fine-tuning.

    ``base_model`` is the model before fine-tuning, a, which is aligned; the other model, x, is the
    fine-tuned one::

        out = (1 - t) * a + t * x

    A t of 0 is the aligned model, 1 the fine-tuned one. It is the simplest way to win alignment back,
    and what every other one has to beat.

    Paper: Farn et al., "Safeguard Fine-Tuned LLMs Through Pre- and Post-Tuning Model Merging",
    https://arxiv.org/abs/2412.19512
    """

def resta(
    tensor: Tensor,
    *,
    references: Mapping[str, Tensor],
    gamma: _Number = 1.0,
    density: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with RESTA.

    Parameters:
        references: tensors by name ('aligned': a model that is aligned; 'unaligned': the same
            model without that alignment)
        gamma: factor on the difference that is added (default 1.0)
        density: share of the difference that is kept (default 1.0; in [0, 1])
        name: chooses the random masks
        seed: chooses the random masks
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    A fine-tuned model plus the difference between an aligned and an unaligned model.

    The one model that is merged is the fine-tuned one, x; ``aligned`` and ``unaligned`` are references,
    for instance a chat model and the same model after its safety was trained away::

        out = x + gamma * mask(aligned - unaligned) / density

    With a ``density`` below 1 the mask is DARE's: it keeps each element with that probability, decided
    by the seed, the tensor's name and the element's number, and the rest is divided by ``density``.

    Paper: Bhardwaj et al., "Language Models are Homer Simpson! Safety Re-Alignment of Fine-tuned
    Language Models through Task Arithmetic", https://arxiv.org/abs/2402.11746
    """

def safe_lora(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    references: Mapping[str, Tensor],
    weight: _Each = 1.0,
    threshold: _Number = 0.5,
    layers: int = 0,
    projector: Literal['published', 'exact'] = 'published',
    energy: _Number = 0.9,
    lambda_: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Safe LoRA.

    Parameters:
        references: tensors by name ('unaligned': the base without its alignment)
        weight: factor on this model's task vector (default 1.0; one value or one per model)
        threshold: cosine up to which a task vector is projected (default 0.5; in [-1, 1])
        layers: project so many matrices of each model, those of lowest cosine; 0: by the
            threshold (default 0; at least 0)
        projector: what projects on the directions of alignment (default published; published,
            exact)
        energy: share of alignment's energy that the exact projector's directions hold (default
            0.9; in [0, 1])
        lambda_: factor on what is added to the base (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Task vectors that leave the directions of alignment are projected back on them.

    ``base_model`` is the aligned model that was fine-tuned, b; the models are what was fine-tuned from
    it, full models or ``base+adapter``; the reference ``unaligned`` is the base without its alignment,
    such as the pretrained model under a chat model. Of every matrix of a layer, with ``V = b -
    unaligned`` and each task vector ``tau_i``::

        C = V V^T / ||V||_F                                  projector: published
        C = U_k U_k^T                                        projector: exact
        tau'_i = C tau_i if cos(C tau_i, tau_i) <= threshold else tau_i
        out = b + lambda * sum_i w_i tau'_i

    The cosine is that of all elements of the matrix. With ``layers: k`` the threshold of every model is
    its k-th lowest cosine among the matrices of all layers, so that k of them are projected, and more
    where several equal the last; ``threshold`` then counts for nothing. Matrices that a filter gives a
    k of 0 go by the threshold, and are not compared with the others. ``published`` is the authors' C,
    which is no projector (C C is not C): what it projects is also multiplied by a factor that depends
    on the length of V. ``exact`` is the projector on the k leading left singular vectors of V, the
    fewest that hold ``energy`` of its squared norm. Where V is of full rank and ``energy`` is 1, that
    is the identity, and nothing is ever projected. Where V is 0, alignment changed nothing and the task
    vector stays.
    Tensors that are no matrices of layers get ``lambda * sum_i w_i tau_i``.

    Paper: Hsu et al., "Safe LoRA: the Silver Lining of Reducing Safety Risks when Fine-tuning Large
    Language Models", https://arxiv.org/abs/2405.16833
    """

def safe_merge(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    references: Mapping[str, Tensor],
    weight: _Each = 1.0,
    threshold: _Number = 0.35,
    mix: _Number = 0.8,
    projector: Literal['published', 'exact'] = 'published',
    energy: _Number = 0.9,
    lambda_: _Number = 1.0,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with SafeMERGE.

    Parameters:
        references: tensors by name ('unaligned': the base without its alignment; 'safe': the
            base after fine-tuning on safe answers)
        weight: factor on this model's task vector (default 1.0; one value or one per model)
        threshold: cosine below which a task vector is mixed (default 0.35; in [-1, 1])
        mix: share of the task vector where it is mixed (default 0.8; in [0, 1])
        projector: what projects on the directions of alignment (default published; published,
            exact)
        energy: share of alignment's energy that the exact projector's directions hold (default
            0.9; in [0, 1])
        lambda_: factor on what is added to the base (default 1.0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Task vectors that leave the directions of alignment are mixed with that of safety.

    ``base_model`` is the aligned model that was fine-tuned, b; the models are what was fine-tuned from
    it; the reference ``unaligned`` is the base without its alignment, ``safe`` the base after
    fine-tuning on safe answers to harmful questions. Of every matrix of a layer, with
    ``tau_safe = safe - b`` and C tau as in :mod:`mergesafe.methods.definitions.safe_lora`::

        tau'_i = mix * tau_i + (1 - mix) * tau_safe if cos(C tau_i, tau_i) < threshold else
            tau_i
        out = b + lambda * sum_i w_i tau'_i

    Tensors that are no matrices of layers get ``lambda * sum_i w_i tau_i``.

    Paper: Djuhera et al., "SafeMERGE: Preserving Safety Alignment in Fine-Tuned Large Language Models
    via Selective Layer-Wise Model Merging", https://arxiv.org/abs/2503.17239
    """

def pcb(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weight: _Each = 1.0,
    density: _Number = 0.05,
    clip: _Number = 0.01,
    lambda_: _Number = 1.2,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with PCB-Merging.

    Parameters:
        weight: weight of this expert's task vector (default 1.0; one value or one per model)
        density: share of each tensor in which an expert takes part (default 0.05; in [0, 1])
        clip: share of magnitudes clamped at either end (default 0.01; in [0, 0.5])
        lambda_: factor on the merged task vector (default 1.2)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Changes weighted by how much they matter to their task and agree with the others.

    For task vectors ``tau_t`` of N experts, in each tensor, with ``lo_t`` and ``hi_t`` the magnitudes
    that a share ``clip`` lies below and above::

        c_t    = |tau_t| clamped to [lo_t, hi_t]
        a_t    = (c_t - lo_t) / (hi_t - lo_t)                   0 where all magnitudes are equal
        beta_t = exp(N a_t^2) * tanh(tau_t * sum_s tau_s)       within the task, and across
            tasks
        q_t    = the beta_t that a share density lies above, or 0 where that is negative
        s_t    = max(beta_t - q_t, 0) / (max beta_t - q_t)      from 0 to 1
        out = base + lambda * sum_t weight_t s_t sign(tau_t) c_t / max(sum_t s_t, 1e-12)

    Clamping takes the elements of number ``trunc(clip n)`` and ``trunc((1 - clip) n - 1)`` of the n
    sorted magnitudes, the density that of number ``trunc((1 - density) n)`` of the sorted scores. All
    are exact. Scores are computed in float64 and rounded to float32.

    Paper: Du et al., "Parameter Competition Balancing for Model Merging",
    https://arxiv.org/abs/2410.02396
    """

def led(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    score: Sequence[Tensor],
    base_score: Sequence[Tensor],
    weight: _Each = 1.0,
    density: _Each = 0.4,
    safety: bool | Sequence[bool] = False,
    contested: Literal['nobody', 'safety'] = 'nobody',
    alpha: _Number = 0.9,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with LED-Merging.

    Parameters:
        score: |W * dL/dW| of the model on records of its task (one tensor per input)
        base_score: |W * dL/dW| of the base on the same records (one tensor per input)
        weight: weight of the task vector (default 1.0; one value or one per model)
        density: share of elements that are located for this model (default 0.4; in [0, 1]; one
            value or one per model)
        safety: whether this model's task is safety (default False; one value or one per model)
        contested: who gets what several models located (default nobody; nobody, safety)
        alpha: factor on what is added to the base (default 0.9)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Each expert's task vector at the weights that matter to its task, and to no other's.

    ``base_model`` is the model that all experts were fine-tuned from, b; each model has two importance
    scores as calibration, both ``|W * dL/dW|`` on the same records of its task: ``score`` of the expert
    itself, ``base_score`` of the base. Of every tensor, with ``top_d`` the share d of elements whose
    score is the largest::

        E_i = top_di(score_i) and top_di(base_score_i)            located
        D_i = E_i without what any other expert located           disjoint
        out = b + alpha * sum_i w_i D_i * tau_i

    Of d times the elements, rounded down and at least 1, all that equal the last are taken, too; a
    score of 0 is never among the largest. What several experts located is contested: it goes to nobody,
    or with ``contested: safety`` to the one of them that is marked ``safety: true``. Tensors without
    scores get ``alpha`` times the mean of ``w_i tau_i``.

    Paper: Ma et al., "LED-Merging: Mitigating Safety-Utility Conflicts in Model Merging with
    Location-Election-Disjoint", https://arxiv.org/abs/2502.16770
    """

def safe_delta(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    gram: Sequence[Tensor] | None = None,
    budget: _Number = 0.1,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = 'auto',
) -> torch.Tensor:
    """Merge one tensor of several models with Safe Delta.

    Parameters:
        gram: sums of x x^T of the aligned model's activations on safe answers (one tensor per
            input; matrices only)
        budget: safety that may be lost (the paper's s) (default 0.1; at least 0)
        name: no effect here
        seed: no effect here
        position: of the tensor's layer, from 0, the first, to 1, the last; few go by it
        out_dtype: dtype of the result (default: the common type of the tensors)
        backend: 'auto', or force one by name

    Of a fine-tuned model the changes that cost little safety, and a compensation.

    ``base_model`` is the aligned model that was fine-tuned, b; the one model is the fine-tuned one, x,
    with the Gram matrix ``gram`` of activations as calibration: of the **aligned** model on harmful
    questions and safe answers. Of a weight [m, n], with ``delta = x - b`` and ``G`` the Gram::

        H = G / mean(diag(G)) + 0.01 I
        R = chol(H^-1), upper triangular
        cost_ij = delta_ij^2 / R_jj^2
        out = x where kept, else w, column by column

    In each block of 1,024 columns elements are kept in the order of ascending ``1 / R_jj^2``, within a
    column by rows, while the sum of their costs is at most ``budget * rows * columns / 4096^2`` times
    the mean of ``1 / R_jj^2`` in the block. w is b at first. From the left, the error of each column,
    ``e = (w - out) / R_jj``, is spread over the columns to its right: ``e R_jk`` is taken from column
    k of w, so that outputs on the harmful questions stay what they were. Other tensors, and matrices
    without a Gram, stay as in the base.

    Paper: Lu et al., "Safe Delta: Consistently Preserving Safety when Fine-Tuning LLMs on Diverse
    Datasets", https://arxiv.org/abs/2505.12038
    """
