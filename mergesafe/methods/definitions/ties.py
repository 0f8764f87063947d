"""TIES: the largest changes of every task vector, of which those stay that have the majority's
sign.

With base b, experts x_i, ``delta_i = x_i - b`` and ``d_i = w_i * mask_i(delta_i)``, of every
element::

    out = b + lambda * (sum of the kept d_i) / (normalize: sum of the kept w_i)

1. Trim: ``mask_i`` keeps the ``k = max(1, trunc(density * M))`` largest ``|delta_i|`` of a tensor
   of M elements, and all that equal the k-th. bfloat16 fine-tunes tie heavily, so that the share
   kept may exceed ``density``.
2. Elect: where ``sum_i d_i >= 0`` the positive d_i are kept, else the negative ones; an exact zero
   is never kept. ``elect: count`` counts signs in place of summing. A sum of kept weights of 0
   counts as 1.

With ``trim_scope: model``, the rule of the paper's authors, M counts the elements of all tensors
that are merged, and ``|delta_i|`` is compared with those of all of them, whatever weight they have.
Two passes over all inputs come before the merge, which then reads each tensor once; ``plan`` counts
their bytes. Bytes are the same for every cut and number of threads. Not for ``slices``; ``tune``
finds weights and ``lambda`` with it, but no densities. On tensors in memory each is a model of its
own.

With one expert and ``normalize`` the weight cancels; ``plan`` and ``merge`` warn.

Paper: Yadav et al., "TIES-Merging: Resolving Interference When Merging Models",
https://arxiv.org/abs/2306.01708
"""

from __future__ import annotations

from mergesafe.methods.definitions._task_vectors import TaskVectors, family_parameters


class Ties(TaskVectors):
    name = "ties"
    title = "TIES"
    paper = "https://arxiv.org/abs/2306.01708"
    sparsifier = "magnitude"
    elects = True
    parameters = family_parameters(
        "magnitude", elect=True, normalize=True, rescale=False, density=0.3
    )
