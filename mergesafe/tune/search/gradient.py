"""The gradient search: Adam on the coefficients, clamped to their bounds, with early stopping.

AdaMerging (Yang et al., https://arxiv.org/abs/2310.02575) learns layer-wise coefficients so, from
entropy; here any objective serves. Adam: Kingma & Ba, https://arxiv.org/abs/1412.6980, by torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from mergesafe.errors import ArgumentError
from mergesafe.tune.model.granularity import Granularity
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.model.tensor_function import check_differentiable
from mergesafe.tune.objective.evaluation import Evaluates, Evaluation
from mergesafe.tune.search.problem import Problem
from mergesafe.tune.section.sections import SearchSpec

#: Step sizes that suit coefficients in [0, 1]: the fewer tensors share one, the smaller.
RATES: Final = {"model": 0.05, "lines": 0.05, "block": 0.05, "layer": 0.05, "tensor": 0.03}

#: Names of the moments in a saved search.
_MOMENTS: Final = ("mean", "square")


@dataclass(frozen=True)
class Options:
    """``rate``: Adam's step size, by default that of the granularity. ``check_every``: steps
    between two evaluations of the held-out objective. ``patience``: how many of them in a row may
    fail to improve by ``min_gain``, relative, before the search stops.
    """

    rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    check_every: int = 5
    patience: int = 4
    min_gain: float = 1e-3


@dataclass(frozen=True)
class Step:
    """One step: the objective before it, and the held-out value after it where one was due."""

    number: int
    evaluation: Evaluation
    held_out: float | None
    finished: bool


class GradientSearch:
    """Adam from ``x``, one :meth:`step` at a time.

    The trajectory depends on the objective, the options and ``x`` alone, so a search that is
    restored from :meth:`state_dict` goes on as the one that was saved would have.

    Args:
        objective: what is minimised.
        space: the coefficients.
        x: where to begin; by default the recipe's values.
        held_out: an objective over other data; with it, :attr:`best` is the best of those checked,
            and the search stops early.
        options: see :class:`Options`.

    Raises:
        TuningError: method or coefficients have no gradient; names the searches that work.
    """

    def __init__(
        self,
        objective: Evaluates,
        space: CoefficientSpace,
        *,
        x: torch.Tensor | None = None,
        held_out: Evaluates | None = None,
        options: Options | None = None,
    ) -> None:
        check_differentiable(space)
        self.objective, self.space, self.held_out = objective, space, held_out
        self.options = options or Options()
        if self.options.check_every < 1:
            raise ArgumentError(f"check_every is {self.options.check_every}; expected at least 1")
        kind = Granularity.parse(space.granularity).kind
        self.rate = RATES[kind] if self.options.rate is None else self.options.rate
        self.x = space.clamp(space.initial() if x is None else x.detach().to(torch.float64))
        self.number = 0
        self.finished = False
        self.best, self.best_value = self.x.clone(), math.inf
        self._point = self.x.clone()
        # One tensor and no fused kernel: the same bits on every machine and after every resume.
        self._adam = torch.optim.Adam(
            [self._point],
            lr=self.rate,
            betas=self.options.betas,
            eps=self.options.eps,
            foreach=False,
            fused=False,
        )
        self._failed = 0

    def step(self) -> Step:
        """Evaluate at :attr:`x`, move it, and check the held-out objective where that is due.

        Raises:
            LossError: the loss is not finite; the search is as before the step.
        """
        evaluation = self.objective.evaluate(self.x, grad=True, step=self.number)
        if evaluation.gradient is None:
            raise AssertionError("an objective that was asked for a gradient has none")
        held_out = None
        with self._moved(evaluation.gradient) as moved:
            if self.held_out is not None and (self.number + 1) % self.options.check_every == 0:
                held_out = self.held_out.evaluate(moved, grad=False).value
        self.x = moved
        self.number += 1
        self._judge(held_out)
        return Step(self.number, evaluation, held_out, self.finished)

    @contextmanager
    def _moved(self, gradient: torch.Tensor) -> Iterator[torch.Tensor]:
        """The coefficients after the optimiser's step, which an error within the block undoes."""
        before = self._point.clone(), deepcopy(self._adam.state_dict())
        self._point.grad = gradient
        self._adam.step()
        self._point.copy_(self.space.clamp(self._point))
        try:
            yield self._point.clone()
        except BaseException:
            self._point.copy_(before[0])
            self._adam.load_state_dict(before[1])
            raise

    def _judge(self, held_out: float | None) -> None:
        if self.held_out is None:
            self.best = self.x
            return
        if held_out is None:
            return
        gain = self.options.min_gain * abs(self.best_value) if self.best_value < math.inf else 0.0
        self._failed = 0 if held_out < self.best_value - gain else self._failed + 1
        if held_out < self.best_value:
            self.best, self.best_value = self.x.clone(), held_out
        self.finished = self._failed >= self.options.patience

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as plain numbers; JSON keeps it exactly."""
        return {
            "options": asdict(self.options),
            "number": self.number,
            "finished": self.finished,
            "failed": self._failed,
            "best_value": None if math.isinf(self.best_value) else self.best_value,
            "x": self.x.tolist(),
            "best": self.best.tolist(),
            **{key: each.tolist() for key, each in zip(_MOMENTS, self._moments(), strict=True)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ArgumentError: the state is of another search: other options or number of coefficients.
        """
        options = asdict(self.options)
        saved = {**state["options"], "betas": tuple(state["options"]["betas"])}
        if saved != options or len(state["x"]) != self.space.size:
            raise ArgumentError(
                f"the saved search has {len(state['x'])} coefficients and the options {saved}; "
                f"this one has {self.space.size} and {options}. Start afresh, or restore the recipe"
            )
        self.number, self.finished = int(state["number"]), bool(state["finished"])
        self._failed = int(state["failed"])
        best = state["best_value"]
        self.best_value = math.inf if best is None else float(best)
        self.x, self.best, mean, square = (
            torch.tensor(state[key], dtype=torch.float64) for key in ("x", "best", *_MOMENTS)
        )
        self._point.copy_(self.x)
        moments = {
            "step": torch.tensor(float(self.number)), "exp_avg": mean, "exp_avg_sq": square,
        }  # fmt: skip
        groups = self._adam.state_dict()["param_groups"]
        self._adam.load_state_dict(
            {"state": {0: moments} if self.number else {}, "param_groups": groups}
        )

    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Running means of the gradient and of its square."""
        kept = self._adam.state.get(self._point)
        if not kept:
            return torch.zeros_like(self.x), torch.zeros_like(self.x)
        return kept["exp_avg"], kept["exp_avg_sq"]


def check_gradient(space: CoefficientSpace, spec: SearchSpec) -> None:
    """Refuse coefficients and methods without a gradient.

    Raises:
        TuningError: there is none; names the searches that work.
    """
    check_differentiable(space)


def gradient(problem: Problem, start: torch.Tensor, spec: SearchSpec) -> torch.Tensor:
    """Adam on the coefficients.

    With ``patience`` the objective on all examples is evaluated every ``check_every`` steps, the
    search stops when it does not fall any more, and its lowest point counts, or the mean of the
    points of the later half if that is lower still: steps on few examples are noisy, and their
    noise averages out (Polyak & Juditsky, SIAM Journal on Control and Optimization 30(4), 1992). It
    is not evaluated on held-out data: what is chosen on them cannot be verified on them.
    """
    patience = int(spec.number("patience"))
    options = Options(
        rate=spec.number("rate") or None,
        patience=patience,
        check_every=int(spec.number("check_every")),
    )
    whole = problem.whole if patience else None
    search = GradientSearch(problem.batch, problem.space, x=start, held_out=whole, options=options)
    meter = problem.meter(spec.budget)
    points = [search.x]
    while not search.finished and meter.step():
        step = search.step()
        points.append(search.x)
        problem.note("gradient", step.number, step.evaluation)
    if not patience:
        return search.x
    checked = [search.best] if search.best_value < float("inf") else []
    mean = torch.stack(points[len(points) // 2 :]).mean(0)
    return problem.best([*checked, search.x, mean])
