"""What a run found, as files and as a recipe."""
