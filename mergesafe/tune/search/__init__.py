"""Searches for coefficients; :mod:`mergesafe.tune.search.registry` lists them."""
