"""Recipes: mergekit-style YAML, read strictly and resolved to numbers per tensor."""

from mergesafe.recipe.load import load_recipe
from mergesafe.recipe.model import ModelEntry, ModelRef, Recipe
from mergesafe.recipe.resolve import settings_for
from mergesafe.recipe.setting import Setting
from mergesafe.recipe.write import dump_recipe

__all__ = [
    "ModelEntry",
    "ModelRef",
    "Recipe",
    "Setting",
    "dump_recipe",
    "load_recipe",
    "settings_for",
]
