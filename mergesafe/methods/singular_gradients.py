"""Leading singular triples, and raised singular values, with gradients that ties do not break.

With ``T = U S V^T`` of rank r, a derivative of one singular vector divides by the differences of
its singular value and all others. What methods make of leading triples depends on less: turning
the vectors of both sides by one rotation changes nothing, ``(U_1 R, V_1 R)`` for ``(U_1, V_1)``.
That leaves the differences of the values that are taken, s_i, and those that are not, s_j. With
arriving gradients G_u [m, c] and G_v [n, c]::

    K_ij = (E_ij - E_ji) / (2 (s_i + s_j)),  E = U_1^T G_u - V_1^T G_v
    P_ji = (s_i F_ji + s_j H_ji) / (s_i^2 - s_j^2),  F = U_2^T G_u,  H = V_2^T G_v
    Q_ji = (s_j F_ji + s_i H_ji) / (s_i^2 - s_j^2)
    dL/dT = U_1 (K + diag(G_s)) V_1^T + U_2 P V_1^T + U_1 Q^T V_2^T
            + (I - U U^T) G_u S_1^-1 V_1^T + U_1 S_1^-1 G_v^T (I - V V^T)

A function f of singular values, ``U f(S) V^T``, with an arriving gradient G and ``M = U^T G V``::

    dL/dT = U (A o sym(M) + B o skew(M)) V^T
            + (I - U U^T) G V f(S)/S V^T + U f(S)/S U^T G (I - V V^T)
    A_ij = (f_i - f_j) / (s_i - s_j), the slope of f where s_i = s_j
    B_ij = (f_i + f_j) / (s_i + s_j)

A change of T that raises its rank has no derivative, and is taken to leave the directions that are
left out where they are. Nothing here imports torch before it is called.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from mergesafe.methods.matrices import singular_triples


def leading_triples(matrix: Any, most: int, *, beside: float = 0.0) -> tuple[Any, Any, Any]:
    """What :func:`mergesafe.methods.matrices.singular_triples` gives, of a float64 matrix, with
    gradients for what depends on the vectors of both sides up to one rotation.
    """
    u, s, vh = _leading().apply(matrix, most, beside)
    return u, s, vh


def raised(matrix: Any, share: float) -> Any:
    """``U max(S, c) V^T`` of a float64 matrix [m, n], with its gradient; c is the first singular
    value at which the sum reaches ``share`` of that of all.
    """
    return _raised().apply(matrix, share)


def first_to_reach(s: Any, share: float) -> int:
    """The number of the value, in descending order, at which the sum reaches that share of all."""
    sums = s.double().cumsum(0)
    return min(len(s) - 1, int((sums < share * sums[-1]).sum()))


@cache
def _leading() -> Any:
    import torch
    from torch.autograd.function import once_differentiable

    class Leading(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, matrix: Any, most: int, beside: float) -> tuple[Any, Any, Any]:
            u, s, vh = singular_triples(matrix, beside=beside)
            ctx.save_for_backward(u, s, vh)
            ctx.count = min(most, len(s))
            return u[:, : ctx.count].clone(), s[: ctx.count].clone(), vh[: ctx.count].clone()

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, of_u: Any, of_s: Any, of_vh: Any) -> tuple[Any, None, None]:
            (u, s, vh), c = ctx.saved_tensors, ctx.count
            along_u, along_v = u.T @ of_u, vh @ of_vh.T  # U^T G_u and V^T G_v, [r, c]
            inner = along_u[:c] - along_v[:c]
            core = u.new_zeros(len(s), len(s))
            core[:c, :c] = (inner - inner.T) / (2.0 * (s[:c] + s[:c, None])) + torch.diag(of_s)
            taken, left = s[:c], s[c:, None]
            gaps = taken.square() - left.square()
            core[c:, :c] = (taken * along_u[c:] + left * along_v[c:]) / gaps
            core[:c, c:] = ((left * along_u[c:] + taken * along_v[c:]) / gaps).T
            made = u @ core @ vh
            made += ((of_u - u @ along_u) / taken) @ vh[:c]
            made += (u[:, :c] / taken) @ (of_vh - along_v.T @ vh)
            return made, None, None

    return Leading


@cache
def _raised() -> Any:
    import torch
    from torch.autograd.function import once_differentiable

    class Raised(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, matrix: Any, share: float) -> Any:
            u, s, vh = singular_triples(matrix)
            ctx.save_for_backward(u, s, vh)
            ctx.least = first_to_reach(s, share) if len(s) else 0
            return (u * s.clamp(min=float(s[ctx.least]) if len(s) else 0.0)) @ vh

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Any) -> tuple[Any, None]:
            (u, s, vh), k = ctx.saved_tensors, ctx.least
            if not len(s):  # no task vector
                return torch.zeros_like(gradient), None
            values = s.clamp(min=float(s[k]))
            left, right = u.T @ gradient, gradient @ vh.T
            inner = left @ vh.T
            gaps = s[:, None] - s
            same = gaps == 0
            slopes = (values[:, None] - values) / torch.where(same, 1.0, gaps)
            slopes = torch.where(same, (s >= s[k]).to(s), slopes)
            sums = (values[:, None] + values) / (s[:, None] + s)
            core = 0.5 * (slopes * (inner + inner.T) + sums * (inner - inner.T))
            core[k, k] += inner.diagonal()[s < s[k]].sum()  # all that were raised go with it
            ratio = values / s
            made = u @ core @ vh + ((right - u @ inner) * ratio) @ vh
            return made + (u * ratio) @ (left - inner @ vh), None

    return Raised
