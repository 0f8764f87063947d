"""Models as they are after weight quantisation, which may take safety away that the merge kept.

The weights of every linear layer but the output layer are rounded to what the quantised format can
hold and back, in float32; activations keep the model's dtype. This is round-to-nearest as
compressed-tensors defines it for vLLM, without calibration (GPTQ and AWQ lose less):

==== ================================= ==========================================
int8 8-bit integers, symmetric         one scale a row: max |w| / 127.5
int4 4-bit integers, symmetric         one scale a group of 128 columns: max |w| / 7.5
fp8  float8 e4m3 (8 bits), symmetric   one scale a row: max |w| / 448
==== ================================= ==========================================

Where 128 does not divide the columns, a group is the largest of 64 and 32 that does, else a row.
What is no linear layer, such as embeddings, norms and fused experts, is left as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from mergesafe.chat.hf import HfModel
from mergesafe.errors import ArgumentError, ModelError, did_you_mean
from mergesafe.extras import install

if TYPE_CHECKING:
    import torch

SCHEMES: Final = ("int8", "int4", "fp8")
GROUPS: Final = (128, 64, 32)
_PACKAGE: Final = "compressed-tensors"


def check_schemes(schemes: Sequence[str]) -> None:
    """Refuse unknown schemes, and known ones without the package that they need.

    Raises:
        ArgumentError: there is no such scheme.
        ModelError: compressed-tensors is not installed.
    """
    for scheme in schemes:
        if scheme not in SCHEMES:
            raise ArgumentError(f"unknown quantisation {scheme!r}{did_you_mean(scheme, SCHEMES)}")
    if schemes:
        _package_version()


def _package_version() -> str:
    try:
        return version(_PACKAGE)
    except PackageNotFoundError:
        raise ModelError(
            f"measuring quantised models needs {_PACKAGE}: {install('quantize')}"
        ) from None


@dataclass
class QuantizedModel(HfModel):
    """A model whose linear layers hold weights that ``scheme`` can hold."""

    scheme: str = SCHEMES[0]

    @property
    def name(self) -> str:
        return f"{super().name} [{self.scheme}]"

    @cached_property
    def identity(self) -> str:
        """Of the model, the scheme and the release of what quantises."""
        whole = f"{super().identity} {self.scheme} {_package_version()}"
        return hashlib.sha256(whole.encode()).hexdigest()[:32]

    @cached_property
    def model(self) -> Any:
        """The model with rounded weights."""
        model = super().model
        quantize_linear_layers(model, self.scheme)
        return model


def quantize_linear_layers(model: Any, scheme: str) -> int:
    """Round the weights of all linear layers but the output layer; returns how many."""
    import torch

    output = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not output]
    for layer in layers:
        layer.weight.data.copy_(rounded(layer.weight.data, scheme))
    return len(layers)


def rounded(weight: torch.Tensor, scheme: str) -> torch.Tensor:
    """``weight``, quantised and dequantised, as float32."""
    from compressed_tensors.quantization import QuantizationArgs, fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    rows, columns = weight.shape
    group = next((g for g in GROUPS if columns % g == 0), None) if scheme == "int4" else None
    by_group = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    args = QuantizationArgs(
        num_bits=4 if scheme == "int4" else 8,
        type="float" if scheme == "fp8" else "int",
        symmetric=True,
        **by_group,
    )
    exact = weight.float()
    low, high = exact.view(rows, -1, group or columns).aminmax(dim=-1)
    scale, zero = calculate_qparams(low, high, args)
    simulated: torch.Tensor = fake_quantize(exact, scale, zero, args)
    return simulated
