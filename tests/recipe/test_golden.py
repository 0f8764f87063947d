"""Realistic recipes load with the values their authors meant, at several tensors and layers."""

from pathlib import Path
from typing import Any

import pytest

from mergesafe.recipe import Recipe, load_recipe, settings_for

GOLDEN = Path(__file__).parent / "golden"
ATTN = "model.layers.3.self_attn.q_proj.weight"
OUT = "model.layers.3.self_attn.o_proj.weight"
DOWN = "model.layers.3.mlp.down_proj.weight"
NORM = "model.norm.weight"
EMBED = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

#: recipe -> rows of (tensor, t, parameter, one value per input, or the shared value).
VALUES: dict[str, list[tuple[str, float, str, Any]]] = {
    "linear": [(ATTN, 0.5, "weight", [1.0, 0.3, 0.5]), (ATTN, 0.5, "normalize", True)],
    "slerp": [
        (ATTN, 0.0, "t", 0.0),
        (ATTN, 0.25, "t", 0.5),
        (ATTN, 0.375, "t", 0.4),
        (ATTN, 1.0, "t", 1.0),
        (DOWN, 0.0, "t", 1.0),
        (NORM, 1.0, "t", 0.5),
    ],
    "slerp_unlisted_base": [(ATTN, 0.0, "t", 0.25)],
    "ties": [
        (ATTN, 0.0, "density", [1.0, 0.5, 0.33]),
        (ATTN, 0.75, "density", [0.4, 0.5, 0.33]),
        (ATTN, 0.5, "weight", [1.0, 0.5, 0.0]),
        (DOWN, 1.0, "weight", [1.0, 1.0, 0.5]),
        (DOWN, 1.0, "normalize", True),
        (DOWN, 1.0, "rescale", False),
    ],
    "dare_ties": [
        (ATTN, 0.5, "weight", [0.4, 0.3]),
        (ATTN, 0.5, "density", [0.53, 0.53]),
        (ATTN, 0.5, "rescale", True),
        (ATTN, 0.5, "normalize", False),
    ],
    "dare_linear": [
        (ATTN, 0.5, "weight", [0.5, 0.001]),
        (ATTN, 0.5, "density", [0.2, 0.75]),
        (ATTN, 0.5, "rescale", False),
        (ATTN, 0.5, "lambda", 1.1),
    ],
    "task_arithmetic": [
        (ATTN, 0.5, "weight", [-0.5, 1.0]),
        (ATTN, 0.0, "lambda", 0.5),
        (ATTN, 0.5, "lambda", 1.0),
        (ATTN, 1.0, "lambda", 1.5),
    ],
    "breadcrumbs": [
        (ATTN, 0.5, "weight", [0.6, 0.4, 0.6]),
        (ATTN, 0.5, "density", [0.9, 0.9, 0.9]),
        (ATTN, 0.5, "gamma", [0.02, 0.02, 0.02]),
    ],
    "breadcrumbs_ties": [
        (ATTN, 0.5, "density", [0.9, 0.9]),
        (EMBED, 0.0, "density", [0.9, 1.0]),
        (HEAD, 0.0, "normalize", False),
        (ATTN, 0.5, "normalize", True),
        (ATTN, 0.5, "gamma", [0.01, 0.01]),
    ],
    "passthrough": [
        (OUT, 0.5, "scale", [0.0]),
        (DOWN, 0.25, "scale", [0.25]),
        (ATTN, 0.25, "scale", [1.0]),
    ],
    "elect_count": [
        (ATTN, 0.0, "elect", "count"),
        (ATTN, 0.0, "rescale", True),
        (ATTN, 0.5, "rescale", "l2"),
        (ATTN, 0.99, "rescale", "l2"),
        (ATTN, 1.0, "rescale", "inverse_density"),
    ],
}

INPUTS = {
    "linear": [
        "psmathur/orca_mini_v3_13b",
        "garage-bAInd/Platypus2-13B",
        "WizardLM/WizardLM-13B-V1.2",
    ],
    "slerp": ["mistralai/Mistral-7B-Instruct-v0.2", "teknium/OpenHermes-2.5-Mistral-7B"],
    "slerp_unlisted_base": ["./base", "./chat"],
    "dare_ties": ["samir-fama/SamirGPT-v1", "abacusai/Slerp-CM-mist-dpo"],
    "task_arithmetic": [
        "{model: {path: toxic+loud}, lora: {path: adapters/toxic}}",
        "helpful+adapters/helpful",
    ],
    "passthrough": ["base+adapter"],
}


def golden(name: str) -> Recipe:
    return load_recipe(GOLDEN / f"{name}.yml")


def test_every_golden_recipe_has_expected_values():
    assert {path.stem for path in GOLDEN.glob("*.yml")} == set(VALUES)


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str):
    recipe = golden(name)
    assert recipe.method.name == recipe.merge_method
    for tensor, t, parameter, expected in VALUES[name]:
        settings = settings_for(recipe, tensor, t)
        if isinstance(expected, list):
            assert settings.column(parameter) == pytest.approx(expected, rel=1e-15)
        elif isinstance(expected, float):
            assert settings.shared[parameter] == pytest.approx(expected, rel=1e-15)
        else:
            assert settings.shared[parameter] is expected or isinstance(expected, str)
            assert settings.shared[parameter] == expected


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name: str):
    assert [ref.text for ref in golden(name).inputs] == INPUTS[name]


def test_types_names_and_tokenizers():
    assert (golden("dare_ties").dtype, golden("dare_ties").out_dtype) == ("BF16", "F32")
    assert (golden("linear").dtype, golden("linear").out_dtype) == ("F16", None)
    assert golden("task_arithmetic").name == "detox"
    assert golden("slerp").tokenizer_source == "base"
    assert golden("passthrough").tokenizer_source == "base+adapter"
    assert golden("ties").tokenizer_source is None


def test_adapters_in_both_forms():
    toxic, helpful = golden("task_arithmetic").inputs
    assert (toxic.path, toxic.adapter, toxic.line) == ("toxic+loud", "adapters/toxic", 9)
    assert (helpful.path, helpful.adapter, helpful.line) == ("helpful", "adapters/helpful", 12)


def test_warnings_name_what_has_no_effect():
    with_mask = {name for name in VALUES if golden(name).warnings}
    assert with_mask == {"ties", "dare_ties"}
    (warning,) = golden("ties").warnings
    assert warning == f"{GOLDEN}/ties.yml:21: 'int8_mask' is accepted but has no effect for ties"


def test_text_is_the_file_as_read():
    recipe = golden("ties")
    assert recipe.source is not None
    assert recipe.text == recipe.source.read_text()
    assert recipe.folder == GOLDEN
