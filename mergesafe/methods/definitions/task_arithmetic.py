"""Task Arithmetic: the weighted sum of the task vectors, added to the base.

With base b and experts x_i::

    out = b + lambda * sum_i w_i (x_i - b)        (normalize: divided by sum_i w_i)

A negative weight takes away what an expert has learnt. With ``normalize``, a sum of weights
below 1e-8 in magnitude counts as 1.

Paper: Ilharco et al., "Editing Models with Task Arithmetic", https://arxiv.org/abs/2212.04089
"""

from __future__ import annotations

from mergesafe.methods.definitions._task_vectors import TaskVectors, family_parameters


class TaskArithmetic(TaskVectors):
    name = "task_arithmetic"
    title = "Task Arithmetic"
    paper = "https://arxiv.org/abs/2212.04089"
    parameters = family_parameters("none", elect=False, normalize=False, rescale=False)
    use = (
        "The first method to try on language models fine-tuned from one base, and the one to "
        "compare others with. Find the weights with [`mergesafe tune`](../tuning.md) where there "
        "are data; else begin with weights that add up to 1."
    )
    evidence = (
        "Two independent studies of merges of language models "
        "([arXiv 2511.21437](https://arxiv.org/abs/2511.21437); MergeBench, "
        "[arXiv 2505.10833](https://arxiv.org/abs/2505.10833)) find it among the few methods that "
        "gain reliably, beside Localize-and-Stitch and, for small models, RegMean."
    )
