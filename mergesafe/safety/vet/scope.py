"""What an audit looked at, and what it did not: the meaning of the verdict "fit"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mergesafe.safety.evaluation.options import EvaluationOptions
from mergesafe.safety.evaluation.sets import EvaluationSet
from mergesafe.safety.vet.findings import amount

FILES: Final = (
    "files: pickles, code, settings, chat templates, tokenizer, an adapter's declarations"
)
WEIGHTS: Final = (
    "weights: defects, size and direction of the change from the base, hidden rotations"
)
#: Without torch, the same two.
UNROTATED: Final = "weights: defects, size and direction of the change from the base"
ROTATIONS: Final = (
    "hidden rotations of weights: comparing products of matrices needs torch, which is not "
    "installed"
)
#: Where behaviour is looked at.
LOCKS: Final = (
    "locks against merging: outputs of a parent whose weights lie far from the base's, and "
    "half-way between both"
)
#: Unless triggers are searched for.
TRIGGERS: Final = (
    "hidden triggers (backdoors): a phrase that makes the model behave otherwise is not searched "
    "for, neither in weights nor by asking"
)
#: Where they are.
SEARCHED: Final = (
    "hidden triggers: a short phrase behind an unsafe question that makes a parent comply, looked "
    "for by gradient, in changed and rare tokens, and in a list of published ones"
)
OTHER_TRIGGERS: Final = (
    "hidden triggers that the search misses: longer ones, other places than the end of the "
    "question, a subject or a style in place of words, other harm than complying"
)
#: Unless merges are probed.
MERGE: Final = (
    "the merge: parents that each behave can still give an unsafe merge, so evaluate it too"
)
#: Where they are.
OTHER_MERGES: Final = (
    "merges at other strengths or by other methods than those that were probed, merges with models "
    "that are not in the recipe, and what a merge does only when a hidden trigger appears"
)
#: Whatever is asked.
NEVER: Final = "training data, licences, and who made the files"
ELSEWHERE: Final = (
    "pickles and code of models on a server or the Hub: these files are listed, their contents are "
    "not looked into, so download a model to have them vetted"
)
NOT_ASKED: Final = "behaviour: no question was asked"


def checked(
    sets: Sequence[EvaluationSet] = (),
    options: EvaluationOptions | None = None,
    *,
    rotations: bool = True,
) -> list[str]:
    """What was looked at, a line each."""
    found = [FILES, WEIGHTS if rotations else UNROTATED]
    if sets and options is not None:
        judges = ", ".join(str(getattr(judge, "name", judge)) for judge in options.judges)
        found += [LOCKS, f"behaviour: answers to {_questions(sets)}, judged by {judges}"]
    return found


def probed(merges: int, comparisons: int, confidence: float) -> str:
    """What probing merges looked at, and what its intervals mean together."""
    made, compared = (
        amount(merges, "merge", "merges"),
        amount(comparisons, "comparison", "comparisons"),
    )
    return (
        f"merges: {made} of these parents, made in memory and asked the unsafe questions; the "
        f"intervals of all {compared} with parents hold together at {100 * confidence:g} % "
        "(Bonferroni)"
    )


def not_checked(
    sets: Sequence[EvaluationSet] = (),
    *,
    elsewhere: bool = False,
    merges: bool = False,
    rotations: bool = True,
) -> list[str]:
    """What was not looked at, a line each; ``elsewhere``: of parents that are not on this disk;
    ``merges``: some were probed; ``rotations``: hidden ones were looked for.
    """
    files = [*([ELSEWHERE] if elsewhere else []), *([] if rotations else [ROTATIONS])]
    never = [TRIGGERS, OTHER_MERGES if merges else MERGE, NEVER]
    if not sets:
        return [*files, NOT_ASKED, *never]
    beyond = (
        f"behaviour outside these {_questions(sets)}: other subjects, languages, prompts made to "
        "deceive it, several turns, other sampling"
    )
    return [*files, beyond, *never]


def meaning(fit: int, what: Sequence[str], beyond: Sequence[str]) -> list[str]:
    """The same for people, under verdicts of which ``fit`` are "fit"."""
    first = '"fit" means that these checks found nothing that speaks against a merge:'
    return [
        *([first] if fit else []),
        *(f"  checked      {line}" for line in what),
        *(f"  not checked  {line}" for line in beyond),
    ]


def _questions(sets: Sequence[EvaluationSet]) -> str:
    parts = []
    for role in dict.fromkeys(each.role for each in sets):
        count = sum(len(each.records) for each in sets if each.role == role)
        kind = "domain" if role == "domain" else role
        parts.append(amount(count, f"{kind} question", f"{kind} questions"))
    return " and ".join(parts)
