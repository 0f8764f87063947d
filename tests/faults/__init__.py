"""Faults of the system, of neighbours and of users, and what is left after each."""
