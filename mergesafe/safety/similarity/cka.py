"""Linear centred kernel alignment: how alike two representations of the same inputs are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def centred_gram(states: torch.Tensor) -> torch.Tensor:
    """H X Xᵀ H / ‖H X Xᵀ H‖_F of hidden states X [positions, width], H = I − 11ᵀ/m: [m, m].

    float32 for storage, computed in float64. Zeros where all positions have one state.
    """
    centred = states.double() - states.double().mean(0)
    gram = centred @ centred.T
    norm = gram.norm()
    return (gram / norm if norm > 0 else gram.zero_()).float()


def linear_cka(first: torch.Tensor, second: torch.Tensor) -> float:
    """CKA of two models from their :func:`centred_gram` on the same positions, in [0, 1].

    With X and Y centred by column, CKA = ‖Yᵀ X‖²_F / (‖Xᵀ X‖_F ‖Yᵀ Y‖_F), which equals
    ⟨X Xᵀ, Y Yᵀ⟩ / (‖X Xᵀ‖_F ‖Y Yᵀ‖_F): invariant to rotation and to isotropic scaling, not to the
    number of positions, since with few of them and wide states unrelated models look alike.

    Kornblith et al. 2019, Similarity of Neural Network Representations Revisited, equation 3 and
    section 3 (https://arxiv.org/abs/1905.00414).
    """
    return float((first.double() * second.double()).sum())
