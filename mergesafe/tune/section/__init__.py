"""The section ``tune`` of a recipe: what it says, and its reader."""
