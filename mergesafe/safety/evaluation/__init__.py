"""Evaluation: what models answer to sets of questions, how safely and how well, with intervals."""
