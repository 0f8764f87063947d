"""Tuning: coefficients of a merge that keep skills and safety; see docs/tuning-internals.md."""
