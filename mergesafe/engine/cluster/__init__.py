"""A merge on several machines."""
