"""What a rate by a judge says of the true one, when the judge's errors are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from mergesafe.safety.statistics import CONFIDENCE, Rate


@dataclass(frozen=True)
class Corrected:
    """The true rate with its interval."""

    value: float
    low: float
    high: float


def corrected(
    rate: float, n: int, sensitivity: Rate, specificity: Rate, confidence: float = CONFIDENCE
) -> Corrected | None:
    """The true rate behind ``rate``, which a judge found in ``n`` cases (Rogan and Gladen 1978).

    π = (p + Sp − 1) / (Se + Sp − 1), cut off at 0 and 1. The interval is that of Lang and Reiczigel
    2014 (Preventive Veterinary Medicine 113:13), which takes in how little is known of Se and Sp:
    with p' = (np + z²/2) / (n + z²), Se' and Sp' with one hit and one miss more than were counted,
    π' by the formula above, a = Se'(1 − Se') / nSe' and b = Sp'(1 − Sp') / nSp', it is

    π' + 2z² (π' a − (1 − π') b) ± z √(p'(1 − p')/(n + z²) + π'² a + (1 − π')² b) / (Se' + Sp' − 1).

    None where the judge does no better than chance on the labelled cases: Se + Sp ≤ 1.
    """
    youden = sensitivity.value + specificity.value - 1
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    se, n_se = _more(sensitivity)
    sp, n_sp = _more(specificity)
    if youden <= 0 or se + sp <= 1:
        return None
    p = (n * rate + z * z / 2) / (n + z * z)
    centre = (p + sp - 1) / (se + sp - 1)
    of_se, of_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * z * z * (centre * of_se - (1 - centre) * of_sp)
    variance = p * (1 - p) / (n + z * z) + centre**2 * of_se + (1 - centre) ** 2 * of_sp
    reach = z * math.sqrt(variance) / (se + sp - 1)
    value = _share((rate + specificity.value - 1) / youden)
    low, high = _share(centre + shift - reach), _share(centre + shift + reach)
    return Corrected(value, min(low, value), max(high, value))


def _more(found: Rate) -> tuple[float, int]:
    return (found.hits + 1) / (found.n + 2), found.n + 2


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
