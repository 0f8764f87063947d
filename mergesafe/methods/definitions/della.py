"""DELLA: changes are dropped at random, small ones of a row more often than large ones.

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

Paper: Deep, Bhardwaj and Poria, "DELLA-Merging: Reducing Interference in Model Merging through
Magnitude-Based Sampling", https://arxiv.org/abs/2406.11617
"""

from __future__ import annotations

from typing import Final

from mergesafe.methods.definitions._task_vectors import TaskVectors, family_parameters

PAPER: Final = "https://arxiv.org/abs/2406.11617"


class Della(TaskVectors):
    """DELLA: task vectors with small elements dropped at random, summed by the majority's sign.

    Where ``sum_i d_i >= 0`` the positive d_i are kept, else the negative ones; an exact zero is
    never kept. ``elect: count`` counts signs in place of summing. With ``normalize``, a sum of kept
    weights of 0 counts as 1. With one expert and ``normalize`` the weight cancels; ``plan`` and
    ``merge`` warn.
    """

    name = "della"
    title = "DELLA"
    paper = PAPER
    random = True
    sparsifier = "magprune"
    elects = True
    parameters = family_parameters(
        "magprune", elect=True, normalize=True, rescale=True, density=0.5
    )
    use = (
        "As [dare_ties](dare_ties.md), where large changes should survive more often than small "
        "ones."
    )
    deviations = (
        "Equal magnitudes rank by their place, where mergekit's sort may order them in any way. "
        "mergekit ranks a tensor of more than two dimensions along its second one, and cannot "
        "merge rows of one element. Every tensor and expert has random numbers of its own, "
        "where one sequence runs through all tensors in mergekit. The paper divides each "
        "survivor by its own probability to be kept; mergekit, and the default here, multiplies "
        "all survivors of a tensor by one factor."
    )


class DellaLinear(TaskVectors):
    """DELLA Linear: task vectors with small elements dropped at random, summed without an election.

    Every d_i is kept. With ``normalize``, a sum of weights below
    1e-8 in magnitude counts as 1.
    """

    name = "della_linear"
    title = "DELLA Linear"
    paper = PAPER
    random = True
    sparsifier = "magprune"
    parameters = family_parameters(
        "magprune", elect=False, normalize=False, rescale=True, density=0.5
    )
    use = (
        "As [dare_linear](dare_linear.md), where large changes should survive more often than "
        "small ones."
    )
    deviations = (
        "Equal magnitudes rank by their place, where mergekit's sort may order them in any way. "
        "mergekit ranks a tensor of more than two dimensions along its second one, and cannot "
        "merge rows of one element. Every tensor and expert has random numbers of its own, "
        "where one sequence runs through all tensors in mergekit. The paper divides each "
        "survivor by its own probability to be kept; mergekit, and the default here, multiplies "
        "all survivors of a tensor by one factor."
    )
