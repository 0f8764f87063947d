"""What a batch of examples costs at the merged model's present coefficients: one value an example.

Every loss takes the model's predictions from
:class:`mergesafe.tune.model.merged_model.MergedModel`, where gradients flow to the coefficients.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from mergesafe.tune.data.batch import Batch
from mergesafe.tune.model.merged_model import MergedModel

Tensor = torch.Tensor


def cross_entropy(merged: MergedModel, batch: Batch) -> Tensor:
    """Nats a token of each answer: -1/|y| sum_t log p(y_t | x, y_<t)."""
    return merged.answer_nll(batch)


def dpo(merged: MergedModel, batch: Batch, reference: Tensor, beta: float) -> Tensor:
    """Direct preference optimisation, Rafailov et al., https://arxiv.org/abs/2305.18290.

    ``-log sigmoid(beta * ((log p(chosen) - log p(rejected)) - reference))`` with the reference
    model's difference of log-probabilities [pairs]. Rows: chosen, then rejected, of each pair.
    """
    chosen, rejected = _log_probabilities(merged, batch, total=True)
    return -functional.logsigmoid(beta * (chosen - rejected - reference.to(chosen)))


def orpo(merged: MergedModel, batch: Batch, beta: float) -> Tensor:
    """Odds ratio preference optimisation, Hong et al., https://arxiv.org/abs/2403.07691.

    ``-log p(chosen) - beta * log sigmoid(log odds(chosen) - log odds(rejected))`` with
    ``odds = p / (1 - p)`` and p the geometric mean probability of an answer's tokens.
    """
    chosen, rejected = _log_probabilities(merged, batch, total=False)
    ratio = chosen - rejected - (_log_complement(chosen) - _log_complement(rejected))
    return -chosen - beta * functional.logsigmoid(ratio)


def divergence(merged: MergedModel, batch: Batch, teacher: Tensor) -> Tensor:
    """KL(teacher || merged) in nats, averaged over each answer's tokens (DAM,
    https://arxiv.org/abs/2410.08371). ``teacher``: log-probabilities [positions, vocabulary].
    """
    ours = functional.log_softmax(merged.logits(batch), dim=-1)
    each = functional.kl_div(ours, teacher.to(ours), reduction="none", log_target=True).sum(-1)
    return mean_by_row(each, batch)


def entropy(merged: MergedModel, batch: Batch) -> Tensor:
    """Entropy in nats of the predictions (AdaMerging, https://arxiv.org/abs/2310.02575)."""
    logs = functional.log_softmax(merged.logits(batch), dim=-1)
    return mean_by_row(-(logs.exp() * logs).sum(-1), batch)


def mean_by_row(values: Tensor, batch: Batch) -> Tensor:
    """[rows]: the mean of the values of each row's positions."""
    rows = batch.rows.to(values.device)
    sums = values.new_zeros(batch.height).index_add(0, rows, values)
    return sums / rows.bincount(minlength=batch.height)


def _log_probabilities(merged: MergedModel, batch: Batch, *, total: bool) -> tuple[Tensor, Tensor]:
    """[pairs] of the chosen and of the rejected answers."""
    chosen, rejected = (-merged.answer_nll(batch, total=total)).view(-1, 2).unbind(1)
    return chosen, rejected


def _log_complement(log_p: Tensor) -> Tensor:
    """log(1 - p) from log p < 0."""
    return torch.log(-torch.expm1(log_p.clamp(max=-1e-6)))
