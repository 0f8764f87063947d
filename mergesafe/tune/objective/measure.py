"""What a model does on the questions of a tuning run: rates by a judge, answers and likelihoods."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import torch

from mergesafe.chat.conversation import ChatModel, Sampling
from mergesafe.chat.hf import HfModel
from mergesafe.errors import ModelError
from mergesafe.recipe.model import ModelRef
from mergesafe.results.evaluation import Example
from mergesafe.results.evaluation import Role as EvaluationRole
from mergesafe.results.metrics import Kind
from mergesafe.results.tuning import Subset
from mergesafe.safety.evaluation.cache import Cache
from mergesafe.safety.evaluation.cached import BATCHES, CachedJudge, CachedModel
from mergesafe.safety.evaluation.measure import ask, result
from mergesafe.safety.evaluation.result import Figure
from mergesafe.safety.evaluation.sets import EvaluationSet
from mergesafe.safety.judges.base import Judge
from mergesafe.safety.refusal import CUT
from mergesafe.safety.statistics import CONFIDENCE
from mergesafe.tune.data.splits import Split
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.objective.constraints import RATES
from mergesafe.tune.search.trajectory import Trajectory, question
from mergesafe.tune.section.sections import Constraint, Role

Figures: TypeAlias = Mapping[str, Figure]
#: Questions of each set that are answered between two rounds of a search; all held-out ones at its
#: end.
SAMPLED: Final = 64
BATCH: Final = 32
#: Refusals show in the first words; answers of the domain sets must fit.
SAMPLING: Final = Sampling(max_new_tokens=96)
_ROLES: Final[Mapping[Role, EvaluationRole]] = {
    "safety": "unsafe", "harmless": "harmless", "domain": "domain",
}  # fmt: skip


class _Kept(msgspec.Struct):
    """A figure in the state of a run, which others may have written."""

    kind: Kind
    outcomes: list[Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]]

    def __post_init__(self) -> None:
        if self.kind == "rate" and not all(0 <= each <= 1 for each in self.outcomes):
            raise ValueError("a rate has outcomes beyond 0 and 1")


@dataclass(frozen=True)
class Measurer:
    """Measures models on the sets that ``constraints`` are about, and keeps what it found."""

    splits: Sequence[Split]
    constraints: Sequence[Constraint]
    judge: Judge
    trajectory: Trajectory
    folder: Path
    device: str

    def tuned(self, merged: MergedModel, x: torch.Tensor, subset: Subset) -> Figures:
        """The figures of the merged model at ``x``."""

        def compute() -> Figures:
            with merged.at(x) as model:
                return self._measure(model, subset)

        return self._kept(question(x, f"{subset} figures"), compute)

    def model(self, ref: ModelRef, subset: Subset) -> Figures:
        """The figures of one of the recipe's models."""
        digest = hashlib.sha256(ref.text.encode()).hexdigest()[:32]
        model = HfModel(ref, device=self.device, batch=BATCH, folder=self.folder)
        return self._kept(f"{subset} figures of {digest}", lambda: self._measure(model, subset))

    def _kept(self, key: str, compute: Any) -> Figures:
        def plain() -> dict[str, Any]:
            return {
                name: {"kind": each.kind, "outcomes": list(each.outcomes)}
                for name, each in compute().items()
            }

        kept = self.trajectory.answer(key, plain)
        try:
            figures = msgspec.convert(kept, dict[str, _Kept])
        except (msgspec.ValidationError, ValueError) as error:
            raise self.trajectory.damaged(str(error)) from None
        return {name: Figure.of(each.kind, each.outcomes) for name, each in figures.items()}

    def _measure(self, model: ChatModel, subset: Subset) -> Figures:
        cache = Cache()
        cached = CachedModel(model, cache, BATCHES * BATCH)
        judge = CachedJudge(self.judge, cache, SAMPLED)
        try:
            asked = ask(cached, self._sets(subset), [judge], [SAMPLING])
        finally:
            cache.close()
        found = result(model.name, model.identity, asked, [judge.name], CONFIDENCE)
        _check_answered(model.name, found.examples)
        return found.figures

    def _sets(self, subset: Subset) -> list[EvaluationSet]:
        """The sets that a constraint is about."""
        roles = {RATES[c.metric] for c in self.constraints if c.metric in RATES}
        names = {c.data_set for c in self.constraints}
        found = []
        for split in self.splits:
            if split.about.role not in roles and split.name not in names:
                continue
            records = split.heldout if subset == "heldout" else split.train[:SAMPLED]
            role = _ROLES[split.about.role]
            found.append(EvaluationSet(split.name, role, str(split.path), split.digest, records))
        return found


def _check_answered(name: str, examples: Sequence[Example]) -> None:
    """Refuse to steer by answers that most often were not reached.

    Raises:
        ModelError: most responses ended inside their reasoning.
    """
    cut = sum(each.undecided == CUT for each in examples)
    if cut > len(examples) / 2:
        raise ModelError(
            f"{name}: {cut} of {len(examples)} responses ended inside their reasoning, before any "
            f"answer, within the {SAMPLING.max_new_tokens} tokens that tune allows. Its rates and "
            "right answers say nothing, so no constraint can be held to them. Leave out the "
            "constraints, or use a chat template that does not open the reasoning"
        )
