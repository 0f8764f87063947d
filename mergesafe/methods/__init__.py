"""Merge methods: declarations in one file each, and their names."""
