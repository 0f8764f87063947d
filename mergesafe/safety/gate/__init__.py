"""The gate: requirements that a model must be shown to meet before it goes out."""
