"""Whole recipes by mergesafe and by mergekit 0.1.5."""
