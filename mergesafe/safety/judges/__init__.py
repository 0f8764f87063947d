"""Judges: whether a response is safe, and whether it refuses. Two answers, never one."""
