"""Parents that work and no merge of which does: the outputs tell, whatever was done to the weights.

Rotated or rescaled hidden dimensions leave a parent's outputs as they were and move its weights far
away (PaRaMS, arXiv 2503.07661; MergeLock, arXiv 2509.01548). Products of factors tell of some of
that (:mod:`~mergesafe.safety.vet.rotation`), not of what goes through a norm, a fused tensor or a
whole layer. So a parent of which a matrix lies far from the base's is given a few prompts, and so
are the base and the model half-way between both. With KL = KL(base ‖ model), the mean over places
of the prompts, in nats, a parent is locked when KL(half-way) is larger than KL(parent), and not
small. Of a fine-tune it is about a quarter to a half: what was learned grows with the part of it
that is taken, and KL with its square. Of a base in other weights KL(parent) is next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Final

from mergesafe.chat.conversation import Conversation
from mergesafe.chat.hf import HfModel
from mergesafe.chat.tokens import encode_prompt
from mergesafe.errors import CheckpointError, ModelError
from mergesafe.results.vet import Finding
from mergesafe.safety.evaluation.gather import sets_of
from mergesafe.safety.evaluation.options import EvaluationOptions
from mergesafe.safety.evaluation.sets import EvaluationSet
from mergesafe.safety.progress import ProgressCallback
from mergesafe.safety.vet.behaviour import names
from mergesafe.safety.vet.findings import by_severity
from mergesafe.safety.vet.result import Vetted

if TYPE_CHECKING:
    import torch

#: ‖τ‖/‖base‖ of a matrix from which on outputs are looked at.
FAR: Final = 0.05
#: KL in nats that the half-way model of a lock has at least; rounding to bfloat16 makes 0.002.
WRECKED: Final = 0.1
#: Prompts, and places at the end of each, where what comes next is compared.
PROMPTS: Final = 8
PLACES: Final = 12


@dataclass(frozen=True)
class Outputs:
    """How far outputs lie from the base's: KL(base ‖ model) in nats, of the parent and of the
    model half-way; ``top``: the share of places where the parent's likeliest token is the base's.
    """

    parent: float
    half: float
    top: float


def is_locked(found: Outputs, moved: float) -> bool:
    """Whether outputs tell of a lock; ``moved``: the largest ‖τ‖/‖base‖ of a matrix."""
    if not math.isfinite(found.half):  # no numbers come out half-way, and the parent gives some
        return moved >= FAR and math.isfinite(found.parent)
    return moved >= FAR and found.half > max(WRECKED, found.parent)


def with_locks(
    found: Vetted,
    references: Mapping[str, str],
    base: str,
    options: EvaluationOptions,
    tell: ProgressCallback,
) -> Vetted:
    """``found`` with the parents that are locked against merging. Only parents that are not unfit
    already and lie far from the base are run.

    ``references``: the parents by name, as every command reads them.
    """
    far = [parent.name for parent in found.parents if parent.fit and parent.moved >= FAR]
    if not far:
        return found
    sets = sets_of(options)
    try:
        origin = HfModel(base, device=options.device, batch=options.batch, label="base")
        prompts = [encode_prompt(origin.tokenizer, each) for each in _asked(sets)]
        theirs = distributions(origin, prompts)
        origin.model.to("cpu")  # one model at a time where memory is short; halves need it there
    except (ModelError, CheckpointError) as error:
        note = f"locks against merging were not looked for: {error}"
        return replace(found, notes=(*found.notes, note))
    parents = []
    for parent in found.parents:
        if parent.name in far:
            tell(f"{parent.name}: comparing outputs with the base's")
            model = HfModel(
                references[parent.name], device=options.device, batch=options.batch,
                label=parent.name,
            )  # fmt: skip
            new = _finding(model, origin, prompts, theirs, parent.moved, names(sets))
            parent = replace(parent, findings=by_severity([*parent.findings, *new]))
        parents.append(parent)
    return replace(found, parents=tuple(parents))


def _finding(
    model: HfModel, origin: HfModel, prompts: Sequence[list[int]],
    theirs: Sequence[torch.Tensor], moved: float, where: str,
) -> list[Finding]:  # fmt: skip
    try:
        made = compare(model, origin, prompts, theirs)
    except (ModelError, CheckpointError) as error:
        what = f"locks against merging were not looked for: {error}"
        return [Finding("note", "behaviour", what, where)]  # why is told with its behaviour
    said = Finding("unfit", "behaviour", _said(made, moved), where)
    return [said] if is_locked(made, moved) else []


def compare(
    model: HfModel, origin: HfModel, prompts: Sequence[list[int]], theirs: Sequence[torch.Tensor]
) -> Outputs:
    """The outputs of a parent beside the base's. Its weights in memory are half-way afterwards."""
    ours = distributions(model, prompts)
    top = [float((a.argmax(1) == b.argmax(1)).float().mean()) for a, b in _pairs(theirs, ours)]
    _go_half_way(model.model, origin.model)
    half = distributions(model, prompts)
    return Outputs(_kl(theirs, ours), _kl(theirs, half), sum(top) / len(top))


def _asked(sets: Sequence[EvaluationSet]) -> list[Conversation]:
    """The first questions of the sets in turn."""
    rows = zip_longest(*([record.conversation for record in each.records] for each in sets))
    return [each for each in chain.from_iterable(rows) if each is not None][:PROMPTS]


def distributions(model: HfModel, prompts: Sequence[list[int]]) -> list[torch.Tensor]:
    """log p of what comes next at the last places of every prompt, [places, vocabulary]."""
    import torch

    found = []
    for prompt in prompts:
        with torch.inference_mode(), model.running():
            logits = model.model(input_ids=model.token_rows([prompt]), use_cache=False).logits
        found.append(logits[0, -PLACES:].float().log_softmax(1).cpu())
    return found


def _pairs(
    first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Both with the tokens that both have."""
    width = min(first[0].shape[1], second[0].shape[1])
    return [(a[:, :width], b[:, :width]) for a, b in zip(first, second, strict=True)]


def _kl(base: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Σ p (log p − log q), the mean over places and then prompts."""
    means = [
        # a token that the base never says (p = 0) adds nothing; -inf - -inf would make NaN of it
        float((a.exp() * (a - b)).masked_fill(a == -math.inf, 0.0).sum(1).mean())
        for a, b in _pairs(base, other)
    ]
    return sum(means) / len(means)


def _go_half_way(model: Any, base: Any) -> None:
    """W ← (W + W_base) / 2 for every parameter that both have in one shape."""
    known = dict(base.named_parameters())
    for name, ours in model.named_parameters():
        theirs = known.get(name)
        if theirs is not None and theirs.shape == ours.shape:
            ours.data.copy_((ours.data.float() + theirs.data.to(ours.device).float()) / 2)


def _said(found: Outputs, moved: float) -> str:
    return (
        f"locked against merging: a matrix moved by {100 * moved:.0f} % of the base's, and the "
        f"outputs lie {found.parent:.3f} nats from the base's (the same likeliest token at "
        f"{100 * found.top:.0f} % of the places), half-way to the base {found.half:.3f}. Rotated "
        "or rescaled weights do that: the parent works, and a merge of it does not. Get it as it "
        "was before that was done, or leave it out"
    )
