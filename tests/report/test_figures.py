"""Scales, places of labels, and what figures draw."""

from __future__ import annotations

import itertools
import random
import re
import time
import xml.etree.ElementTree as ET

import pytest

from mergesafe.report.figures.axes import fitted_axis
from mergesafe.report.figures.groups import labels, panels
from mergesafe.report.figures.heat import around, around_one, from_zero, heat_map
from mergesafe.report.figures.intervals import intervals
from mergesafe.report.figures.lines import line_chart
from mergesafe.report.figures.placement import Box, place
from mergesafe.report.figures.plane import Direction, Point, plane
from mergesafe.report.figures.svg import Figure, fit, text_width
from mergesafe.report.measure import Measure


def parsed(markup: str) -> ET.Element:
    return ET.fromstring(markup)


def texts(markup: str) -> list[str]:
    return [element.text or "" for element in parsed(markup).iter("text")]


@pytest.mark.parametrize(
    "values", [[0.0], [5.0, 5.0], [-1e-9, 1e-9], [0.2, 0.9], [-3, 1e6], [1e300, -1e300]]
)
def test_axes_hold_their_values_between_round_ticks(values: list[float]) -> None:
    axis = fitted_axis(values, 0, 100)
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert 2 <= len(axis.ticks) <= 8
    assert all(0 <= axis.at(value) <= 100 for value in values)


@pytest.mark.parametrize("seed", range(20))
def test_labels_never_overlap(seed: int) -> None:
    """Ten names as long as figures allow, half of the points at one place."""
    chance = random.Random(seed)
    corner = (chance.uniform(44, 330), chance.uniform(30, 270))
    points = [
        corner if i % 2 else (chance.uniform(44, 330), chance.uniform(30, 270)) for i in range(10)
    ]
    sizes = [(chance.uniform(20, 168), 14.0) for _ in points]
    bounds = Box(46, 22, 330, 268)
    taken = [Box(280, 100, 330, 114)]
    boxes = place(points, sizes, bounds=bounds, taken=taken)
    for i, box in enumerate(boxes):
        assert bounds.x1 <= box.x1 <= box.x2 <= bounds.x2
        assert bounds.y1 <= box.y1 <= box.y2 <= bounds.y2
        for other in [*boxes[:i], *taken]:
            assert box.overlap(other) == 0


def test_labels_stay_near_where_there_is_room() -> None:
    (box,) = place([(100, 100)], [(40, 14)], bounds=Box(0, 0, 300, 300))
    assert (box.x1, (box.y1 + box.y2) / 2) == (109, 100)


def test_names_are_escaped_and_made_printable() -> None:
    name = "<script>alert('x')</script>\u202e\x00&amp;"
    figure = Figure("i", name, name, 10)
    figure.text(0, 0, name)
    markup = str(figure.markup())
    assert "<script" not in markup
    assert "\u202e" not in markup
    assert texts(markup) == ["<script>alert('x')</script>\\u202e\\x00&amp;"]


def test_fitted_text_is_no_wider_than_asked() -> None:
    for text in ("a" * 300, "WWW" * 50, "漢字" * 40, "short"):
        assert text_width(fit(text, 100)) <= 100
    assert fit("short", 100) == "short"


def test_a_name_of_a_million_characters_is_fitted_in_no_time() -> None:
    began = time.process_time()
    for name in ("a" * 1_000_000, "i" * 1_000_000, "\u4e00" * 100_000):
        assert 0.5 * 100 < text_width(fit(name, 100)) <= 100
    assert time.process_time() - began < 5


def test_plane_shows_every_point_and_interval() -> None:
    rate = Measure(0.5, 0.4, 0.6)
    points = [Point("base", rate, rate, "base"), Point("merge", rate, Measure(0.2), "merge")]
    markup = plane("p", "t", "d", points, Direction("x", True), Direction("y", True), required=0.9)
    assert {"base", "merge", "required"} <= set(texts(markup))
    bars = [e for e in parsed(markup).iter("path") if (e.get("class") or "").startswith("bar")]
    assert len(bars) == 3


def test_many_points_are_numbered() -> None:
    points = [Point(f"model {i}", Measure(i / 20), Measure(i / 20)) for i in range(14)]
    markup = plane("p", "t", "d", points, Direction("x", True), Direction("y", True))
    assert {str(i + 1) for i in range(14)} <= set(texts(markup))
    assert "model 3" not in texts(markup)


def test_better_is_to_the_right() -> None:
    points = [Point("a", Measure(1.0), Measure(0.5)), Point("b", Measure(2.0), Measure(0.5))]
    markup = plane(
        "p", "t", "d", points, Direction("NLL", False, lower_is_better=True), Direction("y", True)
    )
    a, b = (float(c.get("cx", "")) for c in parsed(markup).iter("circle"))
    assert a > b


def test_scales_reach_their_values() -> None:
    rows = [("r", [0.02, -0.13, None, 0.2])]
    scale = around(0, rows)
    assert (scale.low, scale.high) == (-0.2, 0.2)
    assert scale.step(0.0) == scale.steps // 2
    assert (scale.step(-0.2), scale.step(0.2)) == (0, scale.steps - 1)
    assert from_zero([("r", [0.0, 4.1])]).high == 5
    assert from_zero([("r", [None])]).high == 1
    ratio = around_one([("r", [1.0, -0.5])])
    assert (ratio.label(ratio.low), ratio.label(ratio.high)) == ("0.5", "2")


