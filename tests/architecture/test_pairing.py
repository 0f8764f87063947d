"""Two sets of names are paired by one constant prefix, as whole sets and with equal shapes."""

from __future__ import annotations

import pytest

from mergesafe.architecture.pairing import Rule, pair

Shape = tuple[int, ...]


def layers(prefix: str = "model.", count: int = 3, width: int = 4) -> dict[str, Shape]:
    names: dict[str, Shape] = {f"{prefix}embed_tokens.weight": (10, width)}
    for i in range(count):
        names[f"{prefix}layers.{i}.q.weight"] = (width, width)
        names[f"{prefix}layers.{i}.k.weight"] = (width, width)
        names[f"{prefix}layers.{i}.up.weight"] = (9, width)
    names[f"{prefix}norm.weight"] = (width,)
    return names


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("model.", "model.language_model."),
        ("model.language_model.", "model."),
        ("model.", ""),
        ("", "bert."),
        ("language_model.model.", "model.language_model."),
    ],
)
def test_one_prefix_for_another(ours: str, theirs: str) -> None:
    head = {"lm_head.weight": (10, 4)}
    found = pair({**layers(ours), **head}, {**layers(theirs), **head})
    assert (found.ours, found.theirs) == ([], [])
    for name in layers(""):
        assert found.stored[ours + name] == theirs + name
    assert found.stored["lm_head.weight"] == "lm_head.weight"
    assert len(found.rules) == 1
    assert found.ambiguous == ()


def test_a_larger_model_keeps_what_lies_beside() -> None:
    visual = {f"model.visual.blocks.{i}.qkv.weight": (12, 4) for i in range(3)}
    large = {**layers("model.language_model."), **visual}
    found = pair(layers(), large)
    assert (found.ours, found.theirs) == ([], list(visual))
    assert found.rules == [Rule("model.", "model.language_model.")]
    found = pair(large, layers())
    assert (found.ours, found.theirs) == (list(visual), [])


def test_both_layouts_of_a_vision_model() -> None:
    """Text, head, tower and projector each have their own rule."""
    old = {
        **layers("language_model.model."), "language_model.lm_head.weight": (10, 4),
        "vision_tower.blocks.0.w": (3, 3), "multi_modal_projector.linear.weight": (4, 3),
    }  # fmt: skip
    new = {
        **layers("model.language_model."), "lm_head.weight": (10, 4),
        "model.vision_tower.blocks.0.w": (3, 3),
        "model.multi_modal_projector.linear.weight": (4, 3),
    }  # fmt: skip
    found = pair(old, new)
    assert (found.ours, found.theirs) == ([], [])
    assert found.stored["vision_tower.blocks.0.w"] == "model.vision_tower.blocks.0.w"
    assert found.stored["language_model.lm_head.weight"] == "lm_head.weight"


def test_other_shapes_are_not_paired() -> None:
    found = pair(layers("model."), layers("", width=5))
    assert not found.stored
    assert not found.rules


def test_layers_of_different_numbers_are_not_paired() -> None:
    ours = {f"model.layers.{i}.q.weight": (4, 4) for i in (0, 1, 2)}
    theirs = {f"model.layers.{i}.q.weight": (4, 4) for i in (1, 2, 3)}
    found = pair(ours, theirs)
    assert (found.ours, found.theirs) == (["model.layers.0.q.weight"], ["model.layers.3.q.weight"])


def test_single_tensors_are_not_paired_by_chance() -> None:
    """Two models that each have a tensor of the same shape that the other lacks."""
    found = pair({**layers(), "a.weight": (4,)}, {**layers(), "b.weight": (4,)})
    assert (found.ours, found.theirs) == (["a.weight"], ["b.weight"])
    found = pair({**layers(), "norm.weight": (4,)}, {**layers(), "final.norm.weight": (4,)})
    assert (found.ours, found.theirs) == (["norm.weight"], ["final.norm.weight"])


def test_two_towers_of_equal_shapes_are_ambiguous() -> None:
    found = pair(layers("model."), {**layers("model.a."), **layers("model.b.")})
    assert found.ours == list(layers("model."))
    assert {rule.theirs for rule in found.ambiguous} == {"model.a.", "model.b."}


def test_old_spellings() -> None:
    ours = {"e.LayerNorm.weight": (4,), "e.LayerNorm.bias": (4,), "w": (1,)}
    theirs = {"e.LayerNorm.gamma": (4,), "e.LayerNorm.beta": (4,), "w": (1,)}
    for one, two in ((ours, theirs), (theirs, ours)):
        found = pair(one, two)
        assert (found.ours, found.theirs, found.renamed) == ([], [], 2)


def test_fourteen_thousand_names_are_paired_quickly() -> None:
    import time

    ours, theirs = layers("model.", 4600), layers("model.language_model.", 4600)
    started = time.process_time()
    found = pair(ours, theirs)
    assert len(found.stored) == len(ours)
    assert time.process_time() - started < 2
