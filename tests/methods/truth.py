"""Merges in float64, written from the formulas and as plainly as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mergesafe.methods.definitions.slerp import COLLINEAR


def merged(
    method: str, tensors: Sequence[torch.Tensor], parameters: dict[str, Any], *, base: bool = True
) -> torch.Tensor:
    """The result in float64; the base comes first where there is one.

    ``base``: whether methods that may go without one have one.
    """
    wide = [x.double() for x in tensors]
    if method in ("nuslerp", "multislerp"):
        origin = wide[0] if base else torch.zeros_like(wide[0])
        others = [x - origin for x in (wide[1:] if base else wide)]
        between = _nuslerp if method == "nuslerp" else _multislerp
        return origin + between(others, parameters)
    if method == "linear":
        weights = torch.tensor(parameters["weight"], dtype=torch.float64)
        total = weights.sum() if parameters.get("normalize", True) else 1.0
        return torch.einsum("i,i...->...", weights, torch.stack(wide)) / total
    if method == "slerp":
        return _slerp(wide[0], wide[1], parameters["t"])
    if method == "karcher":
        return _karcher(wide, parameters.get("max_iter", 10), parameters.get("tol", 1e-5))
    if method == "sce":
        return _sce(wide[0], wide[1:], parameters.get("select_topk", 1.0))
    if method == "model_stock":
        return _model_stock(wide[0], wide[1:], parameters.get("filter_wise", False))
    if method == "nearswap":
        delta = wide[1] - wide[0]
        share = (parameters["t"] / delta.abs().clamp(min=1e-6)).clamp(0.0, 1.0)
        return wide[0] + delta * share
    if method == "magmax":
        deltas = torch.stack([x - wide[0] for x in wide[1:]])
        largest = deltas.abs().argmax(0, keepdim=True)
        return wide[0] + parameters.get("lambda", 1.0) * deltas.gather(0, largest)[0]
    if method == "arcee_fusion":
        return _arcee_fusion(wide[0], wide[1])
    if method in ("ram", "ramplus_tl"):
        plus = (parameters.get("r", 0.1), parameters.get("alpha", 0.2))
        return _ram(
            wide[0], wide[1:], parameters.get("epsilon", 1e-5), plus if "plus" in method else None
        )
    if method == "iso_c":
        return _iso_c(wide[0], wide[1:], parameters)
    return _task_vectors(method, wide[0], wide[1:], parameters)


def _ram(
    base: torch.Tensor,
    experts: Sequence[torch.Tensor],
    epsilon: float,
    plus: tuple[float, float] | None,
) -> torch.Tensor:
    """Element after element. ``plus``: r and alpha."""
    deltas = [(x - base).flatten().tolist() for x in experts]
    active = [
        [i for i, d in enumerate(each) if abs(d) > epsilon] for each in zip(*deltas, strict=True)
    ]
    factors = [1.0] * len(experts)
    for i in range(len(experts)) if plus else ():
        alone = sum(each == [i] for each in active)
        shared = sum(i in each for each in active) - alone
        factors[i] = 1.0 + plus[0] * min(shared / alone, plus[1]) if alone else 1.0
    added = []
    for at, each in enumerate(active):
        own = [deltas[i][at] for i in each]
        added.append(own[0] * factors[each[0]] if len(own) == 1 else sum(own) / max(1, len(own)))
    return base + torch.tensor(added, dtype=torch.float64).view_as(base)


def _slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    cosine = (a * b).sum() / (a.norm() * b.norm())
    if cosine.abs() > COLLINEAR:
        return (1 - t) * a + t * b
    theta = cosine.acos()
    return (((1 - t) * theta).sin() * a + (t * theta).sin() * b) / theta.sin()


def _nuslerp(pair: list[torch.Tensor], parameters: dict[str, Any]) -> torch.Tensor:
    one, two = parameters["weight"]
    t = 0.5 if abs(one + two) < 1e-6 else two / (one + two)
    if parameters.get("nuslerp_flatten", True):
        flat = [x.reshape(1, -1) for x in pair]
    elif parameters.get("nuslerp_row_wise", False):
        flat = [x.T for x in pair]
    else:
        flat = pair
    a, b = flat
    rows = []
    for x, y in zip(a, b, strict=True):
        theta = (torch.dot(x, y) / (x.norm() * y.norm())).acos()
        rows.append((((1 - t) * theta).sin() * x + (t * theta).sin() * y) / theta.sin())
    made = torch.stack(rows)
    turned = not parameters.get("nuslerp_flatten", True) and parameters.get("nuslerp_row_wise")
    return (made.T if turned else made).reshape(pair[0].shape)


def _multislerp(wide: list[torch.Tensor], parameters: dict[str, Any]) -> torch.Tensor:
    """On the vectors, with the tangent space that the method leaves out."""
    if len(wide) == 1:
        return wide[0]
    weights = torch.tensor(parameters["weight"], dtype=torch.float64)
    if parameters.get("normalize_weights", True):
        weights = weights / weights.sum()
    flat = torch.stack([x.flatten() for x in wide])
    norms = flat.norm(dim=1)
    units = flat / (norms + parameters.get("eps", 1e-8)).unsqueeze(1)
    mean = weights @ units
    mean = mean / mean.norm()
    tangent = weights @ (units - torch.outer(units @ mean, mean))
    length = tangent.norm() + 1e-300
    point = length.cos() * mean + length.sin() / length * tangent
    return (point * (norms @ weights)).view(wide[0].shape)


def _karcher(wide: list[torch.Tensor], max_iter: int, tol: float) -> torch.Tensor:
    """On the vectors themselves, where the method works on their inner products."""
    units = [x / x.norm() for x in wide]
    mean = torch.stack(units).mean(0)
    mean = mean / mean.norm()
    for _ in range(max_iter):
        tangent = torch.zeros_like(mean)
        for u in units:
            theta = (mean * u).sum().clamp(-1, 1).acos()
            if theta >= tol:
                tangent = tangent + theta / theta.sin() * (u - theta.cos() * mean) / len(units)
        length = tangent.norm()
        if length < tol:
            break
        mean = length.cos() * mean + length.sin() * tangent / length
        mean = mean / mean.norm()
    return mean * torch.stack([x.norm() for x in wide]).mean()


def _sce(base: torch.Tensor, wide: list[torch.Tensor], share: float) -> torch.Tensor:
    deltas = torch.stack([x - base for x in wide])
    if share < 1.0:
        variance = deltas.var(0, unbiased=False)
        k = int(share * int((variance > 0).sum()))
        least = variance.flatten().sort(descending=True).values[k - 1] if k else float("inf")
        deltas = deltas * (variance >= least)
    energy = deltas.square().flatten(1).mean(1)
    total = energy.sum()
    weights = energy / total if total >= 1e-6 else torch.full_like(energy, 1 / len(wide))
    weights = weights.view(-1, *[1] * base.ndim)
    sign = torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
    agree = deltas.sign() == sign
    return base + (deltas * weights * agree).sum(0) / (weights * agree).sum(0).clamp(min=1e-6)


def _model_stock(base: torch.Tensor, wide: list[torch.Tensor], rows: bool) -> torch.Tensor:
    deltas = [(x - base) if rows else (x - base).reshape(1, -1) for x in wide]
    n = len(deltas)
    pairs = [
        torch.nn.functional.cosine_similarity(a, b, dim=-1)
        for i, a in enumerate(deltas)
        for b in deltas[i + 1 :]
    ]
    cosine = torch.stack(pairs).mean(0).unsqueeze(-1)
    t = n * cosine / (1 + (n - 1) * cosine)
    return t * torch.stack(wide).mean(0) + (1 - t) * base


def _arcee_fusion(base: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    p, q = x.softmax(-1) + 1e-8, base.softmax(-1) + 1e-8
    importance = (x - base).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
    ordered = importance.flatten().sort().values
    first, median, third = (ordered[int(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75))
    return torch.where(importance >= median + 1.5 * (third - first), x, base)


def _iso_c(
    base: torch.Tensor, wide: list[torch.Tensor], parameters: dict[str, Any]
) -> torch.Tensor:
    """By a decomposition, where the method takes the eigenvectors of a Gram matrix."""
    weights = parameters.get("weight", [1.0] * len(wide))
    total = torch.stack([w * (x - base) for w, x in zip(weights, wide, strict=True)]).sum(0)
    u, s, vh = torch.linalg.svd(total, full_matrices=False)
    s[s <= max(total.shape) * 2.0**-23 * s[0]] = 0.0
    return base + parameters.get("alpha", 1.0) * s.mean() * (u * (s > 0)) @ vh


def _task_vectors(
    method: str, base: torch.Tensor, experts: list[torch.Tensor], parameters: dict[str, Any]
) -> torch.Tensor:
    n = len(experts)
    deltas = torch.stack([x - base for x in experts])
    each = {name: _each(parameters.get(name, default), n) for name, default in _DEFAULTS.items()}
    for i in range(n):
        mask = _mask(method, deltas[i], each["density"][i], each["gamma"][i])
        kept = deltas[i] * mask
        if parameters.get("rescale", method.startswith("della")) and kept.abs().sum() > 0:
            kept = kept * (deltas[i].abs().sum() / kept.abs().sum())
        deltas[i] = kept
    weights = torch.tensor(parameters["weight"], dtype=torch.float64).view(-1, *[1] * base.ndim)
    d = deltas * weights
    if method.endswith("ties") or method == "della":
        sign = torch.where(d.sum(0) >= 0, 1.0, -1.0)
        agree = d.sign() == sign
        d, divisor = d * agree, (weights * agree).sum(0)
    else:
        divisor = weights.sum(0)
    divisor = torch.where(divisor.abs() < 1e-8, torch.ones_like(divisor), divisor)
    total = d.sum(0)
    if parameters.get("normalize", method in ("ties", "della")):
        total = total / divisor
    return base + parameters.get("lambda", 1.0) * total


_DEFAULTS = {"density": 1.0, "gamma": 0.01}


def _each(value: Any, n: int) -> list[float]:
    return list(value) if isinstance(value, list) else [value] * n


def _mask(method: str, delta: torch.Tensor, density: float, gamma: float) -> torch.Tensor:
    """All elements that equal the last one kept are kept."""
    size = delta.abs()
    if density >= 1.0 or method == "task_arithmetic":
        return torch.ones_like(size, dtype=torch.bool)
    if density <= 0.0:
        return torch.zeros_like(size, dtype=torch.bool)
    ascending = size.flatten().sort().values
    count = len(ascending)
    if method == "ties":
        return size >= ascending[count - max(1, int(density * count))]
    keep = int(density * count)
    bottom = max(0, count - keep - int(gamma * count))
    return (size >= ascending[bottom]) & (size <= ascending[bottom + keep - 1])
