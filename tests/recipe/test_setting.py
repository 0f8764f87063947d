"""Gradients and filters against formulas written independently of the implementation."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from mergesafe.recipe.setting import Branch, Setting

finite = st.floats(-1e6, 1e6)
position = st.floats(0.0, 1.0)


def gradient(*values: object, filter: str | None = None) -> Branch:
    return Branch(tuple(values), gradient=True, filter=filter)  # type: ignore[arg-type]


def exact(values: list[float], t: float) -> Fraction:
    """Piecewise linear interpolation through (k / (n - 1), values[k]), in exact arithmetic."""
    if len(values) == 1:
        return Fraction(values[0])
    step = Fraction(1, len(values) - 1)
    k = min(int(Fraction(t) / step), len(values) - 2)
    low, high = Fraction(values[k]), Fraction(values[k + 1])
    return low + (high - low) * (Fraction(t) - k * step) / step


@given(st.lists(finite, min_size=1, max_size=9), position)
def test_numbers_interpolate_linearly(values: list[float], t: float):
    found = Setting((gradient(*values),)).at("x", t)
    assert isinstance(found, float)
    scale = max(1.0, *(abs(value) for value in values))
    assert abs(Fraction(found) - exact(values, t)) <= Fraction(1e-14) * Fraction(scale)


@given(st.lists(finite, min_size=1, max_size=9))
def test_gradient_meets_its_values(values: list[float]):
    setting = Setting((gradient(*values),))
    assert setting.at("x", 0.0) == values[0]
    assert setting.at("x", 1.0) == values[-1]


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9), position)
def test_interpolation_stays_between_the_smallest_and_largest(values: list[float], t: float):
    found = Setting((gradient(*values),)).at("x", t)
    assert isinstance(found, float)
    assert 0.0 <= found <= 1.0


@given(st.lists(st.sampled_from([True, False, "l1", "l2"]), min_size=1, max_size=6), position)
def test_choices_pick_the_truncated_index(values: list[bool | str], t: float):
    assert Setting((gradient(*values),)).at("x", t) is values[int(t * (len(values) - 1))]


def test_first_matching_filter_wins_and_no_filter_takes_the_rest():
    setting = Setting(
        (Branch((1.0,), filter="mlp"), Branch((2.0,), filter="layers"), Branch((3.0,)))
    )
    assert setting.at("model.layers.0.mlp.up_proj.weight", 0.0) == 1.0
    assert setting.at("model.layers.0.self_attn.q_proj.weight", 0.0) == 2.0
    assert setting.at("lm_head.weight", 0.0) == 3.0


def test_no_match_is_none():
    setting = Setting((Branch((1.0,), filter="mlp"),))
    assert setting.at("lm_head.weight", 0.0) is None
    assert setting.filters == ("mlp",)
    assert not setting.varies_with_layer


def test_line_does_not_count_in_comparisons():
    assert Setting((Branch((1.0,)),), line=3) == Setting((Branch((1.0,)),), line=9)


def test_plain_form():
    assert Setting((Branch((1.0,)),)).plain == 1.0
    assert Setting((gradient(0.0, 1.0),)).plain == [0.0, 1.0]
    setting = Setting((gradient(0.0, 1.0, filter="mlp"), Branch((True,))))
    assert setting.plain == [{"filter": "mlp", "value": [0.0, 1.0]}, {"value": True}]
