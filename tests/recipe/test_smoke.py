"""A recipe loads and resolves."""

from mergesafe.recipe import load_recipe, settings_for


def test_a_recipe_loads_and_resolves():
    recipe = load_recipe(
        {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}}]}
    )
    assert settings_for(recipe, "x", 0.0).inputs == ({"weight": 1.0},)
