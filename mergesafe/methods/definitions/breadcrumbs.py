"""Model Breadcrumbs: task vectors without their largest and without their smallest changes.

With base b, experts x_i and ``delta_i = x_i - b`` of M elements, ``mask_i`` drops the largest
``trunc(gamma * M)`` of ``|delta_i|`` and keeps the next ``trunc(density * M)``, ties included; a
density of 1 keeps all. With ``d_i = w_i * mask_i(delta_i)`` (``rescale`` multiplies it as in
DARE)::

    out = b + lambda * (sum of the kept d_i) / (normalize: sum of the kept w_i)

With ``trim_scope: model``, M counts the elements of all tensors that are merged, and ``|delta_i|``
is compared with those of all of them, whatever weight they have: one pass over all inputs, or two,
comes before the merge. Not for ``slices``; ``tune`` finds weights and ``lambda`` with it, but
neither densities nor gammas.

Paper: Davari and Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse
Masks", https://arxiv.org/abs/2312.06795"""

from __future__ import annotations

from typing import Final

from mergesafe.methods.definitions._task_vectors import TaskVectors, family_parameters

PAPER: Final = "https://arxiv.org/abs/2312.06795"


class Breadcrumbs(TaskVectors):
    """Model Breadcrumbs: the sum of task vectors without their largest and smallest changes.

    Every d_i is kept. With ``normalize``, a sum of weights below
    1e-8 in magnitude counts as 1.
    """

    name = "breadcrumbs"
    title = "Model Breadcrumbs"
    paper = PAPER
    sparsifier = "magnitude_outliers"
    parameters = family_parameters(
        "magnitude_outliers", elect=False, normalize=False, rescale=False, density=0.9
    )
    use = (
        "Many experts whose largest changes are outliers that disturb each other; the smallest "
        "are noise."
    )
    deviations = (
        "Of equal magnitudes at a threshold all are kept; in mergekit an unstable sort decides."
    )


class BreadcrumbsTies(TaskVectors):
    """Model Breadcrumbs with TIES: the changes of middle size that have the majority's sign.

    Where ``sum_i d_i >= 0`` the positive d_i are kept, else the negative ones; an exact zero is
    never kept. ``elect: count`` counts signs in place of summing. With ``normalize``, a sum of kept
    weights of 0 counts as 1.
    """

    name = "breadcrumbs_ties"
    title = "Model Breadcrumbs with TIES"
    paper = PAPER
    sparsifier = "magnitude_outliers"
    elects = True
    parameters = family_parameters(
        "magnitude_outliers", elect=True, normalize=False, rescale=False, density=0.9
    )
    use = "As [breadcrumbs](breadcrumbs.md), for experts whose changes contradict each other."
    deviations = (
        "Of equal magnitudes at a threshold all are kept; in mergekit an unstable sort decides."
    )
