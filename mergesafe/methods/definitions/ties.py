"""TIES: the largest changes of every task vector, of which those stay that have the majority's
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
    use = (
        "Experts of different tasks whose changes contradict each other. The paper keeps the "
        "largest 20 % of each. With one expert there is nothing to elect: use "
        "[task_arithmetic](task_arithmetic.md)."
    )
    evidence = (
        "A study of six methods on Llama 3 and Qwen3 models of 3 to 8 billion parameters "
        "([arXiv 2511.21437](https://arxiv.org/abs/2511.21437)) found no reliable gain over the "
        "base. In a study of safety-aware merging ([arXiv "
        "2406.14563](https://arxiv.org/abs/2406.14563)) the search made the difference: with "
        "weights from a grid TIES gave 72.7 % safe answers at 53.7 % domain accuracy with "
        "Mistral and 89.3 % at 74.1 % with Llama 3; with weights found for skill alone 61.6 % "
        "at 52.0 % and 79.8 % at 73.2 %; found for skill and safety together 78.1 % at 54.2 % "
        "and 96.0 % at 73.6 %."
    )
    deviations = (
        "Of equal magnitudes at the threshold all are kept, as by the paper's authors; in "
        "mergekit an unstable sort decides. The authors trim over the whole task vector "
        "(`trim_scope: model`); mergekit, and the default here, tensor by tensor."
    )