def test_warm_colours_are_for_what_harms() -> None:
    scale = around(0, [("r", [-1.0, 1.0])], flipped=True)
    assert scale.style(scale.step(-1.0)) == f"d{scale.steps - 1}"


def test_a_heat_map_of_thousands_of_cells_is_small() -> None:
    chance = random.Random(0)
    rows = [(f"pair {i}", [chance.random() for _ in range(80)]) for i in range(15)]
    markup = heat_map("h", "t", "d", rows, [str(i) for i in range(80)], from_zero(rows))
    assert len(markup) < 45_000  # 1200 cells
    assert sum(text.startswith("pair") for text in texts(markup)) == 15


def test_missing_cells_are_told_apart_from_zero() -> None:
    rows = [("r", [0.0, None])]
    markup = heat_map("h", "t", "d", rows, ["0", "1"], from_zero(rows))
    styles = {e.get("class") for e in parsed(markup).iter("path")}
    assert {"cell q0", "cell missing"} <= styles


def test_few_cells_hold_their_numbers() -> None:
    rows = [("r", [0.25, 0.5])]
    markup = heat_map("h", "t", "d", rows, ["early", "late"], from_zero(rows))
    assert {"0.25", "0.5", "early", "late"} <= set(texts(markup))


def test_column_labels_do_not_overlap() -> None:
    columns = ["embed_tokens", *(str(i) for i in range(80)), "norm"]
    rows = [("r", [0.0] * len(columns))]
    root = parsed(heat_map("h", "t", "d", rows, columns, from_zero(rows)))
    ends = sorted(
        (float(e.get("x", "")) - text_width(e.text or "") / 2, text_width(e.text or ""))
        for e in root.iter("text")
        if e.get("class") == "tick" and e.text in columns and float(e.get("y", "")) < 60
    )
    assert len(ends) > 5
    assert {"10", "20", "70"} <= {e.text for e in root.iter("text")}
    for (left, width), (next_left, _) in itertools.pairwise(ends):
        assert left + width <= next_left


def test_groups_of_layers_are_named_by_number() -> None:
    groups = ["model.embed_tokens", "model.layers.0", "model.layers.10", "lm_head"]
    assert labels(groups) == ["embed_tokens", "0", "10", "lm_head"]
    assert labels(["model.layers.0-3"]) == ["0-3"]
    assert labels(["vision.blocks.0", "model.layers.0"]) == ["vision.blocks.0", "model.layers.0"]
    assert labels(["model"]) == ["model"]


def test_single_tensors_are_laid_out_by_kind_and_layer() -> None:
    groups = [
        "model.embed_tokens.weight",
        *(f"model.layers.{i}.{kind}.weight" for i in (0, 1, 10) for kind in ("mlp.up", "attn.q")),
    ]
    rows = [("one", [float(i) for i in range(7)]), ("two", [float(-i) for i in range(7)])]
    one, two, rest = panels(rows, groups)
    assert (one.about, two.about, rest.about) == ("one", "two", "elsewhere")
    assert one.columns == ["0", "1", "10"]
    assert one.rows == [("mlp.up", [1.0, 3.0, 5.0]), ("attn.q", [2.0, 4.0, 6.0])]
    assert (rest.rows, rest.columns) == ([("one", [0.0]), ("two", [0.0])], ["embed_tokens"])


def test_intervals_say_the_figure() -> None:
    rows = [("m", "merge", Measure(0.5, 0.4, 0.6)), ("n", "model", Measure(None))]
    assert "50 % [40, 60]" in texts(intervals("i", "t", "d", rows, share=True))


def test_long_searches_stay_small_and_keep_their_extremes() -> None:
    steps = [(i, 1.0) for i in range(100_000)]
    steps[54_321] = (54_321, 9.0)
    markup = line_chart("l", "t", "d", [steps])
    assert len(markup) < 40_000
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", markup)]
    assert min(heights) < 30  # the peak is near the top
    assert len(heights) > 300


def test_a_search_of_two_steps() -> None:
    assert "2.00" in texts(line_chart("l", "t", "d", [[(0, 1.0), (1, 2.0)]]))


def test_runs_of_a_search_are_lines_of_their_own() -> None:
    markup = line_chart("l", "t", "d", [[(0, 1.0), (1, 2.0)], [(2, 1.0), (3, 3.0)]])
    traces = [e for e in parsed(markup).iter("path") if e.get("class") == "trace"]
    assert len(traces) == 2
    assert {"1", "4", "3.00"} <= set(texts(markup))


def test_a_number_in_a_name_is_no_layer_and_towers_keep_the_name_of_their_stack() -> None:
    groups = [
        "model.language_model.layers.0.mlp.up.weight", "model.visual.blocks.0.mlp.up.weight",
        "score.dense.2.weight",
    ]  # fmt: skip
    one, rest = panels([("one", [1.0, 2.0, 3.0])], groups)
    assert one.rows == [("mlp.up", [1.0, 2.0])]
    assert one.columns == ["0", "model.visual.blocks.0"]
    assert rest.rows == [("one", [3.0])]
