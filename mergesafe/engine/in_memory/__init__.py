"""Merges of models that lie in memory: state dicts and modules."""
