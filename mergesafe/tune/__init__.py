"""Tuning: coefficients of a merge that keep skill and safety, written as a plain recipe."""
