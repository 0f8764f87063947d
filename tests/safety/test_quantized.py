"""Weight quantisation: by hand, and on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from chatty import save_chat_model

from mergesafe.chat.conversation import Sampling, question
from mergesafe.chat.hf import HfModel
from mergesafe.errors import ModelError
from mergesafe.safety.evaluation.api import evaluate
from mergesafe.safety.evaluation.quantized import (
    QuantizedModel,
    check_schemes,
    quantize_linear_layers,
    rounded,
)

pytest.importorskip("compressed_tensors")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("tiny"))


def test_int8_has_a_scale_a_row() -> None:
    """Row one has scale 1, so its values are rounded to whole numbers, half to even; row two 2."""
    weight = torch.tensor([[127.5, 0.5, 1.5, -0.6], [255.0, 0.9, 3.1, -255.0]])
    expected = torch.tensor([[127.0, 0.0, 2.0, -1.0], [254.0, 0.0, 4.0, -256.0]])
    assert torch.equal(rounded(weight, "int8"), expected)


def test_int4_has_a_scale_a_group() -> None:
    """64 columns are two groups of 32... or one of 64: the largest that divides them."""
    weight = torch.zeros(1, 64)
    weight[0, 0], weight[0, 1], weight[0, 40] = 7.5, 1.2, 0.4
    whole = rounded(weight, "int4")
    assert whole[0, [0, 1, 40]].tolist() == [7.0, 1.0, 0.0]
    two = rounded(torch.cat([weight, torch.zeros(1, 32)], 1), "int4")  # 96 columns: groups of 32
    assert two[0, [0, 1]].tolist() == [7.0, 1.0]
    assert two[0, 40] == pytest.approx(0.4 / 7.5 * 7)  # its own group's largest


def test_fp8_keeps_three_bits_of_mantissa() -> None:
    weight = torch.tensor([[448.0, 1.0625, 1.06, 17.0]])  # scale 1
    assert rounded(weight, "fp8")[0].tolist() == [448.0, 1.0, 1.0, 16.0]


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8"])
def test_rows_of_zeros_and_odd_shapes(scheme: str) -> None:
    weight = torch.zeros(3, 5, dtype=torch.bfloat16)
    assert torch.equal(rounded(weight, scheme), torch.zeros(3, 5))


@pytest.mark.parametrize(("scheme", "most"), [("int8", 1 / 255), ("int4", 1 / 15), ("fp8", 1 / 16)])
def test_error_is_at_most_half_a_step(scheme: str, most: float) -> None:
    """Relative to the largest of a row; fp8 relative to each value, by 4 significant bits."""
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    error = (rounded(weight, scheme) - weight).abs()
    scale = weight.abs() if scheme == "fp8" else weight.abs().amax(1, keepdim=True)
    # float8's subnormals have a step of their own, 2⁻⁹ of the scale max/448.
    floor = weight.abs().amax() / 448 * 2**-10 if scheme == "fp8" else 0
    assert bool((error <= (scale * most).clamp(min=floor) * (1 + 1e-5)).all())


def test_linear_layers_change_and_nothing_else(tiny: Path) -> None:
    plain, quantized = HfModel(str(tiny)), QuantizedModel(str(tiny), scheme="int4")
    before, after = plain.model.state_dict(), quantized.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "proj" in name}
    assert quantized.name == f"{tiny} [int4]"
    assert len({plain.identity, quantized.identity, QuantizedModel(str(tiny)).identity}) == 3


def test_what_is_said_is_said_with_the_rounded_weights(tiny: Path) -> None:
    plain, quantized = HfModel(str(tiny)), QuantizedModel(str(tiny), scheme="int4")
    asked, sampling = [question("Hi")], Sampling(max_new_tokens=8)
    said = quantized.respond(asked, sampling)
    assert said != plain.respond(asked, sampling)
    quantize_linear_layers(plain.model, "int4")
    assert said == plain.respond(asked, sampling)


def test_models_are_measured_again(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("How?\n")
    found = evaluate(
        {"tiny": str(tiny)}, unsafe=tmp_path / "q.txt", quantize=("int8", "fp8"), max_new_tokens=2
    )
    assert [model.name for model in found.models] == ["tiny", "tiny [int8]", "tiny [fp8]"]


def test_the_package_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesafe.safety.evaluation.quantized._PACKAGE", "no-such-package")
    with pytest.raises(ModelError, match=r"\.\[quantize\]"):
        check_schemes(["int8"])
    check_schemes([])
