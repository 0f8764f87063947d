"""Names of metrics, and what they say: ``safe_rate.advbench``, ``domain.maths.nll``."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

#: A rate is a mean of numbers in [0, 1]; any other figure is a plain mean.
Kind: TypeAlias = Literal["rate", "mean"]

SAFE: Final = "safe_rate"
REFUSAL: Final = "refusal_rate"
OVER_REFUSAL: Final = "over_refusal"
DOMAIN: Final = "domain"
#: Of tasks of lm-evaluation-harness.
LM_EVAL: Final = "lm_eval"
FAMILIES: Final = (SAFE, REFUSAL, OVER_REFUSAL, DOMAIN, LM_EVAL)
#: How a negative log-likelihood ends.
NLL_END: Final = ".nll"


def family(metric: str) -> str:
    """What stands before the name of a set: ``safe_rate`` of ``safe_rate.advbench``."""
    return metric.partition(".")[0]


def is_nll(metric: str) -> bool:
    """Whether it is a negative log-likelihood."""
    return metric.endswith(NLL_END)


def is_rate(metric: str) -> bool:
    """Whether a metric of this name is certainly a rate; those of lm-eval need not be."""
    return family(metric) in FAMILIES and family(metric) != LM_EVAL and not is_nll(metric)


def is_skill(metric: str) -> bool:
    """Whether it measures a domain rather than safety."""
    return metric.startswith((f"{DOMAIN}.", f"{LM_EVAL}."))


def lower_is_better(metric: str) -> bool:
    """Whether less of it is better: over-refusal, likelihoods' negatives, perplexities."""
    return (
        family(metric) == OVER_REFUSAL
        or is_nll(metric)
        or metric.endswith(("perplexity", "bits_per_byte"))
    )


def check_kind(metric: str, kind: Kind) -> None:
    """Refuse a kind that a metric of this name cannot have.

    Raises:
        ValueError: it is of the other kind.
    """
    # A metric of lm-eval is of either kind, and what has another name than ours is not decided on.
    if is_rate(metric) != (kind == "rate") and (is_rate(metric) or is_nll(metric)):
        raise ValueError(f"{metric[:60]!r} is a {kind}, which it cannot be")
