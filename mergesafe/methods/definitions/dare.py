"""DARE: changes are dropped at random, and what is left is made larger.

With base b, experts x_i and ``delta_i = x_i - b``, ``mask_i`` keeps every element of ``delta_i``
with the probability ``density``, and ``d_i = w_i * rescale_i * mask_i(delta_i)``::

    out = b + lambda * (sum of the kept d_i) / (normalize: sum of the kept w_i)

``rescale_i`` is ``|delta_i| / |mask_i(delta_i)|``, of the sums of magnitudes with ``rescale: true``
or ``l1``, of the Euclidean lengths with ``l2``, of the largest magnitudes with ``linf``; 1 where
one of them is below 1e-7. ``inverse_density`` is the paper's ``1 / density``, ``false`` and
``none`` leave 1.

Masks depend on seed, tensor name, expert and position alone.

Paper: Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a
Free Lunch", https://arxiv.org/abs/2311.03099
"""

from __future__ import annotations

from typing import Final

from mergesafe.methods.definitions._task_vectors import TaskVectors, family_parameters

PAPER: Final = "https://arxiv.org/abs/2311.03099"


class DareLinear(TaskVectors):
    """DARE Linear: task vectors with random elements dropped, summed without an election of signs.

    Every d_i is kept. With ``normalize``, a sum of weights below
    1e-8 in magnitude counts as 1.
    """

    name = "dare_linear"
    title = "DARE Linear"
    paper = PAPER
    random = True
    sparsifier = "random"
    parameters = family_parameters(
        "random", elect=False, normalize=False, rescale=True, density=0.5
    )
    use = (
        "Several full fine-tunes whose changes are small and redundant: with a density of 0.5 "
        "half of each task vector is left, at its whole norm. Try several seeds: the result "
        "depends on them."
    )
    deviations = (
        "The default `rescale: true` is mergekit's rule; the paper's is `rescale: "
        "inverse_density`. Every tensor and expert has random numbers of its own, counted by "
        "element; in mergekit one sequence runs through all tensors, so that a change of one "
        "changes the masks of those after it. Masks therefore differ from mergekit's, whatever "
        "the seed."
    )


class DareTies(TaskVectors):
    """DARE TIES: task vectors with random elements dropped, summed by the majority's sign.

    Where ``sum_i d_i >= 0`` the positive d_i are kept, else the negative ones; an exact zero is
    never kept. ``elect: count`` counts signs in place of summing. With ``normalize``, a sum of kept
    weights of 0 counts as 1.
    """

    name = "dare_ties"
    title = "DARE TIES"
    paper = PAPER
    random = True
    sparsifier = "random"
    elects = True
    parameters = family_parameters("random", elect=True, normalize=False, rescale=True, density=0.5)
    use = "As [dare_linear](dare_linear.md), for experts whose changes contradict each other."
    evidence = (
        "In a study of safety-aware merging ([arXiv "
        "2406.14563](https://arxiv.org/abs/2406.14563)) DARE-TIES gave what TIES gave: with "
        "weights found for skill and safety together 78.3 % safe answers at 54.0 % domain "
        "accuracy with Mistral (TIES 78.1 % at 54.2 %) and 96.1 % at 73.8 % with Llama 3 (96.0 "
        "% at 73.6 %)."
    )
    deviations = (
        "The default `rescale: true` is mergekit's rule; the paper's is `rescale: "
        "inverse_density`. Every tensor and expert has random numbers of its own, counted by "
        "element; in mergekit one sequence runs through all tensors, so that a change of one "
        "changes the masks of those after it. Masks therefore differ from mergekit's, whatever "
        "the seed."
    )
