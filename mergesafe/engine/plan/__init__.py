"""From a recipe and headers to ordered work."""
