"""Task Arithmetic: the weighted sum of the task vectors, added to the base.

With base b and experts x_i::

    out = b + lambda * sum_i w_i (x_i - b)        (normalize: divided by sum_i w_i)

A negative weight takes away what an expert has learnt. With ``normalize``, a sum of weights below
1e-8 in magnitude counts as 1; with one expert the weight cancels then, of which ``plan`` and
``merge`` warn.

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
        "The first method to try on language models that are fine-tuned from one base, and the "
        "one to compare others with. Find the weights with [`mergesafe tune`](../tuning.md) "
        "where there are data; else begin with weights that add up to 1."
    )
    evidence = (
        "A study of six methods on Llama 3 and Qwen3 models of 3 to 8 billion parameters "
        "([arXiv 2511.21437](https://arxiv.org/abs/2511.21437)) found it the only one that "
        "reliably gains over the base. [MergeBench](https://arxiv.org/abs/2505.10833) finds "
        "reliable gains for it, for Localize-and-Stitch and, with small models, for RegMean."
    )
