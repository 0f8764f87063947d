"""Searches a parent for phrases that turn it from declining to complying."""
